"""Ask an endpoint with any httpx client: each connection is an attested channel (spec/8-serving.md §6).

``httpx.Client(transport=AttestedTransport(...), base_url="http://endpoint")`` is an ordinary client, and the OpenAI
client takes one. Nothing is sent before the endpoint has proved what it is, on this connection, for this job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Final

import httpcore
import httpx

from strongroom.attestation.appraisal import AttestationResult, Verifier
from strongroom.attestation.channel import AttestedChannel, connect
from strongroom.attestation.roles import Role
from strongroom.attestation.secure_line import DeadlineError
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.errors import EvidenceError, StrongroomError, TransportError
from strongroom.serving.endpoint_calls import CALL
from strongroom.serving.publication import Publication
from strongroom.statements import SigningKey
from strongroom.workload.handover import decode_failure

REATTEST_SECONDS: Final = 300.0
ATTEST_SECONDS: Final = 30.0
_READ_SECONDS: Final = 120.0


class Attester:
    """Opens attested channels to one published endpoint in the name of one caller."""

    def __init__(
        self,
        publication: Publication,
        *,
        key: SigningKey,
        verifier: Verifier,
        measurements: Collection[str],
        address: tuple[str, int] | None = None,
    ) -> None:
        self.publication = publication
        self._key = key
        self._verifier = verifier
        self._measurements = frozenset(measurements)
        self._address = address or publication.address

    def open(self) -> AttestedChannel:
        """Return a channel on which the endpoint expects HTTP; raise EvidenceError or RefusedError with the reasons."""
        channel = connect(
            self._address,
            keys=WorkloadKeys.generate(),
            role=Role.CLIENT,
            expected_role=Role.ENDPOINT,
            signer=self._key,
            verifier=self._verifier,
            job_digest=self.publication.digest,
            check=self._expect,
            deadline=ATTEST_SECONDS,
        )
        try:
            channel.send(CALL)
            said = channel.receive()
        except StrongroomError:
            channel.close()
            raise
        if said.get("type") != "open":
            channel.close()
            raise decode_failure(said)
        return channel

    def _expect(self, result: AttestationResult) -> None:
        if result.measurement not in self._measurements:
            raise EvidenceError(
                f"the endpoint measures as {result.measurement}, expected "
                f"{sorted(self._measurements) or 'nothing: none is known'}",
                step="reference values",
                hint="its code, or a package that it uses, is not the published one; compare with `strongroom measure`",
            )


class AttestedTransport(httpx.BaseTransport):
    """An httpx transport whose every connection is an attested channel, attested anew after ``reattest`` seconds."""

    def __init__(self, attester: Attester, *, reattest: float = REATTEST_SECONDS, connections: int = 64) -> None:
        self._pool = httpcore.ConnectionPool(
            network_backend=_Backend(attester, reattest=reattest),
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=reattest,
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Carry one request; what attestation or the endpoint's rules refuse is raised as our own error."""
        url = httpcore.URL(scheme="http", host=b"endpoint", port=80, target=request.url.raw_path)
        asked = httpcore.Request(
            method=request.method,
            url=url,
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        try:
            answer = self._pool.handle_request(asked)
        except httpcore.TimeoutException as error:
            raise httpx.ReadTimeout(str(error), request=request) from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise TransportError(f"the endpoint hung up: {error}", hint="ask again") from error
        stream = answer.stream
        if not isinstance(stream, Iterable):
            raise TransportError("the endpoint's answer has no body")
        return httpx.Response(
            status_code=answer.status, headers=answer.headers, stream=_Body(stream), extensions=answer.extensions
        )

    def close(self) -> None:
        """Close every channel."""
        self._pool.close()


def open_client(attester: Attester, **more: Any) -> httpx.Client:  # noqa: ANN401  httpx's own settings
    """Return an httpx client of the endpoint; paths are relative to it."""
    transport = AttestedTransport(attester, reattest=float(more.pop("reattest", REATTEST_SECONDS)))
    return httpx.Client(transport=transport, base_url="http://endpoint", timeout=_READ_SECONDS, **more)


class _Body(httpx.SyncByteStream):
    """The body of an answer, as it comes."""

    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        """Give the connection back."""
        close: Callable[[], None] | None = getattr(self._stream, "close", None)
        if close is not None:
            close()


class _Backend(httpcore.NetworkBackend):
    """Where httpcore gets its connections from."""

    def __init__(self, attester: Attester, *, reattest: float) -> None:
        self._attester = attester
        self._reattest = reattest

    def connect_tcp(  # the host and port are those of the attester, whatever is asked for
        self,
        host: str,  # noqa: ARG002
        port: int,  # noqa: ARG002
        timeout: float | None = None,  # noqa: ARG002
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        """Return an attested channel as a stream."""
        return _Stream(self._attester.open(), ends=time.monotonic() + self._reattest)


class _Stream(httpcore.NetworkStream):
    """An attested channel as httpcore sees a connection."""

    def __init__(self, channel: AttestedChannel, *, ends: float) -> None:
        self._channel = channel
        self._ends = ends

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the next bytes, none at the end."""
        try:
            return self._channel.read(max_bytes, deadline=timeout or _READ_SECONDS)
        except DeadlineError as error:
            raise httpcore.ReadTimeout(error.message) from error
        except TransportError:
            return b""

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all of ``buffer``."""
        try:
            self._channel.write(buffer, deadline=timeout or _READ_SECONDS)
        except TransportError as error:
            raise httpcore.WriteError(error.message) from error

    def close(self) -> None:
        """End the channel."""
        self._channel.close()

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401  httpcore's own
        """Say that an idle connection is over when it is: closed by the other end, or attested too long ago."""
        if info == "is_readable":
            return time.monotonic() > self._ends or self._channel.has_arrived()
        return None
