"""Somebody with a ticket attests again and again, so that the sessions of everybody else have to give way."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from strongroom.attestation.roles import Role
from strongroom.broker.release import TeeFacts
from strongroom.broker.sessions import MAX_SESSIONS, Session, Sessions

NOW = datetime(2026, 3, 1, tzinfo=UTC)
RESULT = SimpleNamespace(tier="warning", simulated=False, tee="sgx", measurement="sgx:0", tcb_status="", advisories=())
TEE = TeeFacts.of(RESULT, role="driver")
HOUR = timedelta(hours=1)


def begin(sessions: Sessions, party: str, *, released: bool) -> Session:
    session = sessions.start(
        role=Role.DRIVER, job=f"{party}s", party=party, tee=TEE, result=RESULT, key_text="", now=NOW
    )
    if released:
        session.held_until = NOW + HOUR
    return session


def still_open(sessions: Sessions, *wanted: Session) -> int:
    known = {one.id for one in sessions.open_at(NOW)}
    return sum(one.id in known for one in wanted)


def test_workload_that_gets_no_keys_pushes_nobody_out_however_often_it_attests() -> None:
    sessions = Sessions()
    honest = [begin(sessions, "ann", released=True) for _ in range(10_000)]
    small = [begin(sessions, "bob", released=True) for _ in range(3)]
    fresh = [begin(sessions, "carol", released=False) for _ in range(20)]  # attested, and about to ask for keys
    for _ in range(2 * MAX_SESSIONS):
        begin(sessions, "mallory", released=False)
    assert still_open(sessions, *honest) == len(honest)
    assert still_open(sessions, *small, *fresh) == len(small) + len(fresh)


def test_job_that_gets_keys_and_fills_the_table_pushes_out_its_own_first() -> None:
    sessions = Sessions()
    small = [begin(sessions, "bob", released=True) for _ in range(100)]
    for _ in range(2 * MAX_SESSIONS):
        newest = begin(sessions, "mallory", released=True)
    assert still_open(sessions, *small, newest) == len(small) + 1


def test_analyst_with_many_jobs_counts_as_one() -> None:
    sessions = Sessions()
    honest = [begin(sessions, "ann", released=True) for _ in range(5_000)]
    for number in range(2 * MAX_SESSIONS):
        sessions.start(
            role=Role.DRIVER, job=f"job {number}", party="mallory", tee=TEE, result=RESULT, key_text="", now=NOW
        )
    assert still_open(sessions, *honest) == len(honest)


@pytest.mark.parametrize("released", [True, False])
def test_table_stays_bounded_and_the_newest_session_is_always_open(released: bool) -> None:
    sessions = Sessions()
    for _ in range(MAX_SESSIONS + 5_000):
        newest = begin(sessions, "ann", released=released)
    assert sessions.open_at(NOW)[-1] is newest
    assert len(sessions.open_at(NOW)) <= MAX_SESSIONS


def test_sessions_that_ended_give_way_before_any_that_did_not() -> None:
    sessions = Sessions()
    for _ in range(MAX_SESSIONS):
        begin(sessions, "mallory", released=False)
    later = NOW + HOUR
    sessions.start(role=Role.DRIVER, job="j", party="ann", tee=TEE, result=RESULT, key_text="", now=later)
    assert len(sessions.open_at(NOW)) == 1
