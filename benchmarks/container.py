"""The segmented container: seal, read from the page cache, and random reads, against AES-256-GCM and the file alone.

GB/s are plaintext bytes per CPU second of one core, so they hold on a busy machine.
"""

from __future__ import annotations

import mmap
import os
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.harness import Figure, Options, Report, Runs, interleave, progress
from benchmarks.warehouse import scratch
from strongroom.envelope.container import SEGMENT_BYTES, SMALL_SEGMENT_BYTES, open_file, seal_file
from strongroom.envelope.keys import DataKey, DatasetKeys

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

READ_GOAL: Final = 1.9  # GB/s
RANDOM_GOAL: Final = 60.0  # microseconds
PAGE: Final = 4096
GREY, BLUE, GOAL_COLOUR = "#9aa5b1", "#1f6f8b", "#c8553d"
TAG: Final = 16


def run(options: Options) -> Report:
    """Run all works turn about on one file."""
    size = (64 if options.quick else 256) << 20
    rounds = 5 if options.quick else 15
    with scratch() as directory:
        progress(options, f"sealing {size >> 20} MiB of random bytes")
        source, sealed, small = (directory / name for name in ("plain", "sealed", "small-segments"))
        with source.open("wb") as stream:
            for _ in range(size >> 20):
                stream.write(os.urandom(1 << 20))
        keys = DatasetKeys.for_files(DataKey.generate(), dataset="blobs", version=1)
        seal_file(source, sealed, keys, name="blob")
        seal_file(source, small, keys, name="blob", segment_size=SMALL_SEGMENT_BYTES)
        again = directory / "again"
        works: dict[str, Callable[[], object]] = {
            "plain file, read": lambda: read_plain(source),
            "AES-256-GCM in memory": lambda: decrypt_in_memory(size),
            "container, read": lambda: read_sealed(sealed, keys),
            "container, 64 KiB segments, read": lambda: read_sealed(small, keys),
            "plain file, write": lambda: copy_plain(source, again),
            "container, seal": lambda: seal_file(source, again, keys, name="blob"),
        }
        runs = interleave(works, rounds=rounds, tidy=lambda: again.unlink(missing_ok=True))
        progress(options, "random reads of 4 KiB")
        counts = 200 if options.quick else 1000
        at_random = interleave(
            {
                "64 KiB segments": lambda: read_at_random(small, keys, size=size, count=counts),
                "1 MiB segments": lambda: read_at_random(sealed, keys, size=size, count=counts // 4),
            },
            rounds=rounds,
        )
        overhead = sealed.stat().st_size / size - 1
    speed = {name: size / 1e9 / runs.cpu(name) for name in works}
    goals = {"container, read": READ_GOAL}
    figures = [Figure(name=name, value=value, unit="GB/s", at_least=goals.get(name)) for name, value in speed.items()]
    figures += [
        Figure(
            name="random read of 4 KiB, 64 KiB segments, CPU",
            value=at_random.cpu("64 KiB segments") / counts * 1e6,
            unit="us",
            at_most=RANDOM_GOAL,
        ),
        Figure(
            name="random read of 4 KiB, 1 MiB segments, CPU",
            value=at_random.cpu("1 MiB segments") / (counts // 4) * 1e6,
            unit="us",
        ),
        Figure(name="size added, 1 MiB segments", value=overhead * 100, unit="%"),
    ]
    return Report(
        name="container",
        title=f"Segmented container, {size >> 20} MiB",
        figures=figures,
        notes=[
            f"{size >> 20} MiB of random bytes in the page cache; median of {rounds} interleaved rounds",
            "sealing also takes the SHA-256 of the container for the manifest, and derives the file's key",
        ],
        draw=lambda canvas: draw(canvas, runs, size=size),
        size=(9, 3.6),
    )


def aligned(size: int) -> memoryview:
    """Return a buffer at a page boundary."""
    return memoryview(mmap.mmap(-1, size))


def read_plain(path: Path) -> None:
    """Read a file through one reused buffer: what no reader can beat."""
    block = aligned(SEGMENT_BYTES)
    with path.open("rb", buffering=0) as stream:
        while stream.readinto(block):
            pass


def copy_plain(path: Path, target: Path) -> None:
    """Copy a file through one reused buffer."""
    block = aligned(SEGMENT_BYTES)
    with path.open("rb", buffering=0) as stream, target.open("xb", buffering=0) as sink:
        while count := stream.readinto(block):
            sink.write(block[:count])


def decrypt_in_memory(size: int) -> None:
    """Decrypt one segment over and over, without any file: what the cipher allows."""
    cipher, nonce = AESGCM(bytes(32)), bytes(12)
    plain, sealed = aligned(SEGMENT_BYTES), aligned(SEGMENT_BYTES + TAG)[: SEGMENT_BYTES + TAG]
    cipher.encrypt_into(nonce, plain, None, sealed)
    for _ in range(size // SEGMENT_BYTES):
        cipher.decrypt_into(nonce, sealed, None, plain)


def read_sealed(path: Path, keys: DatasetKeys) -> None:
    """Read a container from its beginning to its end."""
    with open_file(path, keys, name="blob") as reader:
        for _ in reader.segments():
            pass


def read_at_random(path: Path, keys: DatasetKeys, *, size: int, count: int) -> None:
    """Read ``count`` pages at places that are the same in every round."""
    places, block = random.Random(7), aligned(PAGE)
    with open_file(path, keys, name="blob") as reader:
        for _ in range(count):
            reader.seek(places.randrange(size // PAGE) * PAGE)
            reader.readinto(block)


def draw(canvas: Canvas, runs: Runs, *, size: int) -> None:
    """Draw GB/s of each work, with the middle half of the rounds and the goal."""
    axes = canvas.subplots()
    names = list(runs.costs)[::-1]
    for row, name in enumerate(names):
        speeds = sorted(size / 1e9 / cost.cpu for cost in runs.costs[name])
        quarter = len(speeds) // 4
        middle = statistics.median(speeds)
        axes.barh(row, middle, 0.62, color=BLUE if name.startswith("container") else GREY)
        axes.plot([speeds[quarter], speeds[-1 - quarter]], [row, row], color="black", linewidth=1.2, alpha=0.6)
        axes.annotate(f"{middle:.2f}", (speeds[-1 - quarter], row), (6, 0), textcoords="offset points", va="center")
    goal = names.index("container, read")
    axes.plot([READ_GOAL, READ_GOAL], [goal - 0.42, goal + 0.42], color=GOAL_COLOUR, linewidth=2.5)
    axes.plot([], [], color=GOAL_COLOUR, linewidth=2.5, label=f"goal, at least {READ_GOAL}")
    axes.plot([], [], color="black", linewidth=1.2, alpha=0.6, label="middle half of rounds")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("GB per CPU second of one core")
    axes.set_title("Segmented container: AES-256-GCM from the page cache")
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower right", fontsize=8, frameon=True, framealpha=1, edgecolor="none")
