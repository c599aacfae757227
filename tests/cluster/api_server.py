"""An API server for tests: the part of Kubernetes' API that placing jobs needs, over TLS, with a node behind it.

Answers are worded as the real server words them; test_double_answers_like_the_real_server holds it to recordings.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import ipaddress
import json
import socket
import ssl
import struct
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from cluster_jobs import JobController
from cluster_node import Node
from cluster_rules import find_problems, find_violations
from cluster_store import KINDS, VERSIONS, RefusedError, Store
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NAMESPACE = "jobs"
TOKEN = "a-token-of-the-submitter"
KEEPER_TOKEN = "a-token-of-the-keeper"
KEEPER = f"system:serviceaccount:{NAMESPACE}:strongroom-keeper"
_WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_VERBS = {"GET": "get", "POST": "create", "DELETE": "delete", "PATCH": "patch"}


SUBMITTER_RULES: dict[str, set[str]] = {
    "pods": {"get", "list", "watch", "create", "delete"},
    "pods/log": {"get"},
    "pods/portforward": {"get", "create"},
    "events": {"list"},
    "configmaps": {"create", "get", "list", "patch", "delete"},
    "networkpolicies": {"create"},
    "jobs": {"create"},
}
KEEPER_RULES: dict[str, set[str]] = {
    "pods": {"get", "list", "watch", "create", "delete"},
    "pods/log": {"get"},
    "events": {"list"},
    "configmaps": {"get", "patch"},
}


class FakeCluster:
    """A cluster with one namespace, one node and one person who may do what ``rules`` say."""

    node_kind = Node

    def __init__(self, directory: Path, *, claims: dict[str, Path], images: set[str], package: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.store = Store()
        self.node = self.node_kind(self.store, directory=directory, claims=claims, images=images, package=package)
        self.jobs = JobController(self.store)
        self.runtime_classes: set[str] = set()
        self.service_accounts = {"default", "strongroom-job", "strongroom-keeper"}
        self.namespace, self.claim, self.settings = NAMESPACE, next(iter(claims)), {"image": next(iter(images))}
        self.rules = {resource: set(verbs) for resource, verbs in SUBMITTER_RULES.items()}
        keeper_rules = {resource: set(verbs) for resource, verbs in KEEPER_RULES.items()}
        self.people = {TOKEN: ("me", self.rules), KEEPER_TOKEN: (KEEPER, keeper_rules)}
        self.namespaces = {NAMESPACE}
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[dict] = []
        self.store.admission.append(self._admit)
        authority, chain = _certificates(directory)
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.server.cluster = self
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(chain)
        self.ended = threading.Event()
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.node.accounts = {"strongroom-keeper": {"token": KEEPER_TOKEN, "ca.crt": authority.decode()}}
        self.node.environment = {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self.server.server_port),
        }
        self.kubeconfig = directory / "kubeconfig"
        self.kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "contexts": [
                        {"name": "test", "context": {"cluster": "test", "user": "me", "namespace": NAMESPACE}}
                    ],
                    "clusters": [
                        {
                            "name": "test",
                            "cluster": {
                                "server": f"https://127.0.0.1:{self.server.server_port}",
                                "certificate-authority-data": base64.b64encode(authority).decode(),
                            },
                        }
                    ],
                    "users": [{"name": "me", "user": {"token": TOKEN}}],
                }
            )
        )

    def close(self) -> None:
        self.ended.set()
        self.jobs.close()
        self.node.close()
        self.server.shutdown()
        self.server.server_close()

    def kill(self, name: str) -> None:
        """Take a pod away at once, as a node that dies does."""
        self.store.delete("pods", NAMESPACE, name, grace=0)

    def drain(self, name: str) -> None:
        """Ask a pod to leave, as draining its node does."""
        self.store.delete("pods", NAMESPACE, name)

    def names(self, plural: str) -> list[str]:
        return [name for kind, _, name in sorted(self.store.objects) if kind == plural]

    def _admit(self, plural: str, manifest: dict) -> None:
        name = manifest.get("metadata", {}).get("name", "")
        kind = KINDS[plural]
        if problems := find_problems(manifest):
            path, value, why = problems[0]
            message = f'{kind} "{name}" is invalid: {path}: Invalid value: {json.dumps(value)}: {why}'
            raise RefusedError(422, "Invalid", message, name=name, kind=kind)
        if plural != "pods":
            return
        spec = manifest.get("spec") or {}
        if not spec.get("containers"):
            message = f'Pod "{name}" is invalid: spec.containers: Required value'
            raise RefusedError(422, "Invalid", message, name=name, kind="Pod")
        if violations := find_violations(spec):
            message = f'pods "{name}" is forbidden: violates PodSecurity "restricted:latest": {", ".join(violations)}'
            raise RefusedError(403, "Forbidden", message, name=name, kind="pods")
        account = spec.get("serviceAccountName", "default")
        if account not in self.service_accounts:
            message = (
                f'pods "{name}" is forbidden: error looking up service account {NAMESPACE}/{account}: '
                f'serviceaccount "{account}" not found'
            )
            raise RefusedError(403, "Forbidden", message, name=name, kind="pods")
        chosen = spec.get("runtimeClassName")
        if chosen and chosen not in self.runtime_classes:
            message = f'pods "{name}" is forbidden: pod rejected: RuntimeClass "{chosen}" not found'
            raise RefusedError(403, "Forbidden", message, name=name, kind="pods")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    cluster: FakeCluster

    def handle_error(self, request, client_address):
        """A client that went away is nobody's business."""

    def finish_request(self, request, client_address):
        with contextlib.suppress(OSError, ssl.SSLError):
            secure = self.cluster.tls.wrap_socket(request, server_side=True)
            try:
                self.RequestHandlerClass(secure, client_address, self)
            finally:
                with contextlib.suppress(OSError):
                    secure.shutdown(socket.SHUT_RDWR)
                secure.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_args):
        """Say nothing."""

    def do_GET(self):
        self._serve()

    def do_POST(self):
        self._serve()

    def do_DELETE(self):
        self._serve()

    def do_PATCH(self):
        self._serve()

    def _serve(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        cluster = self.server.cluster
        cluster.requests.append((self.command, self.path))
        if self.command == "POST":
            cluster.bodies.append(body)
        try:
            person = cluster.people.get(str(self.headers.get("Authorization")).removeprefix("Bearer "))
            if person is None:
                raise RefusedError(401, "Unauthorized", "Unauthorized")  # noqa: TRY301
            namespace, plural, name, sub = self._route(url.path)
            self._authorize(person, namespace, plural, sub, query, name)
            self._answer(namespace, plural, name, sub, query, body)
        except RefusedError as refused:
            self._json(refused.code, refused.status)

    def _route(self, path: str) -> tuple[str, str, str, str]:
        parts = [unquote(part) for part in path.strip("/").split("/")]
        head, rest = (parts[1:2], parts[2:]) if parts[0] == "api" else (parts[1:3], parts[3:])
        known = len(rest) >= 3 and rest[0] == "namespaces" and rest[2] in KINDS
        if not known or "/".join(head) != VERSIONS.get(rest[2], "v1"):
            raise RefusedError(404, "NotFound", "the server could not find the requested resource")
        return rest[1], rest[2], rest[3] if len(rest) > 3 else "", rest[4] if len(rest) > 4 else ""

    def _authorize(self, person, namespace: str, plural: str, sub: str, query: dict, name: str) -> None:  # noqa: PLR0917
        who, rules = person
        verb = _VERBS[self.command]
        if verb == "get" and not name:
            verb = "watch" if query.get("watch") in {"1", "true"} else "list"
        resource = f"{plural}/{sub}" if sub else plural
        # Since 1.35 a WebSocket, which begins as a GET, needs the right to create as well.
        for wanted in (verb, "create") if sub == "portforward" else (verb,):
            if wanted in rules.get(resource, set()):
                continue
            group = VERSIONS.get(plural, "").partition("/")[0]
            quoted = f' "{name}"' if name else ""
            message = (
                f'{plural}{quoted} is forbidden: User "{who}" cannot {wanted} resource "{resource}" '
                f'in API group "{group}" in the namespace "{namespace}"'
            )
            raise RefusedError(403, "Forbidden", message, kind=plural)
        if namespace not in self.server.cluster.namespaces and self.command == "POST":
            raise RefusedError(
                404, "NotFound", f'namespaces "{namespace}" not found', name=namespace, kind="namespaces"
            )

    def _answer(self, namespace, plural, name, sub, query, body) -> None:  # noqa: PLR0917
        store = self.server.cluster.store
        labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
        if sub == "log":
            self._log(store.get(plural, namespace, name), query)
        elif sub == "portforward":
            self._forward(store.get(plural, namespace, name), int(query["ports"]))
        elif self.command == "POST":
            self._json(201, store.create(plural, namespace, body))
        elif self.command == "PATCH":
            kind = self.headers.get("Content-Type", "")
            if kind != "application/merge-patch+json":
                message = "the body of the request was in an unknown format - accepted media types include: "
                raise RefusedError(415, "UnsupportedMediaType", f"{message}application/merge-patch+json")
            self._json(200, store.patch(plural, namespace, name, body))
        elif self.command == "DELETE":
            found = store.delete(plural, namespace, name, grace=body.get("gracePeriodSeconds"))
            details = {"name": name, "kind": plural, "uid": found["metadata"]["uid"]}
            done = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
            self._json(200, found if plural == "pods" else done)
        elif name:
            self._json(200, store.get(plural, namespace, name))
        elif query.get("watch") in {"1", "true"}:
            since, seconds = int(query.get("resourceVersion") or 0), float(query.get("timeoutSeconds", 300))
            events = store.watch(
                plural, namespace, labels=labels, since=since, seconds=seconds, ended=self.server.cluster.ended
            )
            self._stream("application/json", (json.dumps(one).encode() + b"\n" for one in events))
        else:
            self._json(200, store.list(plural, namespace, labels=labels, fields=fields))

    def _json(self, code: int, value: dict) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, kind: str, pieces) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _log(self, pod: dict, query: dict) -> None:
        container = pod["spec"]["containers"][0]["name"]
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        if query.get("container", container) != container:
            raise RefusedError(400, "BadRequest", f"container {query['container']} is not valid for pod {name}")
        path = self.server.cluster.node.log(uid)
        if not path.exists():
            waiting = "ContainerCreating"
            message = f'container "{container}" in pod "{name}" is waiting to start: {waiting}'
            raise RefusedError(400, "BadRequest", message)
        lines = int(query["tailLines"]) if "tailLines" in query else None
        self._stream("text/plain", self._log_pieces(path, uid, follow=query.get("follow") == "true", lines=lines))

    def _log_pieces(self, path: Path, uid: str, *, follow: bool, lines: int | None):
        cluster = self.server.cluster
        with path.open("rb") as log:
            while True:
                process = cluster.node.processes.get(uid)
                over = process is None or process.poll() is not None
                data = log.read()
                if lines is not None:
                    data = b"".join(data.splitlines(keepends=True)[-lines:])
                if data:
                    yield data
                elif over or not follow or cluster.ended.wait(0.03):
                    return

    def _forward(self, pod: dict, port: int) -> None:
        key = self.headers.get("Sec-WebSocket-Key")
        if key is None or "v4.channel.k8s.io" not in self.headers.get("Sec-WebSocket-Protocol", ""):
            raise RefusedError(400, "BadRequest", "Upgrade request required")
        accept = base64.b64encode(hashlib.sha1(key.encode() + _WEBSOCKET).digest()).decode()
        self.send_response(101)
        for name, value in (
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", accept),
            ("Sec-WebSocket-Protocol", "v4.channel.k8s.io"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        lock = threading.Lock()
        for channel in (0, 1):
            self._frame(bytes([channel]) + struct.pack("<H", port), lock)
        try:
            target = socket.create_connection((pod["status"].get("podIP", "127.0.0.1"), port), timeout=5)
        except OSError as error:
            self._frame(b"\x01" + f"error forwarding port {port} to pod: {error}".encode(), lock)
            return
        target.settimeout(None)
        with target:
            threading.Thread(target=self._back, args=(target, lock), daemon=True).start()
            with contextlib.suppress(OSError):
                while (message := self._read_frame()) is not None:
                    if message[:1] == b"\x00":
                        target.sendall(message[1:])
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)

    def _back(self, target: socket.socket, lock: threading.Lock) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := target.recv(1 << 15):
                self._frame(b"\x00" + data, lock)
            self._frame(struct.pack(">H", 1000), lock, kind=8)

    def _frame(self, data: bytes, lock: threading.Lock, *, kind: int = 2) -> None:
        size = len(data)
        head = bytes([0x80 | kind]) + (bytes([size]) if size < 126 else b"\x7e" + struct.pack(">H", size))
        with lock:
            self.wfile.write(head + data)
            self.wfile.flush()

    def _read_frame(self) -> bytes | None:
        head = self.rfile.read(2)
        if len(head) < 2 or head[0] & 15 == 8:
            return None
        size = head[1] & 127
        if size >= 126:
            size = int.from_bytes(self.rfile.read(2 if size == 126 else 8))
        mask, data = self.rfile.read(4), self.rfile.read(size)
        clear = int.from_bytes(data) ^ int.from_bytes((mask * (size // 4 + 1))[:size])
        return clear.to_bytes(size)


def _certificates(directory: Path) -> tuple[bytes, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test-cluster")])
    today = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - timedelta(hours=1))
        .not_valid_after(today + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain = directory / "server.pem"
    chain.write_bytes(pem + private)
    return pem, chain
