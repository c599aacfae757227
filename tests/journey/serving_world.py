"""A world for serving: a hospital and a laboratory that each own half of a model, an analyst who serves it, callers.

The models are logistic regressions on scikit-learn's breast cancer data, one for each owner's measurements; the program
averages them. Every process is real and measured, the TEE is simulated.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from textwrap import dedent

import numpy as np
from small_world import PURPOSE, Background, SmallWorld, _custody

from strongroom.attestation.roles import Role
from strongroom.attestation.simulated.inside import SimulatedTee
from strongroom.envelope.manifest import unwrap_data_key
from strongroom.parties.serving import RunningEndpoint, serve
from strongroom.serving import endpoint as serving_endpoint
from strongroom.serving.batching import Batcher
from strongroom.serving.client import Attester, open_client
from strongroom.serving.endpoint import Endpoint
from strongroom.workload.hostline import HostLine

OWNERS = {"hospital": "biopsies-model", "laboratory": "findings-model"}
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROGRAM = (EXAMPLES / "serving" / "program.py").read_text()


@cache
def measurements() -> tuple[np.ndarray, np.ndarray]:
    """Standardised measurements of every biopsy, and whether it was benign."""
    from sklearn.datasets import load_breast_cancer

    loaded = load_breast_cancer()
    return (loaded.data - loaded.data.mean(axis=0)) / loaded.data.std(axis=0), loaded.target


@cache
def weights(half: int, *, rounds: int = 200) -> dict[str, object]:
    """Logistic regression on one owner's half of the measurements, by plain gradient descent."""
    rows, target = measurements()
    rows = rows[:, :15] if half == 0 else rows[:, 15:]
    found, bias = np.zeros(15), 0.0
    for _ in range(rounds):
        error = 1 / (1 + np.exp(-(rows @ found + bias))) - target
        found, bias = found - 0.1 * rows.T @ error / len(rows), bias - 0.1 * error.mean()
    return {"weights": found.tolist(), "bias": float(bias)}


def plain_chances(rows: np.ndarray, *, rounds: int = 200) -> np.ndarray:
    """What the two models say of ``rows`` together, without Strongroom."""
    chances = []
    for half, part in enumerate((rows[:, :15], rows[:, 15:])):
        one = weights(half, rounds=rounds)
        chances.append(1 / (1 + np.exp(-(part @ np.array(one["weights"]) + one["bias"]))))
    return (chances[0] + chances[1]) / 2


class ServingWorld(SmallWorld):
    """Two owners of models, and two parties that may ask unless a test says otherwise."""

    models: Mapping[str, Mapping[str, bytes]] = {}

    def register(self, home, **policy: object) -> None:
        self.register_version(home, 1, **policy)

    def register_version(self, home, version: int, *, rounds: int = 200, **policy: object) -> None:
        half = list(OWNERS.values()).index(home.dataset) if home.dataset in OWNERS.values() else 0
        files = self.models.get(home.dataset) or {"weights.json": json.dumps(weights(half, rounds=rounds)).encode()}
        source = home.directory / f"plain-{version}"
        source.mkdir()
        for name, data in files.items():
            (source / name).write_bytes(data)
        custody = _custody()
        target = home.directory / f"{home.dataset}-{version}"
        manifest = home.owner.encrypt_files(source, target, dataset=home.dataset, version=version, custody=custody)
        dek = unwrap_data_key(manifest, custody=custody)
        if version > 1:
            self.versions[self.name_of(home)] = self.versions.get(self.name_of(home), 1) + 1
            policy["version"] = self.versions[self.name_of(home)]
        permitted = home.owner.permit(self.policy(home, **policy))
        home.broker.register_dataset(manifest.statement, dek, permitted, home.owner.key)

    def name_of(self, home) -> str:
        return next(name for name, one in self.owners.items() if one is home)

    def policy(
        self,
        home,
        *,
        callers: Collection[str] | None = ("analyst", "partner"),
        quotas: Collection[tuple[int, int]] = ((100_000, 3600),),
        kinds: Collection[str] = ("scores", "labels"),
        digits: int = 4,
        top: int = 0,
        tokens: int = 64,
        programs: Collection[bytes] = (PROGRAM.encode(),),
        **more: object,
    ) -> str:
        text = super().policy(home, programs=programs, withhold=(), **more)
        text = text.replace("[outputs]\n", f'endpoint = ["{self.measurements[Role.ENDPOINT]}"]\n[outputs]\n')
        if callers is None:
            return text
        parties = {"analyst": self.analyst.key.party, "partner": self.partner.key.party}
        listed = ", ".join(f'"{parties[name]}"' for name in callers)
        bounds = ", ".join(f"{{ answers = {answers}, seconds = {seconds} }}" for answers, seconds in quotas)
        rules = f"kinds = {list(kinds)}\ndigits = {digits}\ntokens = {tokens}\n".replace("'", '"')
        return f"{text}\n[serving]\ncallers = [{listed}]\nquotas = [{bounds}]\n[serving.answers]\n{rules}" + (
            f"top = {top}\n" if top else ""
        )

    def serve_job(self, name: str = "tumours", *, program: str = PROGRAM, callers=("analyst", "partner")) -> Path:
        place = self.directory / "analyst"
        (place / f"{name}.py").write_text(program)
        parties = {"analyst": self.analyst.key.party, "partner": self.partner.key.party}
        lines = [f'name = "{name}"', 'kind = "serve"', f'purpose = "{PURPOSE}"', f'program = "{name}.py"']
        for home in self.owners.values():
            lines += [f"[inputs.{home.dataset}]", f'owner = "{home.owner.key.party}"', 'columns = ["*"]']
            lines += [f'location = "{home.directory / home.dataset}-{{version}}"']
        listed = ", ".join(f'"{parties[one]}"' for one in callers)
        lines += ["[outputs.answers]", 'kind = "answers"', f"recipients = [{listed}]"]
        path = place / f"{name}.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def example_job(self, name: str, *, callers: Mapping[str, str]) -> Path:
        """The job of an example as it stands, but for parties and places; ``callers`` says who is meant by a name."""
        parties = {one: home.owner.key.party for one, home in self.owners.items()}
        known = {"analyst": self.analyst.key.party, "partner": self.partner.key.party}
        parties |= {meant: known[one] for meant, one in callers.items()}
        text = re.sub(
            r'"(\w+):0123456789abcdef0123456789abcdef"',
            lambda found: f'"{parties[found[1]]}"',
            (EXAMPLES / name / "job.toml").read_text(),
        )
        for home in self.owners.values():
            text = text.replace(f'"data/{home.dataset}-{{version}}"', f'"{home.directory / home.dataset}-{{version}}"')
        place = self.directory / "analyst" / f"example-{name}"
        place.mkdir()
        (place / "program.py").write_bytes((EXAMPLES / name / "program.py").read_bytes())
        (place / "job.toml").write_text(re.sub(r'purpose = ".*"', f'purpose = "{PURPOSE}"', text))
        return place / "job.toml"

    def serve(
        self, job: Path | None = None, *, host=None, on_event=lambda _name, _facts: None, **more
    ) -> RunningEndpoint:
        return serve(
            self.analyst,
            job or self.serve_job(),
            broker=self.analyst_door(),
            host=host or self.platform,
            directory=self.job_directory(),
            on_event=on_event,
            **more,
        )

    def attester(self, endpoint: RunningEndpoint, *, by=None, address=None, publication=None) -> Attester:
        return Attester(
            publication or endpoint.publication,
            key=(by or self.partner).key,
            verifier=self.trust.verifier(),
            measurements=[self.measurements[Role.ENDPOINT]],
            address=address,
        )

    @contextmanager
    def asking(self, endpoint: RunningEndpoint, *, by=None, **more):
        with open_client(self.attester(endpoint, by=by), **more) as client:
            yield client


class Here:
    """A TEE host that runs an endpoint in a thread of the test, so that the test can hold up its other threads."""

    pid = None

    def __init__(self, world, monkeypatch, *, batcher: Batcher | None = None) -> None:
        self._world, self._patch, self._batcher = world, monkeypatch, batcher or Batcher()

    def start(self, role, argv, *, job_digest, **_streams):
        inside = SimulatedTee.of(self._world.platform.enclave(role, job_digest=job_digest))
        self._patch.setattr(serving_endpoint.providers, "detect", lambda: inside)
        reader, writer = os.pipe()
        self.stdout = os.fdopen(reader, "rb")
        self.endpoint = Endpoint(digest=job_digest, host=HostLine(writer), batcher=self._batcher)
        self.conduct = Background(self.endpoint.conduct, ("127.0.0.1", 0))
        return self

    def poll(self):
        return None if self.conduct.is_alive() else self.conduct.result

    def wait(self, timeout=None):
        return self.conduct.outcome(timeout)

    def terminate(self):
        self.endpoint.close()

    kill = terminate


def infer(client, rows: np.ndarray, *, model: str = "tumours", **more):
    """Ask as any client of the Open Inference Protocol does."""
    tensor = {"name": "measurements", "shape": list(rows.shape), "datatype": "FP64", "data": rows.ravel().tolist()}
    return client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor], **more})


def outputs(answer) -> dict[str, list]:
    assert answer.status_code == 200, answer.text
    return {one["name"]: one["data"] for one in answer.json()["outputs"]}


@contextmanager
def serving_world(
    directory: Path,
    *,
    lease: float = 5,
    owners=None,
    models=None,
    elsewhere=None,
    broker_host: str = "127.0.0.1",
    **policy: object,
):
    world = ServingWorld.make(
        directory / "world", lease=lease, owners=owners or OWNERS, elsewhere=elsewhere, broker_host=broker_host
    )
    world.models = models or {}
    try:
        yield world.open(**policy)
    finally:
        world.close()


SIMPLE = dedent("""
    import json
    import numpy as np

    def load(files):
        return json.loads(files["weights.json"].read())

    def predict(model, inputs):
        return {"score": inputs["x"] @ np.array(model["weights"])}
""")
ONE_OWNER = {"hospital": "scores-model"}
ONE_MODEL = {"scores-model": {"weights.json": b'{"weights": [0.123456789, 1.0]}'}}


@contextmanager
def simple_world(directory: Path, **more: object):
    """One owner of one small model: ``x`` has two numbers in a row."""
    policy = {"programs": (SIMPLE.encode(),), "kinds": ("scores",), "digits": 3} | more
    with serving_world(directory, owners=ONE_OWNER, models=ONE_MODEL, **policy) as world:
        yield world


def ask(client, rows: list[list[float]], *, model: str = "simple"):
    data = [value for row in rows for value in row]
    tensor = {"name": "x", "shape": [len(rows), len(rows[0])], "datatype": "FP64", "data": data}
    return client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]})
