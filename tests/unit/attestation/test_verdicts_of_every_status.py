"""Every status that Intel's levels know gives the verdict of the cryptographic library, in each kind of quote.

Public quotes show a few of them; here the simulated vendor's levels are edited and signed anew.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import dcap_qvl
import pytest

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.criteria import AppraisalPolicy
from strongroom.attestation.explain import explain_verdict
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.simulated.pki import Vendor, sign_raw
from strongroom.attestation.simulated.quoting import SgxFacts, TdxFacts, quote_sgx, quote_tdx, sign_quote
from strongroom.attestation.tcb import TCB_STATUSES

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
VENDOR = Vendor(b"s" * 32)
ANCHOR = TrustAnchor(root_der=VENDOR.root_der, simulated=True)
DOMAIN = TdxFacts(mr_td=b"D" * 48, rtmrs=(bytes(48),) * 4)
QUOTES = {
    "sgx": quote_sgx(VENDOR, SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32), report_data=bytes(64)),
    "tdx 4": quote_tdx(VENDOR, DOMAIN, report_data=bytes(64), version=4),
    "tdx 5": quote_tdx(VENDOR, DOMAIN, report_data=bytes(64), version=5),
}
SVN2 = slice(54 + 584, 54 + 600)
BY_LEVEL = [status for status in TCB_STATUSES if not status.startswith("TDRelaunch")]
Edit = Callable[[dict[str, Any]], None]


def collateral(tee: str, *, info: Edit = lambda _: None, identity: Edit = lambda _: None) -> str:
    """Return the vendor's collateral with TCB info and QE identity edited, and signed by the right signer."""
    members = json.loads(VENDOR.collateral(tee, now=NOW))
    for name, edit in (("tcb_info", info), ("qe_identity", identity)):
        body = json.loads(members[name])
        edit(body)
        members[name] = json.dumps(body, separators=(",", ":"))
        members[f"{name}_signature"] = sign_raw(VENDOR.tcb_signer.key, members[name].encode()).hex()
    return json.dumps(members)


def judge(quote: bytes, text: str, policy: AppraisalPolicy | None = None) -> dict[str, Any]:
    """Return our verdict, which must be the library's."""
    facts = verify_quote(quote, collateral=text, now=NOW, anchor=ANCHOR, policy=policy)
    try:
        engine = dcap_qvl.QuoteCollateralV3.from_json(text)
        theirs = dcap_qvl.verify_with_root_ca(quote, engine, ANCHOR.root_der, int(NOW.timestamp()))
    except ValueError:
        assert facts["verdict"] == "rejected", facts
    else:
        assert (facts["status"], facts["advisories"]) == (theirs.status, theirs.advisory_ids)
    assert explain_verdict(facts)
    return facts


def with_status(status: str, *advisories: str) -> Edit:
    def edit(info: dict[str, Any]) -> None:
        for level in info["tcbLevels"]:
            level |= {"tcbStatus": status, "advisoryIDs": list(advisories)}

    return edit


@pytest.mark.parametrize("kind", QUOTES)
@pytest.mark.parametrize("status", BY_LEVEL)
def test_the_status_of_the_level_reached_is_the_verdicts_and_only_a_policy_that_lists_it_accepts(
    kind: str, status: str
) -> None:
    text = collateral(kind[:3], info=with_status(status, "INTEL-SA-00001"))
    listed = AppraisalPolicy.parse(
        f'statuses = ["{status}"]\nadvisories = ["INTEL-SA-00001"]\nout_of_date_grace_days = 36500\n'
    )
    facts = judge(QUOTES[kind], text, listed)
    assert (facts["verdict"], facts["status"], facts["advisories"]) == ("verified", status, ["INTEL-SA-00001"])
    assert facts["accepted"] is True
    strict = judge(QUOTES[kind], text, AppraisalPolicy())
    assert strict["accepted"] is (status == "UpToDate")
    assert {one["step"] for one in strict["reasons"]} <= {"tcb"}


@pytest.mark.parametrize("kind", QUOTES)
def test_a_revoked_level_or_none_at_all_is_no_verdict_to_accept(kind: str) -> None:
    assert judge(QUOTES[kind], collateral(kind[:3], info=with_status("Revoked")))["step"] == "tcb"

    def raise_everything(info: dict[str, Any]) -> None:
        for level in info["tcbLevels"]:
            level["tcb"]["sgxtcbcomponents"][2] |= {"svn": 200, "category": "BIOS", "type": "Early Microcode Update"}

    facts = judge(QUOTES[kind], collateral(kind[:3], info=raise_everything))
    assert facts["step"] == "tcb"
    assert "SGX component 3 (Early Microcode Update) is" in facts["reason"]
    assert "needs 200" in facts["reason"]
    assert "update the BIOS or microcode" in facts["hint"]


@pytest.mark.parametrize("kind", QUOTES)
@pytest.mark.parametrize("status", BY_LEVEL)
def test_an_out_of_date_quoting_enclave_takes_the_platform_with_it(kind: str, status: str) -> None:
    def age(identity: dict[str, Any]) -> None:
        first = identity["tcbLevels"][0]
        newer = {**first, "tcb": {"isvsvn": first["tcb"]["isvsvn"] + 1}}
        identity["tcbLevels"] = [newer, {**first, "tcbStatus": "OutOfDate", "advisoryIDs": ["INTEL-SA-00002"]}]

    facts = judge(QUOTES[kind], collateral(kind[:3], info=with_status(status), identity=age))
    assert facts["verdict"] == "verified"
    assert facts["status"].startswith("OutOfDate")
    assert "INTEL-SA-00002" in facts["advisories"]


@pytest.mark.parametrize("kind", ["tdx 4", "tdx 5"])
@pytest.mark.parametrize("status", ["UpToDate", "OutOfDate", "Revoked"])
def test_the_tdx_modules_own_level_counts(kind: str, status: str) -> None:
    def age(info: dict[str, Any]) -> None:
        info["tdxModuleIdentities"][0]["tcbLevels"][0] |= {"tcbStatus": status, "advisoryIDs": ["INTEL-SA-00003"]}

    facts = judge(QUOTES[kind], collateral("tdx", info=age))
    assert facts["verdict"] == ("rejected" if status == "Revoked" else "verified")


@pytest.mark.parametrize("configuration", ["", "ConfigurationNeeded"])
def test_a_domain_started_before_its_module_was_updated_is_told_to_start_again(configuration: str) -> None:
    """TD 1.5 bodies carry the module's numbers of now (TEE_TCB_SVN2) beside those of the start."""
    quote = bytearray(QUOTES["tdx 5"][: 54 + 648])
    now = bytes([quote[SVN2][0] + 1, *quote[SVN2][1:]])
    quote[SVN2] = now
    updated = sign_quote(VENDOR, "tdx", bytes(quote))

    def renew(info: dict[str, Any]) -> None:
        (module,), (level,) = info["tdxModuleIdentities"], info["tcbLevels"]
        old = module["tcbLevels"][0]
        newer = {**old, "tcb": {"isvsvn": now[0]}}
        module["tcbLevels"] = [newer, {**old, "tcbStatus": "OutOfDate"}]
        level["tcbStatus"] = configuration or "UpToDate"

    facts = judge(updated, collateral("tdx", info=renew))
    assert facts["verdict"] == "verified"
    assert facts["status"] == f"TDRelaunchAdvised{configuration}"
    listed = AppraisalPolicy.parse(f'statuses = ["{facts["status"]}"]\nout_of_date_grace_days = 36500\n')
    assert judge(updated, collateral("tdx", info=renew), listed)["accepted"] is True
    assert judge(updated, collateral("tdx", info=renew), AppraisalPolicy())["accepted"] is False


def test_an_unknown_status_is_never_taken_for_a_good_one() -> None:
    for kind, quote in QUOTES.items():
        facts = judge(quote, collateral(kind[:3], info=with_status("Splendid")))
        assert facts["verdict"] == "rejected"
