"""The key agent answers its own Java machines, one key per question, and forgets everything when it is closed."""

from __future__ import annotations

import base64
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.envelope.keys import DataKey, reveal
from strongroom.errors import EnvelopeError
from strongroom.workload import agent as agent_module
from strongroom.workload.agent import KeyAgent, KeyAgentError, admit, dismiss, parse_question
from strongroom.workload.scratch import make_scratch

KEY = DataKey.generate()


def find(key_id: str) -> DataKey:
    if key_id == "trips@1/column/fare":
        return KEY
    raise EnvelopeError(f"key {key_id!r} was\nnot released")


@pytest.fixture
def running():
    scratch = make_scratch()
    admit(os.getpid())
    with KeyAgent(find, directory=scratch) as agent:
        yield agent
    dismiss(os.getpid())
    shutil.rmtree(scratch)


def ask(agent: KeyAgent, line: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(agent.path))
        connection.sendall(line)
        return connection.makefile("rb").readline()


def test_released_key_is_given(running):
    assert ask(running, b"KEY trips@1/column/fare\n") == b"OK " + base64.b64encode(reveal(KEY)) + b"\n"


def test_other_key_is_refused_in_one_line_with_the_reason(running):
    assert ask(running, b"KEY trips@1/column/name\n") == b"NO key 'trips@1/column/name' was not released\n"


@pytest.mark.parametrize(
    "line", [b"\n", b"KEY \n", b"GIVE x\n", b"KEY a\rb\n", b"KEY \xff\n", b"KEY " + b"x" * 2000 + b"\n"]
)
def test_nonsense_is_refused(running, line):
    assert ask(running, line).startswith(b"NO ")


def test_closed_agent_answers_no_more_even_on_an_open_connection(running):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(running.path))
        connection.sendall(b"KEY trips@1/col")
        time.sleep(0.3)  # until the agent has taken the call
        running.close()
        connection.sendall(b"umn/fare\n")
        assert connection.makefile("rb").readline() == b"NO the keys were withdrawn\n"
    with pytest.raises(OSError, match=r"No such file|refused"):
        ask(running, b"KEY trips@1/column/fare\n")


def test_process_that_was_not_admitted_gets_nothing(running):
    script = (
        "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
        "s.sendall(b'KEY trips@1/column/fare\\n'); print(s.recv(999).decode())"
    )
    command = [sys.executable, "-c", script, str(running.path)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    assert said.strip() == "NO this process may not ask for keys"


def test_dismissed_process_gets_nothing(running):
    dismiss(os.getpid())
    assert ask(running, b"KEY trips@1/column/fare\n") == b"NO this process may not ask for keys\n"


def test_silent_asker_is_dropped_after_the_deadline(running, monkeypatch):
    monkeypatch.setattr(agent_module, "_DEADLINE", 0.2)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(running.path))
        assert connection.recv(10) == b""


def test_many_askers_are_answered_at_once(running):
    answers: list[bytes] = []
    askers = [
        threading.Thread(target=lambda: answers.append(ask(running, b"KEY trips@1/column/fare\n"))) for _ in range(40)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(20)
    assert len(answers) == 40
    assert len(set(answers)) == 1


def test_directory_open_to_others_is_refused(tmp_path):
    tmp_path.chmod(0o755)
    with pytest.raises(KeyAgentError, match="mode 700"):
        KeyAgent(find, directory=tmp_path).start()


def test_path_too_long_for_a_socket_is_refused(tmp_path):
    deep = tmp_path / ("x" * 120)
    deep.mkdir(mode=0o700)
    with pytest.raises(KeyAgentError, match="too long"):
        KeyAgent(find, directory=deep).start()


def test_agent_does_not_print_or_travel(running):
    assert "key" not in repr(running).replace("KeyAgent", "").replace("keys.sock", "")
    with pytest.raises(TypeError):
        pickle.dumps(running)


@given(st.binary(max_size=200))
def test_no_line_parses_to_an_empty_or_unprintable_id(line):
    try:
        key_id = parse_question(line)
    except KeyAgentError:
        return
    assert key_id
    assert key_id.isprintable()
    assert line == b"KEY " + key_id.encode()
