"""Who we are to a cluster: read from a kubeconfig as kubectl does, and never without verifying who answers."""

import base64
import json
import stat
import sys

import pytest

from strongroom.errors import TransportError, UsageError
from strongroom.jobs.launch.kubernetes.access import find_access


def write(path, *, cluster=None, user=None, **more):
    config = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "jobs"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443", **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
        **more,
    }
    path.write_text(json.dumps(config))
    return {"KUBECONFIG": str(path)}


def test_token_is_sent_and_never_printed(tmp_path):
    access = find_access(environ=write(tmp_path / "config", user={"token": "hush"}))
    assert (access.server, access.namespace) == ("https://10.0.0.1:6443", "jobs")
    assert access.headers() == {"Authorization": "Bearer hush"}
    assert "hush" not in repr(access)


@pytest.mark.parametrize(
    "cluster", [{"insecure-skip-tls-verify": True}, {"server": "http://10.0.0.1:8080"}], ids=["unverified", "plain"]
)
def test_server_that_is_not_verified_is_refused(tmp_path, cluster):
    with pytest.raises(UsageError, match="without verifying"):
        find_access(environ=write(tmp_path / "config", cluster=cluster))


def test_context_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="no context 'elsewhere'"):
        find_access("elsewhere", environ=write(tmp_path / "config"))


@pytest.mark.parametrize("text", ["[1", "- 1", "\x00", "\xff"])
def test_file_that_is_no_kubeconfig_is_refused(tmp_path, text):
    (tmp_path / "config").write_text(text)
    with pytest.raises(UsageError, match="not a kubeconfig"):
        find_access(environ={"KUBECONFIG": str(tmp_path / "config")})


def test_missing_kubeconfig_is_a_mistake_with_a_hint(tmp_path):
    with pytest.raises(UsageError, match="no kubeconfig"):
        find_access(environ={"KUBECONFIG": str(tmp_path / "none")}, pod=tmp_path)


def test_plug_in_gives_a_token_and_is_asked_again_when_it_runs_out(tmp_path):
    plugin = tmp_path / "plugin"
    answer = {"status": {"token": "t", "expirationTimestamp": "2000-01-01T00:00:00Z"}}
    plugin.write_text(
        f"#!{sys.executable}\nopen({str(tmp_path / 'asked')!r}, 'a').write('x')\nprint({json.dumps(answer)!r})\n"
    )
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    user = {"exec": {"command": "./plugin", "apiVersion": "client.authentication.k8s.io/v1"}}
    access = find_access(environ=write(tmp_path / "config", user=user))
    assert [access.headers()["Authorization"] for _ in range(2)] == ["Bearer t"] * 2
    assert (tmp_path / "asked").read_text() == "xx"


def test_plug_in_that_fails_is_told_without_its_output(tmp_path):
    access = find_access(environ=write(tmp_path / "config", user={"exec": {"command": "/bin/false"}}))
    with pytest.raises(TransportError, match="gave no credential"):
        access.headers()


def test_certificate_that_is_not_one_is_refused(tmp_path):
    data = base64.b64encode(b"nothing").decode()
    with pytest.raises(UsageError, match="certificate"):
        find_access(environ=write(tmp_path / "config", cluster={"certificate-authority-data": data}))


def test_pod_finds_its_own_cluster(tmp_path):
    from cryptography import x509  # noqa: F401  the pod's authority is a real certificate below

    (tmp_path / "token").write_text("mine\n")
    (tmp_path / "namespace").write_text("jobs\n")
    (tmp_path / "ca.crt").write_text(authority())
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443", "HOME": str(tmp_path)}
    access = find_access(environ={**environ, "KUBECONFIG": ""}, pod=tmp_path)
    assert (access.server, access.namespace) == ("https://10.0.0.1:443", "jobs")
    assert access.headers() == {"Authorization": "Bearer mine"}


def authority() -> str:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cluster")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
