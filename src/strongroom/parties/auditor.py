"""The auditor: checks the ledger, with no key and no favour of anyone's (spec/5-ledger.md).

What an auditor needs is a copy of the ledger, the ledger's public key and a checkpoint remembered from earlier; it
believes neither the broker nor the host that keeps the store.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from strongroom.attestation.roles import Role
from strongroom.broker.client import BrokerClient
from strongroom.errors import LedgerError, UsageError
from strongroom.ledger import Checkpoint, CheckpointMemory, Entry, ExportReport, LedgerKey, check_export
from strongroom.ledger.export import read_entry
from strongroom.parties.trust import Trust


class Auditor:
    """An auditor's SDK: one method against a running broker, one for a copy of the ledger alone."""

    def __init__(self, *, trust: Trust, memory: CheckpointMemory) -> None:
        self.trust = trust
        self.memory = memory

    def attest_broker(self, url: str) -> BrokerClient:
        """Return a client of the broker at ``url`` after attesting it; raise EvidenceError if it is not good enough."""
        return BrokerClient.attest(
            url,
            verifier=self.trust.verifier(),
            expected_measurements=self.trust.measurements.get(Role.BROKER, frozenset()),
            memory=self.memory,
        )

    def verify(self, url: str, directory: Path | None = None) -> ExportReport:
        """Fetch the whole ledger of the broker at ``url``, check every entry and hash of it, and remember its end.

        The copy stays in ``directory``, which must not exist yet, if one is given. Raise RolledBackError if the ledger
        contradicts what was remembered; other problems are in the report.
        """
        before = self.memory.recall()
        with tempfile.TemporaryDirectory(prefix="strongroom-audit-") as scratch:
            copy = Path(scratch) / "ledger" if directory is None else directory
            broker = self.attest_broker(url)
            try:
                broker.checkpoint()
                broker.export(copy)
            finally:
                broker.close()
            now = self.memory.recall()
            if now is None:
                raise LedgerError(
                    "the broker showed no checkpoint", hint="tell the other parties; a broker always has one"
                )
            key, latest = now
            remembered = latest if before is None else before[1]
            return check_export(copy, key, remembered=remembered.checkpoint)


def read_ledger_key(file: Path) -> LedgerKey:
    """Return the ledger key in ``file``: one line, ``<origin>+<key id>+<base64>``."""
    return LedgerKey.decode(_read_text(file))


def read_checkpoint(file: Path, *, ledger: LedgerKey) -> Checkpoint:
    """Return the checkpoint in ``file``, a signed note or a home's memory, if ``ledger`` signed it."""
    text = _read_text(file)
    if text.lstrip().startswith("{"):
        remembered = CheckpointMemory(file).recall()
        if remembered is None:
            raise UsageError(f"{file} remembers nothing", hint="name a signed checkpoint")
        return ledger.verify(remembered[1].encode()).checkpoint
    return ledger.verify(text).checkpoint


def read_entries(directory: Path, report: ExportReport) -> Iterator[Entry]:
    """Yield the entries of a copy that was checked and found good; raise LedgerError for one that was not."""
    if not report.good:
        raise LedgerError("the entries of a ledger that does not hold are not shown", hint="see the problems first")
    for index in range(report.size):
        yield read_entry(directory, index, size=report.size)


def _read_text(file: Path) -> str:
    try:
        return file.read_text()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{file} is not text", hint="name the file that the ledger's key or checkpoint is in"
        ) from error
