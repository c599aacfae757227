"""A small world for journeys that take seconds: two shops' sales, one bank's accounts, an analyst and a partner.

Every process is real and measured, the TEE is simulated, the engine is the embedded one unless a test says otherwise.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import psutil
import pyarrow as pa
import pyarrow.csv

from strongroom.attestation.roles import Role
from strongroom.attestation.simulated.measuring import installed_package
from strongroom.attestation.simulated.platform import SimulatedPlatform
from strongroom.catalog.identity import sign_identity
from strongroom.demo.world import OwnerHome, World
from strongroom.digests import bytes_digest
from strongroom.envelope.custody import create_custody
from strongroom.envelope.hpke import KemKey
from strongroom.envelope.manifest import unwrap_data_key
from strongroom.envelope.staging import replace_file
from strongroom.ledger.memory import CheckpointMemory
from strongroom.parties import home as homes
from strongroom.parties.analyst import Analyst
from strongroom.parties.brokers import SimulatedVendor, TrustedBroker
from strongroom.parties.home import Home, PartyKeys
from strongroom.parties.owner import Owner
from strongroom.parties.trust import Trust
from strongroom.statements import SigningKey

ROLES = (Role.BROKER, Role.DRIVER, Role.WORKER, Role.EGRESS, Role.ENDPOINT)
PURPOSE = "basket-statistics"
PASSWORD = b"a long enough password"
MARKER = "Zebrafinch-customer"  # stands in the data and nowhere else
COLUMNS = {"sales": ("customer", "region", "amount"), "accounts": ("customer", "segment")}

QUERY = """\
SELECT region, segment, count(*) AS sales, sum(amount) AS amount
FROM sales JOIN accounts USING (customer) GROUP BY region, segment ORDER BY region, segment
"""
# Billions of pairs, which nothing can shorten: it runs until somebody stops it.
LONG_QUERY = """\
SELECT a.region, count(*) AS pairs, sum(a.amount * b.amount + c.amount * d.amount) AS noise
FROM sales AS a CROSS JOIN sales AS b CROSS JOIN sales AS c CROSS JOIN sales AS d GROUP BY a.region
"""


def sales() -> pa.Table:
    return pa.table(
        {
            "customer": [f"{MARKER}-{number % 97:04}" for number in range(400)],
            "region": [("north", "south")[number % 2] for number in range(400)],
            "amount": [number % 53 for number in range(400)],
            "card": [f"{MARKER}-card-{number:06}" for number in range(400)],
        }
    )


def accounts() -> pa.Table:
    return pa.table(
        {
            "customer": [f"{MARKER}-{number:04}" for number in range(97)],
            "segment": [("private", "business")[number % 3 == 0] for number in range(97)],
        }
    )


TABLES = {"sales": sales, "accounts": accounts}


def expected_answer() -> list[dict[str, object]]:
    """The query's answer, worked out by another engine on the plain tables."""
    joined = sales().join(accounts(), "customer", join_type="inner")
    grouped = joined.group_by(["region", "segment"]).aggregate([("amount", "count"), ("amount", "sum")])
    rows = [
        {"region": row["region"], "segment": row["segment"], "sales": row["amount_count"], "amount": row["amount_sum"]}
        for row in grouped.to_pylist()
    ]
    return sorted(rows, key=lambda row: (row["region"], row["segment"]))


@cache
def frozen_package() -> Path:
    """A copy of the package: measured code must not change under a test, even while somebody edits the checkout."""
    copy = _temporary("frozen") / "strongroom"
    shutil.copytree(installed_package(), copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def changed_package(directory: Path, changes: Mapping[str, tuple[str, str]]) -> Path:
    """A copy in which each named file has one text replaced by another."""
    copy = directory / "strongroom"
    shutil.copytree(frozen_package(), copy)
    for name, (old, new) in changes.items():
        text = (copy / name).read_text()
        assert old in text
        (copy / name).write_text(text.replace(old, new, 1))
    return copy


class FrozenPlatform(SimulatedPlatform):
    """A machine that starts ``package``, and another copy for the roles in ``instead``."""

    package: Path
    instead: dict[str, Path]

    def measure(self, role, *, package_root=None):
        return super().measure(role, package_root=package_root or self.package)

    def start(self, role, argv, *, package_root=None, **more):
        chosen = package_root or self.instead.get(str(role)) or self.package
        return super().start(role, argv, package_root=chosen, **more)


class SmallWorld(World):
    """The world; every job in it runs in a directory of its own below ``jobs``."""

    partner: Analyst
    lease: float = 2

    @classmethod
    def make(
        cls,
        directory: Path,
        *,
        lease: float = 2,
        package: Path | None = None,
        owners: Mapping[str, str] | None = None,
        elsewhere: Mapping[Role, str] | None = None,
        broker_host: str = "127.0.0.1",
    ) -> SmallWorld:
        """``elsewhere`` are the measurements of roles that another machine's code is started for."""
        directory.mkdir(exist_ok=True, parents=True)
        platform = FrozenPlatform(directory / "platform")
        platform.package, platform.instead = package or frozen_package(), {}
        platform.expose()
        measurements = {role: platform.measure(role) for role in ROLES} | dict(elsewhere or {})
        trust = Trust.simulated(platform.directory, measurements={role: [text] for role, text in measurements.items()})
        world = cls(
            directory=directory,
            platform=platform,
            trust=trust,
            analyst=_analyst("analyst", directory, trust),
            owners={},
            measurements=measurements,
        )
        world.lease, world.versions, world.broker_host = lease, {}, broker_host
        world.partner = _analyst("partner", directory, trust)
        for name, dataset in (owners or {"shop": "sales", "bank": "accounts"}).items():
            world.owners[name] = _owner(name, dataset, directory, trust)
        return world

    def open(self, **policy: object) -> SmallWorld:
        """Start the broker, enrol everyone, register every dataset under the same kind of policy."""
        self.start_broker()
        self.enrol_everyone()
        self.analyst_door().enrol_member(self.identity(self.partner))
        for home in self.owners.values():
            self.register(home, **policy)
        return self

    def analyst_door(self):
        if not hasattr(self, "_door"):
            self._door = self.analyst.attest_broker(self.broker_url)
        return self._door

    def register(self, home: OwnerHome, **policy: object) -> None:
        custody = _custody()
        manifest = home.owner.encrypt(
            [_source(home.dataset)], home.encrypted, dataset=home.dataset, version=1, custody=custody
        )
        permitted = home.owner.permit(self.policy(home, **policy))
        dek = unwrap_data_key(manifest, custody=custody)
        home.broker.register_dataset(manifest.statement, dek, permitted, home.owner.key)

    def permit(self, name: str, **policy: object) -> None:
        """Let the owner called ``name`` replace its policy by a newer one."""
        home = self.owners[name]
        self.versions[name] = self.versions.get(name, 1) + 1
        permitted = home.owner.permit(self.policy(home, version=self.versions[name], **policy))
        home.owner.update_policy(permitted, broker=home.broker)

    def permit_all(self, **policy: object) -> None:
        """Let every owner replace its policy."""
        for name in self.owners:
            self.permit(name, **policy)

    def policy(
        self,
        home: OwnerHome,
        *,
        version: int = 1,
        lease: float | None = None,
        expires: timedelta = timedelta(hours=1),
        minimum_group: int = 5,
        max_rows: int = 1000,
        max_uses: int = 0,
        approvals: int = 0,
        approvers: Collection[str] = ("shop", "bank"),
        recipients: Collection[str] = ("analyst", "partner"),
        purposes: Collection[str] = (PURPOSE,),
        programs: Collection[bytes] = (),
        withhold: Collection[str] = ("card",),
        sql: bool = True,
        measurements: Mapping[Role, str] | None = None,
    ) -> str:
        parties = {name: str(one.owner.key.party) for name, one in self.owners.items()}
        parties |= {"analyst": str(self.analyst.key.party), "partner": str(self.partner.key.party)}
        measured = {**self.measurements, **(measurements or {})}
        ends = (datetime.now(UTC) + expires).strftime("%Y-%m-%dT%H:%M:%SZ")
        withheld = [column for column in withhold if home.dataset == "sales"]
        lines = [
            f'dataset = "{home.dataset}"',
            f"version = {version}",
            f'owner = "{home.owner.key.party}"',
            f"purposes = {list(purposes)}".replace("'", '"'),
            f'analysts = ["{parties["analyst"]}"]',
            f"expires = {ends}",
            f"lease = {lease or self.lease:g}",
            *([f"max_uses = {max_uses}"] if max_uses else []),
            "[programs]",
            "approved = [" + ", ".join(f'"{bytes_digest(one)}"' for one in programs) + "]",
            f"sql = {str(sql).lower()}",
            "[columns]",
            'allow = ["*"]',
            f"withhold = {withheld}".replace("'", '"'),
            "[tee]",
            "allow_simulated = true",
            "[tee.measurements]",
            *(f'{role} = ["{measured[role]}"]' for role in (Role.DRIVER, Role.WORKER, Role.EGRESS)),
            "[outputs]",
            "recipients = [" + ", ".join(f'"{parties[name]}"' for name in recipients) + "]",
            f"max_rows = {max_rows}",
            "[outputs.minimum_group]",
            f"size = {minimum_group}",
        ]
        if approvals:
            of = ", ".join(f'"{parties[name]}"' for name in approvers)
            lines += ["[outputs.approvals]", f"needed = {approvals}", f"of = [{of}]"]
        return "\n".join(lines) + "\n"

    def write_job(
        self,
        name: str = "baskets",
        *,
        program: str = QUERY,
        kind: str = "sql",
        recipients: Collection[str] = ("analyst",),
        purpose: str = PURPOSE,
        columns: Mapping[str, Collection[str]] = COLUMNS,
        outputs: Collection[str] = ("baskets",),
        workers: int = 1,
        most_workers: int = 0,
    ) -> Path:
        suffix = "sql" if kind == "sql" else "py"
        place = self.directory / "analyst"
        (place / f"{name}.{suffix}").write_text(program)
        parties = {"analyst": self.analyst.key.party, "partner": self.partner.key.party}
        lines = [
            f'name = "{name}"',
            f'kind = "{kind}"',
            f'purpose = "{purpose}"',
            f'program = "{name}.{suffix}"',
        ]
        for home in self.owners.values():
            wanted = ", ".join(f'"{column}"' for column in columns[home.dataset])
            lines += [f"[inputs.{home.dataset}]", f'owner = "{home.owner.key.party}"']
            lines += [f'location = "{home.encrypted}"', f"columns = [{wanted}]"]
        for output in outputs:
            who = ", ".join(f'"{parties[one]}"' for one in recipients)
            lines += [f"[outputs.{output}]", f"recipients = [{who}]"]
        lines += ["[cluster]", f"workers = {workers}", "worker_cores = 1", 'worker_memory = "700m"']
        lines += [f"most_workers = {most_workers}"] if most_workers else []
        path = place / f"{name}.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def run(
        self,
        job: Path | None = None,
        *,
        engine: str = "embedded",
        on_event=lambda _name, _facts: None,
        retries: int = 0,
        host=None,
    ):
        """Run one job from its submission to its end, as the SDK does it."""
        return self.analyst.run(
            job or self.write_job(),
            broker=self.analyst_door(),
            host=host or self.platform,
            engine=engine,
            directory=self.job_directory(),
            on_event=on_event,
            retries=retries,
        )

    def job_directory(self) -> Path:
        place = self.directory / "jobs"
        place.mkdir(exist_ok=True)
        return place / f"job-{len(list(place.iterdir()))}"

    def fetch(self, report, output: str = "baskets", *, by: Analyst | None = None) -> list[dict[str, object]]:
        who = by or self.analyst
        location = next(Path(one["directory"]) for one in report.outputs if one["name"] == output)
        with closing(who.attest_broker(self.broker_url)) as broker:
            return who.fetch(broker=broker, digest=report.digest, output=output, location=location).to_pylist()

    def identity(self, who: Analyst):
        return sign_identity(role="analyst", kem_public=who.kem.public, created=datetime.now(UTC), key=who.key)

    def kill_broker(self) -> None:
        self.broker_process.kill()
        self.broker_process.wait(timeout=10)

    def entries(self, kind: str):
        door = self.analyst_door()
        return [entry for entry in door.entries(0, door.checkpoint().size) if str(entry.kind) == kind]

    def close(self) -> None:
        if hasattr(self, "_door"):
            self._door.close()
        super().close()


@contextmanager
def small_world(
    directory: Path,
    *,
    lease: float = 2,
    package: Path | None = None,
    elsewhere: Mapping[Role, str] | None = None,
    broker_host: str = "127.0.0.1",
    **policy: object,
):
    world = SmallWorld.make(
        directory / "world", lease=lease, package=package, elsewhere=elsewhere, broker_host=broker_host
    )
    try:
        yield world.open(**policy)
    finally:
        world.close()


HOME_PASSWORD = "a long enough password"


def write_home(world: SmallWorld, analyst: Analyst, directory: Path) -> None:
    """Make a home as the command line has it, with an analyst's keys, that trusts the world's broker."""
    home = Home(directory)
    home.directory.mkdir(mode=0o700)
    custody = create_custody(home.default_custody, password=HOME_PASSWORD.encode)
    sealed = homes._seal_keys(PartyKeys(signing=analyst.key, kem=analyst.kem), custody)
    replace_file(home.directory / "identity.sealed", json.dumps(sealed).encode(), mode=0o600)
    replace_file(home.directory / "identity.json", world.identity(analyst).encode().encode(), mode=0o600)
    vendor = SimulatedVendor.pin(world.platform.directory)
    measurements = {role: frozenset({text}) for role, text in world.measurements.items()}
    home.trust(TrustedBroker(url=world.broker_url, measurements=measurements, vendor=vendor))


class Background(threading.Thread):
    """Runs something in a thread and hands out what it returned or raised."""

    def __init__(self, call, *arguments, **more) -> None:
        super().__init__(daemon=True)
        self._call = lambda: call(*arguments, **more)
        self.result = self.error = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:  # noqa: BLE001  raised again where the outcome is asked for
            self.error = error

    def outcome(self, seconds: float = 60):
        self.join(seconds)
        assert not self.is_alive(), "it hangs"
        if self.error is not None:
            raise self.error
        return self.result


def pids(event_list, role: str) -> list[int]:
    return [facts["pid"] for name, facts in event_list if name == "host-started" and facts["role"] == role]


def wait_until(condition, *, seconds: float = 30, why: str = "it never came true") -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, why
        time.sleep(0.02)


def scratch_directories() -> set[Path]:
    return set(Path("/dev/shm").glob("strongroom-job-*"))


def abandoned(before: Collection[Path]) -> set[Path]:
    """Scratch directories made since ``before`` that no living process holds."""
    found = set()
    for directory in scratch_directories() - set(before):
        try:
            descriptor = os.open(directory, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found.add(directory)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
    return {directory for directory in found if directory.exists()}


def plaintext_in(*places: Path) -> list[str]:
    """Files that hold a known value, or a table that is not encrypted."""
    found = []
    for place in places:
        for path in place.rglob("*"):
            try:
                data = path.read_bytes() if path.is_file() else b""
            except OSError:
                continue
            if MARKER.encode() in data or MARKER.encode("utf-16-le") in data or data[:4] in {b"PAR1", b"ARRO"}:
                found.append(str(path))
    return found


def stop(pid: int) -> None:
    psutil.Process(pid).send_signal(signal.SIGSTOP)


def go_on(pid: int) -> None:
    psutil.Process(pid).send_signal(signal.SIGCONT)


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _temporary(name: str) -> Path:
    made = Path(mkdtemp(prefix=f"strongroom-{name}-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@cache
def _source(dataset: str) -> Path:
    """The plain table, outside every world, so that a scan of a world finds no plaintext that belongs there."""
    path = _temporary("plain") / f"{dataset}.csv"
    pyarrow.csv.write_csv(TABLES[dataset](), path)
    return path


@cache
def _custody():
    """One master key for all worlds: deriving it from a password costs a quarter of a second each time."""
    home = _temporary("custody")
    return create_custody(f"file:{home / 'master.key'}", password=lambda: PASSWORD)


def _owner(name: str, dataset: str, directory: Path, trust: Trust) -> OwnerHome:
    home = directory / name
    home.mkdir(exist_ok=True)
    key, kem = SigningKey.generate(name=name), KemKey.generate()
    owner = Owner(key, kem, trust=trust, memory=CheckpointMemory(home / "ledger.json"))
    return OwnerHome(owner=owner, dataset=dataset, directory=home, password=PASSWORD)


def _analyst(name: str, directory: Path, trust: Trust) -> Analyst:
    (directory / name).mkdir(exist_ok=True, parents=True)
    memory = CheckpointMemory(directory / name / "ledger.json")
    return Analyst(SigningKey.generate(name=name), KemKey.generate(), trust=trust, memory=memory)
