"""One side of a benchmark: two executors, stock and plain, with Spark's wire encryption alone, or all protections.

A process of its own. Reads one JSON request a line, ``{"sql": ...}`` or ``{"write": number}``, and answers each with
one line: seconds, and a digest of the rows. Both sides have the same cores, heaps and number of shuffle partitions.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.warehouse import TABLES, encrypt, open_plain

CORES, EXECUTOR_MEMORY, DRIVER_MEMORY, PARTITIONS = 1, "1500m", "1g", "8"
# Executors of one machine would read each other's files, and nothing would cross a wire.
APART = {"spark.shuffle.readHostLocalDisk": "false"}
WIRE = {
    "spark.authenticate": "true",
    "spark.network.crypto.enabled": "true",
    "spark.network.crypto.authEngineVersion": "2",
    "spark.network.crypto.cipher": "AES/GCM/NoPadding",
    "spark.network.crypto.saslFallback": "false",
}
COLLECTOR = "-XX:+UseParallelGC"  # as our own Java machines have; G1, the default, takes more of two cores
Write = Callable[[Any, Path], None]


def main(side: str, scale: float, directory: Path) -> None:
    """Start the cluster, say that it is ready, and answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever Spark prints is not an answer
    start = {"plain": plain, "clear": clear, "wire": wire, "protected": protected}[side]
    spark, write, stop = start(scale, directory)
    try:
        print(json.dumps({"ready": spark.version}), file=answers)
        for line in sys.stdin:
            print(json.dumps(answer(spark, write, json.loads(line), directory)), file=answers)
    finally:
        stop()


def answer(spark: Any, write: Write, request: dict[str, Any], directory: Path) -> dict[str, object]:
    """Do what is asked, and say how long it took."""
    started = time.perf_counter()
    if "sql" in request:
        rows = spark.sql(request["sql"]).collect()
        seconds = time.perf_counter() - started
        return {"wall": seconds, "digest": hashlib.sha256(repr(rows).encode()).hexdigest(), "rows": len(rows)}
    target = directory / "outbox" / f"written-{request['write']}"
    write(spark.table("lineitem"), target)
    seconds = time.perf_counter() - started
    size = sum(path.stat().st_size for path in target.rglob("*.parquet"))
    shutil.rmtree(target)
    return {"wall": seconds, "digest": "", "rows": size}


def wire(scale: float, directory: Path) -> tuple[Any, Write, Callable[[], None]]:
    """Start stock Spark on plain tables, with authenticated and encrypted connections and nothing else."""
    return plain(scale, directory, {**APART, **WIRE, "spark.authenticate.secret": secrets.token_hex(32)})


def clear(scale: float, directory: Path) -> tuple[Any, Write, Callable[[], None]]:
    """Start the same with connections in the clear."""
    return plain(scale, directory, APART)


def plain(
    scale: float, directory: Path, more: Mapping[str, str] = MappingProxyType({})
) -> tuple[Any, Write, Callable[[], None]]:
    """Start stock Spark on plain tables."""
    from pyspark.sql import SparkSession

    open_plain(scale, directory)
    (directory / "outbox").mkdir()
    chosen = (
        SparkSession.builder.master(f"local-cluster[2,{CORES},1500]")
        .config("spark.ui.enabled", "false")
        .config("spark.executor.memory", EXECUTOR_MEMORY)
        .config("spark.driver.memory", DRIVER_MEMORY)
        .config("spark.executor.extraJavaOptions", COLLECTOR)
        .config("spark.driver.extraJavaOptions", COLLECTOR)
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", PARTITIONS)
        .config("spark.locality.wait", "0s")
        .config("spark.local.dir", str(directory / "local"))
        .config("spark.sql.warehouse.dir", str(directory / "warehouse"))
    )
    for name, value in more.items():
        chosen = chosen.config(name, value)
    spark = chosen.getOrCreate()
    for table in TABLES:
        spark.read.parquet(str(directory / f"{table}-plain")).createOrReplaceTempView(table)

    def write(frame: Any, target: Path) -> None:
        frame.write.option("compression", "zstd").parquet(str(target))

    return spark, write, spark.stop


def protected(scale: float, directory: Path) -> tuple[Any, Write, Callable[[], None]]:
    """Start Spark as a job's driver and workers do: authenticated, encrypted, walled in, on encrypted tables."""
    from strongroom.envelope.keys import DataKey, DatasetKeys
    from strongroom.workload.agent import KeyAgent
    from strongroom.workload.scratch import make_scratch
    from strongroom.workload.spark.cluster import DriverSpark, ExecutorProcess

    encrypted = encrypt(scale, directory)
    outbox = directory / "outbox"
    outbox.mkdir()
    columns = encrypted["lineitem"][0].columns
    output = DatasetKeys.from_dek(DataKey.generate(), dataset="output.lineitem", version=1, columns=columns)
    held = {key_id: keys for _, keys in encrypted.values() for key_id in keys.key_ids}
    held |= dict.fromkeys(output.key_ids, output)
    secret = os.urandom(32)
    agents = []
    for _ in range(3):
        agents.append(KeyAgent(lambda key_id: held[key_id].key(key_id), directory=make_scratch()))
        agents[-1].start()
    driver = DriverSpark(
        secret=secret,
        listen_host="127.0.0.1",
        agent_socket=agents[0].path,
        work_dir=agents[0].path.parent,
        app_name="benchmark",
        inputs=[directory],
        outbox=outbox,
        memory=DRIVER_MEMORY,
        conf={"spark.sql.shuffle.partitions": PARTITIONS},
    )
    spark = driver.start()
    executors = [
        ExecutorProcess(
            secret=secret,
            driver_url=driver.driver_url,
            executor_id=number,
            host="127.0.0.1",
            cores=CORES,
            memory=EXECUTOR_MEMORY,
            app_id=driver.app_id,
            agent_socket=agents[number].path,
            work_dir=agents[number].path.parent,
            inputs=[directory],
            outbox=outbox,
        )
        for number in (1, 2)
    ]
    for executor in executors:
        executor.start()
    driver.wait_executors(2, deadline=120)
    for table, (manifest, _) in encrypted.items():
        frame = driver.read_encrypted(manifest, directory / f"{table}-encrypted", manifest.columns)
        frame.createOrReplaceTempView(table)

    def write(frame: Any, target: Path) -> None:
        driver.write_encrypted(frame, target, dataset="output.lineitem", version=1)

    def stop() -> None:
        driver.stop()
        for executor in executors:
            executor.kill()
        for agent in agents:
            agent.close()
            shutil.rmtree(agent.path.parent, ignore_errors=True)

    return spark, write, stop


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]))
