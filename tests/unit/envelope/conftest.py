"""An owner at home: a signing key, a custody that counts its calls, and a place to write."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from strongroom.envelope.custody import CustodyError
from strongroom.envelope.keys import DataKey, DatasetKeys, reveal
from strongroom.envelope.manifest import Manifest, unwrap_data_key
from strongroom.envelope.wrapping import UnwrapError, unwrap_key, wrap_key
from strongroom.statements import SigningKey


@dataclass
class CountingCustody:
    """A master key in memory; counts how often it is asked."""

    uri: str = "memory:owner"
    wraps: int = 0
    unwraps: int = 0
    master: DataKey = field(default_factory=DataKey.generate)

    def wrap(self, key, *, context):
        self.wraps += 1
        return wrap_key(self.master, reveal(key), context=context)

    def unwrap(self, wrapped, *, context):
        self.unwraps += 1
        try:
            return DataKey(unwrap_key(self.master, wrapped, context=context))
        except UnwrapError as error:
            raise CustodyError("another master key") from error

    def release(self, manifest: Manifest, columns=None) -> DatasetKeys:
        """Return the keys that a broker would release."""
        dek = unwrap_data_key(manifest, custody=self)
        if manifest.kind == "files":
            return DatasetKeys.for_files(dek, dataset=manifest.dataset, version=manifest.version)
        return DatasetKeys.from_dek(
            dek, dataset=manifest.dataset, version=manifest.version, columns=columns or manifest.columns
        )


@pytest.fixture
def custody():
    return CountingCustody()


@pytest.fixture
def other_custody():
    return CountingCustody(uri="memory:other")


@pytest.fixture(scope="session")
def owner():
    return SigningKey.generate(name="owner")


@pytest.fixture(scope="session")
def stranger():
    return SigningKey.generate(name="stranger")
