"""Find the address under which this machine is known to another, without asking a name service."""

from __future__ import annotations

import socket

from strongroom.errors import TransportError


def own_address(peer: tuple[str, int]) -> str:
    """Return the address of this machine on the way to ``peer``; nothing is sent.

    Raise TransportError if there is no way there.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(*peer, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # for a datagram socket this only looks up the route
            return str(probe.getsockname()[0])
    except OSError as error:
        raise TransportError(
            f"there is no way to the driver at {peer[0]}: {error.strerror}", hint="check the cluster's network"
        ) from error
