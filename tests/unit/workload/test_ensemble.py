"""Workers that run one program together: rounds begin again after a loss, and each output has one writer."""

import threading
from types import SimpleNamespace

import pytest

from strongroom.attestation.roles import Role
from strongroom.errors import StrongroomError, TransportError, UsageError
from strongroom.workload.ensemble import Ensemble
from strongroom.workload.handover import MessageError, encode_failure
from strongroom.workload.members import Member, MemberLostError
from strongroom.workload.mesh.roster import Round

PROGRAM = b"print(1)"
CHECKPOINT = {"name": "checkpoint", "directory": "/shared/checkpoint", "manifest": "{}"}


class Channel:
    """A worker's channel: what the driver sends is played by ``act``, which may answer, or leave."""

    def __init__(self, number, act):
        self.peer_keys = SimpleNamespace(digest=bytes([number]) * 48)
        self.act = act
        self.told = []

    def send(self, message):
        self.told.append(message)
        self.act(message)


class Crew:
    """Workers as the driver's Members list them, with a launcher that replaces whoever is lost."""

    def __init__(self, *acts):
        self.acts = list(acts)  # the first are there at once, the others replace the lost
        self.members = []
        self.ever = []

    def wait_for(self, role, count, *, deadline):
        assert role is Role.WORKER
        while len(self.members) < count:
            if not self.acts:
                raise MemberLostError("no worker comes any more")
            self._join(self.acts.pop(0))
        return list(self.members)

    def _join(self, act):
        number = len(self.ever) + 1
        member = Member(number=number, role=Role.WORKER, channel=None)
        member.channel = Channel(number, lambda message: act(self, member, message))
        self.members.append(member)
        self.ever.append(member)
        member.said.put({"type": "mesh", "host": "127.0.0.1", "port": 7000 + number})

    def lose(self, member):
        self.members.remove(member)
        member.said.put(None)


def wrote(*names):
    return [{"name": name, "directory": f"/out/{name}", "manifest": "{}"} for name in names]


def ends(*, at_rank_0=("model",), elsewhere=()):
    """Return a worker that ends each round, having written outputs."""

    def act(_crew, member, message):
        if message["type"] == "round":
            started = Round.decode(message).roster
            drafts = wrote(*(elsewhere if started.rank else at_rank_0))
            member.said.put({"type": "ended", "round": started.round, "drafts": drafts})

    return act


def fails(error, *, lost):
    def act(_crew, member, message):
        if message["type"] == "round":
            number = Round.decode(message).roster.round
            member.said.put({**encode_failure(error), "lost": lost, "round": number})

    return act


def is_lost(*, after_checkpoint=False):
    """Return a worker that is lost in its first round, perhaps after a checkpoint was kept."""

    def act(crew, member, message):
        if message["type"] == "round":
            if after_checkpoint:
                member.said.put({"type": "checkpoint", "round": 1, "step": 10, "draft": CHECKPOINT})
            crew.lose(member)

    return act


def notices_loss():
    """Return a worker that ends its part when the round is dissolved, and the whole of the next."""

    def act(crew, member, message):
        if message["type"] == "dissolve":
            lost = TransportError("a neighbour is gone")
            member.said.put({**encode_failure(lost), "lost": True, "round": message["round"]})
        elif Round.decode(message).roster.round > 1:
            ends()(crew, member, message)

    return act


def run(crew, *, size=2, outputs=("model",)):
    events = []
    ensemble = Ensemble(crew, size=size, outputs=outputs, on_event=lambda name, **facts: events.append((name, facts)))
    found = []

    def work():
        try:
            found.append(ensemble.run(PROGRAM))
        except StrongroomError as error:
            found.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(30)
    assert found, "the ensemble hangs"
    if isinstance(found[0], StrongroomError):
        raise found[0]
    return found[0], events


def rounds(member):
    return [Round.decode(one) for one in member.channel.told if one["type"] == "round"]


def test_every_worker_has_a_rank_and_knows_where_the_others_are():
    crew = Crew(ends(), ends(), ends())
    drafts, events = run(crew, size=3)
    assert [draft.name for draft in drafts] == ["model"]
    started = [rounds(member)[0] for member in crew.ever]
    assert [one.roster.rank for one in started] == [0, 1, 2]
    assert len({one.roster.places for one in started}) == 1
    assert [place.port for place in started[0].roster.places] == [7001, 7002, 7003]
    assert [place.keys for place in started[0].roster.places] == [(bytes([n]) * 48).hex() for n in (1, 2, 3)]
    assert all(one.program == PROGRAM and one.checkpoint is None for one in started)
    assert events == [("round-started", {"round": 1, "workers": 3})]


def test_lost_worker_is_replaced_and_the_program_begins_again_at_the_checkpoint():
    crew = Crew(notices_loss(), is_lost(after_checkpoint=True), ends())
    drafts, events = run(crew)
    assert [draft.name for draft in drafts] == ["model"]
    assert [name for name, _ in events] == ["round-started", "checkpoint-kept", "round-broken", "round-started"]
    again = rounds(crew.ever[2])
    assert [one.roster.round for one in again] == [2]
    assert again[0].checkpoint == CHECKPOINT
    assert [place.port for place in again[0].roster.places] == [7001, 7003]


def test_those_who_are_left_are_told_that_a_round_is_over():
    crew = Crew(notices_loss(), is_lost(), ends())
    run(crew)
    assert {"type": "dissolve", "round": 1} in crew.ever[0].channel.told
    assert not any(one["type"] == "dissolve" for one in crew.ever[1].channel.told)


def test_program_that_fails_at_one_rank_fails_the_job_in_its_own_words():
    def hears(_crew, member, message):
        if message["type"] == "dissolve":
            lost = TransportError("a neighbour is gone")
            member.said.put({**encode_failure(lost), "lost": True, "round": message["round"]})

    with pytest.raises(UsageError, match="no column 'age'"):
        run(Crew(hears, fails(UsageError("no column 'age'"), lost=False)))


def test_job_gives_up_after_as_many_rounds_as_a_launcher_replaces_workers():
    crew = Crew(*[is_lost()] * 6)
    with pytest.raises(MemberLostError, match="in each of 5 rounds"):
        run(crew, size=1)
    assert len(crew.ever) == 5


@pytest.mark.parametrize(
    ("elsewhere", "outputs", "said"),
    [(("model",), ("model",), r"ranks \[0, 1\]"), ((), ("model", "scores"), "no rank")],
    ids=["twice", "never"],
)
def test_output_that_has_not_one_writer_ends_the_job(elsewhere, outputs, said):
    crew = Crew(ends(), ends(elsewhere=elsewhere))
    with pytest.raises(UsageError, match=said):
        run(crew, outputs=outputs)


def test_end_of_an_earlier_round_is_not_taken_for_this_one():
    def late(crew, member, message):
        if message["type"] == "round":
            member.said.put({"type": "ended", "round": 99, "drafts": wrote("forged")})
            ends(at_rank_0=(), elsewhere=())(crew, member, message)

    drafts, _ = run(Crew(ends(), late))
    assert [draft.name for draft in drafts] == ["model"]


def test_worker_that_ends_without_saying_what_it_wrote_is_not_believed():
    def silent(_crew, member, message):
        if message["type"] == "round":
            member.said.put({"type": "ended", "round": 1})

    with pytest.raises(MessageError, match="without saying what it wrote"):
        run(Crew(ends(), silent))


def test_member_whose_place_is_no_place_ends_the_job():
    crew = Crew(ends())
    said = crew.wait_for(Role.WORKER, 1, deadline=1)[0].said
    said.get_nowait()
    said.put({"type": "mesh", "host": "127.0.0.1", "port": 70_000})
    with pytest.raises(MessageError, match="a place in the mesh"):
        run(crew, size=1)
