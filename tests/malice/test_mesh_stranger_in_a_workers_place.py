"""An attacker wants into the mesh: from another job, in another role, or as a worker that the driver did not admit."""

import pytest
from mesh_world import mesh_world, prove

from strongroom.attestation.channel import connect
from strongroom.attestation.roles import Role
from strongroom.errors import EvidenceError
from strongroom.testing import simulated_platform
from strongroom.workload.mesh.links import PeerLostError
from strongroom.workload.mesh.mesh import ImpostorError, MeshDoor
from strongroom.workload.mesh.roster import Place


@pytest.fixture
def world():
    with mesh_world(2) as made:
        yield made


def call(proof, door: MeshDoor, *, role: Role = Role.WORKER):
    return connect(
        door.address,
        keys=proof.keys,
        role=role,
        expected_role=Role.WORKER,
        tee=proof.tee,
        verifier=proof.verifier,
        job_digest=proof.job_digest,
        deadline=10,
    )


def test_a_worker_of_another_job_or_of_another_vendor_is_not_let_in(world):
    with simulated_platform() as elsewhere, pytest.raises(EvidenceError):
        call(prove(elsewhere), world.doors[0])  # another vendor's root
    stranger = prove(world.platform, job=bytes(48))
    with pytest.raises(EvidenceError):
        call(stranger, world.doors[0])


def test_an_attested_driver_is_no_worker(world):
    with pytest.raises(EvidenceError):
        call(prove(world.platform, role=Role.DRIVER), world.doors[0], role=Role.DRIVER)


def test_a_worker_that_was_not_admitted_cannot_take_a_rank(world):
    """Its evidence is genuine and for this job, say of changed code; it claims rank 1 before rank 1 comes."""
    thief = prove(world.platform)
    channel = call(thief, world.doors[0])
    channel.send({"type": "mesh", "round": 1, "rank": 1})
    with pytest.raises(PeerLostError, match="worker 1 did not come"):
        world.doors[0].open(world.roster(0), deadline=1)
    meshes = world.connect(number=2)  # and the real one is not kept out by it
    meshes[1].post(0, (1, 1), memoryview(b"real"))
    got = bytearray(4)
    meshes[0].receive(1, (1, 1), memoryview(got), deadline=10)
    assert got == b"real"
    for mesh in meshes:
        mesh.close()


def test_a_worker_that_was_not_admitted_cannot_answer_for_one_that_was(world):
    """The host leads a call to its own worker; it has no other keys to show than its own."""
    thief = prove(world.platform)
    door = MeshDoor("127.0.0.1", proof=thief)
    other, mine = world.places
    elsewhere = Place(host=door.address[0], port=door.address[1], keys=other.keys)
    try:
        with pytest.raises(ImpostorError, match="did not admit"):
            world.doors[1].open(world.roster(1, places=[elsewhere, mine]), deadline=5)
    finally:
        door.close()


def test_a_worker_of_an_earlier_round_is_not_heard_in_a_later_one(world):
    for mesh in world.connect(number=3):
        mesh.close()
    late = call(world.proofs[1], world.doors[0])
    late.send({"type": "mesh", "round": 3, "rank": 1})
    with pytest.raises(PeerLostError, match="did not come"):
        world.doors[0].open(world.roster(0, number=4), deadline=1)
