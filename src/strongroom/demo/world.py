"""Set up the demo's small world in one directory: a platform, a broker, three owners, an analyst, an auditor.

Each party has its own directory and keys; nobody reaches into another's. Passwords exist in memory only.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from strongroom.attestation.roles import Role
from strongroom.attestation.simulated.platform import SimulatedPlatform, TeeKind
from strongroom.attestation.simulated.process import SimulatedProcess
from strongroom.broker.client import BrokerClient
from strongroom.catalog.identity import sign_identity
from strongroom.digests import bytes_digest
from strongroom.envelope.hpke import KemKey
from strongroom.errors import TransportError
from strongroom.ledger.memory import CheckpointMemory
from strongroom.parties.analyst import Analyst
from strongroom.parties.operator import Operator, RunningBroker
from strongroom.parties.owner import Owner
from strongroom.parties.trust import Trust
from strongroom.statements import SigningKey, Statement

PURPOSE = "delay-statistics"
LEASE_SECONDS = 2
WORKERS = 2
UNSEAL_SECONDS = 30.0
_LAST_WORD_SECONDS = 2.0
WITHHELD = {"flights": ("flight", "dep_time"), "weather": (), "planes": ("model",)}
PROGRAMS = Path(__file__).parent / "programs"


@dataclass(slots=True)
class OwnerHome:
    """One owner with the dataset it brings and what only it knows."""

    owner: Owner
    dataset: str
    directory: Path
    password: bytes
    broker: BrokerClient | None = None

    def reveal_password(self) -> bytes:
        """Return the password of this owner's master key, as if it were typed."""
        return self.password

    @property
    def encrypted(self) -> Path:
        """Return where the encrypted dataset lies."""
        return self.directory / "encrypted"


@dataclass(slots=True)
class World:
    """Everything on this machine; ``close`` ends every process it started."""

    directory: Path
    platform: SimulatedPlatform
    trust: Trust
    analyst: Analyst
    owners: dict[str, OwnerHome]
    broker: RunningBroker | None = None
    broker_process: SimulatedProcess | None = None
    broker_url: str = ""
    broker_host: str = "127.0.0.1"
    measurements: Mapping[Role, str] = field(default_factory=dict)

    @classmethod
    def build(cls, directory: Path, *, tables: Mapping[str, str], tee: TeeKind = "sgx") -> World:
        """Make the platform, the parties' keys and what each of them trusts; ``tables`` maps owner to dataset."""
        directory = directory.absolute()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        platform = SimulatedPlatform(directory / "platform", tee=tee)
        platform.expose()
        measurements = {role: platform.measure(role) for role in (Role.BROKER, Role.DRIVER, Role.WORKER, Role.EGRESS)}
        trust = Trust.simulated(platform.directory, measurements={role: [text] for role, text in measurements.items()})
        owners = {}
        for name, dataset in tables.items():
            home = directory / name
            home.mkdir(mode=0o700, exist_ok=True)
            owner = Owner(
                SigningKey.generate(name=name),
                KemKey.generate(),
                trust=trust,
                memory=CheckpointMemory(home / "ledger.json"),
            )
            owners[name] = OwnerHome(owner=owner, dataset=dataset, directory=home, password=secrets.token_bytes(24))
        (directory / "analyst").mkdir(mode=0o700, exist_ok=True)
        analyst = Analyst(
            SigningKey.generate(name="analyst"),
            KemKey.generate(),
            trust=trust,
            memory=CheckpointMemory(directory / "analyst" / "ledger.json"),
        )
        return cls(
            directory=directory,
            platform=platform,
            trust=trust,
            analyst=analyst,
            owners=owners,
            measurements=measurements,
        )

    def start_broker(self) -> str:
        """Start the measured broker on a free port and return its URL; raise what it said if it refuses to start."""
        port = self.broker_url.rpartition(":")[2] or "0"
        sealing = self.platform.tee == "sgx"  # A trust domain has no sealing key: its owners open what is kept.
        running = Operator(self.platform).start_broker(
            self.store,
            listen=f"{self.broker_host}:{port}",
            log=self.directory / "broker.log",
            custodians=() if sealing else [home.owner.key.party for home in self.owners.values()],
        )
        self.broker, self.broker_process, self.broker_url = running, running.process, running.url
        if running.custodians:
            try:
                for home in self.owners.values():
                    home.owner.unseal(running.url, patience=UNSEAL_SECONDS)
            except TransportError:
                running.wait_unsealed(_LAST_WORD_SECONDS)  # if it ended, its own reason is the better one
                raise
            running.wait_unsealed(UNSEAL_SECONDS)
        return self.broker_url

    def stop_broker(self) -> None:
        """End the broker politely, then by force."""
        if self.broker is not None:
            self.broker.stop()
        self.broker = self.broker_process = None

    @property
    def store(self) -> Path:
        """Return where the broker keeps its sealed store; the host may do with it what it likes."""
        return self.directory / "broker"

    def enrol_everyone(self) -> None:
        """Let every party attest the broker and enrol its identity there."""
        for home in self.owners.values():
            home.broker = home.owner.attest_broker(self.broker_url)
            home.broker.enrol_member(_identity(home.owner.key, home.owner.kem, role="owner"))
        client = self.analyst.attest_broker(self.broker_url)
        client.enrol_member(_identity(self.analyst.key, self.analyst.kem, role="analyst"))

    def policy_toml(self, home: OwnerHome, *, programs: Collection[bytes], version: int = 1, sql: bool = True) -> str:
        """Return the owner's data-use policy as it would write it by hand."""
        approved = ", ".join(f'"{bytes_digest(program)}"' for program in programs)
        withheld = ", ".join(f'"{column}"' for column in WITHHELD.get(home.dataset, ()))
        analyst = self.analyst.key.party
        expires = (datetime.now(UTC) + timedelta(days=30)).strftime("%Y-%m-%dT%H:%M:%SZ")
        return f"""\
dataset = "{home.dataset}"
version = {version}
owner = "{home.owner.key.party}"
purposes = ["{PURPOSE}"]
analysts = ["{analyst}"]
expires = {expires}
lease = {LEASE_SECONDS}

[programs]
approved = [{approved}]
sql = {str(sql).lower()}

[columns]
allow = ["*"]
withhold = [{withheld}]

[tee]
allow_simulated = true   # this laptop has no TEE hardware; it protects nothing

[tee.measurements]
driver = ["{self.measurements[Role.DRIVER]}"]
worker = ["{self.measurements[Role.WORKER]}"]
egress = ["{self.measurements[Role.EGRESS]}"]

[outputs]
recipients = ["{analyst}"]
max_rows = 10000

[outputs.minimum_group]
size = 50
"""

    def job_toml(
        self, *, program: str, kind: str, outputs: Collection[str], columns: Mapping[str, Collection[str]]
    ) -> str:
        """Return a job over every owner's dataset as the analyst would write it by hand."""
        analyst = self.analyst.key.party
        lines = [
            'name = "delays"',
            f'kind = "{kind}"',
            f'purpose = "{PURPOSE}"',
            f'program = "{program}"',
        ]
        for home in self.owners.values():
            wanted = ", ".join(f'"{column}"' for column in columns[home.dataset])
            lines += [
                "",
                f"[inputs.{home.dataset}]",
                f'owner = "{home.owner.key.party}"',
                f'location = "{home.encrypted}"',
                f"columns = [{wanted}]",
            ]
        for output in outputs:
            lines += ["", f"[outputs.{output}]", f'recipients = ["{analyst}"]']
        lines += ["", "[cluster]", f"workers = {WORKERS}", "worker_cores = 1", 'worker_memory = "1g"']
        return "\n".join(lines) + "\n"

    def close(self) -> None:
        """End what was started."""
        for home in self.owners.values():
            if home.broker is not None:
                home.broker.close()
        self.stop_broker()


def _identity(key: SigningKey, kem: KemKey, *, role: str) -> Statement:
    return sign_identity(role=role, kem_public=kem.public, created=datetime.now(UTC), key=key)
