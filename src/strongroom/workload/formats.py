"""Tell formats of files that only hold data from those that run code when they are loaded (spec/3-job.md §9).

Whoever loads a pickle runs it, so a file leaves a job only in a format that is known to be plain data, and what is not
known is refused. Names and first bytes are judged, and for text and tensors the whole form.
"""

from __future__ import annotations

import io
import json
import pickletools
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import IO, Final

from strongroom.errors import RefusedError

Opened = Callable[[], IO[bytes]]

KNOWN: Final = (
    "JSON (.json, .jsonl), text (.txt, .csv, .tsv, .md, .yaml, .toml), safetensors, XGBoost's .ubj, ONNX (.onnx), "
    "Parquet (.parquet), Arrow (.arrow, .feather), images (.png, .svg), and what Spark ML's saveToLocal writes"
)
_CODE_SUFFIXES: Final = frozenset(
    {
        ".pkl",
        ".pickle",
        ".p",
        ".joblib",
        ".dill",
        ".cloudpickle",
        ".pt",
        ".pth",
        ".ckpt",
        ".npy",
        ".npz",
        ".h5",
        ".keras",
    }
    | {".py", ".pyc", ".so", ".dll", ".jar", ".class", ".exe", ".sh", ".skops"}
)
_TEXT_SUFFIXES: Final = frozenset({".txt", ".csv", ".tsv", ".md", ".yaml", ".yml", ".toml", ".svg", ".jsonl"})
_MAGIC: Final[Mapping[str, tuple[bytes, ...]]] = {
    ".ubj": (b"{L", b"{i", b"{U", b"{I", b"{l"),
    ".parquet": (b"PAR1",),
    ".arrow": (b"ARROW1",),
    ".feather": (b"ARROW1",),
    ".png": (b"\x89PNG\r\n\x1a\n",),
    ".onnx": (b"\x08",),  # field 1, ir_version, of a ModelProto
}
# What no plain format above begins with: archives and compressed streams may hide anything, joblib's among them.
_HIDING: Final[Mapping[bytes, str]] = {
    b"PK\x03\x04": "a ZIP archive, as torch.save and NumPy write it",
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x78\x9c": "compressed with zlib",
    b"\x78\xda": "compressed with zlib",
    b"ZF": "compressed by joblib",
    b"\x04\x22\x4d\x18": "compressed with LZ4",
    b"\x93NUMPY": "a NumPy array, which may hold pickled objects",
    b"\xac\xed": "serialized Java objects",
    b"\x7fELF": "a program",
    b"#!": "a program",
}
_CALLING: Final = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", "EXT1"})
_HEAD = 1 << 16
_MOST_JSON = 256 << 20
_MOST_HEADER = 100 << 20
_SPARK_METADATA = "metadata"
_SPARK_CLASSES = "org.apache.spark.ml."


class UnsafeFilesError(RefusedError):
    """A file that was to be saved is a pickle, or of another form that is not known to be plain data."""


def refuse_files(files: Mapping[str, Opened]) -> tuple[str, ...]:
    """Return one reason for each of ``files`` that is not known to be plain data; none at all if every one is."""
    spark = {
        str(PurePosixPath(name).parent)
        for name, opened in files.items()
        if PurePosixPath(name).name == _SPARK_METADATA and _is_spark_metadata(opened)
    }
    reasons = []
    for name, opened in files.items():
        with opened() as stream:
            trouble = _judge(PurePosixPath(name), stream, spark=str(PurePosixPath(name).parent) in spark)
        if trouble:
            reasons.append(f"file {name[:200]!r} {trouble}")
    return tuple(reasons)


def _judge(path: PurePosixPath, stream: IO[bytes], *, spark: bool) -> str:
    """Return what is wrong with a file, or nothing."""
    head = _read(stream, _HEAD)
    if trouble := _runs_code(path, head):
        return f"{trouble}; known: {KNOWN}"
    suffix = path.suffix.casefold()
    rest = _Rest(head, stream)
    if suffix in _FORMS:
        name, is_so = _FORMS[suffix]
        return "" if is_so(rest) else f"is not {name}"
    if suffix in _MAGIC:
        return "" if head.startswith(_MAGIC[suffix]) else f"is not what {suffix} files begin with"
    if spark and not suffix:
        return ""
    return f"is of a format that is not known to be plain data; known: {KNOWN}"


def _runs_code(path: PurePosixPath, head: bytes) -> str:
    """Return why loading this file may run code, by its name or its first bytes, or nothing."""
    if found := sorted({suffix.casefold() for suffix in path.suffixes} & _CODE_SUFFIXES):
        return f"is called {found[0]}, a format that runs code when it is loaded"
    if called := _called_by_pickle(head):
        return f"is a pickle, which runs code when it is loaded ({called})"
    return next((f"is {what}" for magic, what in _HIDING.items() if head.startswith(magic)), "")


def _called_by_pickle(head: bytes) -> str:
    """Return which operation would run code if ``head`` were unpickled, or nothing if it is no pickle."""
    if head[:1] == b"\x80" and head[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}:
        return f"protocol {head[1]}"
    try:
        for operation, _, _ in pickletools.genops(io.BytesIO(head)):
            if operation.name in _CALLING:
                return operation.name
    except Exception:  # noqa: BLE001  text of any kind is parsed as if it were a pickle, and fails in any way
        return ""
    return ""


def _is_spark_metadata(opened: Opened) -> bool:
    with opened() as stream:
        try:
            said = json.loads(_read(stream, _HEAD))
        except (ValueError, RecursionError):
            return False
    return isinstance(said, dict) and str(said.get("class", "")).startswith(_SPARK_CLASSES) and "sparkVersion" in said


def _is_json(rest: _Rest) -> bool:
    data = rest.read(_MOST_JSON + 1)
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return len(data) <= _MOST_JSON


def _is_text(rest: _Rest) -> bool:
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while block := rest.read(1 << 20):
            if "\0" in decoder.decode(block):
                return False
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _is_safetensors(rest: _Rest) -> bool:
    """Return whether the header is one: its length (u64 little endian), then JSON that names tensors and offsets."""
    length = int.from_bytes(rest.read(8), "little")
    if not 2 <= length <= _MOST_HEADER:  # noqa: PLR2004  "{}" is the shortest
        return False
    try:
        header = json.loads(rest.read(length))
    except (ValueError, RecursionError):
        return False
    return isinstance(header, dict) and all(
        isinstance(tensor, dict) and (name == "__metadata__" or set(tensor) == {"dtype", "shape", "data_offsets"})
        for name, tensor in header.items()
    )


class _Rest:
    """A stream from its start, though its head was read already."""

    def __init__(self, head: bytes, stream: IO[bytes]) -> None:
        self._head = head
        self._stream = stream

    def read(self, count: int) -> bytes:
        """Return up to ``count`` bytes, fewer only at the end."""
        taken, self._head = self._head[:count], self._head[count:]
        return taken + (_read(self._stream, count - len(taken)) if len(taken) < count else b"")


def _read(stream: IO[bytes], count: int) -> bytes:
    parts: list[bytes] = []
    while count > 0 and (part := stream.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


_FORMS: Final[Mapping[str, tuple[str, Callable[[_Rest], bool]]]] = {
    ".json": ("JSON", _is_json),
    ".safetensors": ("in the safetensors format", _is_safetensors),
    **dict.fromkeys(_TEXT_SUFFIXES, ("UTF-8 text", _is_text)),
}
