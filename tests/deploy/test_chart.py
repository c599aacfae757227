"""The chart renders to objects that several versions of Kubernetes take, with least privilege, from valid values."""

import json
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from strongroom.jobs.launch.kubernetes import load_settings

helm = pytest.importorskip("helm_python", reason="Helm is not installed: pip install helm-python-sdk")

DEPLOY = Path(__file__).parents[2] / "deploy"
KEY = "broker.strongroom/test+0123abcd+" + "A" * 44
PROMETHEUS = {"PodMonitor", "PrometheusRule"}  # kinds of an operator that Kubernetes' own schemas do not know
CHART = DEPLOY / "helm" / "strongroom"
VERSIONS = ("1.29", "1.31", "1.33", "1.36")
OWNER = "airline:" + "0123456789abcdef" * 2
FLAVOURS = ("simulated", "tdx", "snp", "sgx")


def render(**values: object) -> list[dict]:
    chosen = {"flavour": "simulated", "image": {"name": "strongroom@sha256:1"}, **values}
    if chosen["flavour"] in {"tdx", "snp"} and "broker" not in chosen:
        chosen["broker"] = {"initData": "H4sI", "custodians": [OWNER]}
    with helm.Chart.load(CHART) as chart:
        rendered = chart.render(values=chosen, name="bank", namespace="jobs")
    texts = [text for name, text in rendered.items() if not name.endswith("NOTES.txt")]
    return [one for text in texts for one in yaml.safe_load_all(text) if one]


def only(objects: list[dict], kind: str, name: str = "") -> dict:
    (found,) = [one for one in objects if one["kind"] == kind and one["metadata"]["name"].endswith(name)]
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("host", ["", "db.example"])
def test_every_object_is_valid_for_every_version(flavour, version, host):
    people = [{"kind": "User", "name": "ana"}, {"kind": "ServiceAccount", "name": "robot"}]
    more = {"witness": {"ledgerKey": KEY}, "monitoring": {"enabled": True, "from": [{"podSelector": {}}]}}
    more["broker"] = {"database": {"host": host}, "initData": "H4sI", "custodians": [OWNER]}
    more["backup"] = {"schedule": "17 * * * *"}
    objects = render(flavour=flavour, jobs={"submitters": people, "quota": {"pods": 20}}, **more)
    assert {"StatefulSet", "Service", "Role", "RoleBinding", "NetworkPolicy", "ResourceQuota"} <= {
        one["kind"] for one in objects
    }
    for one in objects:
        if one["kind"] not in PROMETHEUS:
            kubernetes_validate.validate(one, version, strict=True)
    assert {one["kind"] for one in objects} >= PROMETHEUS


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_chart_is_free_of_helms_complaints(flavour):
    values = {"flavour": flavour, "image": {"name": "x"}, "broker": {"initData": "H4sI", "custodians": [OWNER]}}
    said = helm.lint(CHART, values=values, strict=True, kube_version="v1.36.0")
    assert said["errors"] == []
    assert [one["error"] for one in said["messages"]] in ([], ["icon is recommended"])


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_no_object_is_a_secret_or_holds_a_token(flavour):
    objects = render(flavour=flavour)
    assert "Secret" not in {one["kind"] for one in objects}
    pod = only(objects, "StatefulSet", "broker")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert [one["name"] for one in container.get("env", ())] == (["STRONGROOM_ARGUMENTS"] if flavour == "sgx" else [])


def granted(objects: list[dict], name: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for rule in only(objects, "Role", name)["rules"]:
        for resource in rule["resources"]:
            found.setdefault(resource, set()).update(rule["verbs"])
    return found


@pytest.mark.parametrize("name", ["submitter", "keeper"])
def test_roles_let_place_jobs_and_nothing_else(name):
    allowed = granted(render(), name)
    assert not allowed.keys() & {"secrets", "pods/exec", "pods/attach", "nodes", "serviceaccounts", "roles"}
    assert "*" not in allowed
    assert not any("*" in verbs for verbs in allowed.values())


def test_roles_grant_exactly_what_the_double_of_the_cluster_demands():
    """The double refuses what is not granted, and jobs run on it: so these roles are enough."""
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1] / "cluster"))
    from api_server import KEEPER_RULES, SUBMITTER_RULES

    assert granted(render(), "submitter") == SUBMITTER_RULES
    assert granted(render(), "keeper") == KEEPER_RULES


@pytest.mark.parametrize(
    "values",
    [
        {"flavour": "none"},
        {"flavour": "simulated", "image": {"name": ""}},
        {"user": 0},
        {"secrets": {}},
        {"flavour": "tdx", "broker": {"initData": "", "custodians": [OWNER]}},
        {"flavour": "tdx", "broker": {"initData": "H4sI", "custodians": []}},
        {"flavour": "snp", "broker": {"initData": "H4sI"}},
        {"broker": {"custodians": ["the operator"]}},
        {"broker": {"port": 80}},
        {"witness": {"ledgerKey": "no key"}},
        {"witness": {"everySeconds": 0}},
        {"monitoring": {"enabled": "yes"}},
        {"jobs": {"submitters": [{"kind": "Robot", "name": "x"}]}},
        {"jobs": {"namespaces": ["Research"]}},
        {"jobs": {"namespaces": ["research", "research"]}},
        {"jobs": {"namespace": "research"}},
        {"backup": {"schedule": "hourly"}},
        {"backup": {"schedule": "@hourly", "keep": 0}},
    ],
)
def test_values_outside_the_schema_are_refused(values):
    with pytest.raises(Exception, match=r"(?i)schema|validation|values"):
        render(**values)


def test_chart_without_a_flavour_is_refused():
    with pytest.raises(Exception, match=r"(?i)flavour"), helm.Chart.load(CHART) as chart:
        chart.render(values={"image": {"name": "x"}}, name="bank")


def test_settings_to_begin_with_are_valid():
    assert load_settings(DEPLOY / "cluster.toml").flavour == "simulated"


@pytest.mark.parametrize("variant", ["simulated", "sgx"])
def test_plain_manifests_are_what_the_chart_renders(variant):
    import importlib.util

    spec = importlib.util.spec_from_file_location("render", DEPLOY / "manifests" / "render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (DEPLOY / "manifests" / f"{variant}.yaml").read_text()
    assert text == module.render(variant)
    for one in yaml.safe_load_all(text):
        kubernetes_validate.validate(one, "1.36", strict=True)


def test_witness_is_placed_once_the_ledgers_key_is_known():
    assert not [one for one in render() if one["metadata"]["name"].endswith("witness")]
    objects = render(witness={"ledgerKey": KEY})
    pod = only(objects, "StatefulSet", "witness")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert only(objects, "ConfigMap", "ledger-key")["data"]["ledger-key"].strip() == KEY
    assert "https://bank-broker:8443" in container["command"]
    assert "runtimeClassName" not in pod
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert only(objects, "NetworkPolicy", "witness")["spec"]["ingress"] == []


def test_every_command_of_the_chart_is_one_that_strongroom_has():
    """What a container is started with is asked for its help here, so that a renamed option is noticed."""
    objects = render(witness={"ledgerKey": KEY}, backup={"schedule": "@daily"})
    for one in objects:
        spec = one.get("spec", {}).get("jobTemplate", one).get("spec", {})
        for container in spec.get("template", {}).get("spec", {}).get("containers", ()):
            command = [sys.executable, *container["command"][1:]]
            words = 4 if "broker" in command and "backup" in command else 3
            asked = command[: command.index("--") + 1 if "--" in command else command.index("-m") + words]
            said = subprocess.run([*asked, "--help"], capture_output=True, text=True, check=True, timeout=60).stdout
            for option in (word for word in command[len(asked) :] if word.startswith("--")):
                if asked[-1] != "--":
                    assert option in said


@pytest.mark.parametrize("flavour", ["tdx", "snp", "sgx"])
def test_broker_in_a_real_tee_finds_collateral(flavour):
    pod = only(render(flavour=flavour), "StatefulSet", "broker")["spec"]["template"]["spec"]
    (mount,) = [one for one in pod["containers"][0]["volumeMounts"] if one["name"] == "collateral"]
    assert mount["mountPath"] == "/etc/strongroom/collateral"
    (volume,) = [one for one in pod["volumes"] if one["name"] == "collateral"]
    assert volume["configMap"] == {"name": "strongroom-collateral", "optional": True}


@pytest.mark.parametrize("flavour", ["tdx", "snp"])
def test_sealed_broker_is_reached_by_its_custodians_and_not_killed_for_waiting(flavour):
    objects = render(flavour=flavour)
    (container,) = only(objects, "StatefulSet", "broker")["spec"]["template"]["spec"]["containers"]
    command = container["command"]
    assert command[command.index("--custodian") + 1] == OWNER
    assert container["startupProbe"]["httpGet"]["path"] == container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert only(objects, "Service", "broker")["spec"]["publishNotReadyAddresses"] is True
    assert "publishNotReadyAddresses" not in only(render(), "Service", "broker")["spec"]


def test_alerts_ask_for_metrics_that_the_witness_shows():
    rules = only(render(monitoring={"enabled": True}), "PrometheusRule")["spec"]["groups"][0]["rules"]
    sources = [DEPLOY.parent / "src/strongroom" / name for name in ("cli/witness.py", "broker/monitor.py")]
    source = "".join(path.read_text() for path in sources)
    for rule in rules:
        for metric in re.findall(r"strongroom_\w+", rule["expr"]):
            name = metric.removesuffix("_total").removeprefix("strongroom_broker_")
            assert re.search(rf'"(strongroom_broker_)?{name}"', source), metric


def test_database_is_reached_with_a_verified_certificate_and_a_password_from_a_file():
    objects = render(broker={"database": {"host": "db.example", "user": "keeper"}})
    pod = only(objects, "StatefulSet", "broker")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    store = container["command"][container["command"].index("--store") + 1]
    assert store.startswith("postgresql+psycopg://keeper@db.example:5432/strongroom?passfile=/run/strongroom/pgpass")
    assert "sslmode=verify-full" in store
    assert "password" not in json.dumps(container["command"])
    (first,) = pod["initContainers"]
    assert first["securityContext"]["readOnlyRootFilesystem"] is True
    assert not [one for one in container["volumeMounts"] if one["name"] == "password"]
    assert "Secret" not in {one["kind"] for one in objects}  # it is the operator's, and holds no key of an owner's


def test_broker_is_probed_where_its_operator_looks():
    pod = only(render(), "StatefulSet", "broker")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"][-2:] == ["--metrics", "0.0.0.0:9464"]
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}


ANA = {"kind": "User", "name": "ana"}


def in_namespace(objects: list[dict], namespace: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for one in objects:
        if one["metadata"].get("namespace", "jobs") == namespace:
            found.setdefault(one["kind"], set()).add(one["metadata"]["name"])
    return found


def test_jobs_may_have_namespaces_of_their_own_in_which_the_broker_is_not():
    """Attack: whoever may make pods beside the broker mounts its volume and deletes its records."""
    objects = render(jobs={"namespaces": ["research", "claims"], "submitters": [ANA], "quota": {"pods": 20}})
    for namespace in ("research", "claims"):
        assert in_namespace(objects, namespace) == {
            "Role": {"bank-submitter", "bank-keeper"},
            "RoleBinding": {"bank-submitter", "bank-keeper"},
            "ServiceAccount": {"bank-job", "bank-keeper"},
            "ResourceQuota": {"bank-jobs"},
            "NetworkPolicy": {"bank-deny"},
        }
    beside_the_broker = in_namespace(objects, "jobs")
    assert beside_the_broker.keys() & {"Role", "RoleBinding", "ResourceQuota"} == set()
    assert beside_the_broker["ServiceAccount"] == {"bank-broker"}


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_of_other_namespaces_are_valid_and_name_accounts_that_are_there(version):
    robot = {"kind": "ServiceAccount", "name": "robot", "namespace": "ci"}
    objects = render(jobs={"namespaces": ["research"], "submitters": [ANA, robot]})
    for one in objects:
        kubernetes_validate.validate(one, version, strict=True)
    (keeper,) = only(objects, "RoleBinding", "keeper")["subjects"]
    assert (keeper["name"], keeper["namespace"]) == ("bank-keeper", "research")
    assert [one.get("namespace") for one in only(objects, "RoleBinding", "submitter")["subjects"]] == [None, "ci"]


def test_without_namespaces_of_their_own_jobs_are_placed_beside_the_broker():
    objects = render(jobs={"submitters": [ANA]})
    assert {one["metadata"].get("namespace", "jobs") for one in objects} == {"jobs"}
    assert [one["metadata"]["name"] for one in objects if one["kind"] == "NetworkPolicy"].count("bank-deny") == 1


def test_notes_say_what_the_settings_of_those_who_submit_must_say():
    with helm.Chart.load(CHART) as chart:
        values = {"flavour": "sgx", "image": {"name": "x"}, "jobs": {"namespaces": ["research", "claims"]}}
        rendered = chart.render(values=values, name="bank", namespace="jobs")
    (notes,) = [text for name, text in rendered.items() if name.endswith("NOTES.txt")]
    assert 'namespace = "research"   # or claims' in notes
    assert 'service_account = "bank-job"' in notes
    assert 'keeper_account = "bank-keeper"' in notes
    for namespace in ("jobs", "research", "claims"):
        assert f"kubectl label namespace {namespace} pod-security.kubernetes.io/enforce=restricted" in notes


def test_backup_is_made_beside_the_broker_by_an_account_without_rights():
    assert not [one for one in render() if one["kind"] == "CronJob"]
    objects = render(backup={"schedule": "17 * * * *", "keep": 7})
    pod = only(objects, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"][-6:] == [
        "--store",
        "/var/lib/strongroom/store",
        "--into",
        "/var/lib/strongroom-backup",
        "--keep",
        "7",
    ]
    (near,) = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    broker = only(objects, "StatefulSet", "broker")["spec"]["template"]
    assert near["labelSelector"]["matchLabels"].items() <= broker["metadata"]["labels"].items()
    claims = {one["name"]: one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"] if "emptyDir" not in one}
    assert claims == {"store": "store-bank-broker-0", "backup": "bank-backup"}
    assert pod["serviceAccountName"] == "bank-backup"
    assert pod["automountServiceAccountToken"] is False
    assert "bank-backup" not in [subject["name"] for one in objects for subject in one.get("subjects", ())]
    assert only(objects, "PersistentVolumeClaim")["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_backup_of_a_database_mounts_its_password_and_not_the_brokers_volume():
    objects = render(broker={"database": {"host": "db.example"}}, backup={"schedule": "@hourly"})
    pod = only(objects, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    broker = only(objects, "StatefulSet", "broker")["spec"]["template"]["spec"]
    command = broker["containers"][0]["command"]
    assert command[command.index("--store") + 1] == container["command"][container["command"].index("--store") + 1]
    assert "affinity" not in pod
    assert {one["name"] for one in pod["volumes"]} == {"backup", "temporary", "private", "password", "authority"}
    assert pod["initContainers"] == broker["initContainers"]
    assert [one["name"] for one in container["volumeMounts"]] == ["backup", "temporary", "private", "authority"]


def test_pod_that_restores_is_valid_and_mounts_what_backup_and_broker_have():
    pod = yaml.safe_load((DEPLOY / "manifests" / "restore.yaml").read_text())
    kubernetes_validate.validate(pod, "1.36", strict=True)
    (container,) = pod["spec"]["containers"]
    said = subprocess.run(
        [sys.executable, *container["command"][1:7], "--help"], capture_output=True, text=True, check=True
    )
    assert {word for word in container["command"] if word.startswith("--")} <= set(re.findall(r"--[a-z]+", said.stdout))
    with helm.Chart.load(CHART) as chart:
        values = {"flavour": "sgx", "image": {"name": "x"}, "backup": {"schedule": "@daily"}}
        rendered = chart.render(values=values, name="strongroom", namespace="strongroom")
    objects = [one for text in rendered.values() if "kind:" in text for one in yaml.safe_load_all(text) if one]
    broker = only(objects, "StatefulSet", "broker")
    claims = {one["name"]: one.get("persistentVolumeClaim", {}).get("claimName") for one in pod["spec"]["volumes"]}
    assert claims["store"] == f"store-{broker['metadata']['name']}-0"
    assert claims["backup"] == only(objects, "PersistentVolumeClaim")["metadata"]["name"]
    backup = only(objects, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    mounts = [{one["name"]: one["mountPath"] for one in each["volumeMounts"]} for each in (container, backup)]
    assert all(mounts[0][name] == mounts[1][name] for name in ("store", "backup"))


def test_storage_to_begin_with_is_what_the_settings_to_begin_with_name():
    objects = list(yaml.safe_load_all((DEPLOY / "manifests" / "storage.yaml").read_text()))
    for one in objects:
        kubernetes_validate.validate(one, "1.36", strict=True)
    settings = load_settings(DEPLOY / "cluster.toml")
    claims = {one["metadata"]["name"] for one in objects if one["kind"] == "PersistentVolumeClaim"}
    assert claims == {one.claim for one in settings.volumes}
    pod = only(objects, "Pod")["spec"]
    (container,) = pod["containers"]
    places = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert {one.claim: one.mount for one in settings.volumes} == places
    assert container["image"] == settings.image
    assert pod["securityContext"]["fsGroup"] == settings.user


def test_settings_to_begin_with_name_the_accounts_and_the_service_of_the_guides_release():
    guide = (DEPLOY.parent / "docs" / "how-to" / "start-on-kubernetes.md").read_text()
    (release, namespace) = re.search(r"helm install (\S+) \S+ -n (\S+)", guide).groups()
    with helm.Chart.load(CHART) as chart:
        rendered = chart.render(
            values={"flavour": "simulated", "image": {"name": "x"}}, name=release, namespace=namespace
        )
    objects = [one for text in rendered.values() if "kind:" in text for one in yaml.safe_load_all(text) if one]
    settings = load_settings(DEPLOY / "cluster.toml")
    accounts = {one["metadata"]["name"] for one in objects if one["kind"] == "ServiceAccount"}
    assert {settings.service_account, settings.keeper_account} <= accounts
    service = next(one for one in objects if one["kind"] == "Service" and one["metadata"]["name"].endswith("-broker"))
    (port,) = [one["port"] for one in service["spec"]["ports"]]
    assert settings.broker == f"https://{service['metadata']['name']}.{settings.namespace}.svc:{port}"
    assert settings.namespace == namespace
