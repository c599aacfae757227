"""A dataset appears whole or not at all, whatever interrupts the writing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from strongroom.envelope.staging import StorageError, replace_file, staged_directory
from strongroom.envelope.table import Layout, encrypt_table

_OWNER_AT_HOME = """
import resource, signal, sys, os
from pathlib import Path
from strongroom.envelope.custody import create_custody
from strongroom.envelope.table import Layout, encrypt_table
from strongroom.errors import EnvelopeError
from strongroom.statements import SigningKey
work = Path(sys.argv[1])
custody = create_custody(f"file:{work}/master.key", password=lambda: b"long password")
def run(**options):
    return encrypt_table(work / "in.parquet", work / "out", dataset="d", version=1,
        owner=SigningKey.generate(name="o"), custody=custody, layout=Layout(row_group_rows=1000), **options)
"""


@pytest.fixture
def work(tmp_path):
    noise = [os.urandom(40).hex() for _ in range(20_000)]
    pq.write_table(pa.table({"id": range(20_000), "text": noise}), tmp_path / "in.parquet", row_group_size=1000)
    return tmp_path


def _run(work, body, **options):
    program = _OWNER_AT_HOME + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-c", program, str(work)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_full_disk_leaves_nothing_and_says_so(work):
    """The operating system refuses to let files grow beyond 300 kB, as a full disk or a quota does."""
    process = _run(
        work,
        """
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        try:
            run()
        except EnvelopeError as error:
            print(type(error).__name__, error, "|", error.hint)
        """,
    )
    out, err = process.communicate(timeout=60)
    assert "StorageError no room left" in out, err
    assert "nothing was kept" in out
    assert sorted(path.name for path in work.iterdir()) == ["in.parquet", "master.key"]


def test_interrupt_leaves_nothing(work):
    process = _run(
        work,
        """
        def progress(done, total):
            if done > total // 3:
                print("writing", flush=True)
                import time; time.sleep(30)
        run(progress=progress)
        """,
    )
    assert process.stdout.readline() == "writing\n"
    assert any(path.name.startswith(".out.partial-") for path in work.iterdir())
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in err
    assert sorted(path.name for path in work.iterdir()) == ["in.parquet", "master.key"]


def test_kill_leaves_only_a_hidden_directory_of_ciphertext(work):
    process = _run(
        work,
        """
        def progress(done, total):
            if done > total // 3:
                print("writing", flush=True)
                import time; time.sleep(30)
        run(progress=progress)
        """,
    )
    process.stdout.readline()
    process.kill()
    process.communicate(timeout=30)
    (left,) = (path for path in work.iterdir() if path.name not in {"in.parquet", "master.key"})
    assert left.name.startswith(".out.partial-")
    marker = pq.read_table(work / "in.parquet")["text"][0].as_py().encode()
    for path in left.iterdir():
        assert path.read_bytes()[:4] == b"PARE"
        assert marker not in path.read_bytes()


def test_no_file_is_written_anywhere_else(work, tmp_path_factory):
    """Temporary directories stay empty while a table is converted: plaintext is only ever in memory."""
    spill = tmp_path_factory.mktemp("spill")
    environment = {**os.environ, "TMPDIR": str(spill), "HOME": str(spill)}
    process = _run(
        work,
        """
        seen = set()
        def progress(done, total):
            seen.update(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                        if os.path.exists(f"/proc/self/fd/{fd}"))
        run(progress=progress)
        for path in seen:
            if path.startswith("/") and not path.startswith(("/dev", "/proc", "/usr", "/etc", "/sys")):
                print(path)
        """,
        env=environment,
    )
    out, err = process.communicate(timeout=60)
    opened = [line for line in out.splitlines() if ".venv" not in line and "site-packages" not in line]
    assert process.returncode == 0, err
    assert all(line == f"{work}/in.parquet" or f"{work}/.out.partial-" in line for line in opened), opened
    assert not list(spill.iterdir())


def test_failed_custody_leaves_nothing(work, owner):
    class Unreachable:
        uri = "memory:none"

        def wrap(self, key, *, context):
            raise StorageError("key service away")

        unwrap = wrap

    with pytest.raises(StorageError, match="away"):
        encrypt_table(
            work / "in.parquet",
            work / "out",
            dataset="d",
            version=1,
            owner=owner,
            custody=Unreachable(),
            layout=Layout(),
        )
    assert [path.name for path in work.iterdir()] == ["in.parquet"]


def test_parent_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(StorageError, match="cannot write in"), staged_directory(tmp_path / "no" / "ds"):
        pass


def test_target_that_appears_meanwhile_is_kept(tmp_path):
    def write():
        with staged_directory(tmp_path / "ds") as staging:
            (staging / "mine").write_text("x")
            (tmp_path / "ds").mkdir()
            (tmp_path / "ds" / "theirs").write_text("y")

    with pytest.raises(StorageError):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["ds"]
    assert [path.name for path in (tmp_path / "ds").iterdir()] == ["theirs"]


def test_dangling_link_at_the_target_is_refused(tmp_path):
    (tmp_path / "ds").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="exists already"), staged_directory(tmp_path / "ds"):
        pass


def test_file_is_replaced_whole(tmp_path):
    replace_file(tmp_path / "f", b"one", mode=0o600)
    replace_file(tmp_path / "f", b"two", mode=0o600)
    assert (tmp_path / "f").read_bytes() == b"two"
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_staged_files_become_visible_only_at_the_end(tmp_path):
    with staged_directory(tmp_path / "ds") as staging:
        (staging / "f").write_text("x")
        assert not (tmp_path / "ds").exists()
    assert (tmp_path / "ds" / "f").read_text() == "x"
