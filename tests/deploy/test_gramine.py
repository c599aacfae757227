"""The manifest of an enclave trusts every file by its hash, fixes the command line, and allows nothing insecure."""

import hashlib
import importlib.util
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from strongroom.attestation.enclave import ARGUMENTS, main, take_arguments
from strongroom.errors import UsageError

PLACE = Path(__file__).parents[2] / "deploy/gramine/manifest.py"
spec = importlib.util.spec_from_file_location("gramine_manifest", PLACE)
manifest = importlib.util.module_from_spec(spec)
spec.loader.exec_module(manifest)

# Options of Gramine's documented manifest syntax that ours uses; a misspelt one would be ignored in silence.
DOCUMENTED = {
    "libos": {"entrypoint"},
    "loader": {"argv", "log_level", "uid", "gid", "env"},
    "sys": {"enable_sigterm_injection", "enable_extra_runtime_domain_names_conf", "stack"},
    "fs": {"root", "mounts"},
    "sgx": {
        *("debug", "remote_attestation", "file_check_policy", "edmm_enable", "enclave_size", "max_threads"),
        *("allowed_files", "trusted_files"),
    },
}


@pytest.fixture
def root(tmp_path):
    for name in ("usr/bin/python3.11", "usr/lib/x86_64-linux-gnu/libc.so.6", 'usr/lib/a "quoted" näme', "etc/passwd"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "usr/bin/python3").symlink_to("python3.11")
    (tmp_path / "usr/bin/outside").symlink_to("../../../../etc/shadow")
    (tmp_path / "lib").symlink_to("usr/lib")
    return tmp_path


@pytest.fixture(params=manifest.ROLES)
def read(request, root):
    return request.param, tomllib.loads(manifest.render(root, request.param, size="4G"))


def test_only_documented_options_are_written_and_none_is_insecure(read):
    _, found = read
    assert found.keys() == DOCUMENTED.keys()
    for table, options in found.items():
        assert options.keys() <= DOCUMENTED[table]
    assert "insecure" not in json.dumps(found)
    assert found["sgx"]["debug"] is False
    assert (found["sgx"]["remote_attestation"], found["sgx"]["file_check_policy"]) == ("dcap", "strict")


def test_command_line_is_fixed_by_the_measurement(read):
    role, found = read
    assert found["loader"]["argv"][-2:] == ["strongroom.attestation.enclave", role]
    passed = {name for name, value in found["loader"]["env"].items() if isinstance(value, dict)}
    assert passed == {ARGUMENTS}


def test_every_file_is_trusted_by_its_hash_under_each_of_its_names(read, root):
    _, found = read
    trusted = {one["uri"]: one["sha256"] for one in found["sgx"]["trusted_files"] if isinstance(one, dict)}
    python = hashlib.sha256(b"usr/bin/python3.11").hexdigest()
    assert trusted["file:/usr/bin/python3.11"] == trusted["file:/usr/bin/python3"] == python
    assert 'file:/usr/lib/a "quoted" näme' in trusted
    assert "file:/usr/bin/outside" not in trusted
    assert "file:/etc/passwd" in trusted


def test_what_the_host_may_change_holds_no_code(read):
    _, found = read
    trusted = [one["uri"] for one in found["sgx"]["trusted_files"] if isinstance(one, dict)]
    for allowed in found["sgx"]["allowed_files"]:
        assert not any(uri.startswith(allowed) for uri in trusted)
        assert not allowed.startswith(("file:/usr", "file:/lib", "file:/tmp"))


def test_temporary_files_stay_in_the_enclave(read):
    _, found = read
    inside = {one["path"] for one in found["fs"]["mounts"] if one.get("type") == "tmpfs"}
    assert inside == {"/tmp", "/dev/shm"}


@pytest.mark.parametrize(
    "text", ["{}", "[1]", '["a\\u0000b"]', "[" * 5000, json.dumps(["x"] * 33), json.dumps(["x" * 1025])]
)
def test_arguments_that_are_no_short_texts_are_refused(text):
    """Attack: the host hands an enclave something else than a role's arguments."""
    with pytest.raises(UsageError):
        take_arguments({ARGUMENTS: text})


def test_arguments_are_taken_out_of_the_environment():
    environment = {ARGUMENTS: '["--listen", "0.0.0.0:1"]'}
    assert take_arguments(environment) == ["--listen", "0.0.0.0:1"]
    assert environment == {}


@pytest.mark.parametrize("argv", [[], ["-c"], ["owner"], ["driver", "worker"]])
def test_enclave_becomes_one_of_our_roles_and_nothing_else(argv):
    """Attack: the host wants an enclave with our measurement to run a program of its own."""
    with pytest.raises(Exception, match=r"role|roles"):
        main(argv)


def test_role_is_started_with_the_hosts_arguments_and_its_own_parser():
    command = [sys.executable, "-P", "-s", "-m", "strongroom.attestation.enclave", "broker"]
    given = {ARGUMENTS: '["--store", "x", "--no-such"]', "PATH": ""}
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "--no-such" in done.stderr
