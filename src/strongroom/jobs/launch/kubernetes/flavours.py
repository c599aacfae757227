"""How each kind of TEE is asked of Kubernetes: runtime class, device resources, annotations and the command to run.

What is asked is only a wish: the cluster may do otherwise, and attestation notices (spec/3-job.md §7).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from strongroom.errors import UsageError

Flavour = Literal["simulated", "tdx", "snp", "sgx"]
SEED_FOLDER = "/etc/strongroom/simulated"
ENCLAVE_ARGUMENTS = "STRONGROOM_ARGUMENTS"  # as strongroom.attestation.enclave reads it
INIT_DATA_ANNOTATION = "io.katacontainers.config.hypervisor.cc_init_data"
# Guests that a cloud's own API starts beside the node (peer pods) read it under another name.
PEER_INIT_DATA_ANNOTATION = "io.katacontainers.config.runtime.cc_init_data"
_PEER_CLASS = "kata-remote"

_PYTHON = ("python3", "-P", "-s", "-m")
_ENTRY = {
    "broker": "strongroom.broker",
    "driver": "strongroom.workload.driver",
    "endpoint": "strongroom.serving",
    "worker": "strongroom.workload.worker",
    "egress": "strongroom.egress",
}
_RUNTIME_CLASS = {"tdx": "kata-qemu-tdx", "snp": "kata-qemu-snp"}
# MRCONFIGID has 48 bytes and HOSTDATA has 32, so the digest that Kata writes there must have as many.
_INIT_DATA_DIGEST = {"tdx": "sha384", "snp": "sha256"}

# What an agent policy must never say: with one of these the host could run its own code inside a measured guest.
_TOO_WIDE = ("CreateContainerRequest", "ExecProcessRequest", "SetPolicyRequest", "CopyFileRequest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a flavour adds to a pod: its runtime class, annotations, device resources and command."""

    command: tuple[str, ...]
    runtime_class: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    seed: bool = False
    reports: bool = False


def shape(
    flavour: Flavour,
    role: str,
    argv: Sequence[str],
    *,
    job_digest: str,
    tee: str = "any",
    runtime_class: str = "",
    epc: str = "",
    agent_policy: str = "",
) -> Shape:
    """Return what a pod of ``role`` needs under ``flavour``; ``tee`` is the kind that the job asks for.

    Raise UsageError if the job asks for another TEE than the flavour has.
    """
    has = {"simulated": ("sgx", "tdx"), "sgx": ("sgx",), "tdx": ("tdx",), "snp": ("snp",)}[flavour]
    if tee != "any" and tee not in has:
        raise UsageError(
            f"the job asks for {tee}, and this cluster is set up for {flavour}",
            hint=f'choose settings with flavour = "{tee}", or let the job ask for {" or ".join(has)}',
        )
    if flavour == "simulated":
        supervisor = ("strongroom.attestation.simulated", "run", "--role", role, "--job-digest", job_digest)
        chosen = ("--tee", "tdx" if tee == "tdx" else "sgx", "--seed", f"{SEED_FOLDER}/seed", "--")
        return Shape(command=(*_PYTHON, *supervisor, *chosen, *argv), runtime_class=runtime_class, seed=True)
    if flavour == "sgx":
        return Shape(
            command=("gramine-sgx", f"strongroom-{role}"),
            # The enclave's command line is measured and fixed; what differs from job to job comes this way, unmeasured.
            environment={ENCLAVE_ARGUMENTS: json.dumps(list(argv))},
            runtime_class=runtime_class,
            # The device plugin's admission webhook mounts the quoting service's socket for this annotation.
            annotations={"sgx.intel.com/quote-provider": "aesmd"},
            resources={"sgx.intel.com/epc": epc, "sgx.intel.com/enclave": "1", "sgx.intel.com/provision": "1"},
        )
    runtime = runtime_class or _RUNTIME_CLASS[flavour]
    name = PEER_INIT_DATA_ANNOTATION if runtime.startswith(_PEER_CLASS) else INIT_DATA_ANNOTATION
    document = init_data(flavour, job_digest=job_digest, agent_policy=agent_policy)
    return Shape(
        command=(*_PYTHON, _ENTRY[role], *argv),
        runtime_class=runtime,
        annotations={name: encode_init_data(document)},
        reports=True,
    )


def init_data(flavour: Literal["tdx", "snp"], *, job_digest: str, agent_policy: str) -> bytes:
    """Return the init-data document of a confidential container: the job it may serve and what its agent may do.

    Raise UsageError for a policy that lets the host choose what runs: the guest's registers do not cover containers.
    """
    if not job_digest.startswith("sha384:") or not job_digest[7:].isalnum():
        raise UsageError(f"a job digest is sha384:<hex>, got {job_digest[:20]!r}")
    words = agent_policy.replace(":=", " = ").split()
    wide = [
        name for name in _TOO_WIDE if ["default", name, "=", "true"] in [words[i : i + 4] for i in range(len(words))]
    ]
    if "agent_policy" not in words or wide or "'''" in agent_policy:
        got = f"lets the host do whatever it likes with {', '.join(wide)}" if wide else "is not one"
        raise UsageError(
            f"a confidential container needs an agent policy, and the one in the settings {got}",
            hint="generate it with Kata's genpolicy from `strongroom submit --dry-run` and name it as agent_policy",
        )
    return (
        f'algorithm = "{_INIT_DATA_DIGEST[flavour]}"\n'
        'version = "0.1.0"\n'
        "\n"
        "[data]\n"
        f"\"strongroom.toml\" = '''\njob = \"{job_digest}\"\n'''\n"
        f"\"policy.rego\" = '''\n{agent_policy}'''\n"
    ).encode()


def init_data_digest(flavour: Literal["tdx", "snp"], document: bytes) -> bytes:
    """Return what MRCONFIGID (48 bytes) or HOSTDATA (32 bytes) is in the evidence of such a container."""
    return hashlib.new(_INIT_DATA_DIGEST[flavour], document).digest()


def encode_init_data(document: bytes) -> str:
    """Return init-data as the annotation carries it: gzip, then base64; the same document gives the same text."""
    return base64.b64encode(gzip.compress(document, mtime=0)).decode()
