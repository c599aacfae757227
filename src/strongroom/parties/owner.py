"""The owner: encrypts at home, says what it permits, enrols both with an attested broker, and can stop at any time.

One method per step of the journey. Plaintext and the master key never leave the owner's machine; the data key leaves it
only sealed to a broker that has proved its measurement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from strongroom.attestation.roles import Role
from strongroom.broker.client import BrokerClient, PendingOutput, Receipt
from strongroom.broker.custodian_client import SealedBroker, Unsealing
from strongroom.envelope.custody import Custody, open_custody
from strongroom.envelope.hpke import KemKey
from strongroom.envelope.manifest import (
    Manifest,
    read_manifest,
    rewrap,
    sign_manifest,
    unwrap_data_key,
    verify_manifest,
    write_manifest,
)
from strongroom.envelope.progress import Progress, silent
from strongroom.errors import TransportError, UsageError
from strongroom.ledger import CheckpointMemory
from strongroom.parties.brokers import TrustedBroker
from strongroom.parties.home import Home
from strongroom.parties.trust import Trust
from strongroom.policy import parse_policy_toml, sign_policy, verify_policy
from strongroom.statements import SigningKey, Statement, VerifyKey

Password = Callable[[], bytes]
_LOOK_SECONDS = 0.2


class Owner:
    """An owner's SDK."""

    def __init__(self, key: SigningKey, kem: KemKey, *, trust: Trust, memory: CheckpointMemory) -> None:
        self.key = key
        self.kem = kem
        self.trust = trust
        self.memory = memory

    @classmethod
    def at_home(cls, home: Home, *, password: Password, broker: TrustedBroker | None = None) -> Self:
        """Return the owner whose keys are in ``home``; without a broker it trusts nobody and can only work at home."""
        keys = home.open_keys(password)
        if broker is None:
            trust, memory = Trust.intel(measurements={}), CheckpointMemory(home.directory / "checkpoints" / "none.json")
        else:
            trust, memory = broker.trust(), home.memory(broker)
        return cls(keys.signing, keys.kem, trust=trust, memory=memory)

    def encrypt(
        self,
        sources: Sequence[Path],
        target: Path,
        *,
        dataset: str,
        version: int,
        custody: Custody,
        columns: Sequence[str] | None = None,
        nulls: Sequence[str] = ("",),
        progress: Progress = silent,
    ) -> Manifest:
        """Encrypt the tables in ``sources`` (CSV, JSON lines, Parquet...) into the new directory ``target``.

        ``columns`` leaves out all others; ``nulls`` says which unquoted CSV texts mean "no value".
        """
        from strongroom.envelope.table import encrypt_table  # Half of the start-up of every other verb, otherwise.

        return encrypt_table(
            sources,
            target,
            dataset=dataset,
            version=version,
            owner=self.key,
            custody=custody,
            columns=columns,
            nulls=nulls,
            progress=progress,
        )

    def encrypt_files(
        self, source: Path, target: Path, *, dataset: str, version: int, custody: Custody, progress: Progress = silent
    ) -> Manifest:
        """Encrypt every file under the directory ``source``, a model's for example, into the new ``target``."""
        from strongroom.envelope.files import encrypt_files

        return encrypt_files(
            source, target, dataset=dataset, version=version, owner=self.key, custody=custody, progress=progress
        )

    def move(self, directory: Path, *, old: Custody, new: Custody) -> Manifest:
        """Put the data key of the dataset in ``directory`` under the master key at ``new`` and sign the next revision.

        No data file is touched. The broker learns of it when the dataset is registered again.
        """
        moved = rewrap(
            verify_manifest(read_manifest(directory), owner=self.key.party), old=old, new=new, owner=self.key
        )
        write_manifest(directory, moved)
        return moved

    def permit(self, text: str) -> Statement:
        """Return the data-use policy in the TOML ``text``, signed; raise PolicyError with all that is wrong."""
        return sign_policy(parse_policy_toml(text), self.key)

    def attest_broker(self, url: str) -> BrokerClient:
        """Return a client of the broker at ``url`` after attesting it; raise EvidenceError if it is not good enough."""
        return BrokerClient.attest(
            url,
            verifier=self.trust.verifier(),
            expected_measurements=self.trust.measurements.get(Role.BROKER, frozenset()),
            memory=self.memory,
        )

    def unseal(self, url: str, *, patience: float) -> Unsealing:
        """Contribute to opening the store of the sealed broker at ``url``, after attesting it.

        Whoever contributes last waits up to ``patience`` seconds until it serves and remembers its ledger, so that a
        copy of the store cannot be unsealed beside it. Raise EvidenceError if the broker is not good enough,
        RolledBackError if it opens another ledger than is remembered, TransportError if it does not come to serve.
        """
        sealed = SealedBroker.attest(
            url,
            verifier=self.trust.verifier(),
            expected_measurements=self.trust.measurements.get(Role.BROKER, frozenset()),
        )
        try:
            state = sealed.contribute(self.key, memory=self.memory)
        finally:
            sealed.close()
        if not state.missing:
            self._await_serving(url, until=time.monotonic() + patience)
        return state

    def _await_serving(self, url: str, *, until: float) -> None:
        """Attest the broker that serves now, which remembers its newest checkpoint."""
        while True:
            try:
                self.attest_broker(url).close()
            except TransportError as error:
                if time.monotonic() > until:
                    raise TransportError(
                        f"everybody has contributed, and the broker at {url} does not come to serve: {error.message}",
                        hint="see its log; unseal no other copy of its store before you know what became of it",
                    ) from error
                time.sleep(_LOOK_SECONDS)
            else:
                return

    def register(
        self,
        directory: Path,
        *,
        broker: BrokerClient,
        policy: Statement,
        password: Password,
        custody: str | None = None,
    ) -> Receipt:
        """Enrol the encrypted dataset in ``directory`` with its policy; the data key goes sealed to the broker.

        ``password`` opens the custody that the manifest names, or ``custody`` if the master key is reached by another
        URI here. Raise UsageError if policy and dataset do not belong together.
        """
        manifest = verify_manifest(read_manifest(directory), owner=self.key.party)
        permitted = verify_policy(policy)
        if permitted.dataset != manifest.dataset or permitted.owner != self.key.party:
            raise UsageError(
                f"the policy is {permitted.owner}'s for {permitted.dataset!r}, "
                f"the dataset in {directory} is {self.key.party}'s {manifest.dataset!r}",
                hint="sign a policy for this dataset with `strongroom permit`",
            )
        dek = unwrap_data_key(manifest, custody=open_custody(custody or manifest.custody, password=password))
        try:
            return broker.register_dataset(manifest.statement, dek, policy, self.key)
        finally:
            dek.wipe()

    def adopt(self, output_id: str, location: Path, *, policy: Statement, broker: BrokerClient) -> Receipt:
        """Make the files at ``location``, which stay inside, a dataset of this owner's, with its policy.

        The owner says who may use a model and for what; its key stays with the broker. Raises RefusedError while
        approvals are missing or where a policy of the data no longer permits it.
        """
        drafted = read_manifest(location)
        signed = verify_manifest(drafted, owner=VerifyKey(drafted.signer))  # the broker says whether egress signed it
        manifest = sign_manifest(
            dataset=signed.dataset,
            version=signed.version,
            kind=signed.kind,
            schema=signed.schema,
            files=signed.files,
            custody=signed.custody,
            wrapped_key=signed.wrapped_key,
            created=signed.created,
            owner=self.key,
        )
        receipt = broker.adopt_output(
            output_id, drafted=drafted, manifest=manifest.statement, policy=policy, key=self.key
        )
        write_manifest(location, manifest)
        return receipt

    def update_policy(self, policy: Statement, *, broker: BrokerClient) -> Receipt:
        """Replace a registered dataset's policy by one with a higher version; it counts from the next renewal on."""
        return broker.update_policy(policy, self.key)

    def revoke(self, dataset: str, *, reason: str, broker: BrokerClient) -> Receipt:
        """Withdraw the dataset for good: nothing more is released, leases end, running jobs stop."""
        return broker.revoke(dataset, reason, self.key)

    def pending(self, *, broker: BrokerClient) -> Sequence[PendingOutput]:
        """Return the outputs that wait for this owner's approval."""
        return broker.pending(self.key)

    def approve(self, output: PendingOutput, *, broker: BrokerClient) -> Receipt:
        """Say yes to exactly this output: its id and the digest of its bytes."""
        return broker.approve(output.output_id, output.digest, self.key)
