"""A caller opens connection after connection, each with a request of many megabytes begun, so that others get none."""

import pytest

from strongroom.errors import StrongroomError
from strongroom.serving.connections import Connections


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
