"""Requests that wait together are computed together, each gets its own rows, and one alone does not wait."""

import threading
import time

import numpy as np
import pytest

from strongroom.errors import UsageError
from strongroom.serving.batching import Asked, Batcher, BusyError, compute


def rows(*values, kind=float):
    return {"x": np.array(values, dtype=kind)}


def wait_until(holds):
    until = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)


def serve(batcher, run):
    """Compute batches in a thread and return their sizes as they were computed."""
    sizes = []

    def work():
        while not batcher.closed:
            if batch := batcher.take():
                sizes.append(len(batch))
                compute(batch, run)

    threading.Thread(target=work, daemon=True).start()
    return sizes


def double(inputs, count):
    assert len(inputs["x"]) == count
    return {"y": inputs["x"] * 2}, "1"


def test_each_request_of_a_batch_gets_its_own_rows():
    batcher = Batcher(patience=2.0)
    asked = [Asked(inputs=rows(*range(n, 2 * n)), rows=n) for n in (1, 2, 3)]
    compute(asked, double)
    assert [one.outputs["y"].tolist() for one in asked] == [[2], [4, 6], [6, 8, 10]]
    del batcher


def test_what_one_request_provokes_is_nobody_elses():
    """Attack: rows that the program fails on, or whose score is not finite, sent beside everybody else's."""

    def divide(inputs, count):
        assert len(inputs["x"]) == count
        if (inputs["x"] == 0).any():
            raise UsageError("the program failed")
        return {"y": 1 / inputs["x"]}, "1"

    asked = [Asked(inputs=rows(value), rows=1) for value in (1, 0, 4)]
    compute(asked, divide)
    assert [None if one.outputs is None else one.outputs["y"].tolist() for one in asked] == [[1.0], None, [0.25]]
    assert [one.error is None for one in asked] == [True, False, True]
    assert all(one.done.is_set() for one in asked)


def test_requests_under_way_are_waited_for_and_computed_together():
    batcher = Batcher(patience=5.0)
    sizes = serve(batcher, double)
    for _ in range(8):
        batcher.expect()
    found = []

    def ask(number):
        found.append(batcher.ask(rows(number), rows=1)[0]["y"][0])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(found) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert sizes == [8]
    batcher.close(BusyError("over"))


def test_request_that_comes_alone_does_not_wait():
    batcher = Batcher(patience=30.0)
    serve(batcher, double)
    batcher.expect()
    started = time.monotonic()
    batcher.ask(rows(1), rows=1)
    assert time.monotonic() - started < 15
    batcher.close(BusyError("over"))


def test_batch_has_no_more_rows_than_it_may_and_only_like_shapes():
    batcher = Batcher(most_rows=4, patience=0)
    asking = []
    for place, given in enumerate((rows(1, 2), rows(3, 4), rows(5), rows(1, kind=int)), start=1):
        asking.append(threading.Thread(target=lambda given=given: batcher.ask(given, rows=len(given["x"]))))
        asking[-1].start()
        wait_until(lambda place=place: len(batcher._line) == place)
    taken = [batcher.take() for _ in range(3)]
    assert [[one.rows for one in batch] for batch in taken] == [[2, 2], [1], [1]]
    for batch in taken:
        compute(batch, double)
    for thread in asking:
        thread.join(10)


def test_one_failure_is_everybodys_in_the_batch_and_nobody_hangs():
    def fail(_inputs, _rows):
        raise UsageError("no")

    asked = [Asked(inputs=rows(1), rows=1) for _ in range(3)]
    compute(asked, fail)
    assert [str(one.error) for one in asked] == ["no"] * 3
    assert all(one.done.is_set() for one in asked)


def test_full_line_and_the_end_are_told():
    batcher = Batcher(most_waiting=0)
    with pytest.raises(BusyError, match="more requests"):
        batcher.ask(rows(1), rows=1)
    batcher = Batcher()
    outcome = []

    def ask():
        try:
            batcher.ask(rows(1), rows=1)
        except BusyError as error:
            outcome.append(error.message)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: batcher._line)
    batcher.close(BusyError("the endpoint is stopping"))
    thread.join(10)
    ask()
    assert outcome == ["the endpoint is stopping"] * 2


def test_whoever_waits_for_the_others_is_let_go_when_the_last_of_them_is_over():
    """A request that began, and that was refused before it was asked, is waited for no longer."""
    batcher = Batcher(patience=30.0)
    sizes = serve(batcher, double)
    batcher.expect()
    batcher.expect()
    found = []
    asking = threading.Thread(target=lambda: found.append(batcher.ask(rows(1), rows=1)))
    asking.start()
    batcher.drop()
    asking.join(10)
    assert found
    assert sizes == [1]
    batcher.close(BusyError("over"))


def test_end_waits_until_nothing_is_under_way():
    batcher = Batcher()
    batcher.expect()
    settling = threading.Thread(target=lambda: batcher.settle(30))
    settling.start()
    assert settling.is_alive()
    batcher.drop()
    settling.join(10)
    assert not settling.is_alive()
