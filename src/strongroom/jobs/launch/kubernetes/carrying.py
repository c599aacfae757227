"""Bring a job's encrypted output from the cluster's storage to this machine, by a porter's pod that is gone afterwards.

Nothing that arrives is believed: names are held to this directory here, sizes to a limit, and content is verified by
whoever opens it, against the manifest that the ledger names.
"""

from __future__ import annotations

import contextlib
import io
import json
import secrets
import shutil
import socket
import tarfile
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Self

from strongroom.errors import StrongroomError, TransportError
from strongroom.jobs.launch.kubernetes.api import Cluster
from strongroom.jobs.launch.kubernetes.failures import explain_lost, explain_pod
from strongroom.jobs.launch.kubernetes.manifests import CONTAINER, porter_pod
from strongroom.jobs.launch.kubernetes.settings import KubernetesSettings
from strongroom.jobs.launch.placement import PlacementError

_LOOK_SECONDS = 0.3
_READ_SECONDS = 120.0
_LEAST_PACE = 1 << 12  # bytes a second
_MOST_BYTES = 1 << 40
_MOST_FILES = 100_000
_MOST_HEADER = 1 << 16  # a long name takes a header of its own, which is read into memory whole
_PLAIN = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE})

Progress = Callable[[int, int], None]


def carry(
    cluster: Cluster,
    *,
    settings: KubernetesSettings,
    job: str,
    directory: str,
    target: Path,
    on_bytes: Progress = lambda _done, _total: None,
) -> None:
    """Copy the files below ``directory``, as pods see it, to the new directory ``target``.

    Raise PlacementError if the porter's pod cannot run, TransportError if what arrives breaks off or is not files.
    """
    name = f"{job}-porter-{secrets.token_hex(3)}"
    pod = porter_pod(settings, job=job, title=job, name=name, directory=directory, port=settings.driver_port)
    cluster.create(pod, what="make the porter's pod")
    try:
        address = _wait(cluster, name, deadline=settings.start_seconds)
        target.mkdir(parents=True)
        try:
            if settings.reach == "pod-ip":
                receive((address, settings.driver_port), target, on_bytes)
            else:
                with cluster.open_tunnel(name, settings.driver_port) as tunnel:
                    receive(tunnel.address, target, on_bytes)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
    finally:
        with contextlib.suppress(StrongroomError):  # its own deadline ends it
            cluster.delete("pods", name, grace=0)


def _wait(cluster: Cluster, name: str, *, deadline: float) -> str:
    """Return the porter's address once it listens."""
    until = time.monotonic() + deadline
    while True:
        pod = cluster.get("pods", name)
        status = pod.get("status") or {}
        said = _last_word(cluster, name) if status.get("phase") in {"Running", "Failed", "Succeeded"} else {}
        if said.get("event") == "listening" and status.get("phase") == "Running":
            return str(status.get("podIP") or "")
        if said.get("event") == "failed":
            raise PlacementError(
                f"the cluster's storage does not hold the output: {said.get('message')}"[:400],
                hint="its files were deleted, or the settings are not those of the job",
            )
        events = () if status.get("phase") != "Pending" else _events(cluster, name)
        trouble = explain_pod(pod, events)
        if status.get("phase") in {"Failed", "Succeeded"}:
            trouble = trouble or explain_lost(name)
        if trouble is not None and (trouble.final or time.monotonic() > until):
            raise PlacementError(trouble.sentence, hint=trouble.remedy)
        if time.monotonic() > until:
            raise PlacementError(
                f"pod {name} does not run after {deadline:.0f} s", hint="see `kubectl describe pod`; try again"
            )
        time.sleep(_LOOK_SECONDS)


def _events(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    try:
        return list(cluster.list("events", fields=f"involvedObject.name={name}")["items"])
    except StrongroomError:
        return []


def _last_word(cluster: Cluster, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with (
        contextlib.suppress(StrongroomError),
        cluster.follow_log(name, container=CONTAINER, follow=False, tail=5) as lines,
    ):
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):
                said = json.loads(line)
                found = said if isinstance(said, dict) else found
    return found


def receive(
    address: tuple[str, int],
    target: Path,
    on_bytes: Progress = lambda _done, _total: None,
    *,
    patience: float = _READ_SECONDS,
) -> None:
    """Write the files that a porter at ``address`` sends below ``target``; raise TransportError if it sends others.

    It may be silent for ``patience`` seconds at a time, and has as much more time as its bytes take at a slow pace.
    """
    try:
        with (
            socket.create_connection(address, timeout=patience) as line,
            io.BufferedReader(Paced(line, patience=patience)) as pipe,
            tarfile.open(fileobj=pipe, mode="r|", tarinfo=Entry) as tar,
        ):
            unpack(tar, target, on_bytes)
    except (OSError, tarfile.TarError, EOFError, ValueError, RecursionError) as error:
        raise TransportError(
            f"the output broke off on its way: {str(error)[:200] or type(error).__name__}", hint="fetch it again"
        ) from error


class Paced(io.RawIOBase):
    """Reads from a connection as long as it is not slower, all in all, than any network that is of use."""

    def __init__(self, line: socket.socket, *, patience: float) -> None:
        self._line = line
        self._ends = time.monotonic() + patience

    def readable(self) -> bool:
        """Say that it is read from."""
        return True

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401  a writable buffer
        """Read what is there; raise TimeoutError when the porter sends too little for too long."""
        got = self._line.recv_into(buffer)
        self._ends += got / _LEAST_PACE
        if time.monotonic() > self._ends:
            raise TimeoutError(f"the porter sends fewer than {_LEAST_PACE} bytes a second")
        return got


class Entry(tarfile.TarInfo):
    """An entry whose headers are no larger than names need, which is known before they are read."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Return the entry that a header block announces; raise TransportError if more headers of it are too large."""
        found = super().frombuf(buf, encoding, errors)
        if found.type not in _PLAIN and found.size > _MOST_HEADER:
            raise TransportError(f"the porter announces a header of {found.size} bytes", hint="look at the job's pods")
        return found


def unpack(tar: tarfile.TarFile, target: Path, on_bytes: Progress = lambda _done, _total: None) -> None:
    """Write the plain files of ``tar`` below ``target``; raise TransportError for anything else."""
    done = 0
    for files, entry in enumerate(tar):
        name = PurePosixPath(entry.name)
        done += entry.size
        if entry.type not in _PLAIN or entry.issparse() or name.is_absolute() or ".." in name.parts or not name.parts:
            raise TransportError(f"the porter sent something that is not a file of the output: {entry.name[:80]!r}")
        if files >= _MOST_FILES or done > _MOST_BYTES:
            raise TransportError("the porter sends without end", hint="look at the job's storage")
        path = target.joinpath(*name.parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        source = tar.extractfile(entry)
        if source is None:
            raise TransportError("the porter sent a file without content")
        with source, path.open("xb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        if path.stat().st_size != entry.size:
            raise TransportError("the output broke off on its way", hint="fetch it again")
        on_bytes(done, 0)
