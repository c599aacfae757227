"""A caller opens connection after connection, each with a request of many megabytes begun, so that others get none."""

import threading
import time
from types import SimpleNamespace

import pytest

from strongroom.errors import StrongroomError
from strongroom.serving.batching import Batcher, BusyError
from strongroom.serving.connections import Connections
from strongroom.serving.http import Request, Response, serve_http
from strongroom.serving.model import CHAT_THREADS, Loaded, Model
from strongroom.serving.routes import Caller
from strongroom.statements import SigningKey


class Channel:
    closed = False

    def close(self):
        self.closed = True


def test_caller_takes_no_more_than_its_part_and_others_come_in():
    kept = Connections(most_of_caller=3)
    first, *rest = (Channel() for _ in range(3))
    for channel in (first, *rest):
        kept.take(channel, caller="ann")
    with pytest.raises(StrongroomError, match="3 connections to the endpoint already"):
        kept.take(Channel(), caller="ann")
    kept.take(other := Channel(), caller="bob")
    kept.drop(first)
    kept.drop(first)
    kept.take(Channel(), caller="ann")
    kept.close()
    assert (first.closed, other.closed, *(one.closed for one in rest)) == (False, True, True, True)


class Wire:
    """Sends ``data`` to a server that reads, and keeps what it answers; at the end it waits until it is let go."""

    def __init__(self, data, *, go=None):
        self._data, self._go, self.said = [data], go, b""

    def read(self, most, *, deadline):
        assert deadline
        if not self._data:
            if self._go is not None:
                self._go.wait(20)
            return b""
        part, rest = self._data[0][:most], self._data[0][most:]
        self._data = [rest] if rest else []
        return part

    def write(self, data):
        self.said += data

    def close(self):
        pass


def post(octets, *, of=None):
    return b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (of or octets) + bytes(octets)


def serve(kept, wire, caller):
    serve_http(wire, lambda _request: Response(status=200, body=b"{}"), allowance=kept.allowance(caller))
    return wire.said.partition(b"\r\n")[0]


def test_requests_of_one_caller_hold_a_bounded_part_of_the_memory_together():
    """Attack: many connections, each with a request that is never finished."""
    kept, go = Connections(most_bytes=1 << 20), threading.Event()
    begun = threading.Thread(target=serve, args=(kept, Wire(post(800_000, of=900_000), go=go), "ann"))
    begun.start()
    until = time.monotonic() + 20
    while kept._bytes["ann"] < 800_000 and time.monotonic() < until:
        time.sleep(0.01)
    assert b" 503 " in serve(kept, Wire(post(800_000)), "ann")
    assert b" 200 " in serve(kept, Wire(post(200_000)), "ann")
    assert b" 200 " in serve(kept, Wire(post(800_000)), "bob")
    go.set()
    begun.join(20)
    assert b" 200 " in serve(kept, Wire(post(800_000)), "ann")
    assert kept._bytes["ann"] == kept._bytes["bob"] == 0


def test_conversations_that_nobody_reads_hold_up_no_others(tmp_path):
    """Attack: as many conversations as there are threads are begun, and their answers are not read."""
    model = Model(b"", rules=None, writable=(tmp_path,), batcher=Batcher())
    loaded = Loaded(
        version="1",
        names="m@1",
        model=None,
        predict=None,
        chat=lambda _model, _messages, settings: (str(number) for number in range(settings["max_tokens"])),
        declared=None,
    )
    model.start()
    try:
        unread = [model.chat(loaded, [], {"max_tokens": 2000}) for _ in range(CHAT_THREADS)]
        heard = []
        reader = threading.Thread(
            target=lambda: heard.append(next(model.chat(loaded, [], {"max_tokens": 1}))), daemon=True
        )
        reader.start()
        reader.join(20)
        assert heard == ["0"]
        assert [len(list(one)) for one in unread] == [2000] * CHAT_THREADS
    finally:
        model.close(BusyError("over"))


def test_caller_whom_an_owner_took_out_asks_no_more_on_an_older_channel():
    ann, bob = (SigningKey.generate(name=name).party for name in ("ann", "bob"))
    model = SimpleNamespace(rules=SimpleNamespace(callers=(ann, bob)), ready=True)
    accounts = SimpleNamespace(refuse=lambda: None)
    caller = Caller(ann.fingerprint, name="m", job="j", model=model, batcher=None, accounts=accounts)
    asked = Request(method="GET", path="/v2/health/ready", headers={}, body=b"")
    assert caller.handle(asked).status == 200
    model.rules = SimpleNamespace(callers=(bob,))
    answer = caller.handle(asked)
    assert answer.status == 403
    assert b"may ask no more" in answer.body
