"""Whatever bytes arrive, the envelope's parsers return something they could have written, or a clear refusal."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import cbor2
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.envelope.container import HEADER_BYTES, MAGIC, SEGMENT_SIZES, Header, plain_size
from strongroom.envelope.footer import footer_digest
from strongroom.envelope.hpke import KemKey, SealedMessageError
from strongroom.envelope.keys import DataKey, DatasetKeys
from strongroom.envelope.manifest import Column, FileEntry, ManifestError, sign_manifest, verify_manifest
from strongroom.envelope.names import parse_column, parse_dataset
from strongroom.envelope.wrapping import unwrap_key, wrap_key
from strongroom.errors import EnvelopeError, StrongroomError
from strongroom.statements import SigningKey, Statement, sign

OWNER = SigningKey.from_seed(bytes(32), name="owner")
KEM = KemKey.generate()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
DIGEST = st.binary(min_size=32, max_size=32).map(lambda raw: "sha256:" + raw.hex())
DATASET = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)
VERSION = st.integers(1, 2**53 - 1)


def _is_column(name: str) -> bool:
    try:
        parse_column(name)
    except EnvelopeError:
        return False
    return True


COLUMN = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).filter(_is_column)
FIELDS = ("dataset", "version", "revision", "owner", "kind", "schema", "files", "custody", "wrapped_key", "created")


@st.composite
def manifests(draw):
    columns = draw(st.lists(COLUMN, unique=True, max_size=5))
    numbers = st.integers(0, 2**53 - 1)
    files = [
        FileEntry(
            path=f"part-{index}",
            size=draw(numbers) or 1,
            sha256=draw(DIGEST),
            footer_digest=draw(DIGEST) if columns else None,
            rows=draw(numbers) if columns else None,
        )
        for index in range(draw(st.integers(1, 4)))
    ]
    return {
        "dataset": draw(DATASET),
        "version": draw(VERSION),
        "kind": "table" if columns else "files",
        "schema": [
            Column(name=name, type=draw(st.sampled_from(["int64", "string", "list<element: int64>"])))
            for name in columns
        ],
        "files": files,
        "custody": draw(st.text(st.characters(codec="utf-8"), min_size=1, max_size=50)),
        "wrapped_key": draw(st.text("abc123+/=:", min_size=1, max_size=50)),
        "created": draw(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))),  # noqa: DTZ001
    }


@given(manifests())
def test_every_manifest_that_can_be_signed_reads_back_the_same(fields):
    manifest = sign_manifest(**fields, owner=OWNER)
    again = verify_manifest(Statement.decode(manifest.statement.encode()), owner=OWNER.party)
    assert again == manifest
    assert (list(again.schema), list(again.files)) == (fields["schema"], fields["files"])
    assert again.created == fields["created"].replace(microsecond=0)


@given(JSON)
def test_any_signed_json_is_a_manifest_or_refused(document):
    statement = sign({"document": document}, kind="manifest", version=1, key=OWNER)
    try:
        verify_manifest(statement, owner=OWNER.party)
    except ManifestError:
        return
    raise AssertionError("a document with another shape passed for a manifest")


@given(manifests(), st.sampled_from(FIELDS), JSON)
def test_any_one_field_replaced_is_refused_or_still_well_formed(fields, name, value):
    payload = json.loads(sign_manifest(**fields, owner=OWNER).statement.payload)
    payload[name] = value
    try:
        manifest = verify_manifest(sign(payload, kind="manifest", version=1, key=OWNER), owner=OWNER.party)
    except ManifestError:
        return
    assert manifest.owner == OWNER.party
    assert manifest.files
    assert (manifest.kind == "table") == bool(manifest.schema)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_container_header_or_refused(data):
    try:
        header = Header.parse(data)
    except EnvelopeError:
        return
    assert header.encode() == data


@given(st.integers(0, 2**32 - 1), st.binary(min_size=48, max_size=48), st.binary(min_size=4, max_size=4))
def test_header_with_genuine_magic_is_exactly_what_it_parses_to(size, rest, fixed):
    data = MAGIC + fixed + size.to_bytes(4, "little") + rest
    assert len(data) == HEADER_BYTES
    try:
        header = Header.parse(data)
    except EnvelopeError:
        assert size not in SEGMENT_SIZES or fixed != b"\x01\x01\0\0" or rest[39:] != bytes(9)
        return
    assert header.encode() == data


@given(st.sampled_from(SEGMENT_SIZES), st.integers(-10, 2**50))
def test_plain_size_inverts_the_layout(segment, size):
    try:
        plain = plain_size(size, segment_size=segment)
    except EnvelopeError:
        return
    segments = max(1, -(-plain // segment))
    assert size == HEADER_BYTES + plain + 16 * segments


@given(st.sampled_from(SEGMENT_SIZES), st.integers(0, 2**45))
def test_every_plain_size_has_a_container_size(segment, plain):
    segments = max(1, -(-plain // segment))
    assert plain_size(HEADER_BYTES + plain + 16 * segments, segment_size=segment) == plain


@given(st.binary(max_size=300))
def test_any_bytes_have_an_encrypted_footer_or_are_refused(data):
    for tail in (data, data + len(data).to_bytes(4, "little") + b"PARE"):
        try:
            assert footer_digest(tail).startswith("sha256:")
        except EnvelopeError:
            assert tail[-4:] != b"PARE" or not 0 < int.from_bytes(tail[-8:-4], "little") <= len(tail) - 8


@given(st.binary(max_size=300) | JSON.map(cbor2.dumps))
def test_any_bytes_are_a_bundle_of_keys_or_refused(data):
    try:
        keys = DatasetKeys.decode(data)
    except EnvelopeError:
        return
    assert keys.encode() == data


@given(DATASET, VERSION, st.lists(COLUMN, unique=True, max_size=6))
def test_every_bundle_round_trips(dataset, version, columns):
    keys = DatasetKeys.from_dek(DataKey.generate(), dataset=dataset, version=version, columns=columns)
    again = DatasetKeys.decode(keys.encode())
    assert set(again.columns) == set(columns)
    assert all(again.key(key_id) == keys.key(key_id) for key_id in keys.key_ids)


@given(st.text(max_size=300))
def test_names_that_parse_cannot_break_out_of_a_key_configuration(name):
    for parse in (parse_column, parse_dataset):
        try:
            parse(name)
        except EnvelopeError:
            continue
        assert not set(name) & set(":;,\n\r\0")
        assert name == name.strip()


@given(st.text(max_size=120) | st.binary(max_size=120), st.binary(max_size=20))
def test_any_text_unwraps_to_nothing(wrapped, context):
    try:
        unwrap_key(DataKey(bytes(32)), wrapped, context=context)
    except EnvelopeError:
        return
    raise AssertionError("a key that nobody wrapped was unwrapped")


@given(st.binary(min_size=1, max_size=100), st.binary(max_size=50), st.integers(0), st.integers(0, 7))
def test_wrapped_secret_with_one_bit_changed_does_not_open(secret, context, position, bit):
    import base64

    key = DataKey(bytes(range(32)))
    raw = bytearray(base64.b64decode(wrap_key(key, secret, context=context)))
    raw[position % len(raw)] ^= 1 << bit
    try:
        unwrap_key(key, base64.b64encode(raw), context=context)
    except EnvelopeError:
        return
    raise AssertionError("a changed wrapped key was opened")


@settings(max_examples=50)
@given(st.binary(max_size=1300))
def test_any_bytes_are_refused_as_a_sealed_message(data):
    try:
        KEM.open(data, info=b"i")
    except SealedMessageError:
        return
    raise AssertionError("a message that nobody sealed was opened")


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_text_is_refused_as_a_statement(text):
    try:
        statement = Statement.decode(text)
        verify_manifest(statement, owner=OWNER.party)
    except StrongroomError:
        return
    raise AssertionError("a manifest that nobody signed was accepted")
