"""Run a program of kind torch as everybody does, without Strongroom: processes of this machine, gloo, plain tables.

``python plain_torch.py PROGRAM OUTPUT NAME=TABLE.parquet...`` is one rank; :func:`plain_ranks` starts all of them.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def plain_ranks(program: Path, tables, *, size: int, files=None) -> dict:
    """What the program writes at rank 0: files by output and name, as bytes; tables as lists of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        listed = []
        for name, table in tables.items():
            pq.write_table(table, place / f"{name}.parquet")
            listed.append(f"{name}={place / f'{name}.parquet'}")
        for name, directory in (files or {}).items():
            listed.append(f"{name}={directory}")
        command = [sys.executable, __file__, str(program), str(place / "out"), *listed]
        with _free_port() as port:
            shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
        ranks = [
            subprocess.Popen(command, env={**os.environ, **shared, "RANK": str(rank), "OMP_NUM_THREADS": "1"})
            for rank in range(size)
        ]
        assert [rank.wait(timeout=200) for rank in ranks] == [0] * size
        found = {}
        for path in sorted((place / "out").rglob("*")):
            if path.is_file():
                output, _, name = path.relative_to(place / "out").as_posix().partition("/")
                if name == "rows.arrow":
                    with pa.memory_map(str(path)) as stream:
                        found[output] = pa.ipc.open_file(stream).read_all().to_pylist()
                else:
                    found.setdefault(output, {})[name] = path.read_bytes()
        return found


class _free_port:  # noqa: N801  used like a function
    def __enter__(self) -> int:
        import socket

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    def __exit__(self, *_) -> None: ...


def main(program: str, output: str, *listed: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    from strongroom.workload.rehearsal import rehearse

    torch.set_num_threads(1)
    given = dict(one.split("=", 1) for one in listed)
    tables = {name: pq.read_table(path) for name, path in given.items() if Path(path).is_file()}
    files = {
        name: {one.relative_to(path).as_posix(): one.read_bytes() for one in Path(path).rglob("*") if one.is_file()}
        for name, path in given.items()
        if Path(path).is_dir()
    }
    for name, written in rehearse(Path(program).read_bytes(), tables=tables, files=files).items():
        place = Path(output) / name
        place.mkdir(parents=True, exist_ok=True)
        if isinstance(written, pa.Table):
            with pa.OSFile(str(place / "rows.arrow"), "wb") as sink, pa.ipc.new_file(sink, written.schema) as writer:
                writer.write_table(written)
        else:
            for one, data in written.items():
                (place / one).write_bytes(data)


if __name__ == "__main__":
    main(*sys.argv[1:])
