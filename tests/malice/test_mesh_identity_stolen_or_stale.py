"""The attacker wants to pass for one of a job's workloads at ordinary TLS servers, by old, foreign or own papers."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from strongroom.attestation.mesh_identity import (
    MeshAuthority,
    MeshIdentityError,
    mesh_context,
    mesh_name,
    verify_identity,
)
from strongroom.attestation.roles import Role
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.statements import SigningKey
from strongroom.testing import connect_as, listen_as, simulated_platform

JOB, OTHER = hashlib.sha384(b"job").digest(), hashlib.sha384(b"another").digest()
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def platform():
    with simulated_platform() as platform:
        yield platform


def attested(platform, role, *, job=JOB, keys=None):
    """Return the driver's end of a channel to an attested workload, and that workload's keys."""
    keys = keys or WorkloadKeys.generate()
    signer = SigningKey.generate(name="ann") if role == "client" else None
    with listen_as("driver", platform=platform, job_digest=job) as driver:
        connect_as(role, driver.address, platform=platform, job_digest=job, keys=keys, signer=signer)
        return driver.accept(deadline=15), keys


@pytest.fixture(scope="module")
def authority():
    return MeshAuthority(job_digest=JOB)


@pytest.fixture(scope="module")
def serving(platform, authority):
    """An ordinary TLS server of an attested worker: what it answers, and its name."""
    channel, keys = attested(platform, "worker")
    identity = authority.issue(channel)
    context = mesh_context(keys, identity, authority=authority.certificate, server=True)
    server = socket.create_server(("127.0.0.1", 0))

    def run():
        while True:
            try:
                plain, _ = server.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(plain, server_side=True) as line:
                    shown = line.getpeercert(binary_form=True)
                    who = verify_identity(shown, authority=authority.certificate, job_digest=JOB, now=datetime.now(UTC))
                    line.sendall(f"hello {who.role.value} {who.measurement}".encode())
            except (OSError, MeshIdentityError):
                continue

    threading.Thread(target=run, daemon=True).start()
    yield server.getsockname(), mesh_name(Role.WORKER, keys.spki, job_digest=JOB)
    server.close()


def call(serving, context, *, name=None):
    address, expected = serving
    with (
        socket.create_connection(address, timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=name or expected) as line,
    ):
        return line.recv(1000).decode()


def test_attested_workloads_of_one_job_talk_over_the_standard_librarys_tls(platform, authority, serving):
    channel, keys = attested(platform, "egress")
    context = mesh_context(keys, authority.issue(channel), authority=authority.certificate, server=False)
    assert call(serving, context) == f"hello egress {channel.peer.measurement}"


def test_a_peer_under_another_name_is_refused_by_the_one_who_calls(platform, authority, serving):
    channel, keys = attested(platform, "egress")
    context = mesh_context(keys, authority.issue(channel), authority=authority.certificate, server=False)
    with pytest.raises(ssl.SSLCertVerificationError):
        call(serving, context, name=mesh_name(Role.WORKER, keys.spki, job_digest=JOB))


def test_a_client_gets_no_identity_and_neither_does_one_attested_too_long_ago(platform, authority):
    client, _ = attested(platform, "client")
    with pytest.raises(MeshIdentityError, match="no evidence"):
        authority.issue(client)
    worker, _ = attested(platform, "worker")
    late = MeshAuthority(job_digest=JOB, clock=lambda: datetime.now(UTC) + timedelta(minutes=11))
    with pytest.raises(MeshIdentityError, match="attested at"):
        late.issue(worker)


def test_papers_of_another_jobs_authority_or_made_at_home_open_nothing(platform, authority, serving):
    channel, keys = attested(platform, "worker", job=OTHER)
    foreign = MeshAuthority(job_digest=OTHER).issue(channel)
    same_job = MeshAuthority(job_digest=JOB).issue(channel)
    for paper in (foreign, same_job, keys.certificate.public_bytes(Encoding.DER)):
        with pytest.raises(MeshIdentityError):
            verify_identity(paper, authority=authority.certificate, job_digest=JOB, now=NOW)
        context = mesh_context(keys, paper, authority=authority.certificate, server=False)
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            assert call(serving, context) == "", "TLS 1.3 tells a refused client at its first read"


def test_an_identity_cannot_issue_others(platform, authority):
    channel, keys = attested(platform, "worker")
    own = x509.load_der_x509_certificate(authority.issue(channel))
    forged = (
        x509.CertificateBuilder()
        .subject_name(own.subject)
        .issuer_name(own.subject)
        .public_key(WorkloadKeys.generate().certificate.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(minutes=1))
        .not_valid_after(NOW + timedelta(minutes=30))
        .add_extension(own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(keys.reveal_tls_key(), hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    for issuer in (authority.certificate, own.public_bytes(Encoding.DER)):
        with pytest.raises(MeshIdentityError):
            verify_identity(forged, authority=issuer, job_digest=JOB, now=NOW)


def test_an_identity_ends_after_its_hour_and_counts_for_its_own_job_alone(platform, authority):
    channel, _ = attested(platform, "worker")
    paper = authority.issue(channel)
    found = verify_identity(paper, authority=authority.certificate, job_digest=JOB, now=datetime.now(UTC))
    assert (found.role, found.measurement) == (Role.WORKER, channel.peer.measurement)
    assert found.spki == channel.peer_keys.spki
    with pytest.raises(MeshIdentityError, match="not at"):
        verify_identity(paper, authority=authority.certificate, job_digest=JOB, now=NOW + timedelta(hours=2))
    with pytest.raises(MeshIdentityError, match="another job"):
        verify_identity(paper, authority=authority.certificate, job_digest=OTHER, now=datetime.now(UTC))
    for garbage in (b"", b"\x30\x00", paper[:-1]):
        with pytest.raises(MeshIdentityError):
            verify_identity(garbage, authority=authority.certificate, job_digest=JOB, now=NOW)
