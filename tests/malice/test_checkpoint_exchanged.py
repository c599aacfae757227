"""The storage of a job reads its checkpoints, changes them, or shows an older one to the worker that begins again."""

import shutil
import tempfile
from pathlib import Path

import pytest

from strongroom.envelope.keys import DataKey
from strongroom.errors import EnvelopeError, StrongroomError
from strongroom.statements import SigningKey
from strongroom.workload.keyring import KeyRing
from strongroom.workload.outbox import OutputDraft

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./scripts/setup --dev")
pytestmark = pytest.mark.torch

from strongroom.workload.torch.checkpoints import Checkpoints  # noqa: E402

KNOWN = torch.tensor([1.2345678, -8.7654321]).repeat(1000)


class Worker:
    """What checkpoints need of a worker's engine: its rank, its keys, its signer and its places."""

    rank = 0

    def __init__(self, place: Path, output: DataKey) -> None:
        self.outbox = place
        self.ring = KeyRing()
        self.ring.hold({}, contents={}, output=output)
        self.signer = SigningKey.generate(name="driver")

    def scratch(self) -> Path:
        return Path(tempfile.mkdtemp(dir="/dev/shm"))

    def draft(self, name, directory, manifest):
        return OutputDraft(name=name, directory=str(directory), manifest=manifest.statement.encode())


class Job:
    def __init__(self, place: Path) -> None:
        self.place = place
        self.output = DataKey.generate()
        self.kept: list[OutputDraft] = []  # what the driver remembers

    def worker(self, *, output: DataKey | None = None) -> Checkpoints:
        engine = Worker(self.place, output or self.output)
        return Checkpoints(
            engine, last=self.kept[-1] if self.kept else None, tell=lambda _, draft: self.kept.append(draft)
        )


@pytest.fixture
def job(tmp_path):
    job = Job(tmp_path)
    worker = job.worker()
    for epoch in range(2):
        worker.save({"weights": KNOWN + epoch, "epoch": epoch}, step=epoch)
    return job


def test_a_worker_that_takes_the_place_of_another_goes_on_at_the_last(job):
    again = job.worker()
    found = again.load()
    assert (found["epoch"], torch.equal(found["weights"], KNOWN + 1)) == (1, True)
    again.save({"epoch": 2}, step=2)
    assert job.worker().load() == {"epoch": 2}
    assert len(list((job.place / "checkpoints").iterdir())) == 2  # the last, and the one before


def test_the_storage_holds_nothing_in_the_clear(job):
    stored = b"".join(path.read_bytes() for path in job.place.rglob("*") if path.is_file())
    assert len(stored) > KNOWN.nbytes
    assert bytes(KNOWN.numpy().tobytes()[:8]) not in stored
    assert b"epoch" not in stored


def test_an_older_checkpoint_in_the_place_of_the_last_is_refused(job):
    older, last = (Path(one.directory) for one in job.kept)
    shutil.rmtree(last)
    shutil.copytree(older, last)
    with pytest.raises(EnvelopeError):
        job.worker().load()


def test_a_changed_checkpoint_is_refused(job):
    largest = max(Path(job.kept[-1].directory).iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    with pytest.raises(EnvelopeError):
        job.worker().load()


def test_a_checkpoint_that_is_gone_is_an_error_and_not_a_beginning_from_nothing(job):
    shutil.rmtree(job.kept[-1].directory)
    with pytest.raises(StrongroomError):
        job.worker().load()


def test_a_worker_of_another_job_cannot_open_it(job):
    with pytest.raises(EnvelopeError):
        job.worker(output=DataKey.generate()).load()
