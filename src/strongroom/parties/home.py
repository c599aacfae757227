"""A party's home: one directory with its keys, the brokers it trusts and what it remembers of their ledgers.

The private keys lie there only sealed by the custody of the party's master key (spec/1-encrypted-dataset.md, custody);
the directory is for its owner's eyes alone. Nothing here ever talks to a network, unless the custody does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from strongroom.catalog import Identity, sign_identity, verify_identity
from strongroom.digests import bytes_digest, frame
from strongroom.envelope.custody import Custody, create_custody, open_custody
from strongroom.envelope.hpke import KemKey
from strongroom.envelope.keys import DataKey
from strongroom.envelope.staging import replace_file
from strongroom.envelope.wrapping import unwrap_key, wrap_key
from strongroom.errors import EnvelopeError, UsageError
from strongroom.ledger import CheckpointMemory
from strongroom.parties.brokers import TrustedBroker, TrustSettingsError, parse_broker_url
from strongroom.statements import PartyId, SigningKey, Statement, StatementError

if TYPE_CHECKING:
    import pyarrow as pa

Password = Callable[[], bytes]
_FORMAT = "strongroom-identity-keys/1"
_SEALED_FIELDS = {"format", "custody", "wrapped_key", "sealed"}
_SEED = 32
_PRIVATE = 0o600
_JOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


class HomeError(UsageError):
    """A home has no identity yet, or already has one."""


class DamagedHomeError(EnvelopeError):
    """A file in a home is not what Strongroom wrote there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartyKeys:
    """A party's private keys, opened: ``signing`` for what it says, ``kem`` for what is sealed to it."""

    signing: SigningKey = field(repr=False)
    kem: KemKey = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedJob:
    """A job that this party handed over: ``outputs`` are the names and where the ciphertext was left, once known.

    ``placed`` says, for a job on a cluster, its ``name`` there, the cluster's ``settings`` (a file), and the keys of
    the driver that took it (``driver_spki`` and ``driver_kem``, hex), by which its last report is verified.
    """

    job: str
    digest: str
    broker: str
    outputs: Mapping[str, Path | None]
    placed: Mapping[str, str] = field(default_factory=dict)

    def choose(self, output: str | None) -> str:
        """Return the output called ``output``, or the only one; raise UsageError if that is none."""
        names = ", ".join(self.outputs)
        if output is None and len(self.outputs) == 1:
            return next(iter(self.outputs))
        if output is None:
            raise UsageError(f"job {self.job} has {len(self.outputs)} outputs: {names}", hint="name one of them")
        if output not in self.outputs:
            raise UsageError(f"job {self.job} has no output {output[:80]!r}", hint=f"its outputs are: {names}")
        return output


class Home:
    """The directory of one party; created with mode 0700 when the identity is."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def has_identity(self) -> bool:
        """Say whether an identity was created here."""
        return self._public.exists()

    @property
    def default_custody(self) -> str:
        """Return the URI of the master key that seals the identity, or of the one that will be made with it."""
        own = self.directory.absolute() / "master.key"
        if self._sealed.exists():
            named = str(self._read_sealed()["custody"])
            if not named.startswith("file:") or not own.exists():  # a home that was moved has its key where it is now
                return named
        return f"file:{quote(str(own))}"

    def create_identity(
        self, name: str, *, role: str, password: Password, now: datetime, custody: str | None = None
    ) -> Statement:
        """Make the party's identity, and by default its master key, and return the signed public statement.

        The private keys are sealed under the master key, which ``password`` protects; ``custody`` is the URI of one
        that there is. Raise HomeError if there is an identity already: it is never overwritten, since whatever is
        sealed to it would be lost.
        """
        if self.has_identity:
            raise HomeError(
                f"{self.directory} already is the home of {self.identity().party}",
                hint="an identity is never replaced; take another directory with --home",
            )
        signing, kem = SigningKey.generate(name=name), KemKey.generate()
        try:
            PartyId.parse(str(signing.party))
        except StatementError as error:
            raise UsageError(
                f"no party can be called {name[:80]!r}",
                hint="use 1 to 63 of a-z, 0-9 and -, beginning with a letter or a digit",
            ) from error
        statement = sign_identity(signing, role=role, kem_public=kem.public, created=now)
        # A master key without an identity was left by a run that was cut off; it is as good as a new one.
        begun = custody is not None or (self.directory / "master.key").exists()
        if custody is None:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        opened = (open_custody if begun else create_custody)(custody or self.default_custody, password=password)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        sealed = _seal_keys(PartyKeys(signing=signing, kem=kem), opened)
        replace_file(self._sealed, json.dumps(sealed, indent=2).encode(), mode=_PRIVATE)
        replace_file(self._public, statement.encode().encode(), mode=_PRIVATE)
        return statement

    def identity(self) -> Identity:
        """Return the public identity after verifying its signature; takes no password."""
        return verify_identity(self.identity_statement())

    def identity_statement(self) -> Statement:
        """Return the public identity as the signed statement that other parties and brokers take."""
        try:
            return Statement.decode(self._public.read_bytes())
        except FileNotFoundError as error:
            raise HomeError(
                f"{self.directory} has no identity", hint="make one: strongroom identity --name NAME --role ROLE"
            ) from error

    def export_identity(self, file: Path) -> None:
        """Write the signed public identity to ``file``, for other parties; it holds no secret."""
        statement = self.identity_statement()
        verify_identity(statement)
        replace_file(file, statement.encode().encode())

    def open_keys(self, password: Password) -> PartyKeys:
        """Return the private keys; raise EnvelopeError if the password or a file is wrong."""
        party = self.identity().party
        value = self._read_sealed()
        custody = open_custody(self.default_custody, password=password)
        key = custody.unwrap(str(value["wrapped_key"]), context=_context(party))
        plain = unwrap_key(key, str(value["sealed"]), context=_context(party))
        signing = SigningKey.from_seed(plain[:_SEED], name=party.name)
        if signing.party != party:
            raise self._damaged(self._sealed, f"the keys are those of {signing.party}, expected {party}")
        return PartyKeys(signing=signing, kem=KemKey.decode_private(plain[_SEED:]))

    def move_keys(self, custody: str, *, password: Password, new_password: Password) -> None:
        """Seal the private keys under the master key at the URI ``custody``, in one step; the identity stays the same.

        ``password`` opens the master key that they are under now, ``new_password`` the new one.
        """
        keys = self.open_keys(password)
        sealed = _seal_keys(keys, open_custody(custody, password=new_password))
        replace_file(self._sealed, json.dumps(sealed, indent=2).encode(), mode=_PRIVATE)

    def brokers(self) -> tuple[TrustedBroker, ...]:
        """Return the trusted brokers in the order in which they were named."""
        if not self._trust.exists():
            return ()
        value = self._read_json(self._trust)
        if not isinstance(value, dict) or set(value) != {"brokers"} or not isinstance(value["brokers"], list):
            raise self._damaged(self._trust, "not an object with brokers")
        try:
            return tuple(TrustedBroker.from_json(entry) for entry in value["brokers"])
        except TrustSettingsError as error:
            raise self._damaged(self._trust, error.message) from error

    def broker(self, url: str | None = None) -> TrustedBroker:
        """Return the trusted broker at ``url``, or the only one; raise TrustSettingsError if that is nobody."""
        known = self.brokers()
        hint = "trust one: strongroom broker trust URL --measurement MEASUREMENT"
        if url is None:
            if len(known) == 1:
                return known[0]
            names = ", ".join(broker.url for broker in known)
            raise TrustSettingsError(
                f"{self.directory} trusts {len(known)} brokers{f': {names}' if names else ''}",
                hint="say which one: --broker URL" if known else hint,
            )
        wanted = parse_broker_url(url)
        for broker in known:
            if broker.url == wanted:
                return broker
        raise TrustSettingsError(f"{self.directory} does not trust a broker at {wanted}", hint=hint)

    def trust(self, broker: TrustedBroker) -> None:
        """Remember ``broker`` as trusted, in place of what was known of the same URL."""
        others = [known for known in self.brokers() if known.url != broker.url]
        self._write_brokers([*others, broker])

    def forget(self, url: str) -> None:
        """Trust the broker at ``url`` no longer; what is remembered of its ledger stays."""
        gone = self.broker(url)
        self._write_brokers([known for known in self.brokers() if known.url != gone.url])

    def memory(self, broker: TrustedBroker) -> CheckpointMemory:
        """Return what this party remembers of the broker's ledger."""
        name = bytes_digest(broker.url.encode()).partition(":")[2][:32]
        return CheckpointMemory(self.directory / "checkpoints" / f"{name}.json")

    def remember_job(
        self,
        job: str,
        *,
        digest: str,
        broker: str,
        outputs: Iterable[Mapping[str, Any]],
        placed: Mapping[str, str] | None = None,
    ) -> None:
        """Remember a job that was handed over, or that finished, so that its results can be fetched by its id.

        An output's ``directory`` may be missing while nobody knows it yet.
        """
        self._jobs.mkdir(mode=0o700, parents=True, exist_ok=True)
        places = {str(output["name"]): str(output.get("directory", "")) for output in outputs}
        known = {"digest": digest, "broker": broker, "outputs": places, "placed": dict(placed or {})}
        replace_file(self._job(job), json.dumps(known, indent=2).encode(), mode=_PRIVATE)

    def recall_job(self, job: str) -> FinishedJob:
        """Return the job with this id, or with this name on its cluster; raise UsageError if this home knows none."""
        path = self._job(job)
        if path.exists():
            return self._read_job(path)
        for other in sorted(self._jobs.glob("*.json")):
            found = self._read_job(other)
            if found.placed.get("name") == job:
                return found
        known = ", ".join(sorted(one.stem for one in self._jobs.glob("*.json"))) or "none"
        raise UsageError(f"{self.directory} knows no job {job[:80]!r}", hint=f"finished jobs: {known}")

    def knows_job(self, job: str) -> bool:
        """Return whether :meth:`recall_job` would find a job."""
        try:
            self.recall_job(job)
        except UsageError:
            return False
        return True

    def _read_job(self, path: Path) -> FinishedJob:
        value = self._read_json(path)
        try:
            outputs = {name: Path(place) if place else None for name, place in value["outputs"].items()}
            placed = {str(name): str(text) for name, text in value.get("placed", {}).items()}
            return FinishedJob(
                job=path.stem, digest=value["digest"], broker=value["broker"], outputs=outputs, placed=placed
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise self._damaged(path, "not a finished job") from error

    def write_result(self, table: pa.Table, target: Path) -> None:
        """Write a fetched result to ``target``, readable by its owner only: CSV or, by default, Parquet."""
        from pyarrow import BufferOutputStream, csv, parquet

        sink = BufferOutputStream()
        if target.suffix == ".csv":
            csv.write_csv(table, sink)
        else:
            parquet.write_table(table, sink)
        replace_file(target, sink.getvalue().to_pybytes(), mode=_PRIVATE)

    @property
    def _jobs(self) -> Path:
        return self.directory / "jobs"

    def _job(self, job: str) -> Path:
        if not _JOB.fullmatch(job):
            raise UsageError(f"not a job's id: {job[:80]!r}", hint="`strongroom submit` prints it")
        return self._jobs / f"{job}.json"

    @property
    def _public(self) -> Path:
        return self.directory / "identity.json"

    @property
    def _sealed(self) -> Path:
        return self.directory / "identity.sealed"

    @property
    def _trust(self) -> Path:
        return self.directory / "trust.json"

    def _read_sealed(self) -> dict[str, Any]:
        value = self._read_json(self._sealed)
        if not isinstance(value, dict) or set(value) != _SEALED_FIELDS or value["format"] != _FORMAT:
            raise self._damaged(self._sealed, f"not {_FORMAT}")
        return value

    def _write_brokers(self, brokers: list[TrustedBroker]) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = json.dumps({"brokers": [broker.to_json() for broker in brokers]}, indent=2)
        replace_file(self._trust, text.encode(), mode=_PRIVATE)

    def _read_json(self, path: Path) -> Any:  # noqa: ANN401  JSON is whatever JSON is
        try:
            return json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise self._damaged(path, "not JSON") from error
        except FileNotFoundError as error:
            raise self._damaged(path, "it is missing") from error

    def _damaged(self, path: Path, what: str) -> DamagedHomeError:
        return DamagedHomeError(f"{path} is damaged: {what}", hint="restore the file from a backup")


def _context(party: PartyId) -> bytes:
    return frame(b"strongroom/identity-keys/v1", str(party).encode())


def _seal_keys(keys: PartyKeys, custody: Custody) -> dict[str, str]:
    """Return the private keys, encrypted under a fresh key that the custody wraps; both are bound to the party."""
    key, context = DataKey.generate(), _context(keys.signing.party)
    return {
        "format": _FORMAT,
        "custody": custody.uri,
        "wrapped_key": custody.wrap(key, context=context),
        "sealed": wrap_key(key, keys.signing.reveal_seed() + keys.kem.encode_private(), context=context),
    }
