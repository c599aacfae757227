"""Read every packet that crosses this machine's loopback interface, as whoever owns the machine can."""

import socket
import struct
import threading
from contextlib import contextmanager

import pytest

EVERY_PROTOCOL = 0x0003  # ETH_P_ALL


@contextmanager
def every_packet():
    """All that crosses the loopback interface meanwhile, as the kernel shows it to whoever owns the machine."""
    try:
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERY_PROTOCOL))
    except PermissionError:
        pytest.skip("capturing packets needs the rights of root")
    tap.setsockopt(socket.SOL_SOCKET, 33, 256 << 20)  # SO_RCVBUFFORCE: lose nothing on a busy machine
    tap.bind(("lo", 0))
    tap.settimeout(0.2)
    seen, over = [], threading.Event()

    def read() -> None:
        while True:
            try:
                seen.append(tap.recv(1 << 17))
            except TimeoutError:
                if over.is_set():
                    return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield seen
    finally:
        over.set()
        reader.join()
        tap.close()


def found(packets, needle: bytes) -> int:
    return sum(needle in packet for packet in packets)


def ports(packet: bytes) -> tuple[int, int]:
    """The two ports of a TCP packet over IPv4 in an Ethernet frame; zeros for any other."""
    if packet[12:14] != b"\x08\x00" or packet[23] != socket.IPPROTO_TCP:
        return (0, 0)
    start = 14 + 4 * (packet[14] & 15)
    return struct.unpack_from("!HH", packet, start)
