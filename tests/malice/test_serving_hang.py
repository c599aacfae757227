"""Something breaks in the thread that computes; whoever asked would wait for an answer that nobody gives."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from serving_world import SIMPLE, Here, ask, simple_world

from strongroom.errors import StrongroomError
from strongroom.serving import model as serving_model
from strongroom.serving.batching import Batcher
from strongroom.serving.model import Loaded, Model
from strongroom.workload.ending import DefectError


class Breaking(Batcher):
    """A line that breaks in the thread that computes, with the requests that it took, as soon as ``broken`` says so."""

    def __init__(self, **more) -> None:
        super().__init__(**more)
        self.broken = threading.Event()

    def take(self):
        batch = super().take()
        if batch and self.broken.is_set():
            raise ZeroDivisionError("row 17: 54 years")
        return batch


def model_of(line, *, chat=None):
    model = Model(b"", rules=SimpleNamespace(), writable=(), batcher=line)
    model._loaded = Loaded(version="1", names="m@1", model=None, predict=None, chat=chat, declared=None)
    return model


def test_everybody_who_waits_is_told_when_the_line_breaks(monkeypatch):
    monkeypatch.setattr(serving_model, "confine", lambda *_, **__: None)
    line = Breaking()
    line.broken.set()
    model = model_of(line)
    told = []

    def wait_for_answer():
        try:
            line.ask({"x": np.zeros(1)}, rows=1)
        except StrongroomError as error:
            told.append(error.message)

    asking = [threading.Thread(target=wait_for_answer) for _ in range(4)]
    for thread in asking:
        thread.start()
    model.start()
    for thread in asking:
        thread.join(20)
    assert len(told) == 4
    assert all("unexpected ZeroDivisionError" in one and "54" not in one for one in told), told
    assert isinstance(model.broken, DefectError)
    assert not model.ready
    wait_for_answer()
    assert told[-1] == model.broken.message, "who comes later does not wait either"


def test_thread_that_cannot_be_confined_computes_nothing_and_says_so(monkeypatch):
    def refuse(*_, **__):
        raise OSError(1, "no Landlock")

    monkeypatch.setattr(serving_model, "confine", refuse)
    line = Batcher()
    model = model_of(line)
    model.start()
    with pytest.raises(StrongroomError, match="operation not permitted"):
        line.ask({"x": np.zeros(1)}, rows=1)


def test_conversation_that_nobody_goes_on_with_ends_with_the_reason(monkeypatch):
    monkeypatch.setattr(serving_model, "confine", lambda *_, **__: None)
    begun = threading.Event()

    def chat(_model, _messages, _settings):
        yield "yes"
        begun.wait(20)

    model = model_of(Batcher(), chat=chat)
    model.start()
    pieces = model.chat(model.loaded, [], {"max_tokens": 4})
    assert next(pieces) == "yes"
    model.close(StrongroomError("its keys were withdrawn"))
    with pytest.raises(StrongroomError, match="keys were withdrawn"):
        next(pieces)
    begun.set()


def test_endpoint_in_which_nobody_computes_any_more_tells_its_callers_and_ends_with_the_reason(tmp_path, monkeypatch):
    """It runs in this process, which cannot confine a thread of its own and go on."""
    monkeypatch.setattr(serving_model, "confine", lambda *_, **__: None)
    line = Breaking()
    with simple_world(tmp_path) as world:
        host = Here(world, monkeypatch, batcher=line)
        endpoint = world.serve(world.serve_job("simple", program=SIMPLE), host=host)
        try:
            with world.asking(endpoint) as client:
                assert ask(client, [[1.0, 0.0]]).status_code == 200
                line.broken.set()
                answer = ask(client, [[1.0, 0.0]])
            assert answer.status_code == 500
            assert "unexpected ZeroDivisionError" in answer.json()["error"]
            with pytest.raises(StrongroomError, match="unexpected ZeroDivisionError"):
                endpoint.wait(60)
            assert host.wait(60) == DefectError.exit_code
        finally:
            endpoint.stop()
