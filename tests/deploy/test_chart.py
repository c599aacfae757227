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
FLAVOURS = ("simulated", "tdx", "snp", "sgx")


def render(**values: object) -> list[dict]:
    chosen = {"flavour": "simulated", "image": {"name": "strongroom@sha256:1"}, **values}
    if chosen["flavour"] in {"tdx", "snp"} and "broker" not in chosen:
        chosen["broker"] = {"initData": "H4sI"}
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
    more["broker"] = {"database": {"host": host}, "initData": "H4sI"}
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
    values = {"flavour": flavour, "image": {"name": "x"}, "broker": {"initData": "H4sI"}}
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
        {"flavour": "tdx", "broker": {"initData": ""}},
        {"broker": {"port": 80}},
        {"witness": {"ledgerKey": "no key"}},
        {"witness": {"everySeconds": 0}},
        {"monitoring": {"enabled": "yes"}},
        {"jobs": {"submitters": [{"kind": "Robot", "name": "x"}]}},
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
    objects = render(witness={"ledgerKey": KEY})
    for one in objects:
        for container in one.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ()):
            command = [sys.executable, *container["command"][1:]]
            asked = command[: command.index("--") + 1 if "--" in command else command.index("-m") + 3]
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
