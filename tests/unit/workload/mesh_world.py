"""Workers of a simulated TEE inside one process, connected as the workers of a job are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from strongroom.attestation.roles import Role
from strongroom.attestation.simulated.platform import SimulatedPlatform
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.testing import simulated_platform, simulated_tee, simulated_verifier
from strongroom.workload.mesh.mesh import Mesh, MeshDoor, Proof
from strongroom.workload.mesh.roster import Place, Roster

JOB = hashlib.sha384(b"job").digest()


@dataclass
class MeshWorld:
    platform: SimulatedPlatform
    proofs: list[Proof]
    doors: list[MeshDoor]

    @property
    def places(self) -> list[Place]:
        return [
            Place(host=door.address[0], port=door.address[1], keys=proof.keys.digest.hex())
            for door, proof in zip(self.doors, self.proofs, strict=True)
        ]

    def roster(self, rank: int, *, number: int = 1, places: list[Place] | None = None) -> Roster:
        return Roster(round=number, rank=rank, places=tuple(places or self.places))

    def connect(self, *, number: int = 1) -> list[Mesh]:
        return self.together(lambda rank: self.doors[rank].open(self.roster(rank, number=number)))

    def together(self, act: Callable[[int], object]) -> list:
        """What ``act`` returns at each rank, all at once."""
        with ThreadPoolExecutor(len(self.doors)) as pool:
            return [future.result(60) for future in [pool.submit(act, rank) for rank in range(len(self.doors))]]


def prove(platform, *, role: Role = Role.WORKER, job: bytes = JOB) -> Proof:
    return Proof(
        keys=WorkloadKeys.generate(),
        tee=simulated_tee(role, platform=platform, job_digest=job),
        verifier=simulated_verifier(platform),
        job_digest=job,
    )


@contextmanager
def mesh_world(size: int) -> Iterator[MeshWorld]:
    with simulated_platform() as platform:
        proofs = [prove(platform) for _ in range(size)]
        doors = [MeshDoor("127.0.0.1", proof=proof) for proof in proofs]
        try:
            yield MeshWorld(platform=platform, proofs=proofs, doors=doors)
        finally:
            for door in doors:
                door.close()
