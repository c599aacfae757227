"""Egress looks at every file itself: formats, size, the model card, and who may take files or keep them."""

import io
import json
import pickle
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from strongroom.broker.client import Release as Keys
from strongroom.egress.files import check_files
from strongroom.egress.ruling import OutputFacts, Release, rule
from strongroom.envelope.keys import DataKey, DatasetKeys
from strongroom.jobs.spec import JobInput, JobOutput, JobSpec
from strongroom.policy import FileRules, Refusal, fuse, parse_policy_toml, policy_template
from strongroom.statements import SigningKey
from strongroom.workload.card import CARD_FILE, ModelCard, trace_lineage
from strongroom.workload.files import describe
from strongroom.workload.outbox import OutputDraft
from strongroom.workload.parcel import accept, pack_files

OWNER, ANALYST, STRANGER = (SigningKey.generate(name=name) for name in ("owner", "analyst", "stranger"))
JOB = "sha384:" + "0" * 96


def fused(**files):
    text = policy_template(
        dataset="rows",
        owner=OWNER.party,
        analysts=[ANALYST.party],
        purposes=["research"],
        expires=datetime(2099, 1, 1, tzinfo=UTC),
        recipients=[ANALYST.party, OWNER.party],
    )
    rules = {"recipients": (ANALYST.party,), "owner": OWNER.party, "max_bytes": 10_000} | files
    policy = parse_policy_toml(text)
    return fuse(
        [replace(policy, outputs=replace(policy.outputs, files=FileRules(**rules) if files is not None else None))]
    )


@pytest.fixture
def spec():
    return JobSpec(
        name="learn",
        kind="python",
        purpose="research",
        program_digest="sha256:" + "1" * 64,
        inputs={"rows": JobInput(owner=OWNER.party, columns=("*",), location="/data")},
        outputs={"model": JobOutput(recipients=(ANALYST.party,), kind="files")},
        workers=1,
        most_workers=1,
        worker_memory="1g",
        worker_cores=1,
        tee="any",
        analyst=ANALYST.party,
        created=datetime(2026, 1, 1, tzinfo=UTC),
        nonce="0" * 32,
    )


def checked(tmp_path, spec, content, *, policy=None, **forged):
    policy = policy or fused()
    output = DataKey.generate()
    sources = {name: (lambda data=data: io.BytesIO(data)) for name, data in content.items()}
    lineage = trace_lineage(spec, policy, output="model", job=JOB, versions={"rows": 4}) | forged.get("lineage", {})
    card = ModelCard(lineage=lineage, files=forged.get("files", describe(sources)), made_with={}, said={})
    if forged.get("card", True):
        sources[CARD_FILE] = lambda: io.BytesIO(card.encode())
    keys = DatasetKeys.for_files(output, dataset="output.model", version=1)
    signer = SigningKey.generate(name="driver")
    manifest = pack_files(sources, tmp_path / "model", keys, signer=signer)
    draft = OutputDraft(name="model", directory=str(tmp_path / "model"), manifest=manifest.statement.encode())
    release = Keys(datasets={}, contents={}, output=output, policy=policy, recipients={}, lease_seconds=60, index=1)
    return check_files(draft, accept(draft.manifest, signer=signer.public), spec, release, job=JOB)


def test_good_model_passes_with_the_digest_of_its_card(tmp_path, spec):
    found = checked(tmp_path, spec, {"weights.json": b"[1]"})
    assert found.problems == ()
    assert found.card.startswith("sha256:")
    assert sorted(found.sources) == [CARD_FILE, "weights.json"]


def test_pickle_that_a_driver_let_through_is_refused(tmp_path, spec):
    found = checked(tmp_path, spec, {"weights.json": pickle.dumps({}), "model.bin": b"\x01"})
    assert len(found.problems) == 2


@pytest.mark.parametrize(
    ("forged", "problem"),
    [
        ({"card": False}, "has no model-card.json"),
        ({"lineage": {"job": "sha384:" + "f" * 96}}, "tells of another job"),
        ({"lineage": {"program": "sha256:" + "f" * 64}}, "tells of another job"),
        ({"lineage": {"policy": "sha256:" + "f" * 64}}, "tells of another job"),
        ({"lineage": {"data": {}}}, "does not name the inputs"),
        ({"lineage": {"data": {"rows": {"version": "4"}}}}, "does not name the inputs"),
        ({"files": {"other.json": {"bytes": 1, "sha256": "0"}}}, "tells of other files"),
    ],
)
def test_card_that_does_not_tell_of_this_job_is_refused(tmp_path, spec, forged, problem):
    (found,) = checked(tmp_path, spec, {"weights.json": b"[1]"}, **forged).problems
    assert problem in found


def test_what_is_far_too_large_is_not_even_read(tmp_path, spec):
    found = checked(tmp_path, spec, {"weights.json": b"[" + b"1" * (2 << 20)}, policy=fused(max_bytes=10))
    assert found.bytes > 1 << 20
    assert found.card == ""
    assert isinstance(rule(facts(bytes=found.bytes), fused(max_bytes=10)), Refusal)


def facts(**more):
    given = {"name": "model", "declared": True, "recipients": (ANALYST.party,), "kind": "files", "bytes": 100}
    return OutputFacts(**given | more)


def test_files_leave_to_those_whom_every_owner_names_for_files():
    assert isinstance(rule(facts(), fused()), Release)
    assert "may not take out files" in rule(facts(recipients=(OWNER.party,)), fused()).reasons[0]
    assert "at most 10000" in rule(facts(bytes=10_001), fused()).reasons[0]


def test_policy_without_the_table_files_lets_none_out():
    policy = fused()
    assert "not every owner's policy permits any" in rule(facts(), replace(policy, files=None)).reasons[0]


def test_files_that_stay_go_to_their_owner_alone():
    kept = facts(kind="kept-files", recipients=(OWNER.party,))
    assert isinstance(rule(kept, fused(recipients=())), Release)
    assert "goes to its owner alone" in rule(facts(kind="kept-files"), fused()).reasons[0]
    assert "name no one owner" in rule(kept, fused(owner=None)).reasons[0]


def test_every_problem_of_the_files_is_a_reason():
    refusal = rule(facts(problems=("one", "two"), bytes=20_000), fused())
    assert len(refusal.reasons) == 3


def test_owners_who_disagree_whose_a_model_is_keep_none():
    left, right = fused(), fused(owner=ANALYST.party)
    assert left.meet(right).files.owner is None
    assert left.meet(left).files == left.files
    assert json.loads(left.encode())["files"]["max_bytes"] == 10_000
    assert type(left).decode(left.encode()) == left
