"""The attacker between two ends of a channel: ends TLS on both sides and carries messages across."""

from __future__ import annotations

import base64
import socket
import threading

from strongroom.attestation.secure_line import Deadline, SecureLine
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.errors import StrongroomError


class Relay:
    """Ends TLS towards both victims with keys of its own; ``rewrite`` may change each message on its way."""

    def __init__(self, target, rewrite):
        self.target, self.rewrite = target, rewrite
        self.keys = WorkloadKeys.generate()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = self.server.getsockname()
        self.carried = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        deadline = Deadline(15)
        plain, _ = self.server.accept()
        left = SecureLine(plain, keys=self.keys, server=True)
        right = SecureLine(socket.create_connection(self.target), keys=self.keys, server=False)
        try:
            left.shake_hands(deadline)
            right.shake_hands(deadline)
        except StrongroomError:
            return
        for source, sink in ((left, right), (right, left)):
            threading.Thread(target=self._carry, args=(source, sink, deadline), daemon=True).start()

    def _carry(self, source, sink, deadline):
        try:
            while True:
                message = source.receive(deadline)
                self.carried.append(sorted(message))
                sink.send(self.rewrite(self, message), deadline)
        except StrongroomError:
            source.close()
            sink.close()


def verbatim(relay, message):
    return message


def with_own_keys(relay, message):
    if "signing_key" in message:
        public = relay.keys.public
        return {
            **message,
            "signing_key": base64.b64encode(public.spki).decode(),
            "kem_key": base64.b64encode(public.kem).decode(),
        }
    return message
