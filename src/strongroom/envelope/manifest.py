"""Describe one encrypted dataset in a document its owner signs (spec/1-encrypted-dataset.md §5).

A :class:`Manifest` exists only together with the statement that carries its signature: it comes from
:func:`sign_manifest` or :func:`verify_manifest`, and whoever opens data verifies it once more. It holds no secret.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from strongroom.digests import digest, frame, to_text
from strongroom.envelope.custody import Custody
from strongroom.envelope.footer import TamperedDataError
from strongroom.envelope.keys import DataKey
from strongroom.envelope.names import MAX_VERSION, parse_column, parse_dataset
from strongroom.envelope.staging import replace_file
from strongroom.errors import EnvelopeError, StrongroomError
from strongroom.statements import MAX_STATEMENT_BYTES, PartyId, SigningKey, Statement, VerifyKey, canonical_json, sign

MANIFEST_FILE = "manifest.json"
_KIND = "manifest"
_VERSION = 1
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

DatasetKind = Literal["table", "files"]


class ManifestError(EnvelopeError):
    """A manifest is malformed, contradicts itself, or is not signed by the owner it must be signed by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of a dataset: ``footer_digest`` and ``rows`` stand for Parquet files only."""

    path: str
    size: int
    sha256: str
    footer_digest: str | None = None
    rows: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table: its name and its Arrow type as text."""

    name: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an owner says about one dataset version, with the statement that proves it.

    ``revision`` counts re-signings of the same data (rotation of the master key); ``wrapped_key`` is the data key under
    the master key at ``custody``.
    """

    dataset: str
    version: int
    revision: int
    owner: PartyId
    kind: DatasetKind
    schema: tuple[Column, ...]
    files: tuple[FileEntry, ...]
    custody: str
    wrapped_key: str
    created: datetime
    statement: Statement

    @property
    def rows(self) -> int:
        """Return the number of rows of the table (0 for files)."""
        return sum(entry.rows or 0 for entry in self.files)

    @property
    def size(self) -> int:
        """Return the number of encrypted bytes of all files together."""
        return sum(entry.size for entry in self.files)

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns."""
        return tuple(column.name for column in self.schema)

    @property
    def digest(self) -> str:
        """Return the digest of exactly what was signed, as ``sha256:<hex>``."""
        return to_text(self.statement.digest)

    @property
    def content(self) -> str:
        """Return the digest of the data it describes, as ``sha256:<hex>``; every revision of it has the same.

        It covers dataset, version, owner, kind, schema and files, and neither custody nor the wrapped key
        (spec/1-encrypted-dataset.md §5).
        """
        described = {
            "dataset": self.dataset,
            "version": self.version,
            "owner": str(self.owner),
            "kind": self.kind,
            "schema": [{"name": column.name, "type": column.type} for column in self.schema],
            "files": [_file_payload(entry) for entry in self.files],
        }
        return to_text(digest("strongroom/dataset-content/v1", canonical_json(described)))


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    path: Annotated[str, Field(max_length=128)]
    size: Annotated[int, Field(ge=1, le=MAX_VERSION)]
    sha256: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    footer_digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    rows: Annotated[int, Field(ge=0, le=MAX_VERSION)] | None = None


class _Column(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: Annotated[str, Field(min_length=1, max_length=255)]
    type: Annotated[str, Field(min_length=1, max_length=4096)]


class _Document(BaseModel):
    """A strongroom dataset manifest, version 1."""

    model_config = ConfigDict(extra="forbid", strict=True)
    dataset: str
    version: Annotated[int, Field(ge=1, le=MAX_VERSION)]
    revision: Annotated[int, Field(ge=1, le=MAX_VERSION)]
    owner: str
    kind: DatasetKind
    schema_: Annotated[list[_Column], Field(alias="schema", max_length=16_000)]
    files: Annotated[list[_File], Field(max_length=16_000)]
    custody: Annotated[str, Field(min_length=1, max_length=2048)]
    wrapped_key: Annotated[str, Field(min_length=1, max_length=8192)]
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]


def manifest_schema() -> dict[str, Any]:
    """Return the JSON Schema of a manifest's payload."""
    return _Document.model_json_schema(by_alias=True)


def custody_context(dataset: str, version: int) -> bytes:
    """Return the associated data under which custody wraps the data key of this dataset version."""
    return frame(b"strongroom/custody/v1", parse_dataset(dataset).encode(), str(version).encode())


def sign_manifest(
    *,
    dataset: str,
    version: int,
    kind: DatasetKind,
    schema: Sequence[Column],
    files: Sequence[FileEntry],
    custody: str,
    wrapped_key: str,
    created: datetime,
    owner: SigningKey,
    revision: int = 1,
) -> Manifest:
    """Return the manifest signed by ``owner``; raise ManifestError if it could not be read back."""
    if created.tzinfo is None:
        raise ManifestError("a manifest's time of creation needs a time zone", hint="use datetime.now(UTC)")
    payload = {
        "dataset": dataset,
        "version": version,
        "revision": revision,
        "owner": str(owner.party),
        "kind": kind,
        "schema": [{"name": column.name, "type": column.type} for column in schema],
        "files": [_file_payload(entry) for entry in files],
        "custody": custody,
        "wrapped_key": wrapped_key,
        "created": created.astimezone(UTC).strftime(_TIME),
    }
    statement = sign(payload, kind=_KIND, version=_VERSION, key=owner)
    if len(statement.encode()) > MAX_STATEMENT_BYTES:
        raise ManifestError(
            f"a manifest of {len(files)} files and {len(schema)} columns is over {MAX_STATEMENT_BYTES} bytes",
            hint="split the data into several datasets",
        )
    return verify_manifest(statement, owner=owner.party)


def verify_manifest(statement: Statement, *, owner: PartyId | VerifyKey) -> Manifest:
    """Return the manifest in ``statement`` if ``owner`` signed it and it is well formed; raise ManifestError otherwise.

    Errors name what failed first: signer, signature, shape, then contradictions.
    """
    try:
        signer = statement.party_fingerprint
    except StrongroomError as error:
        raise ManifestError(f"not a valid manifest: {error.message}") from error
    if signer != owner.fingerprint:
        raise ManifestError(
            f"the manifest is signed by {signer}, the owner is {owner.fingerprint}",
            hint="fetch the manifest from the dataset's owner; somebody else signed this one",
        )
    try:
        payload = statement.open(kind=_KIND, version=_VERSION, signer=VerifyKey(statement.signer))
        manifest = _from_document(_Document.model_validate(payload), statement)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ManifestError(f"not a manifest: {where}: {first['msg']}") from error
    except ManifestError:
        raise
    except StrongroomError as error:
        raise ManifestError(f"not a valid manifest: {error.message}", hint=error.hint) from error
    if manifest.owner.fingerprint != owner.fingerprint:
        raise ManifestError(f"the manifest names {manifest.owner} as owner, but {owner.fingerprint} signed it")
    return manifest


def read_manifest(directory: Path) -> Statement:
    """Return the statement in a dataset's ``manifest.json``, not yet verified."""
    path = Path(directory) / MANIFEST_FILE
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_STATEMENT_BYTES + 1)
    except OSError as error:
        raise ManifestError(
            f"cannot read {path}: {error.strerror}", hint="point at the directory that `strongroom encrypt` wrote"
        ) from error
    try:
        return Statement.decode(text)
    except StrongroomError as error:
        raise ManifestError(f"{path} is not a signed manifest: {error.message}") from error


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into ``directory``, replacing an older one in one step."""
    replace_file(Path(directory) / MANIFEST_FILE, manifest.statement.encode().encode())


def unwrap_data_key(manifest: Manifest, *, custody: Custody) -> DataKey:
    """Return the dataset's data key from ``custody``; only its owner can."""
    return custody.unwrap(manifest.wrapped_key, context=custody_context(manifest.dataset, manifest.version))


def rewrap(manifest: Manifest, *, old: Custody, new: Custody, owner: SigningKey) -> Manifest:
    """Return the next revision of ``manifest`` with its data key moved from ``old`` to ``new`` custody.

    One unwrap and one wrap whatever the size of the data: no data file is touched. Write it with
    :func:`write_manifest` and register it; the old custody can then be destroyed.
    """
    verified = verify_manifest(manifest.statement, owner=owner.party)
    key = unwrap_data_key(verified, custody=old)
    try:
        wrapped = new.wrap(key, context=custody_context(verified.dataset, verified.version))
    finally:
        key.wipe()
    return sign_manifest(
        dataset=verified.dataset,
        version=verified.version,
        revision=verified.revision + 1,
        kind=verified.kind,
        schema=verified.schema,
        files=verified.files,
        custody=new.uri,
        wrapped_key=wrapped,
        created=verified.created,
        owner=owner,
    )


def verify_files(directory: Path, manifest: Manifest, *, kind: DatasetKind, dataset: str, version: int) -> None:
    """Raise unless ``manifest`` is signed and current, and ``directory`` holds exactly its files with their sizes.

    ``dataset`` and ``version`` are those whose keys were released: an older manifest, or another dataset's, is refused.
    """
    if verify_manifest(manifest.statement, owner=manifest.owner) != manifest:
        raise ManifestError("a manifest differs from what its owner signed", hint="take it from verify_manifest")
    if (manifest.kind, manifest.dataset, manifest.version) != (kind, dataset, version):
        raise ManifestError(
            f"the manifest is of {manifest.dataset}@{manifest.version} ({manifest.kind}), "
            f"the keys are for {dataset}@{version} ({kind})",
            hint="fetch the manifest of the version that was released; the storage may have served an older one",
        )
    try:
        found = {path.name: path.lstat() for path in Path(directory).iterdir() if path.name != MANIFEST_FILE}
    except OSError as error:
        raise TamperedDataError(f"cannot list {directory}: {error.strerror}", hint="check the path") from error
    signed = {entry.path: entry.size for entry in manifest.files}
    if found.keys() != signed.keys():
        raise TamperedDataError(
            f"{directory} lacks {sorted(signed.keys() - found.keys())[:5]} "
            f"and has besides {sorted(found.keys() - signed.keys())[:5]}",
            hint="files were removed, added or renamed; fetch the dataset again",
        )
    for name, status in found.items():
        if not stat.S_ISREG(status.st_mode) or status.st_size != signed[name]:
            raise TamperedDataError(
                f"{name} has {status.st_size} bytes, the manifest says {signed[name]}",
                hint="it was cut, extended or replaced; fetch the dataset again",
            )


def _file_payload(entry: FileEntry) -> dict[str, Any]:
    payload: dict[str, Any] = {"path": entry.path, "size": entry.size, "sha256": entry.sha256}
    if entry.footer_digest is not None:
        payload["footer_digest"] = entry.footer_digest
    if entry.rows is not None:
        payload["rows"] = entry.rows
    return payload


def _from_document(document: _Document, statement: Statement) -> Manifest:
    owner = PartyId.parse(document.owner)
    dataset = parse_dataset(document.dataset)
    columns = tuple(Column(name=parse_column(column.name), type=column.type) for column in document.schema_)
    if len({column.name for column in columns}) != len(columns):
        raise ManifestError("a manifest names a column twice")
    if (document.kind == "table") != bool(columns):
        raise ManifestError(f"a manifest of kind {document.kind} has {len(columns)} columns")
    files = tuple(_parse_file(entry, document.kind) for entry in document.files)
    if len({entry.path for entry in files}) != len(files):
        raise ManifestError("a manifest names a file twice")
    if not files:
        raise ManifestError("a manifest names no file")
    try:
        created = datetime.strptime(document.created, _TIME).replace(tzinfo=UTC)
    except ValueError as error:
        raise ManifestError(f"not a time: {document.created}") from error
    return Manifest(
        dataset=dataset,
        version=document.version,
        revision=document.revision,
        owner=owner,
        kind=document.kind,
        schema=columns,
        files=files,
        custody=document.custody,
        wrapped_key=document.wrapped_key,
        created=created,
        statement=statement,
    )


def _parse_file(entry: _File, kind: DatasetKind) -> FileEntry:
    path = PurePosixPath(entry.path)
    if _PATH.fullmatch(entry.path) is None or str(path) != entry.path or entry.path == MANIFEST_FILE:
        raise ManifestError(f"not a plain file name: {entry.path!r}")
    parquet = entry.rows is not None and entry.footer_digest is not None
    neither = entry.rows is None and entry.footer_digest is None
    if not (parquet if kind == "table" else neither):
        raise ManifestError(f"file {entry.path!r}: rows and footer_digest stand for every Parquet file and no other")
    return FileEntry(
        path=entry.path, size=entry.size, sha256=entry.sha256, footer_digest=entry.footer_digest, rows=entry.rows
    )
