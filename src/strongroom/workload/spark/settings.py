"""Decide Spark's settings: the protections that are always on, what an analyst may tune, and a last check.

Pure: it takes settings and returns settings or raises; it never starts anything. Every name and default was read in the
4.3.0 jars (docs/decisions/0022).
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from strongroom.errors import UsageError

MASTER = "strongroom"
_SECRET = "spark.authenticate.secret"  # noqa: S105  the name of a setting
_DECOY = re.compile(r"^decoy-[0-9a-f]{64}$")

_WIRE = {
    "spark.authenticate": "true",
    "spark.network.crypto.enabled": "true",
    "spark.network.crypto.authEngineVersion": "2",  # version 1 skips HKDF
    "spark.network.crypto.cipher": "AES/GCM/NoPadding",  # the default, CTR, has no integrity
    "spark.network.crypto.saslFallback": "false",  # the default lets a peer choose DIGEST-MD5
    "spark.io.encryption.enabled": "true",
    "spark.io.encryption.keySizeBits": "256",
    "spark.python.unix.domain.socket.enabled": "true",  # rows do not cross the host's loopback
}
_CLOSED_DOORS = {
    "spark.ui.enabled": "false",
    "spark.eventLog.enabled": "false",
    "spark.master.rest.enabled": "false",
    "spark.shuffle.service.enabled": "false",
    "spark.shuffle.readHostLocalDisk": "false",
    "spark.sql.catalogImplementation": "in-memory",
}
# A worker that is drained hands its shuffle and cached blocks to other attested executors, over the encrypted wire.
_LEAVING = {
    "spark.decommission.enabled": "true",
    "spark.storage.decommission.enabled": "true",
    "spark.storage.decommission.rddBlocks.enabled": "true",
    "spark.storage.decommission.shuffleBlocks.enabled": "true",
    "spark.storage.decommission.replicationReattemptInterval": "2s",
    "spark.executor.decommission.signal": "PWR",
}
_FILES = {
    "spark.hadoop.fs.file.impl": "strongroom.spark.WalledFileSystem",
    "spark.hadoop.fs.AbstractFileSystem.file.impl": "strongroom.spark.WalledFs",
    "spark.hadoop.parquet.crypto.factory.class": "strongroom.spark.RoomCryptoFactory",
    "spark.hadoop.parquet.encryption.kms.client.class": "strongroom.spark.AgentKmsClient",
    "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
    "spark.python.daemon.module": "strongroom.workload.spark.daemon",
    "spark.python.use.daemon": "true",
    **{
        f"spark.hadoop.fs.{scheme}.impl": "strongroom.spark.ClosedFileSystem"
        for scheme in (
            "hdfs",
            "viewfs",
            "viewfsOverload",
            "webhdfs",
            "swebhdfs",
            "har",
            "ftp",
            "sftp",
            "http",
            "https",
            "s3",
            "s3a",
            "s3n",
            "gs",
            "abfs",
            "abfss",
            "wasb",
            "wasbs",
            "o3fs",
            "ofs",
            "oss",
            "cosn",
        )
    },
}
PROTECTIONS: Mapping[str, str] = {"spark.master": MASTER, **_WIRE, **_CLOSED_DOORS, **_LEAVING, **_FILES}

TUNABLE = frozenset(
    {
        "spark.default.parallelism",
        "spark.driver.maxResultSize",
        "spark.locality.wait",
        "spark.memory.fraction",
        "spark.memory.storageFraction",
        "spark.rdd.compress",
        "spark.scheduler.mode",
        "spark.shuffle.compress",
        "spark.speculation",
        "spark.sql.ansi.enabled",
        "spark.sql.autoBroadcastJoinThreshold",
        "spark.sql.broadcastTimeout",
        "spark.sql.caseSensitive",
        "spark.sql.files.maxPartitionBytes",
        "spark.sql.files.openCostInBytes",
        "spark.sql.session.timeZone",
        "spark.sql.shuffle.partitions",
        "spark.task.cpus",
        "spark.task.maxFailures",
    }
)
_TUNABLE_FAMILIES = ("spark.sql.adaptive.", "spark.sql.execution.arrow.", "spark.sql.inMemoryColumnarStorage.")
_MAX_VALUE = 200

# A JVM that starts an executor needs these before it can ask the driver for the rest.
BOOTSTRAP = frozenset(_WIRE | _LEAVING)
# Spark itself adds its module options to extraJavaOptions; here they are inert, for our own code starts every JVM.
_FORBIDDEN = re.compile(
    r"(extraClassPath|extraLibraryPath|userClassPathFirst|^spark\.metrics\.|^spark\.plugins$"
    r"|^spark\.extraListeners$|secret\.file|^spark\.ssl\.|^spark\.executorEnv\.|^spark\.jars|^spark\.submit\.pyFiles$)"
)


class SparkSettingsError(UsageError):
    """Spark settings lack a protection, hold a secret, or are not a job's to set; the message lists every reason."""


def compose_settings(*, app_name: str, host: str, scratch: Path, tuning: Mapping[str, str]) -> dict[str, str]:
    """Return the driver's settings: the protections, this driver's own, and an analyst's permitted ``tuning``.

    Raises SparkSettingsError naming every setting of ``tuning`` that is not on the list of tunable ones.
    """
    refused = sorted(name for name in tuning if not _may_tune(name))
    refused += sorted(name for name, value in tuning.items() if len(value) > _MAX_VALUE or not value.isprintable())
    if refused:
        raise SparkSettingsError(
            f"not for a job to set: {', '.join(dict.fromkeys(refused))}",
            hint=f"tunable: {', '.join(sorted(TUNABLE))}, {', '.join(f'{family}*' for family in _TUNABLE_FAMILIES)}",
        )
    return {
        "spark.sql.shuffle.partitions": "8",
        "spark.sql.sources.parallelPartitionDiscovery.threshold": "100000",  # list files without a job
        "spark.log.level": "WARN",
        "spark.locality.wait": "0s",
        "spark.network.timeout": "60s",
        "spark.executor.heartbeatInterval": "5s",
        **tuning,
        **PROTECTIONS,
        _SECRET: f"decoy-{secrets.token_hex(32)}",
        "spark.app.name": app_name,
        "spark.submit.deployMode": "client",
        "spark.driver.host": host,
        "spark.driver.bindAddress": host,
        "spark.local.dir": str(scratch / "spark"),
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
    }


def compose_allocation(*, cores: int, workers: int, most_workers: int) -> dict[str, str]:
    """Return the settings of a fixed number of workers, or of one that Spark moves between ``workers`` and the most.

    Without an external shuffle service, which would be one more process with the secret, Spark keeps an executor as
    long as somebody may need its shuffle blocks.
    """
    if most_workers <= workers:
        return {"spark.executor.cores": str(cores), "spark.dynamicAllocation.enabled": "false"}
    return {
        "spark.executor.cores": str(cores),
        "spark.dynamicAllocation.enabled": "true",
        "spark.dynamicAllocation.shuffleTracking.enabled": "true",
        "spark.dynamicAllocation.minExecutors": str(workers),
        "spark.dynamicAllocation.initialExecutors": str(workers),
        "spark.dynamicAllocation.maxExecutors": str(most_workers),
        "spark.dynamicAllocation.executorIdleTimeout": "20s",
    }


def verify_spark_conf(conf: Mapping[str, str], *, secret: bytes) -> None:
    """Raise SparkSettingsError, with all reasons, unless every protection is on and ``secret`` is nowhere in ``conf``.

    Spark refuses to start an authenticated driver without ``spark.authenticate.secret``; it must be a decoy, so that
    where the true secret were not found, nobody could connect at all.
    """
    reasons = [
        f"{name} is {conf.get(name)!r}, must be {value!r}"
        for name, value in PROTECTIONS.items()
        if conf.get(name) != value
    ]
    reasons += [f"{name} must not be set" for name in sorted(conf) if _FORBIDDEN.search(name)]
    if not _DECOY.match(conf.get(_SECRET, "")):
        reasons.append(f"{_SECRET} must be a decoy")
    spellings = _spellings(secret)
    reasons += [
        f"{name} holds the cluster secret"
        for name, value in sorted(conf.items())
        if any(spelling in text for spelling in spellings for text in (name, value))
    ]
    if reasons:
        raise SparkSettingsError(f"Spark is not protected: {'; '.join(reasons)}")


def _may_tune(name: str) -> bool:
    return name in TUNABLE or name.startswith(_TUNABLE_FAMILIES)


def _spellings(secret: bytes) -> tuple[str, ...]:
    encoded = base64.b64encode(secret).decode().rstrip("=")
    return secret.hex(), secret.hex().upper(), encoded, encoded.translate(str.maketrans("+/", "-_"))
