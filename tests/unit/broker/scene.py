"""A real broker on a simulated machine with two owners, an analyst and their dataset keys; tests tell stories in it."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.appraisal import Verifier
from strongroom.attestation.memory import CollateralMemory
from strongroom.attestation.roles import Role
from strongroom.attestation.simulated.inside import SimulatedTee
from strongroom.attestation.simulated.measuring import installed_package
from strongroom.attestation.simulated.platform import SimulatedPlatform
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.broker.client import BrokerClient
from strongroom.catalog.identity import sign_identity
from strongroom.digests import bytes_digest, parse_text
from strongroom.envelope.hpke import KemKey
from strongroom.envelope.keys import DataKey
from strongroom.envelope.manifest import Column, FileEntry, sign_manifest
from strongroom.jobs.spec import JobDraft, JobInput, JobOutput, sign_job
from strongroom.ledger.memory import CheckpointMemory
from strongroom.parties.owner import Owner
from strongroom.parties.trust import Trust
from strongroom.parties.unsealing import look_at_broker
from strongroom.policy.document import parse_policy_toml, sign_policy
from strongroom.statements import SigningKey

PROGRAM = b"select carrier, avg(delay) from flights group by carrier"
START_SECONDS = 30


@dataclass
class Party:
    name: str
    key: SigningKey = None
    kem: KemKey = None

    def __post_init__(self):
        self.key = SigningKey.generate(name=self.name)
        self.kem = KemKey.generate()

    @property
    def id(self):
        return self.key.party

    def identity(self, role, created=None):
        return sign_identity(self.key, role=role, kem_public=self.kem.public, created=created or datetime.now(UTC))


@dataclass
class Scene:
    directory: Path
    platform: SimulatedPlatform = None
    process: object = None
    port: int = 0
    metrics: int = 0
    airline: Party = field(default_factory=lambda: Party("airline"))
    weather: Party = field(default_factory=lambda: Party("weather"))
    analyst: Party = field(default_factory=lambda: Party("analyst"))
    deks: dict = field(default_factory=dict)
    clients: list = field(default_factory=list)
    faults: object = None  # what the host does to the broker's TEE
    place: str = ""  # where the store is, unless it is a directory of this scene
    kind: str = "sgx"  # a trust domain (tdx) has no sealing key: its custodians unseal it
    custodians: list = field(default_factory=list)  # whom the operator names

    def __post_init__(self):
        self.platform = SimulatedPlatform(self.directory / "platform", tee=self.kind)
        # Measured code must not change under a test, even while somebody edits the checkout.
        self.package = self.directory / "package" / "strongroom"
        if not self.package.exists():
            shutil.copytree(installed_package(), self.package, ignore=shutil.ignore_patterns("__pycache__"))

    def measure(self, role):
        return self.platform.measure(role, package_root=self.package)

    @property
    def store(self):
        return self.directory / "store"

    @property
    def url(self):
        return f"https://127.0.0.1:{self.port}"

    def start(self, *more):
        arguments = ["--store", self.place or str(self.store), "--listen", f"127.0.0.1:{self.port}", *more]
        arguments += [word for party in self.custodians for word in ("--custodian", str(party.id))]
        log = (self.directory / "broker.log").open("ab")
        self.process = self.platform.start(
            "broker", arguments, package_root=self.package, stdout=subprocess.PIPE, stderr=log, faults=self.faults
        )
        return self.hear()

    def hear(self):
        """Return the next thing that the broker says."""
        said = json.loads(self.process.stdout.readline() or b"{}")
        if said.get("event") in ("ready", "sealed"):
            self.port, self.metrics = said["port"], said["metrics"]
        return said

    def owner(self, party, *, expect=None):
        """Return what a party works with on its own machine."""
        text = expect or self.measure("broker")
        trust = Trust(
            anchor=TrustAnchor(root_der=self.platform.root_der, simulated=True),
            collateral=self,
            measurements={Role.BROKER: frozenset([text])},
        )
        memory = CheckpointMemory(self.directory / f"{party.name}.json")
        return Owner(party.key, party.kem, trust=trust, memory=memory)

    def look(self):
        """Return how the broker stands, as anybody who trusts its measurement sees it."""
        owner = self.owner(self.weather)
        return look_at_broker(self.url, trust=owner.trust, memory=owner.memory)

    def unseal(self, *parties, patience=START_SECONDS, **more):
        """Have each of the parties contribute, and return how far the unsealing is."""
        return [self.owner(party, **more).unseal(self.url, patience=patience) for party in parties][-1]

    def stop(self):
        self.process.terminate()
        return self.process.wait(timeout=START_SECONDS)

    def kill(self):
        self.process.kill()
        self.process.wait(timeout=START_SECONDS)

    def close(self):
        for client in self.clients:
            client.close()
        if self.process is not None and self.process.poll() is None:
            self.stop()

    def verifier(self):
        return Verifier(
            TrustAnchor(root_der=self.platform.root_der, simulated=True),
            self,
            memory=CollateralMemory(),
        )

    def collateral(self, quote):
        return self.platform.collateral_json()

    def client(self, memory="shared"):
        client = BrokerClient.attest(
            self.url,
            verifier=self.verifier(),
            expected_measurements=[self.measure("broker")],
            memory=CheckpointMemory(self.directory / f"{memory}.json"),
        )
        self.clients.append(client)
        return client

    def policy(self, owner, dataset, **changes):
        values = {
            "version": 1,
            "purposes": '["delay-statistics"]',
            "analysts": f'["{self.analyst.id}"]',
            "expires": (datetime.now(UTC) + timedelta(days=30)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "lease": 300,
            "max_uses": "",
            "sql": "false",
            "approved": f'["{bytes_digest(PROGRAM)}"]',
            "allow": '["*"]',
            "withhold": "[]",
            "recipients": f'["{self.analyst.id}"]',
            "approvals": "",
            "driver": self.measure("driver"),
            "worker": self.measure("worker"),
            "egress": self.measure("egress"),
        } | changes
        max_uses = f"max_uses = {values['max_uses']}" if values["max_uses"] else ""
        text = f"""
dataset = "{dataset}"
version = {values["version"]}
owner = "{owner.id}"
purposes = {values["purposes"]}
analysts = {values["analysts"]}
expires = {values["expires"]}
lease = {values["lease"]}
{max_uses}

[programs]
approved = {values["approved"]}
sql = {values["sql"]}

[columns]
allow = {values["allow"]}
withhold = {values["withhold"]}

[tee]
allow_simulated = true
tiers = ["affirming"]
tcb = ["UpToDate"]
advisories_accepted = []

[tee.measurements]
driver = ["{values["driver"]}"]
worker = ["{values["worker"]}"]
egress = ["{values["egress"]}"]

[outputs]
recipients = {values["recipients"]}

[outputs.minimum_group]
size = 5

{values["approvals"]}
"""
        return sign_policy(parse_policy_toml(text), owner.key)

    def manifest(self, owner, dataset, *, version=1, columns=("carrier", "delay", "flight"), revision=1):
        return sign_manifest(
            dataset=dataset,
            version=version,
            kind="table",
            schema=[Column(name=name, type="string") for name in columns],
            files=[
                FileEntry(
                    path="part-0.parquet",
                    size=100,
                    sha256="sha256:" + "0" * 64,
                    footer_digest="sha256:" + "1" * 64,
                    rows=10,
                )
            ],
            custody="file:///home/owner/master.key",
            wrapped_key="wrapped",
            created=datetime.now(UTC),
            owner=owner.key,
            revision=revision,
        ).statement

    def enrol(self, client):
        for party, role in ((self.airline, "owner"), (self.weather, "owner"), (self.analyst, "analyst")):
            client.enrol_member(party.identity(role))

    def register(self, client, owner, dataset, *, version=1, **policy):
        dek = self.deks.setdefault(f"{dataset}@{version}", DataKey.generate())
        return client.register_dataset(
            self.manifest(owner, dataset, version=version), dek, self.policy(owner, dataset, **policy), owner.key
        )

    def job(
        self,
        *,
        columns=("carrier", "delay"),
        inputs=None,
        recipients=None,
        nonce=None,
        purpose="delay-statistics",
        program=PROGRAM,
        by=None,
    ):
        owners = inputs or {"flights": self.airline, "weather": self.weather}
        draft = JobDraft(
            name="delays",
            kind="spark",
            purpose=purpose,
            inputs={
                name: JobInput(owner=owner.id, columns=columns, location=f"/data/{name}")
                for name, owner in owners.items()
            },
            outputs={"delays": JobOutput(recipients=tuple(p.id for p in recipients or [self.analyst]))},
            workers=2,
            most_workers=2,
            worker_memory="1g",
            worker_cores=1,
            tee=self.kind,
            program=program,
            created=datetime.now(UTC).replace(microsecond=0),
            nonce=nonce or WorkloadKeys.generate().digest.hex()[:32],
        )
        return sign_job(draft, (by or self.analyst).key)

    def tee(self, role, job, **more):
        return SimulatedTee.of(
            self.platform.enclave(role, job_digest=job.digest, **{"package_root": self.package, **more})
        )

    def appraise(self, role, job, **more):
        """Appraise a member as the driver would."""
        bound = bytes(64)
        evidence = self.tee(str(role), job, **more).evidence(bound)
        return self.verifier().appraise(evidence, report_data=bound, now=datetime.now(UTC))

    def driver(self, client, job, ticket, *, keys=None, **more):
        return client.attest_workload(
            self.tee("driver", job, **more),
            keys=keys or WorkloadKeys.generate(),
            role=Role.DRIVER,
            job_digest=parse_text(job.digest),
            ticket=ticket,
        )

    def drive(self, client, job, ticket, datasets, *, keys=None, **more):
        """Attest a driver that asks for its keys at once; return session and release."""
        return client.attest_and_release(
            self.tee("driver", job, **more),
            keys=keys or WorkloadKeys.generate(),
            role=Role.DRIVER,
            job_digest=parse_text(job.digest),
            datasets=datasets,
            ticket=ticket,
        )

    def member(self, client, job, driver, role, *, keys=None, letter=None):
        keys = keys or WorkloadKeys.generate()
        if letter is None:
            letter = driver.admit(keys.public, role=role, result=self.appraise(role, job)).letter
        return client.attest_workload(
            self.tee(role.value, job), keys=keys, role=role, job_digest=parse_text(job.digest), admission=letter
        )

    def ready(self):
        """Start, enrol everybody, register both datasets and return a client."""
        if self.start()["event"] == "sealed":
            self.unseal(*self.custodians)
            assert self.hear()["event"] == "ready"
        client = self.client()
        self.enrol(client)
        self.register(client, self.airline, "flights", withhold='["flight"]')
        self.register(client, self.weather, "weather")
        return client
