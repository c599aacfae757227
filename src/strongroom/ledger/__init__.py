"""The append-only book that every later room writes in before it acts (spec/5-ledger.md)."""

from strongroom.ledger.checkpoint import Checkpoint, LedgerKey, SignedCheckpoint
from strongroom.ledger.entry import Entry, EntryKind
from strongroom.ledger.export import ExportReport, check_export, write_export
from strongroom.ledger.log import MemoryStore, MerkleLog
from strongroom.ledger.memory import CheckpointMemory, RolledBackError

__all__ = [
    "Checkpoint",
    "CheckpointMemory",
    "Entry",
    "EntryKind",
    "ExportReport",
    "LedgerKey",
    "MemoryStore",
    "MerkleLog",
    "RolledBackError",
    "SignedCheckpoint",
    "check_export",
    "write_export",
]
