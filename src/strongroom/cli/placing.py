"""Where ``strongroom submit`` places a job: processes of this machine, or pods of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strongroom.errors import UsageError

if TYPE_CHECKING:
    from strongroom.jobs import JobDraft
    from strongroom.jobs.launch import JobHost, TeeHost
    from strongroom.jobs.launch.kubernetes import KubernetesHost, KubernetesSettings
    from strongroom.jobs.launch.kubernetes.board import Board
    from strongroom.parties.home import FinishedJob
    from strongroom.parties.submitted import LeftJob
    from strongroom.statements import SigningKey

_UNSIGNED = f"sha384:{'0' * 96}"  # a job has no digest before it is signed
_MAX_SEED_BYTES = 1024


def read_settings(path: Path | None) -> KubernetesSettings:
    """Return the cluster's settings; raise UsageError if no file is named."""
    from strongroom.jobs.launch.kubernetes import load_settings

    if path is None:
        raise UsageError(
            "a job on Kubernetes needs to know the cluster",
            hint="add --settings CLUSTER.toml; deploy/cluster.toml in the sources is one to begin with",
        )
    return load_settings(path)


def describe_hosts(hosts: Path | None) -> list[str]:
    """Return the addresses of the machines in the file ``hosts``."""
    from strongroom.jobs.launch.standalone import load_hosts

    return [] if hosts is None else [host.address for host in load_hosts(hosts).hosts]


def open_hosts(hosts: Path | None, *, key: SigningKey, directory: Path) -> JobHost:
    """Return the lent machines in the file ``hosts``, which know ``key``'s party."""
    from strongroom.jobs.launch.standalone import HostPool, load_hosts

    if hosts is None:
        raise UsageError("no machine is named", hint="give --hosts HOSTS.toml")
    return HostPool(load_hosts(hosts), key=key, directory=directory)


def open_host(draft: JobDraft, *, settings: KubernetesSettings | None, platform: Path | None) -> TeeHost | JobHost:
    """Return where the job is placed: the cluster of ``settings``, or the simulated platform of this machine."""
    if settings is not None:
        return open_cluster_host(settings, platform=platform)
    from strongroom.attestation.simulated.platform import SimulatedPlatform

    if platform is None:
        raise UsageError(
            "a job on this machine needs a simulated platform to start its processes",
            hint="add --platform DIR: the folder that the broker was started with",
        )
    return SimulatedPlatform.found_in(platform, tee="tdx" if draft.tee == "tdx" else "sgx")


def open_cluster_host(settings: KubernetesSettings, *, platform: Path | None, detached: bool = False) -> KubernetesHost:
    """Return the cluster of ``settings`` as a host; with ``detached``, jobs are left to keepers there."""
    from strongroom.jobs.launch.kubernetes import KubernetesHost

    return KubernetesHost.open(settings, seed=_seed(settings, platform), detached=detached)


def open_board(settings: Path) -> Board:
    """Return the jobs of the cluster that the settings file describes."""
    from strongroom.jobs.launch.kubernetes import KubernetesHost
    from strongroom.jobs.launch.kubernetes.board import Board

    return Board(KubernetesHost.open(read_settings(settings)).cluster)


def describe_placed(left: LeftJob, settings: Path) -> dict[str, str]:
    """Return what a home remembers of a job on a cluster, so that it is found and believed later."""
    return {
        "name": left.name,
        "settings": str(settings.absolute()),
        "driver_spki": left.driver.spki.hex(),
        "driver_kem": left.driver.kem.hex(),
        "role": left.role.value,
    }


def recall_left(known: FinishedJob) -> LeftJob:
    """Return a job that this home handed over to a driver on a cluster; raise UsageError if it did not."""
    from strongroom.attestation.roles import Role
    from strongroom.attestation.workload_keys import PublicKeys
    from strongroom.parties.submitted import LeftJob

    try:
        driver = PublicKeys.parse(
            spki=bytes.fromhex(known.placed["driver_spki"]), kem=bytes.fromhex(known.placed["driver_kem"])
        )
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"this home did not hand job {known.job} to a driver on a cluster",
            hint="use the home that submitted it; `strongroom job show` tells what the cluster knows",
        ) from error
    return LeftJob(
        job=known.job,
        digest=known.digest,
        name=known.placed.get("name", ""),
        outputs=tuple(known.outputs),
        driver=driver,
        timings={},
        simulated=False,
        role=Role.parse(known.placed.get("role", Role.DRIVER.value)),
    )


def describe_objects(
    draft: JobDraft, *, engine: str, settings: KubernetesSettings, platform: Path | None, detached: bool = False
) -> tuple[list[dict[str, Any]], Sequence[str]]:
    """Return the objects that a submission would create, and the same as YAML; the job's digest is still zero."""
    import yaml

    from strongroom.jobs.launch.kubernetes import JobPods

    pods = JobPods(spec=draft, digest=_UNSIGNED, engine=engine, settings=settings)
    pods.check_locations()
    objects = pods.everything(seed=_seed(settings, platform), detached=detached)
    return objects, [yaml.safe_dump_all(objects, sort_keys=False, width=1000)]


def _seed(settings: KubernetesSettings, platform: Path | None) -> bytes:
    if settings.flavour != "simulated":
        if platform is not None:
            raise UsageError(
                f"the cluster's flavour is {settings.flavour}, and --platform is for the simulated one",
                hint="leave --platform out",
            )
        return b""
    if platform is None:
        raise UsageError(
            "the cluster's flavour is simulated, so its pods need the seed of a simulated platform",
            hint="add --platform DIR: the folder that the broker was started with",
        )
    try:
        with (platform / "seed").open("rb") as stream:
            return stream.read(_MAX_SEED_BYTES)
    except OSError as error:
        raise UsageError(
            f"{platform} holds no simulated platform: {error.strerror}", hint="name the folder the broker uses"
        ) from error
