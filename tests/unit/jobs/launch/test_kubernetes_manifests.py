"""What is rendered for a cluster: valid for several versions of Kubernetes, bound to the job, and without secrets."""

import base64
import gzip
import hashlib
import tomllib
from datetime import UTC, datetime

import kubernetes_validate
import pytest

from strongroom.errors import UsageError
from strongroom.jobs.launch.kubernetes import JobPods
from strongroom.jobs.launch.kubernetes.flavours import (
    INIT_DATA_ANNOTATION,
    encode_init_data,
    init_data,
    init_data_digest,
)
from strongroom.jobs.launch.kubernetes.settings import parse_settings
from strongroom.jobs.spec import JobDraft, JobInput, JobOutput
from strongroom.statements import SigningKey

DIGEST = f"sha384:{'ab' * 48}"
POLICY = "package agent_policy\n\ndefault ExecProcessRequest := false\ndefault CreateContainerRequest := false\n"
VERSIONS = ("1.29", "1.31", "1.33", "1.36")
ANALYST = SigningKey.generate(name="analyst").party


def settings(flavour: str = "simulated", *, policy: str = POLICY, **keys: str):
    lines = ["[kubernetes]", 'image = "strongroom@sha256:1"', f'flavour = "{flavour}"', 'directory = "/jobs"']
    lines += [f'{name} = "{value}"' for name, value in keys.items()]
    lines += ["[kubernetes.node_selector]", 'tee = "yes"']
    lines += ["[[kubernetes.tolerations]]", 'key = "tee"', 'operator = "Exists"']
    lines += ["[[kubernetes.volumes]]", 'mount = "/data"', 'claim = "datasets"']
    lines += ["[[kubernetes.volumes]]", 'mount = "/jobs"', 'claim = "jobs"', "read_only = false"]
    parsed = parse_settings("\n".join(lines))
    return parsed.model_copy(update={"agent_policy": policy}) if flavour in {"tdx", "snp"} else parsed


def job(*, tee: str = "any", location: str = "/data/flights", name: str = "delays") -> JobDraft:
    return JobDraft(
        name=name,
        kind="spark",
        purpose="delay-statistics",
        inputs={"flights": JobInput(owner=ANALYST, columns=("*",), location=location)},
        outputs={"delays": JobOutput(recipients=(ANALYST,))},
        workers=2,
        most_workers=2,
        worker_memory="2g",
        worker_cores=2,
        tee=tee,
        program=b"SELECT 1",
        created=datetime(2026, 11, 1, tzinfo=UTC),
        nonce="0" * 32,
    )


def pods(flavour: str = "simulated", *, engine: str = "spark", digest: str = DIGEST, **more) -> JobPods:
    keys = {name: more.pop(name) for name in ("tee", "location", "name") if name in more}
    return JobPods(spec=job(**keys), digest=digest, engine=engine, settings=settings(flavour, **more))


@pytest.mark.parametrize("flavour", ["simulated", "tdx", "snp", "sgx"])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_for_every_version(flavour, version):
    objects = pods(flavour).everything(seed=b"seed")
    assert [one["kind"] for one in objects if one["kind"] == "Pod"] == ["Pod"] * 4
    for one in objects:
        kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("flavour", ["simulated", "tdx", "snp", "sgx"])
def test_no_pod_runs_as_root_or_holds_a_token_or_a_secret(flavour):
    for pod in (one for one in pods(flavour).everything(seed=b"seed") if one["kind"] == "Pod"):
        spec, (container,) = pod["spec"], pod["spec"]["containers"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert "envFrom" not in container
        given = [one for one in container.get("env", ()) if set(one) != {"name", "valueFrom"}]
        assert [one["name"] for one in given] in ([], ["STRONGROOM_ARGUMENTS"])  # the arguments of an enclave
        assert not any("secret" in volume or "projected" in volume for volume in spec["volumes"])
        memory = [volume for volume in spec["volumes"] if volume.get("emptyDir", {}).get("medium") == "Memory"]
        assert {volume["name"] for volume in memory} == {"scratch", "temporary"}


def test_two_runs_of_one_job_have_different_names_that_kubernetes_takes():
    first, second = (
        pods(name="Delays by Carrier, 2026!"),
        pods(name="Delays by Carrier, 2026!", digest=f"sha384:{'cd' * 48}"),
    )
    assert first.name != second.name
    assert first.name.startswith("delays-by-carrier-2026-")
    assert len(f"{first.name}-worker-10000") <= 63
    assert pods(name="…").name.startswith("job-")


def test_worker_gets_what_the_job_asks_for_and_room_beside_the_heap():
    worker = next(one for one in pods().everything() if one["metadata"]["name"].endswith("worker-1"))
    assert worker["spec"]["containers"][0]["resources"] == {
        "requests": {"cpu": "2", "memory": "2816Mi"},
        "limits": {"memory": "2816Mi"},
    }


def test_everything_belongs_to_the_driver():
    driver, *others = pods().everything(seed=b"seed")
    for one in others:
        (reference,) = one["metadata"]["ownerReferences"]
        assert (reference["kind"], reference["name"]) == ("Pod", driver["metadata"]["name"])


def test_enclaves_are_asked_of_the_device_plugin():
    (container,) = pods("sgx", epc="8Gi").driver()["spec"]["containers"]
    assert container["resources"]["limits"]["sgx.intel.com/epc"] == "8Gi"
    assert container["command"][:2] == ["gramine-sgx", "strongroom-driver"]


@pytest.mark.parametrize("flavour", ["tdx", "snp", "sgx"])
def test_every_pod_of_a_job_in_a_real_tee_finds_collateral(flavour):
    """Driver and workers attest each other, so each of them appraises evidence."""
    made = [one for one in pods(flavour).everything(detached=True) if one["kind"] == "Pod"]
    for pod in made:
        (container,) = pod["spec"]["containers"]
        found = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == "collateral"]
        assert found == ["/etc/strongroom/collateral"]
        maps = [one["configMap"] for one in pod["spec"]["volumes"] if one["name"] == "collateral"]
        assert maps == [{"name": "strongroom-collateral", "optional": True}]


@pytest.mark.parametrize("version", VERSIONS)
def test_keeper_is_made_anew_when_its_node_dies_and_is_a_pod_like_any_other(version):
    (keeper,) = [one for one in pods().everything(detached=True) if one["kind"] == "Job"]
    kubernetes_validate.validate(keeper, version, strict=True)
    assert keeper["metadata"]["ownerReferences"][0]["kind"] == "Pod"
    spec = keeper["spec"]["template"]["spec"]
    assert spec["restartPolicy"] == "OnFailure"
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert keeper["spec"]["template"]["metadata"]["labels"]["strongroom.dev/role"] == "keeper"


def test_simulated_pods_mount_no_collateral_for_their_vendor_is_beside_them():
    for pod in (one for one in pods().everything(seed=b"seed") if one["kind"] == "Pod"):
        assert "collateral" not in [one["name"] for one in pod["spec"]["volumes"]]


@pytest.mark.parametrize(("flavour", "size", "algorithm"), [("tdx", 48, "sha384"), ("snp", 32, "sha256")])
def test_init_data_binds_the_job_and_the_agents_policy_into_the_evidence(flavour, size, algorithm):
    pod = pods(flavour).driver()
    assert pod["spec"]["runtimeClassName"] == f"kata-qemu-{flavour}"
    document = gzip.decompress(base64.b64decode(pod["metadata"]["annotations"][INIT_DATA_ANNOTATION]))
    read = tomllib.loads(document.decode())
    assert read["algorithm"] == algorithm
    assert tomllib.loads(read["data"]["strongroom.toml"]) == {"job": DIGEST}
    assert read["data"]["policy.rego"] == POLICY
    digest = init_data_digest(flavour, document)
    assert len(digest) == size
    assert digest == hashlib.new(algorithm, document).digest()
    other = init_data(flavour, job_digest=f"sha384:{'cd' * 48}", agent_policy=POLICY)
    assert init_data_digest(flavour, other) != digest
    assert encode_init_data(document) == encode_init_data(document)  # the same every time


@pytest.mark.parametrize(
    "policy",
    [
        "",
        "package something_else\n",
        POLICY.replace("ExecProcessRequest := false", "ExecProcessRequest := true"),
        POLICY.replace("CreateContainerRequest := false", "CreateContainerRequest = true"),
        POLICY + "'''\n[data2]\n",
    ],
)
def test_agent_policy_that_lets_the_host_choose_what_runs_is_refused(policy):
    """Attack: the host starts its own container in a guest whose registers are those of ours."""
    with pytest.raises(UsageError, match="agent policy"):
        pods("tdx", policy=policy).driver()


@pytest.mark.parametrize(("flavour", "tee"), [("sgx", "tdx"), ("tdx", "sgx"), ("snp", "tdx")])
def test_job_for_another_tee_is_not_rendered(flavour, tee):
    with pytest.raises(UsageError, match=f"asks for {tee}, and this cluster is set up for {flavour}"):
        pods(flavour, tee=tee).driver()


def test_locations_are_held_against_the_volumes():
    pods(location="/data/a/b").check_locations()
    pods(location="s3://bucket/flights").check_locations()
    with pytest.raises(UsageError, match="flights at /database"):
        pods(location="/database").check_locations()


def test_templates_give_the_pods_that_were_rendered():
    from strongroom.jobs.launch.kubernetes.template import MemberTemplates

    job_pods = pods()
    owner = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "d", "uid": "u"}}
    templates = MemberTemplates.decode(MemberTemplates.render(job_pods, owner=owner).encode())
    for role, number in (("worker", 3), ("egress", 7)):
        rendered = job_pods.member(role, number, driver=("10.0.0.9", 7077), owner=owner)
        assert templates.fill(role, number, driver=("10.0.0.9", 7077)) == rendered


@pytest.mark.parametrize("version", VERSIONS)
def test_pods_outside_the_tee_are_valid_and_light(version):
    from strongroom.jobs.launch.kubernetes.manifests import porter_pod

    chosen = settings("sgx")
    porter = porter_pod(chosen, job="a-1", title="a", name="a-1-porter-1", directory="/jobs/a-1/results/x", port=7077)
    kept = [one for one in pods("sgx").everything(detached=True) if one["metadata"]["name"].endswith("-keeper")]
    for one in (porter, *kept):
        kubernetes_validate.validate(one, version, strict=True)
    for pod in (one for one in (porter, *kept) if one["kind"] == "Pod"):
        assert "sgx.intel.com/epc" not in str(pod)
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    mounts = {mount["mountPath"]: mount.get("readOnly") for mount in porter["spec"]["containers"][0]["volumeMounts"]}
    assert mounts == {"/tmp": None, "/jobs": True}


@pytest.mark.parametrize(("runtime", "peer"), [("", False), ("kata-qemu-tdx-runtime-rs", False), ("kata-remote", True)])
def test_init_data_is_named_as_the_runtime_reads_it(runtime, peer):
    from strongroom.jobs.launch.kubernetes.flavours import PEER_INIT_DATA_ANNOTATION

    notes = pods("tdx", runtime_class=runtime).driver()["metadata"]["annotations"]
    assert (PEER_INIT_DATA_ANNOTATION in notes) is peer
    assert (INIT_DATA_ANNOTATION in notes) is not peer
