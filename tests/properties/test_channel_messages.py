"""Whatever a stranger sends in an introduction or on a simulated TEE's line, the answer is one of our own errors."""

from __future__ import annotations

import socket

import dcap_qvl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.attestation.binding import EXPORTER_BYTES
from strongroom.attestation.introduction import Greeting, Meeting
from strongroom.attestation.roles import Role
from strongroom.attestation.secure_line import ProtocolError, parse_message
from strongroom.attestation.simulated.line import LineError, receive_frame
from strongroom.attestation.simulated.pki import COMPONENT_SVNS, PCE_SVN, Vendor
from strongroom.attestation.workload_keys import PublicKeys, WorkloadKeys
from strongroom.errors import StrongroomError, TransportError

KEYS = WorkloadKeys.generate()
GREETING = Greeting.fresh(role=Role.WORKER, keys=KEYS.public).to_json()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_json_object_or_a_protocol_error(body):
    try:
        message = parse_message(body)
    except ProtocolError:
        return
    assert isinstance(message, dict)


@given(st.dictionaries(st.sampled_from(sorted(GREETING)) | st.text(), JSON, max_size=8))
def test_any_object_is_a_greeting_or_a_transport_error(message):
    with pytest.raises(TransportError):
        Greeting.parse(message)


@given(st.sampled_from(sorted(GREETING)), JSON)
def test_a_greeting_with_one_member_replaced_is_refused_or_says_what_it_says(name, value):
    try:
        greeting = Greeting.parse({**GREETING, name: value})
    except TransportError:
        return
    assert greeting.to_json() == {**GREETING, name: value}


@given(st.binary(max_size=300), st.binary(max_size=1300))
def test_any_key_bytes_are_two_keys_or_a_transport_error(spki, kem):
    with pytest.raises(TransportError):
        PublicKeys.parse(spki=spki, kem=kem)


@given(st.integers(min_value=0, max_value=len(KEYS.spki) - 1), st.integers(min_value=1, max_value=255))
def test_a_changed_key_is_refused_or_has_another_digest(position, flip):
    changed = bytearray(KEYS.spki)
    changed[position] ^= flip
    try:
        keys = PublicKeys.parse(spki=bytes(changed), kem=KEYS.public.kem)
    except StrongroomError:
        return
    assert keys.digest != KEYS.digest


@given(st.data())
def test_every_part_of_a_meeting_changes_both_bindings(data):
    own = Greeting.fresh(role=Role.WORKER, keys=WorkloadKeys.generate().public)
    peer = Greeting.fresh(role=Role.DRIVER, keys=KEYS.public)
    exporter, job = bytes(EXPORTER_BYTES - 1) + b"e", bytes(47) + b"j"

    def meet(own=own, peer=peer, exporter=exporter, job=job):
        return Meeting.arrange(own=own, peer=peer, peer_spki=peer.keys.spki, exporter=exporter, job_digest=job)

    changed = data.draw(
        st.sampled_from(
            [
                meet(
                    own=Greeting.fresh(role=Role.WORKER, keys=own.keys),
                    peer=Greeting.fresh(role=Role.DRIVER, keys=KEYS.public),
                ),
                meet(exporter=b"x" * EXPORTER_BYTES),
                meet(job=b"x" * 48),
                meet(
                    own=Greeting(role=Role.EGRESS, nonce=own.nonce, keys=own.keys),
                    peer=Greeting(role=Role.BROKER, nonce=peer.nonce, keys=peer.keys),
                ),
            ]
        )
    )
    assert changed.own_binding() != meet().own_binding()
    assert changed.peer_binding() != meet().peer_binding()
    assert meet().own_binding() != meet().peer_binding()


@given(st.binary(max_size=64))
@settings(max_examples=60)
def test_any_bytes_on_a_simulated_tees_line_are_a_message_the_end_or_a_line_error(data):
    left, right = socket.socketpair()
    with left, right:
        left.sendall(data)
        left.shutdown(socket.SHUT_WR)
        try:
            message = receive_frame(right)
        except LineError:
            return
        assert message is None or isinstance(message, dict)


@given(JSON)
@settings(max_examples=60)
def test_every_request_gets_an_answer(tmp_path_factory, value):
    from strongroom.attestation.simulated import SimulatedPlatform

    enclave = SimulatedPlatform(tmp_path_factory.getbasetemp() / "platform").enclave("worker")
    for request in (
        {"call": value},
        {"call": "quote", "report_data": value},
        {"call": "counter_advance", "name": "n", "value": value},
    ):
        assert isinstance(enclave.answer(request), dict)


@given(st.binary(min_size=32, max_size=32))
@settings(max_examples=15, deadline=None)
def test_any_seeds_platform_certificate_is_read_back_by_an_independent_parser(seed):
    vendor = Vendor(seed)
    extension = dcap_qvl.parse_pck_extension_from_pem(vendor.pck.pem.encode())
    assert extension.ppid == vendor.derive("ppid", 16)
    assert extension.fmspc == vendor.fmspc
    assert (extension.pce_svn, extension.pce_id, extension.sgx_type) == (PCE_SVN, b"\0\0", 0)
    assert extension.cpu_svn == bytes(COMPONENT_SVNS)
    assert extension.platform_instance_id == vendor.derive("platform-instance", 16)
