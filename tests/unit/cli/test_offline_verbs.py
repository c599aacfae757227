"""The verbs that need no broker: identity, encrypt, permit, inspect, measure, broker trust, submit --dry-run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from strongroom.cli.journey import run
from strongroom.errors import UsageError

PASSWORD = "correct horse battery"
Told = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An owner's desk: a home with an identity, a password file and a small CSV."""
    place = tmp_path_factory.mktemp("desk")
    (place / "password").write_text(PASSWORD + "\n")
    (place / "people.csv").write_text("id,city,age\n" + "".join(f"{n},Samarkand{n % 3},{n % 90}\n" for n in range(300)))
    assert run([*identity(place), "--name", "clinic", "--role", "owner"]) == 0
    return place


def identity(desk: Path) -> list[str]:
    return ["identity", *at(desk)]


def at(desk: Path) -> list[str]:
    return ["--home", str(desk / "home"), "--password-file", str(desk / "password")]


def answer(words: list[str], told: Told, *, code: int = 0) -> dict[str, object]:
    told.readouterr()
    assert run([*words, "--json"]) == code
    return json.loads(told.readouterr().out)


def test_identity_prints_the_party_id_alone(desk: Path, capsys: Told) -> None:
    capsys.readouterr()
    assert run(identity(desk)) == 0
    assert re.fullmatch(r"clinic:[0-9a-f]{32}\n", capsys.readouterr().out)


def test_home_may_come_from_the_environment(desk: Path, capsys: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRONGROOM_HOME", str(desk / "home"))
    assert answer(["identity"], capsys)["role"] == "owner"


def test_identity_is_not_made_over_another(desk: Path, capsys: Told) -> None:
    told = answer([*identity(desk), "--name", "thief", "--role", "owner"], capsys, code=2)
    assert "already is the home of clinic" in told["error"]["message"]


def test_identity_without_a_role_says_which_there_are(tmp_path: Path, capsys: Told) -> None:
    told = answer(["identity", "--name", "a", "--home", str(tmp_path)], capsys, code=2)
    assert "owner, analyst, auditor" in told["error"]["hint"]


def test_name_that_no_party_can_have_leaves_no_home_behind(desk: Path, capsys: Told) -> None:
    words = ["identity", "--name", "X Y", "--role", "owner", "--home", str(desk / "nameless")]
    told = answer([*words, "--password-file", str(desk / "password")], capsys, code=UsageError.exit_code)
    assert told["error"]["message"] == "no party can be called 'X Y'"
    assert not (desk / "nameless").exists()


def test_password_is_never_asked_for_without_a_terminal(tmp_path: Path, capsys: Told) -> None:
    told = answer(["identity", "--name", "a", "--role", "owner", "--home", str(tmp_path / "h")], capsys, code=2)
    assert told["error"]["hint"] == "name a file: --password-file FILE"


@pytest.mark.parametrize(("content", "message"), [(None, "cannot be read"), ("", "is empty"), ("\nsecond", "is empty")])
def test_password_file_that_holds_none_is_said_so(
    tmp_path: Path, capsys: Told, content: str | None, message: str
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_text(content)
    words = ["identity", "--name", "a", "--role", "owner", "--home", str(tmp_path / "h"), "--password-file", str(file)]
    assert message in answer(words, capsys, code=2)["error"]["message"]


def test_encrypted_directory_holds_no_plaintext_and_inspect_says_whose_it_is(desk: Path, capsys: Told) -> None:
    target = desk / "encrypted"
    words = [
        "encrypt",
        str(desk / "people.csv"),
        "--dataset",
        "people",
        "--to",
        str(target),
        "--column",
        "city",
        *at(desk),
    ]
    made = answer(words, capsys)
    assert (made["rows"], made["columns"]) == (300, ["city"])
    assert not any(b"Samarkand" in file.read_bytes() for file in target.iterdir())
    seen = answer(["inspect", str(target)], capsys)
    assert (seen["kind"], seen["signature"], seen["payload"]["dataset"]) == ("signed manifest", "holds", "people")


def test_encrypt_with_the_wrong_password_leaves_nothing_behind(desk: Path, capsys: Told) -> None:
    (desk / "wrong").write_text("incorrect horse battery")
    words = ["encrypt", str(desk / "people.csv"), "--dataset", "p", "--to", str(desk / "never"), "--home"]
    words += [str(desk / "home"), "--password-file", str(desk / "wrong")]
    assert "password" in answer(words, capsys, code=1)["error"]["message"]
    assert not (desk / "never").exists()


def test_files_are_counted_as_files(desk: Path, capsys: Told) -> None:
    (desk / "model").mkdir()
    (desk / "model/weights.json").write_text("[1, 2]")
    words = ["encrypt", str(desk / "model"), "--files", "--dataset", "model", "--to", str(desk / "sealed-model")]
    assert run([*words, *at(desk)]) == 0
    assert "model version 1: 1 file\n" in capsys.readouterr().out


def words_for_a_policy(policy: Path, desk: Path, told: Told) -> list[str]:
    """Return the words that begin ``policy``, with what they name beside it."""
    program, reference = policy.parent / "query.sql", policy.parent / "reference.json"
    program.write_text("SELECT 1")
    party = str(answer(identity(desk), told)["party"])
    reference.write_text(json.dumps(answer(["measure"], told)))
    words = ["permit", str(policy), "--init", "--dataset", "people", "--purpose", "study", "--analyst", party]
    return [*words, "--program", str(program), "--measurements", str(reference), "--allow-simulated", *at(desk)]


def test_policy_is_written_checked_and_signed(desk: Path, tmp_path: Path, capsys: Told) -> None:
    policy, signed = tmp_path / "policy.toml", tmp_path / "policy.json"
    words = words_for_a_policy(policy, desk, capsys)
    answer(words, capsys)
    checked = answer(["permit", str(policy), "--check"], capsys)
    made = answer(["permit", str(policy), "--to", str(signed), *at(desk)], capsys)
    assert made["digest"] == checked["digest"]
    seen = answer(["inspect", str(signed)], capsys)
    assert seen["kind"] == "signed policy"
    assert "allow_simulated = true" in policy.read_text()
    assert answer(words, capsys, code=2)["error"]["message"].endswith("exists already")


def test_expired_policy_is_told_before_it_goes_to_a_broker(desk: Path, tmp_path: Path, capsys: Told) -> None:
    policy = tmp_path / "policy.toml"
    answer(words_for_a_policy(policy, desk, capsys), capsys)
    policy.write_text(re.sub(r"^expires = .*$", "expires = 2020-01-31T00:00:00Z", policy.read_text(), flags=re.M))
    assert run(["permit", str(policy), "--check"]) == 0
    assert "it expired at 2020-01-31T00:00:00Z and permits nothing" in capsys.readouterr().err


def test_policy_with_mistakes_is_not_signed_and_every_mistake_is_told(desk: Path, capsys: Told) -> None:
    (desk / "bad.toml").write_text('dataset = "people"\npurpose = ["x"]\nversion = "one"\n')
    told = answer(["permit", str(desk / "bad.toml"), "--to", str(desk / "bad.json"), *at(desk)], capsys, code=1)
    assert "version" in told["error"]["message"]
    assert "owner" in told["error"]["message"]
    assert not (desk / "bad.json").exists()


def test_permit_must_be_told_what_to_do(desk: Path, capsys: Told) -> None:
    assert answer(["permit", str(desk / "p.toml")], capsys, code=2)["error"]["hint"].startswith("give one of")


def test_measurements_differ_by_role_and_by_tee_and_by_one_byte_of_the_package(tmp_path: Path, capsys: Told) -> None:
    sgx = answer(["measure"], capsys)["measurements"]
    tdx = answer(["measure", "driver", "--tee", "tdx"], capsys)["measurements"]
    assert len({*sgx.values(), *tdx.values()}) == 6
    assert set(sgx) == {"broker", "driver", "worker", "egress", "endpoint"}
    package = tmp_path / "strongroom"
    package.mkdir()
    (package / "__init__.py").write_text("A = 1\n")
    before = answer(["measure", "worker", "--package", str(package)], capsys)["measurements"]
    (package / "__init__.py").write_text("A = 2\n")
    assert answer(["measure", "worker", "--package", str(package)], capsys)["measurements"] != before


def test_account_without_a_name_and_a_home_can_measure_and_is_told_what_it_lacks(
    tmp_path: Path, capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As containers run under an arbitrary number that no list of accounts holds."""

    def unknown(_place: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    assert answer(["measure"], capsys)["measurements"]
    (tmp_path / "password").write_text(PASSWORD)
    assert run(["identity", "--password-file", str(tmp_path / "password")]) == 2
    assert "/nonexistent/.strongroom" in capsys.readouterr().err


def test_broker_is_trusted_only_with_a_vendor_named(desk: Path, capsys: Told) -> None:
    home = ["--home", str(desk / "other")]
    words = ["broker", "trust", "https://b.example:1", "--measurement", "broker=sgx:" + "0" * 64, *home]
    assert "who shall vouch" in answer(words, capsys, code=2)["error"]["message"]
    (desk / "collateral.json").write_text("{}")
    answer([*words, "--collateral", str(desk / "collateral.json")], capsys)
    assert [one["url"] for one in answer(["broker", "list", *home], capsys)["brokers"]] == ["https://b.example:1"]
    answer(["broker", "forget", "https://b.example:1", *home], capsys)
    assert answer(["broker", "list", *home], capsys)["brokers"] == []


@pytest.fixture
def job(desk: Path, tmp_path: Path, capsys: Told) -> Path:
    """A job of one query, as an analyst writes it."""
    party = str(answer(identity(desk), capsys)["party"])
    (tmp_path / "query.sql").write_text("SELECT city, count(*) AS n FROM people GROUP BY city")
    (tmp_path / "job.toml").write_text(
        f'name = "ages"\nkind = "sql"\npurpose = "study"\nprogram = "query.sql"\n'
        f'[inputs.people]\nowner = "{party}"\nlocation = "{desk}/encrypted"\ncolumns = ["city"]\n'
        f'[outputs.ages]\nrecipients = ["{party}"]\n'
    )
    return tmp_path / "job.toml"


def test_dry_run_shows_what_would_be_created_and_no_secret(job: Path, capsys: Told) -> None:
    plan = answer(["submit", str(job), "--dry-run"], capsys)
    assert [process["role"] for process in plan["processes"]] == ["driver", "egress"]
    assert plan["inputs"]["people"]["columns"] == ["city"]
    assert not {"key", "secret", "password", "ticket"} & set(re.findall(r"[a-z]+", json.dumps(plan)))


@pytest.mark.parametrize("more", [["--dry-run"], []])
def test_query_that_no_policy_could_let_run_is_not_submitted(
    job: Path, desk: Path, capsys: Told, more: list[str]
) -> None:
    """A misspelt column would otherwise cost a start of the driver, and a use of the data where uses are counted."""
    (job.parent / "query.sql").write_text("SELECT town, count(*) AS n FROM people GROUP BY town")
    told = answer(["submit", str(job), *more, *(at(desk) if not more else [])], capsys, code=3)
    assert told["error"]["reasons"] == [
        "column 'town' is not among the columns that the job asks for, or in several tables"
    ]


def test_mistyped_platform_is_not_made_anew_and_trusted_by_nobody(desk: Path, job: Path, capsys: Told) -> None:
    for words in (
        ["submit", str(job)],
        ["worker", "join", "--listen", "127.0.0.1:0", "--jobs", str(desk)],
    ):
        admit = ["--admit", str(answer(identity(desk), capsys)["party"])] if words[0] == "worker" else at(desk)
        told = answer([*words, "--platform", str(desk / "elsewhere"), *admit], capsys, code=UsageError.exit_code)
        assert told["error"]["message"].endswith("elsewhere holds no simulated platform")
        assert not (desk / "elsewhere").exists()


def test_kubernetes_without_settings_is_refused_in_words(desk: Path, job: Path, capsys: Told) -> None:
    told = answer(["submit", str(job), "--cluster", "k8s", *at(desk)], capsys, code=UsageError.exit_code)
    assert "--settings" in told["error"]["hint"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--hosts", "{job}", "--platform", "p"], "placed in one way"),
        (["--hosts", "{job}", "--cluster", "k8s"], "placed in one way"),
        (["--hosts", "{job}", "--listen", "127.0.0.1:1"], "another host says"),
        (["--cluster", "k8s", "--listen", "127.0.0.1:1"], "another host says"),
        (["--detach"], "ends with its client"),
        (["--address", "nowhere"], "not an address"),
        (["--cluster", "k8s"], "needs to know the cluster"),
        ([], "needs a simulated platform"),
    ],
)
def test_endpoint_that_is_placed_nowhere_or_twice_is_a_mistake(
    desk: Path, job: Path, capsys: Told, options: list[str], says: str
) -> None:
    job.write_text(
        job.read_text()
        .replace('kind = "sql"', 'kind = "serve"')
        .replace("[outputs.ages]", "[outputs.ages]\nkind = 'answers'")
    )
    (job.parent / "query.sql").write_text("def predict(model, inputs): ...\n")
    words = [one.format(job=job) for one in options]
    told = answer(["serve", str(job), *words, *at(desk)], capsys, code=UsageError.exit_code)
    assert says in told["error"]["message"]


def test_verbs_that_need_a_broker_say_that_none_is_trusted(desk: Path, capsys: Told) -> None:
    for words in (["revoke", "people", "--reason", "x"], ["approve"], ["audit"], ["attest", "broker"]):
        home = ["--home", str(desk / "home")]
        assert "trusts 0 brokers" in answer([*words, *home], capsys, code=2)["error"]["message"]


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff", b"{}", b"[1]", b'{"payload": 1}', b"a = 1\n"])
def test_inspect_does_not_guess(tmp_path: Path, capsys: Told, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    assert (
        "nothing that Strongroom knows" in answer(["inspect", str(tmp_path / "f")], capsys, code=2)["error"]["message"]
    )


def test_inspect_shows_a_forged_document_as_one_that_does_not_hold(desk: Path, tmp_path: Path, capsys: Told) -> None:
    answer([*identity(desk), "--export", str(tmp_path / "clinic.json")], capsys)
    document = json.loads((tmp_path / "clinic.json").read_text())
    signature = document["signatures"][0]["sig"]
    document["signatures"][0]["sig"] = ("B" if signature[0] != "B" else "C") + signature[1:]
    (tmp_path / "forged.json").write_text(json.dumps(document))
    seen = answer(["inspect", str(tmp_path / "forged.json")], capsys)
    assert seen["signature"].startswith("does NOT hold")
