"""Run the demo's program on plain Parquet with stock Spark and no protection: the other half of ``journey``.

A process of its own, so that its Java machines start as cold as Strongroom's. Prints one JSON line with the seconds.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from strongroom.workload.inside import enter


class PlainRoom:
    """What the program needs of a room, on plaintext."""

    def __init__(self, spark: Any, out: Path) -> None:
        self.spark = spark
        self._out = out

    def sql(self, text: str) -> Any:
        return self.spark.sql(text)

    def write(self, frame: Any, name: str) -> None:
        frame.write.option("compression", "zstd").parquet(str(self._out / name))


def main(program: Path, tables: Path, out: Path) -> None:
    from pyspark.sql import SparkSession

    started = time.perf_counter()
    spark = (
        SparkSession.builder.master("local-cluster[2,1,1024]")
        .config("spark.ui.enabled", "false")
        .config("spark.executor.memory", "1g")
        .config("spark.driver.memory", "1g")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", "4")
        .getOrCreate()
    )
    for path in sorted(tables.glob("*.parquet")):
        spark.read.parquet(str(path)).createOrReplaceTempView(path.stem)
    ready = time.perf_counter()
    enter(PlainRoom(spark, out))  # type: ignore[arg-type]
    exec(compile(program.read_bytes(), "program.py", "exec"), {"__name__": "__main__"})
    ended = time.perf_counter()
    spark.stop()
    print(json.dumps({"spark-start": ready - started, "program": ended - ready}))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]))
