"""The chart renders to objects that several versions of Kubernetes take, with least privilege, from valid values."""

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
def test_every_object_is_valid_for_every_version(flavour, version):
    people = [{"kind": "User", "name": "ana"}, {"kind": "ServiceAccount", "name": "robot"}]
    more = {"witness": {"ledgerKey": KEY}, "monitoring": {"enabled": True, "from": [{"podSelector": {}}]}}
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
    source = (DEPLOY.parent / "src/strongroom/cli/witness.py").read_text()
    for rule in rules:
        for metric in re.findall(r"strongroom_\w+", rule["expr"]):
            assert f'"{metric}"' in source
