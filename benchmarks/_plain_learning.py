"""Run a program of the benchmark ``learning`` on plain Parquet with stock libraries; the other half of it.

A process of its own, so that it starts as cold as a job's driver. Prints one JSON line.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from strongroom.workload.embedded import EmbeddedEngine
from strongroom.workload.inside import enter


class PlainRoom:
    """What the programs need of a room, on plaintext."""

    def __init__(self, tables: Path, spark: Any) -> None:
        self.spark = spark
        self.rows: list[dict[str, Any]] = []
        paths = {path.stem: path for path in sorted(tables.glob("*.parquet"))}
        for name, path in paths.items():
            if spark is not None:
                spark.read.parquet(str(path)).createOrReplaceTempView(name)
        self._duck = None if spark else EmbeddedEngine({name: ds.dataset(path) for name, path in paths.items()})

    def sql(self, text: str) -> Any:
        return self.spark.sql(text) if self._duck is None else self._duck.sql(text)

    def write(self, frame: Any, _name: str) -> None:
        self.rows = [row.asDict() for row in frame.collect()] if self.spark is not None else frame.to_pylist()


def main(program: Path, tables: Path, kind: str) -> None:
    spark = None
    if kind == "spark":
        from pyspark.sql import SparkSession

        os.environ["PYSPARK_PYTHON"] = sys.executable
        spark = (
            SparkSession.builder.master("local-cluster[2,1,1024]")
            .config("spark.ui.enabled", "false")
            .config("spark.executor.memory", "1g")
            .config("spark.driver.memory", "1g")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.sql.shuffle.partitions", "8")
            .config("spark.locality.wait", "0s")
            .getOrCreate()
        )
        spark.sparkContext.setLogLevel("ERROR")
    room = PlainRoom(tables, spark)
    enter(room)  # type: ignore[arg-type]
    exec(compile(program.read_bytes(), "program.py", "exec"), {"__name__": "__main__"})
    if spark is not None:
        spark.stop()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(json.dumps({"rows": room.rows, "memory": memory}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
