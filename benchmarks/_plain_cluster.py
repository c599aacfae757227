"""Start stock Spark with some workers and no protection and run one task: the other half of ``clusters``.

A process of its own, so that its Java machines start as cold as Strongroom's. Prints when the task was done.
"""

from __future__ import annotations

import sys
import time


def main(workers: int) -> None:
    from pyspark.sql import SparkSession

    spark = (
        SparkSession.builder.master(f"local-cluster[{workers},1,1024]")
        .config("spark.ui.enabled", "false")
        .config("spark.executor.memory", "700m")
        .config("spark.driver.memory", "1g")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .getOrCreate()
    )
    spark.range(1).count()
    print(time.time())
    spark.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]))
