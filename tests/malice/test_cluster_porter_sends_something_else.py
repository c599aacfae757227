"""Attack: the cluster's porter sends paths outside the directory, links, devices, cut files, or files without end."""

import contextlib
import io
import resource
import socket
import tarfile
import threading
import time

import pytest

from strongroom.errors import TransportError
from strongroom.jobs.launch.kubernetes import carrying
from strongroom.jobs.launch.kubernetes.carrying import receive, unpack
from strongroom.jobs.launch.kubernetes.porter import pack


def archive(*entries: tuple[tarfile.TarInfo, bytes]) -> tarfile.TarFile:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for entry, data in entries:
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    buffer.seek(0)
    return tarfile.open(fileobj=buffer, mode="r|")


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


@pytest.mark.parametrize(
    "bad",
    [
        entry("/etc/passwd"),
        entry("../beside"),
        entry("a/../../beside"),
        entry("link", tarfile.SYMTYPE, "/etc/passwd"),
        entry("link", tarfile.LNKTYPE, "a"),
        entry("pipe", tarfile.FIFOTYPE),
        entry("device", tarfile.CHRTYPE),
    ],
)
def test_only_plain_files_below_the_directory_are_written(tmp_path, bad):
    target = tmp_path / "output"
    target.mkdir()
    with pytest.raises(TransportError):
        unpack(archive((entry("a"), b"good"), (bad, b"")), target)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "output"]


def test_a_file_is_not_written_twice(tmp_path):
    with pytest.raises(FileExistsError):
        unpack(archive((entry("a"), b"first"), (entry("a"), b"second")), tmp_path)


def test_files_without_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(carrying, "_MOST_FILES", 3)
    with pytest.raises(TransportError, match="without end"):
        unpack(archive(*((entry(f"f{number}"), b"") for number in range(5))), tmp_path)


def header(kind: bytes, size: int, *, name: str = "x") -> bytes:
    made = entry(name, kind)
    made.size = size
    return made.tobuf(tarfile.GNU_FORMAT)


def pax(**fields: str) -> bytes:
    made = entry("a")
    made.pax_headers = fields
    return made.tobuf(tarfile.PAX_FORMAT)


@pytest.mark.parametrize(
    "sent",
    [
        header(tarfile.XHDTYPE, 1 << 36),
        header(tarfile.XGLTYPE, 1 << 36),
        header(tarfile.GNUTYPE_LONGNAME, 1 << 36),
        header(tarfile.GNUTYPE_LONGLINK, 1 << 36),
        header(tarfile.XHDTYPE, 0) * 5000,
        header(tarfile.GNUTYPE_SPARSE, 1 << 39),
        pax(**{"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 39)}),
        pax(path="a\0b"),
        header(tarfile.XHDTYPE, 18) + b"18 hdrcharset=ab\xff\n".ljust(512, b"\0"),
    ],
    ids=["pax", "pax-global", "long-name", "long-link", "pax-chain", "sparse", "pax-sparse", "nul", "charset"],
)
def test_headers_that_would_fill_memory_or_disk_are_refused(tmp_path, sent):
    """Attack: a header announces 64 GiB of itself, another header without end, or zeros that nobody sends."""
    target = tmp_path / "output"
    target.mkdir()
    listener = socket.create_server(("127.0.0.1", 0))

    def send() -> None:
        with listener.accept()[0] as line:
            try:
                line.sendall(sent)
                while True:
                    line.sendall(bytes(1 << 20))
            except OSError:
                pass  # the other side has seen enough

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with listener, pytest.raises(TransportError):
        receive(listener.getsockname()[:2], target)
    sender.join(20)
    assert not sender.is_alive()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB
    assert not [path for path in target.rglob("*") if path.stat().st_size > 1 << 20]


def test_porter_follows_no_link_out_of_the_output(tmp_path):
    """Attack: a job's directory is made to hold a link to the node's files before somebody fetches it."""
    (tmp_path / "outside").write_bytes(b"not of the output")
    place = tmp_path / "output"
    (place / "deep").mkdir(parents=True)
    (place / "deep" / "file").write_bytes(b"ciphertext" * 100_000)
    (place / "link").symlink_to(tmp_path / "outside")
    ours, theirs = socket.socketpair()

    def send() -> None:
        pack(place, theirs)
        theirs.close()

    sender = threading.Thread(target=send)
    sender.start()
    target = tmp_path / "target"
    target.mkdir()
    with ours, ours.makefile("rb") as pipe, tarfile.open(fileobj=pipe, mode="r|") as tar:
        unpack(tar, target)
    sender.join()
    assert [path.name for path in target.rglob("*") if path.is_file()] == ["file"]
    assert (target / "deep" / "file").read_bytes() == b"ciphertext" * 100_000


def test_a_porter_that_drips_is_given_up(tmp_path):
    """Attack: a byte now and then, so that no wait for one is ever too long."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip():
            line, _ = listener.accept()
            with line, contextlib.suppress(OSError):
                for byte in header(tarfile.REGTYPE, 1 << 20):
                    line.sendall(bytes([byte]))
                    time.sleep(0.05)

        threading.Thread(target=drip, daemon=True).start()
        begun = time.monotonic()
        with pytest.raises(TransportError, match="fewer than"):
            receive(listener.getsockname()[:2], tmp_path, patience=0.5)
        assert time.monotonic() - begun < 5
