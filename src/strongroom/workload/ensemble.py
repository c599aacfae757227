"""Have several attested workers run one program together, and begin again when one is lost (spec/3-job.md §10).

The driver's side: it says who has which rank, where the others are, and which checkpoint is the last. It runs nothing
of the program, and no data, gradient or key passes through it.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from strongroom.attestation.roles import Role
from strongroom.errors import StrongroomError, UsageError
from strongroom.workload.handover import MessageError, decode_failure
from strongroom.workload.members import Member, MemberLostError, Members
from strongroom.workload.mesh.roster import Place, Roster, Round
from strongroom.workload.outbox import OutputDraft

_COMING_SECONDS = 120.0
_ENDING_SECONDS = 90.0
_MOST_ROUNDS = 5  # as many as a launcher replaces workers, and the first

_Said = Mapping[str, Any] | None


class Ensemble:
    """The workers of one job that run ``program`` together, one rank each."""

    def __init__(self, members: Members, *, size: int, outputs: tuple[str, ...], on_event: Callable[..., None]) -> None:
        self._members = members
        self._size = size
        self._outputs = outputs
        self._on_event = on_event
        self._reports: queue.Queue[tuple[Member, _Said]] = queue.Queue()
        self._heard: set[int] = set()
        self._places: dict[int, Place] = {}
        self._checkpoint: dict[str, Any] | None = None

    def run(self, program: bytes) -> list[OutputDraft]:
        """Return the outputs that the workers wrote; raise what the program raised, at whichever rank.

        A worker that is lost is replaced by the launcher, attested like the first, and the program begins again at the
        last checkpoint.
        """
        for number in range(1, _MOST_ROUNDS + 1):
            workers = self._assemble()
            self._on_event("round-started", round=number, workers=len(workers))
            ended = self._play(number, workers, program)
            if ended is not None:
                return self._collect(ended)
            self._on_event("round-broken", round=number, resumes=self._checkpoint is not None)
        raise MemberLostError(
            f"workers were lost in each of {_MOST_ROUNDS} rounds",
            hint="is there enough memory? what the host saw of their ends stands with the job's processes",
        )

    def _assemble(self) -> list[Member]:
        """Return as many workers as the job has, each with a known place."""
        until = time.monotonic() + _COMING_SECONDS
        while True:
            left = max(0.0, until - time.monotonic())
            workers = self._members.wait_for(Role.WORKER, self._size, deadline=left)
            for worker in workers:
                self._listen_to(worker)
            if all(worker.number in self._places for worker in workers):
                return workers
            try:
                self._note(*self._reports.get(timeout=min(left, 1.0) or 0.01))
            except queue.Empty:
                if left <= 0:
                    raise MessageError("a worker did not say where the others can reach it") from None

    def _play(self, number: int, workers: list[Member], program: bytes) -> dict[int, Mapping[str, Any]] | None:
        """Return what each rank said at its end, or nothing if a worker was lost; raise what the program raised."""
        places = tuple(self._places[worker.number] for worker in workers)
        ranks = {worker.number: rank for rank, worker in enumerate(workers)}
        for worker in workers:
            roster = Roster(round=number, rank=ranks[worker.number], places=places)
            self._say(worker, Round(roster=roster, program=program, checkpoint=self._checkpoint).encode())
        ended: dict[int, Mapping[str, Any]] = {}
        gone: set[int] = set()
        until = float("inf")
        while len(ended) + len(gone) < self._size:
            try:
                worker, said = self._reports.get(timeout=max(0.01, min(1.0, until - time.monotonic())))
            except queue.Empty:
                if time.monotonic() > until:
                    break  # whoever did not end its round ends itself, and is replaced
                continue
            rank = ranks.get(worker.number)
            if said is None and rank is not None:
                gone.add(rank)
            elif said is None or not self._note(worker, said):
                continue
            elif rank is not None and said.get("round") == number:
                ended[rank] = said
            broken = gone or any(one["type"] == "failed" for one in ended.values())
            if broken and until == float("inf"):
                until = time.monotonic() + _ENDING_SECONDS
                for other in workers:
                    if ranks[other.number] not in gone:
                        self._say(other, {"type": "dissolve", "round": number})
        for one in ended.values():
            if one["type"] == "failed" and not one["lost"]:
                raise decode_failure(one)
        return None if gone or len(ended) < self._size or _failed(ended) else ended

    def _note(self, worker: Member, said: _Said) -> bool:
        """Take in where a worker is and what it kept; return whether it said that its round is over."""
        if said is None:
            return False
        if said.get("type") == "mesh":
            place = {"host": said.get("host"), "port": said.get("port"), "keys": worker.channel.peer_keys.digest.hex()}
            self._places[worker.number] = Place.decode(place)
        elif said.get("type") == "checkpoint" and isinstance(said.get("draft"), dict):
            self._checkpoint = dict(said["draft"])
            self._on_event("checkpoint-kept", round=said.get("round"), step=said.get("step"))
        return said.get("type") == "ended" or (said.get("type") == "failed" and isinstance(said.get("lost"), bool))

    def _collect(self, ended: Mapping[int, Mapping[str, Any]]) -> list[OutputDraft]:
        """Return the drafts of all ranks; raise UsageError if an output was written twice, or not at all."""
        writers: dict[str, list[int]] = {name: [] for name in self._outputs}
        drafts = []
        for rank in sorted(ended):
            listed = ended[rank].get("drafts")
            if not isinstance(listed, list):
                raise MessageError("a worker ended without saying what it wrote")
            for one in listed:
                draft = OutputDraft.decode(one)
                writers.setdefault(draft.name, []).append(rank)
                drafts.append(draft)
        for name, ranks in writers.items():
            if len(ranks) != 1:
                raise UsageError(
                    f"output {name!r} was written by {f'ranks {ranks}' if ranks else 'no rank'}, must be by one",
                    hint="write outputs at one rank: if room.rank == 0",
                )
        return drafts

    def _listen_to(self, worker: Member) -> None:
        if worker.number in self._heard:
            return
        self._heard.add(worker.number)
        threading.Thread(target=self._hear, args=(worker,), name=f"worker-{worker.number}", daemon=True).start()

    def _hear(self, worker: Member) -> None:
        """Put what a worker says where all reports come in, until it is gone."""
        while (said := worker.said.get()) is not None:
            self._reports.put((worker, said))
        self._reports.put((worker, None))

    def _say(self, worker: Member, message: dict[str, Any]) -> None:
        """Send a message; a worker that is gone says so by itself."""
        with contextlib.suppress(StrongroomError):
            worker.channel.send(message)


def _failed(ended: Mapping[int, Mapping[str, Any]]) -> bool:
    return any(one["type"] == "failed" for one in ended.values())
