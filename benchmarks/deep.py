"""What encryption costs PyTorch: all-reduce and training over the mesh beside gloo, encrypted data beside plain files.

Two ranks are two processes of this machine. Both sides run in the same processes, turn about.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from benchmarks.harness import Figure, Options, Report, progress

GOAL = 1.10
SIZES = (1, 4, 16, 64)
ROWS = (20_000, 250_000)
FILE_BYTES = 100_000
_SECONDS = 900


def run(options: Options) -> Report:
    """Measure all-reduce, training and loading; return medians and ratios."""
    with tempfile.TemporaryDirectory(prefix="strongroom-deep-") as place:
        progress(options, "two ranks: all-reduce of 1 to 64 MB, and training, over gloo and over the mesh")
        said = _ranks(Path(place), quick=options.quick)
        progress(options, "loading samples from encrypted and from plain data")
        loaded = _load(Path(place), quick=options.quick)
    seconds: Mapping[str, list[float]] = said["seconds"]
    medians = {name: statistics.median(taken[1:]) for name, taken in seconds.items()}  # the first warms up
    figures = []
    for size in SIZES:
        gloo, mesh = medians[f"{size} gloo"], medians[f"{size} mesh"]
        figures += [
            Figure(name=f"all-reduce of {size} MB, gloo in the clear", value=1000 * gloo, unit="ms"),
            Figure(name=f"all-reduce of {size} MB, mesh", value=1000 * mesh, unit="ms"),
            Figure(name=f"all-reduce of {size} MB, mesh / gloo", value=mesh / gloo, unit="x"),
            Figure(
                name=f"all-reduce of {size} MB, CPU of a rank, mesh / gloo",
                value=medians[f"{size} mesh cpu"] / medians[f"{size} gloo cpu"],
                unit="x",
            ),
        ]
    pairs = zip(seconds["train mesh"][1:], seconds["train gloo"][1:], strict=True)
    figures += [
        Figure(name="training, gloo in the clear", value=medians["train gloo"], unit="s"),
        Figure(name="training, mesh", value=medians["train mesh"], unit="s"),
        Figure(name="training, mesh / gloo", value=statistics.median(a / b for a, b in pairs), unit="x", at_most=GOAL),
        Figure(
            name="weights and trees that equal the plain run's bit for bit",
            value=float(said["equal"]),
            unit="",
            at_least=1,
        ),
    ]
    for rows in ROWS:
        name, plain, mesh = f"XGBoost, 2 x {rows:,} rows", f"boost {rows} plain", f"boost {rows} mesh"
        ratio = statistics.median(a / b for a, b in zip(seconds[mesh][1:], seconds[plain][1:], strict=True))
        figures += [
            Figure(name=f"{name}, its own sockets in the clear", value=medians[plain], unit="s"),
            Figure(name=f"{name}, mesh", value=medians[mesh], unit="s"),
            Figure(name=f"{name}, mesh / its own sockets", value=ratio, unit="x", at_most=GOAL),
            Figure(
                name=f"{name}, CPU of a rank, mesh / its own sockets",
                value=medians[f"{mesh} cpu"] / medians[f"{plain} cpu"],
                unit="x",
            ),
        ]
    for name in ("table", "files"):
        plain, sealed = (statistics.median(loaded[f"{name} {side}"]) for side in ("plain", "sealed"))
        ratio = statistics.median(a / b for a, b in zip(loaded[f"{name} plain"], loaded[f"{name} sealed"], strict=True))
        figures += [
            Figure(name=f"{name}, plain", value=plain, unit="samples/CPU s"),
            Figure(name=f"{name}, encrypted", value=sealed, unit="samples/CPU s"),
            Figure(name=f"{name}, plain / encrypted rate", value=ratio, unit="x", at_most=GOAL),
        ]
    return Report(
        name="deep",
        title="PyTorch over the mesh and over gloo; encrypted data and plain files",
        figures=figures,
        notes=[
            "two processes of one machine over loopback, one thread each; medians after one round that warms up",
            "training: DDP, a network of 670,000 weights, 60 steps of 2 x 256 rows (20 with --quick)",
            "XGBoost: 30 trees of depth 6 on rows of 30 numbers, its start included",
            "table: batches of 256 rows of 784 bytes and a label, shuffled, from Parquet; files: 100 KB each",
            "loading: with the files in the page cache, per second of CPU, for the machine is shared",
        ],
        draw=lambda canvas: _draw(canvas, medians),
    )


def _ranks(place: Path, *, quick: bool) -> dict[str, Any]:
    from strongroom.attestation.simulated.platform import SimulatedPlatform

    SimulatedPlatform(place / "platform").expose()
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks._deep_rank", str(rank), str(place), "quick" if quick else "full"],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    answers = [rank.communicate(timeout=_SECONDS)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "a rank failed"
    return dict(json.loads(answers[0].strip().splitlines()[-1]))


def _load(place: Path, *, quick: bool) -> dict[str, list[float]]:
    """Return samples per second of CPU, by data and side, of each round after the first."""
    rounds = 4 if quick else 8
    rates: dict[str, list[float]] = defaultdict(list)
    for name, sides, read in (
        ("table", _tables(place, rows=20_000 if quick else 60_000), _read_table),
        ("files", _files(place, count=500 if quick else 2000), _read_files),
    ):
        for number in range(rounds):
            for side in ("plain", "sealed") if number % 2 else ("sealed", "plain"):
                begun = time.process_time()
                samples = read(sides[side], number)
                if number:
                    rates[f"{name} {side}"].append(samples / (time.process_time() - begun))
    return rates


def _tables(place: Path, *, rows: int) -> dict[str, Any]:
    """Return the same rows as encrypted and as plain Parquet, with one codec and one size of row groups."""
    from strongroom.envelope.keys import DataKey, DatasetKeys
    from strongroom.envelope.table import open_table
    from strongroom.statements import SigningKey
    from strongroom.workload.parcel import pack

    dealt = np.random.default_rng(0)
    flat = pa.array(dealt.integers(0, 256, rows * 784).astype("uint8") * (dealt.random(rows * 784) < 0.2))
    table = pa.table({"pixels": pa.FixedSizeListArray.from_arrays(flat, 784), "digit": np.arange(rows) % 10})
    dek = DataKey.generate()
    keys = [
        DatasetKeys.from_dek(dek, dataset="digits", version=1, columns=table.column_names) for _ in ("write", "read")
    ]
    manifest = pack(table, place / "table", keys[0], signer=SigningKey.generate(name="benchmark"))
    sealed = open_table(place / "table", keys[1], manifest=manifest)
    groups = [group.num_rows for fragment in sealed.get_fragments() for group in fragment.row_groups]
    pq.write_table(table, place / "plain.parquet", compression="zstd", row_group_size=max(groups))
    return {"plain": ds.dataset(place / "plain.parquet"), "sealed": sealed}


def _read_table(source: ds.Dataset, epoch: int) -> int:
    from strongroom.workload.torch.datasets import open_dataset

    stream = open_dataset(source, rank=0, size=1, stream=True, batch_size=256, shuffle=True)
    stream.set_epoch(epoch)
    return sum(len(batch["digit"]) for batch in stream)


def _files(place: Path, *, count: int) -> dict[str, Any]:
    """Return the same files as an input of a job gives them, and plainly."""
    from strongroom.envelope.files import open_files
    from strongroom.envelope.keys import DataKey, DatasetKeys
    from strongroom.statements import SigningKey
    from strongroom.workload.files import InputFiles, bytes_opener
    from strongroom.workload.parcel import pack_files

    (place / "plain").mkdir()
    contents = {f"{number:05}.bin": os.urandom(FILE_BYTES) for number in range(count)}
    for name, content in contents.items():
        (place / "plain" / name).write_bytes(content)
    keys = DatasetKeys.for_files(DataKey.generate(), dataset="scans", version=1)
    sources = {name: bytes_opener(content) for name, content in contents.items()}
    manifest = pack_files(sources, place / "files", keys, signer=SigningKey.generate(name="benchmark"))
    sealed = InputFiles(open_files(place / "files", keys, manifest=manifest), scratch=lambda: place)
    return {"plain": _PlainFiles(place / "plain", contents), "sealed": sealed}


class _PlainFiles(dict[str, Any]):
    """Names to open files of a directory."""

    def __init__(self, place: Path, names: Mapping[str, bytes]) -> None:
        super().__init__(dict.fromkeys(names))
        self._place = place

    def __getitem__(self, name: str) -> Any:
        return (self._place / name).open("rb")


def _read_files(source: Mapping[str, Any], epoch: int) -> int:
    from strongroom.workload.torch.datasets import open_dataset

    files = open_dataset(source, rank=0, size=1)
    for index in np.random.default_rng(epoch).permutation(len(files)):
        files[int(index)]
    return len(files)


def _draw(canvas: Any, medians: Mapping[str, float]) -> None:
    axes = canvas.subplots()
    for side, colour in (("gloo", "#999999"), ("mesh", "#4c72b0")):
        axes.plot(SIZES, [1000 * medians[f"{size} {side}"] for size in SIZES], marker="o", color=colour, label=side)
    axes.set(xscale="log", yscale="log", xlabel="MB of one tensor", ylabel="ms of an all-reduce, two ranks")
    axes.legend()
