"""Be an Azure paravisor in tests: a real TPM emulator (swtpm) with its key and indices, and the host's services.

What the paravisor does when a guest writes its user data is done here when the write passes by: new runtime data, a new
report of the simulated AMD machine, both into the other index.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from amd_vendor import AmdVendor
from azure_guest import hcl_report
from cryptography.hazmat.primitives.serialization import Encoding

from strongroom.attestation.azure_guest import ATTESTATION_KEY, REPORT_INDEX, USER_DATA_INDEX
from strongroom.attestation.tpm import _EMPTY_PASSWORD, _OWNER, Tpm

_NV_WRITE = struct.pack(">I", 0x137)


class Paravisor:
    """A line to the emulator that does the paravisor's part; ``meddle`` may change what it shows."""

    def __init__(self, connection: socket.socket, amd: AmdVendor, *, kind: int = 2) -> None:
        self._connection = connection
        self.amd, self.kind = amd, kind
        self.tpm = Tpm(self)
        self.is_lazy = False
        self.overwrites: bytes | None = None
        self.modulus = self._make_key()
        self._show(b"")

    def exchange(self, command: bytes) -> bytes:
        self._connection.sendall(command)
        head = self._receive(10)
        answer = head + self._receive(int.from_bytes(head[2:6], "big") - 10)
        if command[6:10] == _NV_WRITE and command[14:18] == struct.pack(">I", USER_DATA_INDEX) and not self.is_lazy:
            self._show(command[-66:-2] if self.overwrites is None else self.overwrites)
        return answer

    def _receive(self, size: int) -> bytes:
        parts = b""
        while len(parts) < size:
            part = self._connection.recv(size - len(parts))
            assert part, "the emulator hung up"
            parts += part
        return parts

    def _show(self, user_data: bytes) -> None:
        number = base64.urlsafe_b64encode(self.modulus).rstrip(b"=").decode()
        body = {"keys": [{"kid": "HCLAkPub", "kty": "RSA", "e": "AQAB", "n": number}], "user-data": user_data.hex()}
        data = json.dumps(body).encode()
        report = self.amd.report(report_data=hashlib.sha256(data).digest() + bytes(32))
        self.tpm.write_index(REPORT_INDEX, hcl_report(report, data, kind=self.kind)[:2048].ljust(2048, b"\0"))

    def _make_key(self) -> bytes:
        """Make the attestation key (restricted, RSASSA over SHA-256), persist it, and return its modulus."""
        attributes = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 16 | 1 << 18
        public = struct.pack(">HHIH", 1, 0x0B, attributes, 0) + struct.pack(">HHHHIH", 0x10, 0x14, 0x0B, 2048, 0, 0)
        inputs = struct.pack(">HHH", 4, 0, 0) + struct.pack(">H", len(public)) + public + struct.pack(">HI", 0, 0)
        answer = self._plain(0x131, struct.pack(">I", _OWNER), inputs)
        handle, made = answer[:4], answer[8:]
        size = int.from_bytes(made[:2], "big")
        self._plain(0x120, struct.pack(">I", _OWNER) + handle, struct.pack(">I", ATTESTATION_KEY))
        return made[2 + size - 256 : 2 + size]

    def _plain(self, code: int, handles: bytes, parameters: bytes) -> bytes:
        body = handles + _EMPTY_PASSWORD + parameters
        self._connection.sendall(struct.pack(">HII", 0x8002, 10 + len(body), code) + body)
        head = self._receive(10)
        answer = self._receive(int.from_bytes(head[2:6], "big") - 10)
        assert head[6:10] == bytes(4), head.hex()
        return answer


@contextlib.contextmanager
def paravisor(amd: AmdVendor, *, kind: int = 2) -> Iterator[Paravisor]:
    """Start a fresh emulator, install it if need be, and give the line to it."""
    if shutil.which("swtpm") is None:
        subprocess.run([Path(__file__).parents[3] / "scripts" / "apt", "swtpm"], check=True)
    with tempfile.TemporaryDirectory(prefix="tpm-") as directory:
        place = Path(directory)
        words = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={place}", "--flags", "not-need-init,startup-clear"]
        words += ["--server", f"type=unixio,path={place / 'line'}", "--ctrl", f"type=unixio,path={place / 'control'}"]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(20)
                _connect(line, place / "line")
                yield Paravisor(line, amd, kind=kind)
        finally:
            process.terminate()
            process.wait(10)


def _connect(line: socket.socket, path: Path) -> None:
    for _ in range(200):
        try:
            return line.connect(str(path))
        except OSError:
            time.sleep(0.02)
    raise AssertionError("the TPM emulator does not listen")


@contextlib.contextmanager
def services(amd: AmdVendor, *, quote: bytes = b"") -> Iterator[tuple[str, type]]:
    """Serve what Azure's host serves on its link-local address, at an address of this machine."""

    class Answer(BaseHTTPRequestHandler):
        status, certificate, asked = 200, amd.vcek().public_bytes(Encoding.PEM).decode(), []

        def do_GET(self) -> None:
            good = self.path == "/metadata/THIM/amd/certification" and self.headers["Metadata"] == "true"
            self._say({"vcekCert": self.certificate} if good else {"error": self.path})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.asked.append(base64.urlsafe_b64decode(body["report"] + "=="))
            self._say({"quote": base64.urlsafe_b64encode(quote).decode().rstrip("=")})

        def _say(self, body: object) -> None:
            text = json.dumps(body).encode()
            self.send_response(self.status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", Answer
    finally:
        server.shutdown()
        server.server_close()
