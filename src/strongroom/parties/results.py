"""Open a job's result at home: the key from the broker, every file verified, decrypted with the recipient's own key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from strongroom.broker.client import BrokerClient
from strongroom.digests import frame
from strongroom.envelope.files import SealedFiles, open_files
from strongroom.envelope.hpke import KemKey
from strongroom.envelope.keys import DatasetKeys
from strongroom.envelope.manifest import read_manifest, verify_manifest
from strongroom.envelope.table import open_table
from strongroom.errors import LedgerError
from strongroom.statements import SigningKey


def open_result(
    *,
    broker: BrokerClient,
    digest: str,
    output: str,
    locate: Callable[[str], Path],
    key: SigningKey,
    kem: KemKey,
) -> pa.Table | SealedFiles:
    """Return a result as an Arrow table or files, whichever it is.

    ``locate`` is given where egress left it, as the job saw it, and returns where it lies here. Raises RefusedError
    while approvals are missing or after a revocation, LedgerError if it is not what egress released.
    """
    answer = broker.fetch_result(digest, output, key)
    location = locate(answer.location)
    manifest = verify_manifest(read_manifest(location), owner=answer.signer)
    if manifest.digest != answer.manifest_digest:
        raise LedgerError(
            f"{location} holds another result than the one egress released",
            hint="the files were exchanged; fetch them from the job's storage again",
        )
    info = frame(b"strongroom/result/v1", digest.encode(), output.encode(), manifest.digest.encode())
    keys = DatasetKeys.decode(kem.open(answer.sealed, info=info))
    if manifest.kind == "files":
        return open_files(location, keys, manifest=manifest)
    return open_table(location, keys, manifest=manifest).to_table()
