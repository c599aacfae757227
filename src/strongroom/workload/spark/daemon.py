"""Start Spark's Python workers inside walls of their own, one ring further in than the executor that asks for them.

Landlock then keeps a user-defined function from writing where Java loads code from, and from tracing or signalling
the executor, whose memory holds keys. Spark starts this module in place of ``pyspark.daemon``
(spark.python.daemon.module).
"""

from __future__ import annotations

import os
from pathlib import Path

from strongroom.workload.collectives import guard_collectives
from strongroom.workload.confinement import confine

SCRATCH = "STRONGROOM_SCRATCH"


def main() -> None:
    """Confine this process to temporary files and spill, without a network, and become Spark's Python daemon."""
    scratch = Path(os.environ[SCRATCH])
    guard_collectives()
    confine([scratch / "tmp", scratch / "spark"])
    from pyspark import daemon

    daemon.manager()


if __name__ == "__main__":
    main()
