"""Whoever stores the dataset writes another custody into its manifest: a library of theirs, run at the owner's."""

from __future__ import annotations

import base64
import json
import subprocess
from datetime import UTC, datetime

import pytest

from strongroom.envelope.custody import CustodyError, open_custody
from strongroom.errors import StrongroomError
from strongroom.parties.home import Home
from strongroom.parties.owner import Owner

TRAP = """
#include <stdio.h>
__attribute__((constructor)) static void run(void) { FILE *file = fopen("%s", "w"); if (file) fclose(file); }
"""


def password():
    return b"correct horse battery"


@pytest.fixture
def trap(tmp_path):
    """A library that leaves a mark where it is loaded."""
    source, library = tmp_path / "trap.c", tmp_path / "trap.so"
    source.write_text(TRAP % (tmp_path / "mark"))
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("there is no C compiler to make the trap with")
    return library


@pytest.fixture
def owner(tmp_path):
    home = Home(tmp_path / "home")
    home.create_identity("owner", role="owner", password=password, now=datetime.now(UTC))
    owner = Owner.at_home(home, password=password)
    (tmp_path / "in.csv").write_text("id\n1\n")
    custody = open_custody(home.default_custody, password=password)
    owner.encrypt([tmp_path / "in.csv"], tmp_path / "out", dataset="d", version=1, custody=custody)
    return owner


def test_module_that_a_changed_manifest_names_is_never_loaded(tmp_path, trap, owner):
    file = tmp_path / "out" / "manifest.json"
    envelope = json.loads(file.read_text())
    payload = json.loads(base64.b64decode(envelope["payload"]))
    payload["custody"] = f"pkcs11:token=t;object=k?module-path={trap}"
    envelope["payload"] = base64.b64encode(json.dumps(payload, sort_keys=True, separators=(",", ":")).encode()).decode()
    file.write_text(json.dumps(envelope))
    with pytest.raises(StrongroomError, match="signature"):
        owner.register(tmp_path / "out", broker=None, policy=None, password=password)
    assert not (tmp_path / "mark").exists()


def test_the_trap_would_have_worked(tmp_path, trap):
    with pytest.raises(CustodyError, match="cannot be used as a PKCS#11 module"):
        open_custody(f"pkcs11:token=t;object=k?module-path={trap}", password=password)
    assert (tmp_path / "mark").exists()
