"""Somebody on the owner's machine exchanges the PKCS#11 module in a folder where everybody may write."""

import pytest

from strongroom.envelope.custody import CustodyError, open_custody

pytest.importorskip("pkcs11")


def never():
    raise AssertionError("a PIN was asked for")


@pytest.fixture
def module(tmp_path):
    file = tmp_path / "vendor" / "lib" / "module.so"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"no library at all")
    file.chmod(0o644)
    return file


@pytest.mark.parametrize("level", [0, 1])
def test_module_that_everybody_may_exchange_is_not_loaded(module, level):
    module.parents[level].chmod(0o777)
    with pytest.raises(CustodyError, match="everybody may exchange"):
        open_custody(f"pkcs11:token=t;object=k?module-path={module}", password=never)


def test_module_in_a_folder_that_only_its_owner_changes_is_looked_at(module):
    module.parents[1].chmod(0o1777)
    with pytest.raises(CustodyError, match="cannot be used as a PKCS#11 module"):
        open_custody(f"pkcs11:token=t;object=k?module-path={module}", password=never)
