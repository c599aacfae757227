"""A real OpenBao server with two owners' transit keys and its file audit log on, and the connections to ask it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from strongroom.broker.requests import encode64

CONNECTIONS: Final = 8
Ask = Callable[[], None]


class Connection:
    """One kept TLS connection."""

    def __init__(self, port: int, context: ssl.SSLContext, *, name: str) -> None:
        self._http = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
        plain = socket.create_connection(("127.0.0.1", port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._http.sock = line = context.wrap_socket(plain, server_hostname=name)
        if line.version() != "TLSv1.3":
            raise RuntimeError(f"expected TLS 1.3, got {line.version()}")

    def post(self, path: str, body: bytes, **headers: str) -> dict[str, Any]:
        """Return the JSON answer; raise RuntimeError unless it is a 200."""
        self._http.request("POST", path, body, {"content-type": "application/json", **headers})
        answer = self._http.getresponse()
        data = answer.read()
        if answer.status not in {http.client.OK, http.client.NO_CONTENT}:
            raise RuntimeError(f"{path}: {answer.status} {data[:300]!r}")
        return dict(json.loads(data or b"{}"))


class Bao:
    """An OpenBao server with two owners' transit keys and a file audit device."""

    def __init__(self, program: str, place: Path, *, core: set[int]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        settings = place / "audit.hcl"
        settings.write_text(
            f'audit "file" "requests" {{\n  options {{\n    file_path = "{place / "audit.log"}"\n  }}\n}}\n'
        )
        self.process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, core)), program,
             "server", "-dev", "-dev-tls", "-dev-root-token-id=root", "-dev-no-store-token",
             f"-dev-listen-address=127.0.0.1:{self.port}", f"-dev-tls-cert-dir={place}", f"-config={settings}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={"HOME": str(place), "PATH": os.environ["PATH"]},
        )  # fmt: skip
        self.audit = place / "audit.log"
        self.context = self._wait(place / "vault-ca.pem")
        line = self._line()
        line.post("/v1/sys/mounts/transit", b'{"type": "transit"}', **self._token)
        self.bodies: dict[str, bytes] = {}
        for owner in ("airline", "weather"):
            line.post(f"/v1/transit/keys/{owner}", b"{}", **self._token)
            key = json.dumps({"plaintext": encode64(os.urandom(32))}).encode()
            wrapped = line.post(f"/v1/transit/encrypt/{owner}", key, **self._token)
            self.bodies[owner] = json.dumps({"ciphertext": wrapped["data"]["ciphertext"]}).encode()
        if not self.audit.exists() or not self.audit.stat().st_size:
            raise RuntimeError("OpenBao writes no audit log")

    @property
    def _token(self) -> dict[str, str]:
        return {"X-Vault-Token": "root"}

    def asks(self, *owners: str) -> list[Ask]:
        """Return asks that each unwrap one key of each of ``owners``, one after the other."""

        def one() -> Ask:
            line = self._line()

            def ask() -> None:
                for owner in owners:
                    line.post(f"/v1/transit/decrypt/{owner}", self.bodies[owner], **self._token)

            return ask

        return [one() for _ in range(CONNECTIONS)]

    def _line(self) -> Connection:
        return Connection(self.port, self.context, name="127.0.0.1")

    def _wait(self, ca: Path) -> ssl.SSLContext:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                context = ssl.create_default_context(cafile=str(ca))
                Connection(self.port, context, name="127.0.0.1")
            except (OSError, ssl.SSLError):
                time.sleep(0.1)
            else:
                return context
        raise TimeoutError("OpenBao did not start")


@contextmanager
def openbao(place: Path, *, core: set[int]) -> Iterator[Bao | None]:
    """Lend an OpenBao server, or nothing where the program is not installed."""
    program = shutil.which("bao", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        yield None
        return
    (place / "bao").mkdir()
    server = Bao(program, place / "bao", core=core)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait(timeout=15)
