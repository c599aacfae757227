"""Where and how jobs are placed on one Kubernetes cluster, read from a TOML file; nothing in it is secret.

The file is the operator's: it says what the cluster is like. What a job may do is decided by policies, elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from strongroom.errors import UsageError
from strongroom.jobs.launch.kubernetes.flavours import Flavour
from strongroom.policy.form import Form
from strongroom.policy.problems import MAX_DOCUMENT_BYTES, parse_toml, read_form

Dns = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
Absolute = Annotated[str, Field(pattern=r"^/[^\x00\n]*$", max_length=1024)]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]


class VolumeForm(Form):
    """Storage that pods see at the same path as the jobs name it; it holds ciphertext only."""

    mount: Absolute = Field(description="where pods see it", examples=['mount = "/data"'])
    claim: Dns = Field(description="the PersistentVolumeClaim in the namespace", examples=['claim = "datasets"'])
    read_only: bool = Field(default=True, description="whether pods may only read", examples=["read_only = false"])


class SizeForm(Form):
    """What a pod of a role asks for; workers ask for what the job says."""

    cores: Quantity = Field(default="1", description="processor cores", examples=['cores = "2"'])
    memory: Quantity = Field(default="2Gi", description="memory", examples=['memory = "4Gi"'])


class KubernetesSettings(Form):
    """The table [kubernetes]."""

    namespace: Dns = Field(default="strongroom", description="where pods are made", examples=['namespace = "jobs"'])
    context: str = Field(default="", description="the kubeconfig's context; by default its current one")
    image: str = Field(
        min_length=1,
        pattern=r"^[^\s]+$",
        description="the image of all roles, best by digest",
        examples=['image = "strongroom@sha256:..."'],
    )
    image_pull_policy: Annotated[str, Field(pattern="^(Always|IfNotPresent|Never)$")] = Field(
        default="IfNotPresent", description="when the node fetches the image", examples=['image_pull_policy = "Never"']
    )
    image_pull_secrets: list[Dns] = Field(default=[], description="names of the cluster's own pull secrets")
    flavour: Flavour = Field(
        description="the TEE: tdx, snp, sgx, or simulated (which protects nothing)", examples=['flavour = "tdx"']
    )
    runtime_class: Annotated[str, Field(pattern=r"^[-.a-z0-9]*$")] = Field(
        default="", description="the RuntimeClass; by default kata-qemu-tdx or kata-qemu-snp for these flavours"
    )
    agent_policy: str = Field(
        default="",
        description="a file with the Kata agent policy of the pods, for tdx and snp; relative to this one",
        examples=['agent_policy = "agent-policy.rego"'],
    )
    epc: Quantity = Field(default="4Gi", description="enclave memory of one pod, for sgx", examples=['epc = "8Gi"'])
    service_account: Dns = Field(
        default="default", description="whose name the pods run under; no token of it is ever mounted"
    )
    keeper_account: Dns = Field(
        default="strongroom-keeper",
        description="whose name the keepers of jobs left to the cluster run under; they alone get its token",
    )
    collateral_config_map: Dns = Field(
        default="strongroom-collateral",
        description="the ConfigMap with the vendors' collateral, which real TEEs' pods mount; it may come later",
    )
    api_server: Annotated[str, Field(pattern=r"^(https://[^\s]+)?$")] = Field(
        default="",
        description="the API server's address for pods; by default the cluster's own, else the kubeconfig's",
        examples=['api_server = "https://10.0.0.1:6443"'],
    )
    broker: Annotated[str, Field(pattern=r"^(https://[^/\s]+)?$")] = Field(
        default="",
        description="where pods reach the broker, if not at the address that the client trusts; a hint that evidence "
        "is held against",
        examples=['broker = "https://strongroom-broker.strongroom.svc:8443"'],
    )
    history_jobs: int = Field(default=200, ge=0, le=5000, description="how many jobs' histories are kept")
    history_days: int = Field(default=30, ge=0, le=3650, description="for how many days a job's history is kept")
    directory: Absolute = Field(
        description="where jobs leave encrypted outputs: below a volume that may be written",
        examples=['directory = "/jobs"'],
    )
    volumes: list[VolumeForm] = Field(
        min_length=1, max_length=64, description="storage of datasets and outputs", examples=["[[kubernetes.volumes]]"]
    )
    reach: Annotated[str, Field(pattern="^(port-forward|pod-ip)$")] = Field(
        default="port-forward",
        description="how the client reaches the driver: through the API server, or straight from inside the cluster",
        examples=['reach = "pod-ip"'],
    )
    driver_port: int = Field(
        default=7077, ge=1024, le=65535, description="where the driver, or an endpoint, listens in its pod"
    )
    driver: SizeForm = Field(default=SizeForm(), description="the driver's size", examples=["[kubernetes.driver]"])
    endpoint: SizeForm = Field(default=SizeForm(), description="an endpoint's size", examples=["[kubernetes.endpoint]"])
    egress: SizeForm = Field(default=SizeForm(), description="egress's size", examples=["[kubernetes.egress]"])
    scratch: Quantity = Field(default="1Gi", description="memory file system of one pod", examples=['scratch = "4Gi"'])
    user: int = Field(default=10001, ge=1, le=2**31 - 1, description="the user id in pods; never root")
    node_selector: dict[str, str] = Field(default={}, description="labels that a node must have")
    tolerations: list[dict[str, str | int]] = Field(default=[], max_length=32, description="taints that are fine")
    start_seconds: int = Field(default=300, ge=1, le=86400, description="how long a pod may take until it runs")

    @field_validator("volumes")
    @classmethod
    def _mounts_differ(cls, volumes: list[VolumeForm]) -> list[VolumeForm]:
        mounts = [volume.mount.rstrip("/") for volume in volumes]
        if len(set(mounts)) != len(mounts):
            raise PydanticCustomError("mount", "volumes with different mounts")
        return volumes

    @model_validator(mode="after")
    def _directory_is_on_a_volume(self) -> KubernetesSettings:
        volume = self.volume_of(self.directory)
        if volume is None or volume.read_only:
            raise PydanticCustomError("directory", "a directory below the mount of a volume with read_only = false")
        return self

    def volume_of(self, path: str) -> VolumeForm | None:
        """Return the volume that holds ``path``, or nothing."""
        holding = [one for one in self.volumes if f"{path.rstrip('/')}/".startswith(f"{one.mount.rstrip('/')}/")]
        return max(holding, key=lambda one: len(one.mount), default=None)


class SettingsFile(Form):
    """A settings file."""

    kubernetes: KubernetesSettings = Field(description="the cluster", examples=["[kubernetes]"])


def parse_settings(text: str, *, what: str = "the settings") -> KubernetesSettings:
    """Parse a settings file; raise DocumentError with every problem at once."""
    return read_form(SettingsFile, parse_toml(text, what=what), what=what).kubernetes


def load_settings(path: Path) -> KubernetesSettings:
    """Read a settings file; raise UsageError if it cannot be read, DocumentError if it is malformed."""
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_DOCUMENT_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the cluster's settings {path}", hint="name a TOML file in UTF-8") from error
    if len(text) > MAX_DOCUMENT_BYTES:
        raise UsageError(f"{path} is larger than any settings file", hint="name a TOML file with [kubernetes]")
    settings = parse_settings(text, what=f"the settings {path.name}")
    if not settings.agent_policy:
        return settings
    policy = path.parent / settings.agent_policy
    try:
        return settings.model_copy(update={"agent_policy": policy.read_text()})
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the agent policy {policy}", hint="generate it with Kata's genpolicy") from error
