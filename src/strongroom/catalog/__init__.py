"""Which members, datasets, policies and keys exist, and whose they are (spec/4-release.md §5)."""

from strongroom.catalog.identity import Identity, sign_identity, verify_identity
from strongroom.catalog.store import Change, RolledBackStoreError, Store, StoreError

__all__ = ["Change", "Identity", "RolledBackStoreError", "Store", "StoreError", "sign_identity", "verify_identity"]
