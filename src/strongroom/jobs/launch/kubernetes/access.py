"""Find the API server and prove to it who we are, from a kubeconfig or from inside a pod, as kubectl does.

The API server is part of the untrusted host; TLS to it keeps strangers from placing pods in our name, and nothing
else rests on it. A server whose certificate is not verified is refused all the same.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from strongroom.errors import TransportError, UsageError

_POD_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PLUGIN_SECONDS = 60.0
_EARLY = timedelta(seconds=30)
_MEMORY = Path("/dev/shm")  # noqa: S108  a key is written there for the moment in which OpenSSL reads it

Headers = Callable[[], Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """An API server, how its certificate is verified, and who we are there; it prints no credential."""

    server: str
    tls: ssl.SSLContext
    namespace: str
    headers: Headers
    authority: str = ""  # certificates, in PEM, of those who vouch for the server; empty: the system's

    def __repr__(self) -> str:
        return f"Access(server={self.server!r})"


def find_access(context: str = "", *, pod: Path = _POD_FOLDER, environ: Mapping[str, str] = os.environ) -> Access:
    """Return access by the kubeconfig (``KUBECONFIG``, or ``~/.kube/config``), or the pod's own if there is none.

    Raise UsageError if neither is there, or if the kubeconfig is not one.
    """
    named = environ.get("KUBECONFIG", "")
    files = [Path(one).expanduser() for one in named.split(os.pathsep) if one] or [Path("~/.kube/config").expanduser()]
    found = [file for file in files if file.is_file()]
    if found:
        return _from_kubeconfig(found, context)
    if not named and (pod / "token").is_file() and "KUBERNETES_SERVICE_HOST" in environ:
        return _from_pod(pod, environ)
    raise UsageError(
        f"no kubeconfig: {', '.join(map(str, files))} is not there",
        hint="log in to the cluster as your administrator says, or name the file in KUBECONFIG",
    )


def _from_pod(pod: Path, environ: Mapping[str, str]) -> Access:
    host, port = environ["KUBERNETES_SERVICE_HOST"], environ.get("KUBERNETES_SERVICE_PORT", "443")
    tls = ssl.create_default_context(cafile=str(pod / "ca.crt"))
    return Access(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        tls=tls,
        namespace=(pod / "namespace").read_text().strip(),
        headers=lambda: {"Authorization": f"Bearer {(pod / 'token').read_text().strip()}"},  # it is renewed every hour
    )


def keeper_access(account: Path, servers: Sequence[str], authority: str, *, namespace: str) -> Iterator[Access]:
    """Yield access to each of ``servers`` by the token in ``account``, for a keeper to try in turn.

    ``authority`` is what the analyst's client verified the API server with; the cluster's own is taken as well.
    """
    own = account / "ca.crt"
    known = [text for text in (authority, own.read_text() if own.is_file() else "") if text]
    for server in servers:
        yield Access(
            server=server.rstrip("/"),
            tls=ssl.create_default_context(cadata="\n".join(known) or None),
            namespace=namespace,
            headers=lambda: {"Authorization": f"Bearer {(account / 'token').read_text().strip()}"},
        )


def _from_kubeconfig(files: list[Path], wanted: str) -> Access:
    import yaml

    documents = []
    for file in files:
        try:
            document = yaml.safe_load(file.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"{file} is not a kubeconfig", hint="it is YAML, as kubectl writes it") from error
        if not isinstance(document, dict):
            raise UsageError(f"{file} is not a kubeconfig", hint="it is YAML, as kubectl writes it")
        documents.append((file, document))
    name = wanted or next((str(one["current-context"]) for _, one in documents if one.get("current-context")), "")
    context, _ = _entry(documents, "contexts", "context", name)
    cluster, where = _entry(documents, "clusters", "cluster", str(context.get("cluster")))
    user, home = _entry(documents, "users", "user", str(context.get("user")))
    server = str(cluster.get("server") or "")
    if urlsplit(server).scheme != "https" or cluster.get("insecure-skip-tls-verify"):
        raise UsageError(
            f"the cluster {context.get('cluster')} is reached at {server} without verifying who answers",
            hint="put the API server's certificate authority and an https:// address into the kubeconfig",
        )
    tls = _tls(cluster, where.parent, user, home.parent)
    return Access(
        server=server.rstrip("/"),
        tls=tls,
        namespace=str(context.get("namespace") or "default"),
        headers=_identity(user, home.parent, tls),
        authority=_bytes_of(cluster, "certificate-authority", where.parent).decode(errors="replace"),
    )


def _entry(
    documents: list[tuple[Path, dict[str, Any]]], list_: str, key: str, name: str
) -> tuple[dict[str, Any], Path]:
    for file, document in documents:
        for one in document.get(list_) or ():
            if isinstance(one, dict) and one.get("name") == name and isinstance(one.get(key), dict):
                return one[key], file
    raise UsageError(
        f"the kubeconfig has no {key} {name!r}", hint="see `kubectl config get-contexts`, and name one in the settings"
    )


def _tls(cluster: Mapping[str, Any], where: Path, user: Mapping[str, Any], home: Path) -> ssl.SSLContext:
    authority = _bytes_of(cluster, "certificate-authority", where)
    try:
        tls = ssl.create_default_context(cadata=authority.decode() if authority else None)
        certificate, key = _bytes_of(user, "client-certificate", home), _bytes_of(user, "client-key", home)
        if certificate and key:
            _load_pair(tls, certificate, key)
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise UsageError(f"a certificate of the kubeconfig cannot be read: {error}", hint="log in again") from error
    return tls


def _load_pair(tls: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Hand a certificate and its key to OpenSSL, which reads files only: in memory, for a moment."""
    with tempfile.NamedTemporaryFile(dir=_MEMORY if _MEMORY.is_dir() else None, prefix=".strongroom-") as file:
        file.write(certificate + b"\n" + key)
        file.flush()
        tls.load_cert_chain(file.name)


def _bytes_of(entry: Mapping[str, Any], name: str, where: Path) -> bytes:
    if inline := entry.get(f"{name}-data"):
        try:
            return base64.b64decode(str(inline), validate=True)
        except binascii.Error as error:
            raise UsageError(f"{name}-data in the kubeconfig is not base64", hint="log in again") from error
    if path := entry.get(name):
        try:
            return (where / str(path)).read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {name} of the kubeconfig: {error.strerror}", hint="log in again") from error
    return b""


def _identity(user: Mapping[str, Any], home: Path, tls: ssl.SSLContext) -> Headers:
    if user.get("exec"):
        return ExecPlugin(user["exec"], home=home, tls=tls).headers
    if user.get("auth-provider"):
        raise UsageError(
            "the kubeconfig uses an auth-provider, which Kubernetes has given up",
            hint="log in anew with a current plug-in of your provider; it writes an exec entry",
        )
    if path := user.get("tokenFile"):
        return lambda: {"Authorization": f"Bearer {(home / str(path)).read_text().strip()}"}
    if token := user.get("token"):
        return lambda: {"Authorization": f"Bearer {token}"}
    return dict


class ExecPlugin:
    """A credential plug-in (client.authentication.k8s.io), asked again when what it gave has run out."""

    def __init__(self, entry: Mapping[str, Any], *, home: Path, tls: ssl.SSLContext) -> None:
        command = str(entry.get("command") or "")
        relative = os.sep in command and not Path(command).is_absolute()
        self._argv = [str(home / command) if relative else command, *map(str, entry.get("args") or ())]
        self._env = {str(one["name"]): str(one["value"]) for one in entry.get("env") or ()}
        self._version = str(entry.get("apiVersion") or "client.authentication.k8s.io/v1")
        self._tls = tls
        self._lock = threading.Lock()
        self._token = ""
        self._until: datetime | None = None
        self._asked = False

    def headers(self) -> Mapping[str, str]:
        """Return the header that says who we are; raise TransportError if the plug-in does not."""
        with self._lock:
            if not self._asked or (self._until is not None and datetime.now(UTC) > self._until - _EARLY):
                self._ask()
            return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def _ask(self) -> None:
        request = {"apiVersion": self._version, "kind": "ExecCredential", "spec": {"interactive": False}}
        try:
            done = subprocess.run(
                self._argv,
                env={**os.environ, **self._env, "KUBERNETES_EXEC_INFO": json.dumps(request)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                timeout=_PLUGIN_SECONDS,
                check=True,
            )
            status = json.loads(done.stdout)["status"]
            self._token = str(status.get("token") or "")
            certificate, key = status.get("clientCertificateData"), status.get("clientKeyData")
            if certificate and key:
                _load_pair(self._tls, str(certificate).encode(), str(key).encode())
            until = status.get("expirationTimestamp")
            self._until = datetime.fromisoformat(until) if until else None
            self._asked = True
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError, ssl.SSLError) as error:
            raise TransportError(
                f"the credential plug-in {self._argv[0]} gave no credential", hint="log in to the cluster again"
            ) from error
