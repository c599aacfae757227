"""Any job survives signing and transport; anything else is a StrongroomError and never a surprise."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.errors import StrongroomError
from strongroom.jobs import JobDraft, JobInput, JobOutput, SignedJob, sign_job
from strongroom.jobs.spec import job_document, verify_spec
from strongroom.statements import PartyId, SigningKey, sign

ANALYST = SigningKey.from_seed(b"a" * 32, name="alice")

names = st.from_regex(r"[a-z][a-z0-9_-]{0,10}", fullmatch=True)
words = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)
parties = st.builds(
    lambda name, key: PartyId(name=name.replace("_", "-"), fingerprint=f"{key:032x}"),
    names,
    st.integers(0, 2**128 - 1),
)
inputs = st.builds(
    JobInput,
    owner=parties,
    columns=st.just(("*",))
    | st.lists(words.filter(lambda w: w != "*"), min_size=1, max_size=3, unique=True).map(tuple),
    location=words.map(lambda word: "/data/" + word.replace("://", "")),
)
outputs = st.builds(
    JobOutput,
    recipients=st.lists(parties, min_size=1, max_size=3, unique_by=lambda party: party.fingerprint).map(tuple),
    kind=st.sampled_from(["table", "files", "kept-files"]),
    version=st.integers(1, 10**9),
)
drafts = st.builds(
    JobDraft,
    name=names,
    kind=st.sampled_from(["spark", "python"]),
    purpose=words,
    inputs=st.dictionaries(names, inputs, min_size=1, max_size=3),
    outputs=st.dictionaries(names, outputs, min_size=1, max_size=3),
    workers=st.integers(1, 1000),
    most_workers=st.just(1000),
    worker_memory=st.sampled_from(["512m", "4g"]),
    worker_cores=st.integers(1, 256),
    tee=st.sampled_from(["any", "sgx", "tdx"]),
    program=st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=50)
    .map(str.encode)
    .filter(bytes.strip),
    created=st.datetimes(datetime(2001, 1, 1), datetime(9000, 1, 1)).map(  # noqa: DTZ001  the zone is added here
        lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
    ),
    nonce=st.integers(0, 2**128 - 1).map("{:032x}".format),
)


@settings(max_examples=60, deadline=None)
@given(drafts)
def test_job_survives_signing_and_transport(draft: JobDraft) -> None:
    signed = sign_job(draft, ANALYST)
    spec = SignedJob.decode(signed.encode()).verify()
    assert dict(spec.inputs) == dict(draft.inputs)
    assert dict(spec.outputs) == dict(draft.outputs)
    assert (spec.purpose, spec.created, spec.nonce) == (draft.purpose, draft.created, draft.nonce)
    assert SignedJob.decode(signed.encode()).digest == signed.digest


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=120, deadline=None)
@given(drafts, st.data())
def test_signed_job_with_one_value_exchanged_is_itself_or_refused(draft: JobDraft, data: st.DataObject) -> None:
    document: dict[str, Any] = job_document(sign_job(draft, ANALYST).verify())
    here, key = document, data.draw(st.sampled_from(sorted(document)))
    while isinstance(here[key], dict) and data.draw(st.booleans()):
        here = here[key]
        key = data.draw(st.sampled_from(sorted(here)))
    here[key] = data.draw(json_values)
    try:
        statement = sign(document, kind="job", version=1, key=ANALYST)
    except ValueError:
        return  # the value has no canonical JSON, so nobody can sign it
    try:
        spec = verify_spec(statement)
    except StrongroomError:
        return
    assert job_document(spec) == document


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_no_signed_job(data: bytes) -> None:
    with pytest.raises(StrongroomError):
        SignedJob.decode(data)
