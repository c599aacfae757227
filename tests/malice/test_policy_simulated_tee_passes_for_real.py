"""The operator runs the job in a simulated TEE and dresses it up as an imperfect real one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from strongroom.policy import DocumentError, Facts, Refusal, evaluate, parse_policy_toml, policy_template
from strongroom.statements import SigningKey

OWNER, ANALYST = SigningKey.generate(name="bank"), SigningKey.generate(name="alice")
MEASURED = "sgx:" + "a" * 64
TEXT = policy_template(
    dataset="accounts",
    owner=OWNER.party,
    analysts=[ANALYST.party],
    purposes=["research"],
    expires=datetime(2030, 1, 1, tzinfo=UTC),
    sql=True,
    measurements={"worker": [MEASURED]},
)


@pytest.mark.parametrize("tier", ["affirming", "warning", "contraindicated", "none"])
def test_simulated_tee_of_any_tier_gets_nothing_from_a_policy_that_does_not_name_it(tier: str) -> None:
    policy = parse_policy_toml(TEXT.replace('tiers = ["affirming"]', 'tiers = ["affirming", "warning"]'))
    facts = Facts(
        dataset="accounts",
        purpose="research",
        analyst=ANALYST.party,
        kind="sql",
        program="sha256:" + "0" * 64,
        role="worker",
        tier=tier,
        simulated=True,
        tee="sgx",
        measurement=MEASURED,
        tcb_status="UpToDate",
        advisories=(),
        columns=("id",),
        recipients=(ANALYST.party,),
        uses=0,
        revoked=False,
        first_use=True,
    )
    decision = evaluate(policy, facts, now=datetime(2029, 1, 1, tzinfo=UTC))
    assert isinstance(decision, Refusal)
    assert decision.reasons[0].startswith("the workload runs in a simulated TEE")


@pytest.mark.parametrize("tier", ["contraindicated", "none"])
def test_policy_cannot_list_the_tier_of_simulated_tees(tier: str) -> None:
    with pytest.raises(DocumentError, match="one of affirming, warning"):
        parse_policy_toml(TEXT.replace('tiers = ["affirming"]', f'tiers = ["{tier}"]'))
