"""The host kills the broker (SIGKILL) between any two steps of the journey, and while the job runs."""

import itertools

import pytest
from small_world import SmallWorld, expected_answer

from strongroom.errors import StrongroomError
from strongroom.ledger.export import check_export

EVENTS = ("broker-attested", "keys-released", "program-started", "member-admitted", "program-ended", "egress-ruled")


@pytest.mark.slow
def test_journey_continues_over_a_broker_that_is_killed_between_every_two_steps(tmp_path):
    world = SmallWorld.make(tmp_path / "world", lease=60)

    def again():
        world.kill_broker()
        world.start_broker()

    try:
        world.start_broker()
        again()
        world.enrol_everyone()
        again()
        world.analyst_door().enrol_member(world.identity(world.partner))
        for home in world.owners.values():
            again()
            world.register(home, approvals=1)
        again()
        analyst, door = world.analyst, world.analyst_door()
        submitted = analyst.submit(world.write_job(), broker=door)
        again()
        launcher = analyst.launch(submitted, host=world.platform, engine="embedded", directory=world.job_directory())
        try:
            channel = analyst.attest_driver(submitted, launcher.start_address)
            again()
            analyst.hand_over(submitted, channel, broker=door)
            report = analyst.follow(submitted, channel, on_event=lambda _name, _facts: None)
        finally:
            launcher.stop()
        again()
        shop = world.owners["shop"]
        (waiting,) = shop.owner.pending(broker=shop.broker)
        again()
        shop.owner.approve(waiting, broker=shop.broker)
        again()
        assert world.fetch(report) == expected_answer()
        again()
        door.export(tmp_path / "export")
        remembered = analyst.memory.recall()[1].checkpoint
        assert check_export(tmp_path / "export", door.ledger_key, remembered=remembered).good
    finally:
        world.close()


@pytest.mark.slow
def test_job_goes_on_or_fails_clearly_when_the_broker_is_killed_at_any_moment_of_it(tmp_path):
    world = SmallWorld.make(tmp_path / "world", lease=60).open()
    outcomes = []
    try:
        for at in EVENTS:
            once = itertools.count()

            def kill(name, _facts, at=at, once=once):
                if name == at and next(once) == 0:
                    world.kill_broker()
                    world.start_broker()

            try:
                report = world.run(on_event=kill)
            except StrongroomError as error:  # a request was on its way when the broker died
                outcomes.append(f"{at}: {error.message}")
            else:
                assert world.fetch(report) == expected_answer()
                outcomes.append("right")
        assert all(outcome == "right" or "broker" in outcome for outcome in outcomes), outcomes
        assert outcomes.count("right") >= 3, outcomes
        assert world.fetch(world.run()) == expected_answer()  # and nothing is left of it all
    finally:
        world.close()
