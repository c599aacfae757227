"""Parties, and a policy and facts that agree with each other; tests change one thing at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from strongroom.policy import DataUsePolicy, Facts, parse_policy_toml, policy_template
from strongroom.statements import SigningKey

NOW = datetime(2027, 6, 1, 12, 0, tzinfo=UTC)
PROGRAM = "sha256:" + "5" * 64
WORKER = "sgx:" + "a" * 64


@pytest.fixture(scope="session")
def owner() -> SigningKey:
    return SigningKey.from_seed(b"o" * 32, name="bank")


@pytest.fixture(scope="session")
def analyst() -> SigningKey:
    return SigningKey.from_seed(b"a" * 32, name="alice")


@pytest.fixture(scope="session")
def stranger() -> SigningKey:
    return SigningKey.from_seed(b"s" * 32, name="mallory")


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def make_policy(owner: SigningKey, analyst: SigningKey) -> Callable[..., DataUsePolicy]:
    def make(**given: Any) -> DataUsePolicy:
        asked: dict[str, Any] = {
            "dataset": "accounts",
            "owner": owner.party,
            "analysts": [analyst.party],
            "purposes": ["fraud research"],
            "expires": datetime(2028, 1, 1, tzinfo=UTC),
            "approved": [PROGRAM],
            "measurements": {"driver": ["sgx:" + "d" * 64], "worker": [WORKER], "egress": ["tdx:" + "e" * 96]},
        }
        return parse_policy_toml(policy_template(**(asked | given)))

    return make


@pytest.fixture
def policy(make_policy: Callable[..., DataUsePolicy]) -> DataUsePolicy:
    return make_policy()


@pytest.fixture
def make_facts(analyst: SigningKey) -> Callable[..., Facts]:
    facts = Facts(
        dataset="accounts",
        purpose="fraud research",
        analyst=analyst.party,
        kind="spark",
        program=PROGRAM,
        role="worker",
        tier="affirming",
        simulated=False,
        tee="sgx",
        measurement=WORKER,
        tcb_status="UpToDate",
        advisories=(),
        columns=("age", "city"),
        recipients=(analyst.party,),
        uses=0,
        revoked=False,
        first_use=True,
    )
    return lambda **changes: replace(facts, **changes)
