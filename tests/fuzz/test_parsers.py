"""No bytes make a parser raise anything but one of our own errors: a short, repeatable run of every fuzz target."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from targets import targets

ROUNDS = 250
SLOWEST = 2.0  # seconds for one input, on a busy machine


def mutate(seed: bytes, chance: random.Random) -> bytes:
    """Return ``seed`` with a few bytes flipped, cut, doubled, replaced by extremes or by another part of itself."""
    data = bytearray(seed)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        place = chance.randrange(len(data) + 1)
        match chance.randrange(6):
            case 0 if place < len(data):
                data[place] ^= 1 << chance.randrange(8)
            case 1:
                del data[place : place + chance.choice((1, 2, 8, 64, 1024))]
            case 2:
                data[place:place] = chance.randbytes(chance.choice((1, 2, 8, 64)))
            case 3:
                data[place : place + 4] = chance.choice((b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0"))
            case 4:
                start = chance.randrange(len(data) + 1)
                data[place:place] = data[start : start + 64]
            case _:
                del data[place:]
    return bytes(data)


@pytest.mark.parametrize("name", targets())
@pytest.mark.filterwarnings("ignore")
def test_a_parser_answers_every_mutation_with_a_value_or_our_own_error(name: str) -> None:
    target = targets()[name]
    chance = random.Random(f"strongroom/{name}")
    rounds = ROUNDS // 5 if name in ("verdict", "collateral", "amd_endorsements", "explanation") else ROUNDS
    for number in range(rounds):
        data = mutate(target.seeds[number % len(target.seeds)], chance)
        started = time.monotonic()
        target.try_one(data)
        assert time.monotonic() - started < SLOWEST, data[:64].hex()


@pytest.mark.parametrize("name", targets())
@pytest.mark.filterwarnings("ignore")
def test_every_target_reaches_beyond_its_first_check(name: str) -> None:
    target = targets()[name]
    taken = [target.try_one(seed) for seed in target.seeds]
    assert all(taken) or name in ("sigstruct", "token", "pck_chain"), taken
    for data in (b"", b"\0", b"{", b"\xff" * 300, b"[" * 50_000, b'{"a":' * 50_000):
        target.try_one(data)


FOUND = sorted((Path(__file__).parent / "found").iterdir())


@pytest.mark.parametrize("file", FOUND, ids=lambda file: file.name)
@pytest.mark.filterwarnings("ignore")
def test_what_a_hunt_once_found_stays_refused(file: Path) -> None:
    name = file.name.rpartition("-")[0]
    assert targets()[name].try_one(file.read_bytes()) is False
