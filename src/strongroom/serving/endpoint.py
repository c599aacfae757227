"""Conduct one endpoint inside its TEE, from the analyst's handover to the last answer (spec/8-serving.md §3).

Entry point of the measured role ``endpoint``. It starts with no secret, takes the job only from its analyst, gets keys
only from a broker that it attested, and answers only callers that proved which party they are.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from strongroom.attestation import providers
from strongroom.attestation.channel import AttestedChannel
from strongroom.attestation.listener import Listener
from strongroom.attestation.roles import Role
from strongroom.attestation.tee import verifier_within
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.broker.client import WorkloadSession
from strongroom.broker.workload_session import Release
from strongroom.digests import parse_text
from strongroom.envelope.files import open_files
from strongroom.errors import PolicyError, RefusedError, StrongroomError, UsageError
from strongroom.jobs.spec import JobSpec
from strongroom.policy.document import ServingRules
from strongroom.policy.fusion import FusedPolicy
from strongroom.serving.accounts import Accounts
from strongroom.serving.batching import Batcher, BusyError
from strongroom.serving.connections import Connections
from strongroom.serving.endpoint_calls import CALL
from strongroom.serving.http import Stream, serve_http
from strongroom.serving.model import Model
from strongroom.serving.routes import Caller
from strongroom.workload.clients import HANDOVER_SECONDS, Clients
from strongroom.workload.ending import describe_defect, end_now, end_on_signal, keep_quiet, tell_defects
from strongroom.workload.engines import input_manifest
from strongroom.workload.files import InputFiles
from strongroom.workload.handover import Handover, encode_failure
from strongroom.workload.hostline import HostLine
from strongroom.workload.keyring import KeyRing
from strongroom.workload.lease import LeaseKeeper
from strongroom.workload.program import temporary_files
from strongroom.workload.pulse import seconds_now
from strongroom.workload.scratch import discard_scratch, make_scratch
from strongroom.workload.takeover import accept_each, attest_broker, take_over

CHANNEL_SECONDS: Final = 600.0
_CLIENT_DEADLINE = 300.0
_DRAIN_SECONDS = 5.0  # a cluster kills a pod ten seconds after it asked it to end
_TURN_SECONDS = 0.5
_EXIT_REFUSED = 3
_VERSION_MARK = "{version}"


class Endpoint:
    """One job's endpoint."""

    def __init__(self, *, digest: str, host: HostLine, batcher: Batcher) -> None:
        self._digest = digest
        self._host = host
        self._tee = providers.detect()
        self._keys = WorkloadKeys.generate()
        self._verifier = verifier_within(self._tee)
        self._ring = KeyRing()
        self._scratch = make_scratch()
        self._clients = Clients(lambda channel, said: take_over(channel, said, role="endpoint", digest=digest))
        self._tell = self._clients.tell
        self._batcher = batcher
        self._model: Model | None = None
        self._accounts: Accounts | None = None
        self._spec: JobSpec | None = None
        self._connections = Connections()
        self._stopping = threading.Event()
        self._lost: RefusedError | None = None
        self._closing = threading.Lock()
        self._closed = False
        self._newer = threading.Event()

    def conduct(self, listen: tuple[str, int]) -> int:
        """Serve until somebody ends it and return the exit code; every failure is told to the client first."""
        listener = Listener(
            listen,
            keys=self._keys,
            role=Role.ENDPOINT,
            tee=self._tee,
            verifier=self._verifier,
            job_digest=parse_text(self._digest),
            admits=(Role.CLIENT,),
        )
        self._host.say("listening", host=listener.address[0], port=listener.address[1])
        peers = {"receive": self._receive, "tell": self._tell}
        threading.Thread(target=accept_each, args=(listener,), kwargs=peers, name="accept", daemon=True).start()
        try:
            handover, spec = self._clients.wait(deadline=_CLIENT_DEADLINE)
            self._serve(handover, spec)
        except StrongroomError as error:
            self._fail(error)
            return error.exit_code
        except Exception as error:  # noqa: BLE001  nothing may end an endpoint without a word
            defect = describe_defect(error)
            self._fail(defect)
            return defect.exit_code
        finally:
            self.close()
            listener.close()
        return 0

    def _serve(self, handover: Handover, spec: JobSpec) -> None:
        if spec.kind != "serve":
            raise UsageError(f"an endpoint runs jobs of kind serve, not {spec.kind}", hint="use strongroom submit")
        started = time.monotonic()
        broker = attest_broker(handover, verifier=self._verifier, scratch=self._scratch)
        asked = seconds_now()
        session, release = broker.attest_and_release(
            self._tee,
            keys=self._keys,
            role=Role.ENDPOINT,
            job_digest=parse_text(self._digest),
            datasets=sorted(spec.inputs),
            ticket=handover.ticket,
        )
        self._tell("keys-released", seconds=time.monotonic() - started, datasets=sorted(release.datasets))
        lease = LeaseKeeper(
            lambda: self._renew(session), seconds=release.lease_seconds, asked=asked, on_lost=self._stop_now
        )
        lease.start()
        try:
            with temporary_files(self._scratch):
                self._model = Model(
                    handover.program,
                    rules=serving_rules(release.policy),
                    writable=(self._scratch,),
                    batcher=self._batcher,
                )
                self._load(release, spec)
                self._model.start()
                callers = [party.fingerprint for party in spec.recipients]
                self._accounts = Accounts(session, callers=callers, on_policy=self._obey)
                self._spec = spec
                self._tell("serving", model=spec.name, version=self._model.loaded.version, callers=len(callers))
                self._watch(session, spec)
        finally:
            lease.stop()

    def _watch(self, session: WorkloadSession, spec: JobSpec) -> None:
        """Turn windows and take up newer versions until it is time to stop."""
        while not self._stopping.wait(_TURN_SECONDS):
            if self._model is not None and self._model.broken is not None:
                raise self._model.broken
            if self._accounts is not None:
                with contextlib.suppress(StrongroomError):  # a caller is told when it matters
                    self._accounts.turn()
            if self._newer.is_set():
                self._newer.clear()
                self._take_up(session, spec)
        if self._lost is not None:  # this thread may be the first to leave, and what it leaves as is what is told
            raise self._lost
        self._closing.acquire()  # whoever stopped us ends the process
        self._closing.release()

    def _take_up(self, session: WorkloadSession, spec: JobSpec) -> None:
        """Serve the newest version if the policies and the program let it be; otherwise go on with this one."""
        try:
            self._load(session.release(sorted(spec.inputs)), spec)
        except StrongroomError as error:
            self._tell("version-refused", message=error.message, reasons=list(getattr(error, "reasons", ())))
        except Exception as error:  # noqa: BLE001  a version that cannot be loaded does not end the one that is served
            self._tell("version-refused", message=describe_defect(error).message, reasons=[])
        else:
            if self._model is not None:
                self._tell("version-served", version=self._model.loaded.version)

    def _load(self, release: Release, spec: JobSpec) -> None:
        """Open the model's files under the released keys and have them served."""
        self._ring.hold(release.datasets, output=release.output, contents=release.contents)
        files: dict[str, InputFiles] = {}
        for name, wanted in spec.inputs.items():
            keys = self._ring.dataset(name)
            place = replace(wanted, location=wanted.location.replace(_VERSION_MARK, str(keys.version)))
            manifest = input_manifest(place, keys=keys, content=self._ring.content(name))
            if manifest.kind != "files":
                raise UsageError(f"input {name!r} is a table", hint="an endpoint serves models: datasets of files")
            sealed = open_files(Path(place.location), keys, manifest=manifest)
            files[name] = InputFiles(sealed, scratch=lambda: Path(tempfile.mkdtemp(dir=self._scratch)))
        versions = [f"{name}@{keys.version}" for name, keys in sorted(release.datasets.items())]
        self._obey(release.policy)
        if self._model is not None:
            self._model.replace(
                files,
                version="-".join(one.rpartition("@")[2] for one in versions),
                names=", ".join(versions),
            )

    def _obey(self, policy: FusedPolicy) -> None:
        """Cut every answer from now on by what the owners permit now."""
        if self._model is not None:
            self._model.obey(serving_rules(policy))

    def _renew(self, session: WorkloadSession) -> float:
        seconds, newer = session.renew_and_look()
        if newer:
            self._newer.set()
        return seconds

    def _receive(self, channel: AttestedChannel) -> None:
        """Hear what a client wants: to hand over the job, or to ask the model."""
        try:
            said = channel.receive(deadline=HANDOVER_SECONDS)
        except StrongroomError:
            channel.close()
            return
        if said != CALL:
            self._clients.receive(channel, said)
            return
        try:
            caller = self._admit(channel)
            channel.send({"type": "open", "model": self._spec.name if self._spec else ""})
        except StrongroomError as error:
            with contextlib.suppress(StrongroomError):
                channel.send(encode_failure(error))
            channel.close()
            self._connections.drop(channel)
            return
        self._answer(channel, caller)

    def _admit(self, channel: AttestedChannel) -> Caller:
        """Return the way to the model for a caller whom the job names; raise RefusedError for anybody else."""
        spec, model, accounts = self._spec, self._model, self._accounts
        if spec is None or model is None or accounts is None or self._stopping.is_set():
            raise BusyError("the endpoint does not serve", hint="it begins when its keys are released; ask again")
        party = channel.party
        if party is None or party not in spec.recipients or party not in model.rules.callers:
            accounts.refuse()
            raise RefusedError(
                "this caller may not ask",
                reasons=(f"{party} is not among the callers that the job and every owner's policy name",),
                hint="ask the owners to name you in [serving] callers, and the analyst in the job's recipients",
            )
        self._connections.take(channel, caller=party.fingerprint)
        return Caller(
            party.fingerprint,
            name=spec.name,
            job=self._digest,
            model=model,
            batcher=self._batcher,
            accounts=accounts,
        )

    def _answer(self, channel: AttestedChannel, caller: Caller) -> None:
        ends = time.monotonic() + CHANNEL_SECONDS
        try:
            serve_http(
                ChannelStream(channel),
                caller.handle,
                last=lambda: self._stopping.is_set() or time.monotonic() > ends,
                busy=lambda busy: self._batcher.expect() if busy else self._batcher.drop(),
                allowance=self._connections.allowance(caller.fingerprint),
            )
        finally:
            self._connections.drop(channel)

    def _stop_now(self, reasons: Sequence[str]) -> None:
        """End at once because the lease was lost: forget keys and models, hang up, tell the client, leave."""
        self._lost = error = RefusedError("the endpoint was stopped: its keys were withdrawn", reasons=tuple(reasons))
        self._stopping.set()
        self._ring.wipe("; ".join(reasons))
        if self._model is not None:
            self._model.close(error)
        self._connections.close()
        self._fail(error)
        end_now(self.close, code=_EXIT_REFUSED)

    def _fail(self, error: StrongroomError) -> None:
        error = self._lost or error  # whatever else broke, broke because of it
        failure = encode_failure(error)
        self._host.say("failed", kind=error.kind)
        self._tell(failure.pop("type"), **failure)

    def drain(self) -> bool:
        """Take no new requests and end in order; return False if there is nothing yet that could."""
        if self._accounts is None:
            return False
        self._stopping.set()
        return True

    def close(self) -> None:
        """Answer what was begun, close the accounts, forget everything; whoever calls second waits."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._stopping.set()
            self._batcher.settle(0 if self._lost is not None else _DRAIN_SECONDS)
            self._batcher.close(self._lost or BusyError("the endpoint is stopping"))
            if self._accounts is not None:
                with contextlib.suppress(StrongroomError):
                    self._accounts.close()
            self._ring.wipe("the endpoint is over")
            self._connections.close()
            self._tell("done")
            self._host.say("finished")
            self._clients.close()
            discard_scratch(self._scratch)


class ChannelStream(Stream):
    """An attested channel as a stream of bytes."""

    def __init__(self, channel: AttestedChannel) -> None:
        self._channel = channel

    def read(self, most: int, *, deadline: float) -> bytes:
        """Return the next bytes; raise TransportError at the end."""
        return self._channel.read(most, deadline=deadline)

    def write(self, data: bytes) -> None:
        """Send all of ``data``."""
        self._channel.write(data)

    def close(self) -> None:
        """End the channel."""
        self._channel.close()


def serving_rules(policy: FusedPolicy) -> ServingRules:
    """Return what every owner permits an endpoint; raise PolicyError if the fused policy permits none."""
    rules = policy.serving
    if rules is None:
        raise PolicyError("the released policy permits no serving")
    return rules


def main(argv: Sequence[str] | None = None) -> int:
    """Run the endpoint; the host gives a job digest, an address and how to batch, none of it secret."""
    parser = argparse.ArgumentParser(prog="strongroom-endpoint")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--engine", choices=("serving",), required=True)
    parser.add_argument("--job-digest", required=True)
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--batch-rows", type=int, default=256)
    parser.add_argument("--batch-wait", type=float, default=0.002, help="seconds that a batch waits for more")
    arguments = parser.parse_args(argv)
    host, _, port = arguments.listen.rpartition(":")
    # A library's threads that spin while they wait for the next small request would take the cores from the others.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    line = HostLine.take()
    keep_quiet()
    tell_defects(lambda error: line.say("failed", kind=error.kind, message=error.message))
    try:
        batcher = Batcher(most_rows=arguments.batch_rows, patience=arguments.batch_wait)
        endpoint = Endpoint(digest=arguments.job_digest, host=line, batcher=batcher)
        end_on_signal(endpoint.close, drain=endpoint.drain)
        return endpoint.conduct((host, int(port)))
    except StrongroomError as error:
        line.say("failed", kind=error.kind, message=error.message)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
