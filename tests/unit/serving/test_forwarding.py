"""The proxy's channels are used again while they are good, and whatever becomes of an answer, nothing stays behind."""

import pytest

from strongroom.errors import TransportError
from strongroom.serving.forwarding import MOST_CHANNELS, Ways
from strongroom.serving.http import Request

WHOLE = b"HTTP/1.1 200 \r\ncontent-length: 5\r\n\r\nwhole"
LAST = b"HTTP/1.1 200 \r\ncontent-length: 4\r\nconnection: close\r\n\r\nlast"
IN_PIECES = b"HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n"
ASKED = Request(method="POST", path="/v2/models/x/infer", headers={}, body=b"{}")


class Channel:
    """Plays an attested channel whose other end always answers the same, and then hangs up."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.sent: list[bytes] = []
        self.closed = self.hung_up = False

    def write(self, data, *, deadline=60):
        self.sent.append(data)

    def read(self, _most, *, deadline=60):
        said, self.answer = self.answer, b""
        if not self.closed and not said:
            raise TransportError("the other side closed the connection")
        return said

    def has_arrived(self):
        return self.hung_up

    def close(self):
        self.closed = True


class Attester:
    """Plays what attests an endpoint, and remembers the channels."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = list(answers)
        self.opened: list[Channel] = []

    def open(self):
        self.opened.append(Channel(self._answers.pop(0)))
        return self.opened[-1]


def whole(ways):
    return b"".join(ways.ask(ASKED, headers=[("accept", "*/*")]).pieces)


def test_request_is_sent_as_it_came_under_the_endpoints_name():
    attester = Attester(WHOLE)
    assert whole(Ways(attester, reattest=300)) == b"whole"
    (sent,) = attester.opened[0].sent
    head, _, body = sent.partition(b"\r\n\r\n")
    assert head.splitlines() == [
        b"POST /v2/models/x/infer HTTP/1.1",
        b"host: endpoint",
        b"accept: */*",
        b"content-length: 2",
    ]
    assert body == b"{}"


def test_channel_is_used_again():
    attester = Attester(WHOLE)
    ways = Ways(attester, reattest=300)
    whole(ways)
    attester.opened[0].answer = WHOLE
    assert whole(ways) == b"whole"
    assert len(attester.opened) == 1


def test_channel_that_was_attested_too_long_ago_is_left():
    attester = Attester(WHOLE, WHOLE)
    ways = Ways(attester, reattest=0)
    assert [whole(ways), whole(ways)] == [b"whole", b"whole"]
    assert attester.opened[0].closed


def test_channel_whose_other_end_hung_up_is_left():
    attester = Attester(WHOLE, WHOLE)
    ways = Ways(attester, reattest=300)
    whole(ways)
    attester.opened[0].hung_up = True
    assert whole(ways) == b"whole"
    assert attester.opened[0].closed


def test_channel_that_the_endpoint_ends_with_its_answer_is_left():
    attester = Attester(LAST, WHOLE)
    ways = Ways(attester, reattest=300)
    assert [whole(ways), whole(ways)] == [b"last", b"whole"]
    assert attester.opened[0].closed


def test_answer_that_breaks_off_is_an_error_and_closes_the_channel():
    attester = Attester(IN_PIECES)
    answer = Ways(attester, reattest=300).ask(ASKED, headers=[])
    with pytest.raises(TransportError):
        list(answer.pieces)
    assert attester.opened[0].closed


def test_endpoint_that_speaks_no_http_is_an_error_and_closes_the_channel():
    attester = Attester(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")
    with pytest.raises(TransportError, match="hung up"):
        Ways(attester, reattest=300).ask(ASKED, headers=[])
    assert attester.opened[0].closed


@pytest.mark.parametrize("read", [0, 1])
def test_answers_that_nobody_reads_to_the_end_use_up_nothing(read):
    count = MOST_CHANNELS + 1
    attester = Attester(*[IN_PIECES] * count)
    ways = Ways(attester, reattest=300)
    for _ in range(count):
        answer = ways.ask(ASKED, headers=[])
        for _ in range(read):
            next(answer.pieces)
        del answer
    assert all(one.closed for one in attester.opened)


def test_no_channel_stays_open_after_the_end():
    attester = Attester(WHOLE)
    ways = Ways(attester, reattest=300)
    whole(ways)
    attester.opened[0].answer = WHOLE
    late = ways.ask(ASKED, headers=[])
    ways.close()
    assert b"".join(late.pieces) == b"whole"
    assert all(one.closed for one in attester.opened)
