"""Lend a pod's port to this machine through the API server, as ``kubectl port-forward`` does.

What passes is the attested channel's ciphertext; the API server and the node may read, delay and drop it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from strongroom.errors import TransportError
from strongroom.jobs.launch.kubernetes.access import Access

if TYPE_CHECKING:
    import websocket

_OPEN_SECONDS = 30.0
_PIECE = 1 << 16
_DATA, _ERROR = 0, 1
_PROTOCOL = "v4.channel.k8s.io"


class Tunnel:
    """A local address; every connection to it opens one more stream to the pod."""

    def __init__(self, url: str, *, access: Access, port: int) -> None:
        self._url = url
        self._access = access
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._trouble = ""
        threading.Thread(target=self._accept, name="tunnel", daemon=True).start()

    @property
    def address(self) -> tuple[str, int]:
        """Return where to connect on this machine."""
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    @property
    def trouble(self) -> str:
        """Return what the pod's node said about a connection that it could not make, or nothing."""
        return self._trouble

    def close(self) -> None:
        """End every connection; safe to call twice."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(caller,), name="tunnel-stream", daemon=True).start()

    def _carry(self, caller: socket.socket) -> None:
        with caller:
            try:
                line = self._connect()
            except TransportError as error:
                self._trouble = error.message
                return
            with self._lock:
                self._open.add(caller)
            back = threading.Thread(target=self._bring_back, args=(line, caller), name="tunnel-back", daemon=True)
            back.start()
            try:
                while piece := caller.recv(_PIECE):
                    line.send_binary(bytes([_DATA]) + piece)
            except Exception as error:  # noqa: BLE001  either side may end in many ways, and all mean the end
                self._trouble = self._trouble or type(error).__name__
            finally:
                with contextlib.suppress(Exception):
                    line.close(timeout=1)
                back.join(_OPEN_SECONDS)
                with self._lock:
                    self._open.discard(caller)

    def _bring_back(self, line: websocket.WebSocket, caller: socket.socket) -> None:
        greeted: set[int] = set()
        try:
            while message := line.recv():
                data = message if isinstance(message, bytes) else message.encode()
                channel, data = data[0], data[1:]
                if channel not in greeted:  # the first message of a channel repeats the port's number
                    greeted.add(channel)
                    data = data[2:]
                if channel == _DATA and data:
                    caller.sendall(data)
                elif channel == _ERROR and data:
                    self._trouble = data.decode(errors="replace")[:300]
                    break
        except Exception as error:  # noqa: BLE001  either side may end in many ways, and all mean the end
            self._trouble = self._trouble or type(error).__name__
        with contextlib.suppress(OSError):
            caller.shutdown(socket.SHUT_RDWR)

    def _connect(self) -> websocket.WebSocket:
        import websocket

        headers = [f"{name}: {value}" for name, value in self._access.headers().items()]
        try:
            line = websocket.create_connection(
                self._url,
                timeout=_OPEN_SECONDS,
                header=headers,
                subprotocols=[_PROTOCOL],
                sslopt={"context": self._access.tls},
                enable_multithread=True,
            )
        except (OSError, websocket.WebSocketException) as error:
            raise TransportError(
                f"the API server opens no tunnel to port {self._port}: {str(error)[:200]}",
                hint='ask for the right pods/portforward, or submit from inside the cluster with reach = "pod-ip"',
            ) from error
        line.settimeout(None)
        return line
