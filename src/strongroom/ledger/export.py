"""Write the ledger as a directory of tiles that anyone can check offline, and check one (spec/5-ledger.md §6).

Layout: c2sp.org/tlog-tiles (checkpoint, tile/<L>/<N>[.p/<W>], tile/entries/<N>[.p/<W>]), so other tools read it too.
The checker reports every problem it finds and never stops at the first.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from strongroom.digests import same
from strongroom.errors import LedgerError, StrongroomError, UsageError
from strongroom.ledger.checkpoint import MAX_NOTE_BYTES, Checkpoint, LedgerKey, SignedCheckpoint
from strongroom.ledger.entry import MAX_ENTRY_BYTES, Entry
from strongroom.ledger.log import Growth, MemoryStore, MerkleLog
from strongroom.ledger.proofs import HASH_BYTES, LeafRange, Place, leaf_hash

TILE_WIDTH = 256
TILE_HEIGHT = 8
_GROUP = 1000
_FRAME = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an offline check found; the export is good if and only if ``problems`` is empty."""

    origin: str
    size: int
    root: bytes
    kinds: dict[str, int]
    problems: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Return whether nothing was found."""
        return not self.problems


class TileStore:
    """A store that keeps only what tiles need: entries, and hashes at every eighth level."""

    def __init__(self) -> None:
        self._memory = MemoryStore()
        self.kept: dict[Place, bytes] = {}

    def size(self) -> int:
        """Return the number of entries."""
        return self._memory.size()

    def entries(self, span: LeafRange) -> list[bytes]:
        """Return the entries of ``span``."""
        return self._memory.entries(span)

    def nodes(self, wanted: Sequence[Place]) -> list[bytes]:
        """Return the hashes at ``wanted``, in that order."""
        return self._memory.nodes(wanted)

    def append(self, growth: Growth) -> None:
        """Keep ``growth``."""
        self._memory.append(growth)
        self.kept.update((place, node) for place, node in growth.nodes.items() if place.level % TILE_HEIGHT == 0)


def tile_path(level: int | str, index: int, width: int) -> str:
    """Return the path of a tile (``level`` a number) or entry bundle (``level`` "entries") of ``width`` hashes."""
    groups = [f"{index % _GROUP:03d}"]
    while index >= _GROUP:
        index //= _GROUP
        groups.append(f"x{index % _GROUP:03d}")
    partial = "" if width == TILE_WIDTH else f".p/{width}"
    return f"tile/{level}/{'/'.join(reversed(groups))}{partial}"


def tiles(size: int) -> Iterator[tuple[int, int, int]]:
    """Yield (level, index, width) of every tile of a tree of ``size`` leaves."""
    level = 0
    while (count := size >> (TILE_HEIGHT * level)) > 0:
        for index in range(-(-count // TILE_WIDTH)):
            yield level, index, min(TILE_WIDTH, count - index * TILE_WIDTH)
        level += 1


def write_export(directory: Path, *, entries: Sequence[bytes], signed: SignedCheckpoint, ledger: LedgerKey) -> None:
    """Write ``entries`` and their checkpoint as a new directory, whole or not at all.

    Raise LedgerError if the entries do not lead to the checkpoint's root, UsageError if ``directory`` exists.
    """
    if directory.exists():
        raise UsageError(f"{directory} exists", hint="name a new directory; an export never overwrites another")
    ledger.verify(signed.encode())
    store = TileStore()
    log = MerkleLog(store)
    log.append(entries)
    checkpoint = signed.checkpoint
    if checkpoint.size != log.size or not same(checkpoint.root, log.root):
        raise LedgerError(
            f"{log.size} entries do not lead to the checkpoint of {checkpoint.size}",
            hint="the broker's answer is inconsistent; keep it as evidence",
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    try:
        for level, index, width in tiles(log.size):
            first = index * TILE_WIDTH
            hashes = [store.kept[Place(TILE_HEIGHT * level, place)] for place in range(first, first + width)]
            _write(building / tile_path(level, index, width), b"".join(hashes))
            if level == 0:
                bundle = b"".join(
                    len(entry).to_bytes(_FRAME, "big") + entry for entry in entries[first : first + width]
                )
                _write(building / tile_path("entries", index, width), bundle)
        _write(building / "ledger-key", (ledger.encode() + "\n").encode())
        _write(building / "checkpoint", signed.encode().encode())
        building.chmod(0o755)
        building.rename(directory)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def check_export(directory: Path, ledger: LedgerKey, *, remembered: Checkpoint | None) -> ExportReport:
    """Check an export against the ledger's key and a checkpoint remembered from elsewhere; report every problem.

    Pass ``remembered=None`` only when nothing was ever remembered: then a rolled-back ledger cannot be noticed.
    """
    problems: list[str] = []
    kinds: Counter[str] = Counter()
    checkpoint = _read_checkpoint(directory, ledger, problems)
    if checkpoint is None:
        return ExportReport(origin=ledger.origin, size=0, root=b"", kinds={}, problems=tuple(problems))
    store = TileStore()
    log = MerkleLog(store)
    expected = {"checkpoint", "ledger-key"}
    last = None
    complete = True
    for level, index, width in tiles(checkpoint.size):
        if level:
            break
        bundle_path, leaf_path = tile_path("entries", index, width), tile_path(0, index, width)
        expected |= {bundle_path, leaf_path}
        leaves = _read(directory / leaf_path, problems, name=leaf_path, limit=TILE_WIDTH * HASH_BYTES)
        bundle = _read(directory / bundle_path, problems, name=bundle_path, limit=TILE_WIDTH * (MAX_ENTRY_BYTES + 2))
        entries = _unframe(bundle or b"", bundle_path, problems)
        if bundle is None or len(entries) != width:
            if bundle is not None:
                problems.append(f"{bundle_path} holds {len(entries)} entries, expected {width}")
            complete = False
        first = index * TILE_WIDTH
        for offset, encoded in enumerate(entries):
            stated = (leaves or b"")[offset * HASH_BYTES : (offset + 1) * HASH_BYTES]
            if leaves is not None and not same(stated, leaf_hash(encoded)):
                problems.append(f"entry {first + offset} does not match its hash in {leaf_path}")
            try:
                entry = Entry.decode(encoded)
            except LedgerError as error:
                problems.append(f"entry {first + offset}: {error.message}")
                continue
            kinds[entry.kind.value] += 1
            if last is not None and entry.time < last:
                problems.append(f"entry {first + offset} is dated before the entry in front of it")
            last = entry.time
        log.append(entries)
    if complete:
        if not same(log.root, checkpoint.root):
            problems.append(f"the entries do not lead to the signed root of {checkpoint.size} entries")
        expected |= _check_upper_tiles(directory, store, problems)
        _check_remembered(log, checkpoint, remembered, problems)
    else:
        problems.append("entries are missing, so the root and the remembered checkpoint cannot be checked")
    _check_strays(directory, expected if complete else None, problems)
    return ExportReport(
        origin=ledger.origin,
        size=checkpoint.size,
        root=checkpoint.root,
        kinds=dict(sorted(kinds.items())),
        problems=tuple(problems),
    )


def read_entry(directory: Path, index: int, *, size: int) -> Entry:
    """Return entry ``index`` of an export that was checked and has ``size`` entries."""
    if not 0 <= index < size:
        raise LedgerError(f"no entry {index} in an export of {size} entries")
    number = index // TILE_WIDTH
    path = tile_path("entries", number, min(TILE_WIDTH, size - number * TILE_WIDTH))
    problems: list[str] = []
    bundle = _read(directory / path, problems, name=path, limit=TILE_WIDTH * (MAX_ENTRY_BYTES + 2))
    entries = _unframe(bundle or b"", path, problems)
    if problems or index % TILE_WIDTH >= len(entries):
        raise LedgerError("; ".join(problems) or f"{path} is too short")
    return Entry.decode(entries[index % TILE_WIDTH])


def _read_checkpoint(directory: Path, ledger: LedgerKey, problems: list[str]) -> Checkpoint | None:
    note = _read(directory / "checkpoint", problems, name="checkpoint", limit=MAX_NOTE_BYTES)
    if note is None:
        return None
    try:
        return ledger.verify(note.decode()).checkpoint
    except (StrongroomError, UnicodeDecodeError) as error:
        problems.append(f"checkpoint: {error}")
        return None


def _check_upper_tiles(directory: Path, store: TileStore, problems: list[str]) -> set[str]:
    names = set()
    for level, index, width in tiles(store.size()):
        if level == 0:
            continue
        name = tile_path(level, index, width)
        names.add(name)
        data = _read(directory / name, problems, name=name, limit=TILE_WIDTH * HASH_BYTES)
        first = index * TILE_WIDTH
        hashes = [store.kept[Place(TILE_HEIGHT * level, place)] for place in range(first, first + width)]
        if data is not None and not same(data, b"".join(hashes)):
            problems.append(f"{name} does not match the entries below it")
    return names


def _check_remembered(
    log: MerkleLog, checkpoint: Checkpoint, remembered: Checkpoint | None, problems: list[str]
) -> None:
    if remembered is None:
        return
    if remembered.origin != checkpoint.origin:
        problems.append(f"the remembered checkpoint is of ledger {remembered.origin!r}")
    elif remembered.size > log.size:
        problems.append(
            f"the export has {log.size} entries, {remembered.size} are remembered: it was cut or rolled back"
        )
    elif not same(log.root_at(remembered.size), remembered.root):
        problems.append(f"the first {remembered.size} entries are not those that are remembered: history was rewritten")


def _check_strays(directory: Path, expected: set[str] | None, problems: list[str]) -> None:
    if expected is None:
        return
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if not path.is_dir() and name not in expected:
            problems.append(f"{name} does not belong to this export")


def _unframe(bundle: bytes, name: str, problems: list[str]) -> list[bytes]:
    entries: list[bytes] = []
    at = 0
    while at < len(bundle):
        end = at + _FRAME + int.from_bytes(bundle[at : at + _FRAME], "big")
        if at + _FRAME > len(bundle) or end > len(bundle) or len(entries) == TILE_WIDTH:
            problems.append(f"{name} ends inside an entry, or holds too many")
            break
        entries.append(bundle[at + _FRAME : end])
        at = end
    return entries


def _read(path: Path, problems: list[str], *, name: str, limit: int) -> bytes | None:
    try:
        if path.is_symlink() or not path.is_file():
            problems.append(f"{name} is missing")
            return None
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        problems.append(f"{name} cannot be read: {error.strerror}")
        return None
    if len(data) > limit:
        problems.append(f"{name} is larger than {limit} bytes")
        return None
    return data


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
