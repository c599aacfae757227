"""The journey by the SDK, from encrypted tables of two owners to a result that only its recipients can read."""

import time
from datetime import timedelta

import pytest
from small_world import LONG_QUERY, abandoned, expected_answer, plaintext_in, scratch_directories

from strongroom.errors import RefusedError, StrongroomError


@pytest.fixture(autouse=True)
def usual_policies(world):
    """Each test begins under the usual policies, whatever the one before agreed to."""
    yield
    world.permit_all()


def test_two_owners_tables_are_joined_and_the_answer_is_right(world):
    before = scratch_directories()
    report = world.run()
    assert world.fetch(report) == expected_answer()
    assert report.simulated
    assert plaintext_in(world.directory) == []
    assert abandoned(before) == set()
    with pytest.raises(StrongroomError):
        world.fetch(report, by=world.partner)  # it is not among the recipients of this output


def test_result_waits_for_two_of_two_approvals_and_every_recipient_can_read_it_then(world):
    world.permit_all(approvals=2)
    report = world.run(world.write_job(recipients=("analyst", "partner")))
    assert report.outputs[0]["state"] == "pending"
    with pytest.raises(RefusedError, match=r"refused|approval") as refused:
        world.fetch(report)
    assert any("0 of 2 approvals" in reason for reason in refused.value.reasons)
    for count, name in enumerate(("shop", "bank"), start=1):
        owner = world.owners[name]
        (waiting,) = [
            one for one in owner.owner.pending(broker=owner.broker) if one.output_id == report.outputs[0]["id"]
        ]
        assert waiting.digest == report.outputs[0]["digest"]
        owner.owner.approve(waiting, broker=owner.broker)
        if count == 1:
            with pytest.raises(RefusedError) as refused:
                world.fetch(report)
            assert any("1 of 2 approvals" in reason for reason in refused.value.reasons)
    assert world.fetch(report) == expected_answer()
    assert world.fetch(report, by=world.partner) == expected_answer()


def test_one_owner_that_does_not_permit_the_purpose_refuses_for_all(world):
    world.permit("bank", purposes=("fraud-detection",))
    with pytest.raises(RefusedError) as refused:
        world.run()
    assert any(reason.startswith("accounts: ") and "purpose" in reason for reason in refused.value.reasons)
    assert not any(reason.startswith("sales: ") for reason in refused.value.reasons)


def test_policy_that_expired_refuses_submission_and_fetching(world):
    report = world.run()
    world.permit("shop", expires=timedelta(seconds=2))
    time.sleep(2.1)
    for attempt in (world.run, lambda: world.fetch(report)):
        with pytest.raises(RefusedError) as refused:
            attempt()
        assert any("expired" in reason for reason in refused.value.reasons)


def test_dataset_that_was_opened_as_often_as_permitted_is_not_opened_again(world):
    used = len({entry.facts["job"] for entry in world.entries("grant")})
    world.permit("shop", max_uses=used + 1)
    report = world.run()
    with pytest.raises(RefusedError) as refused:
        world.run()
    assert any("at most" in reason for reason in refused.value.reasons)
    assert world.fetch(report) == expected_answer()


def test_output_of_more_rows_than_any_owner_permits_does_not_leave(world):
    world.permit("bank", max_rows=3)
    with pytest.raises(RefusedError) as refused:
        world.run()
    assert refused.value.reasons == ("output 'baskets' has 4 rows, the owners permit at most 3",)
    assert any(entry.reasons == refused.value.reasons for entry in world.entries("output"))


def test_policy_changed_between_submission_and_release_is_the_one_that_counts(world):
    def forbid(name, _facts):
        if name == "driver-attested":  # the job was accepted, and the driver has no key yet
            world.permit("shop", purposes=("nothing-of-the-kind",))

    with pytest.raises(RefusedError) as refused:
        world.run(on_event=forbid)
    assert any("purpose" in reason for reason in refused.value.reasons)
    assert str(world.entries("refusal")[-1].kind) == "refusal"


def test_policy_changed_while_the_program_runs_lets_nothing_out(world):
    def tighten(name, _facts):
        if name == "program-started":
            world.permit("shop", minimum_group=101)

    with pytest.raises(RefusedError) as refused:
        world.run(on_event=tighten)
    assert any("policies changed" in reason for reason in refused.value.reasons)


def test_groups_smaller_than_the_strictest_owner_permits_are_left_out(world):
    # Few accounts stand behind the sales to businesses, however many those are.
    world.permit("bank", minimum_group=50)
    report = world.run()
    assert world.fetch(report) == [row for row in expected_answer() if row["segment"] == "private"]


def test_revocation_stops_a_running_job_and_everything_after_it(tmp_path_factory):
    from small_world import small_world

    with small_world(tmp_path_factory.mktemp("revoked")) as world:
        shop = world.owners["shop"]
        finished = world.run()
        seen = []

        def revoke(name, _facts):
            seen.append(name)
            if name == "program-started":
                shop.owner.revoke("sales", broker=shop.broker, reason="changed our mind")

        started = time.monotonic()
        with pytest.raises(RefusedError) as refused:
            world.run(world.write_job(program=LONG_QUERY), on_event=revoke)
        assert time.monotonic() - started < 60
        assert "program-ended" not in seen
        assert any("revoked" in reason for reason in refused.value.reasons)
        for attempt in (world.run, lambda: world.fetch(finished)):  # also what was finished before
            with pytest.raises(RefusedError) as refused:
                attempt()
            assert any("revoked" in reason for reason in refused.value.reasons)
