"""The whole journey in the words a person types: every verb against a real, measured broker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from strongroom.cli.journey import INTERRUPTED, run
from strongroom.parties.operator import Operator

Told = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Town:
    """A broker, an owner and an analyst who trust it, and the files on their desks."""

    place: Path
    url: str

    def words(self, *words: str, who: str = "clinic") -> list[str]:
        return [*words, "--home", str(self.place / who), "--password-file", str(self.place / "password")]

    def file(self, name: str) -> str:
        return str(self.place / name)


def answer(words: list[str], told: Told, *, code: int = 0) -> dict[str, object]:
    told.readouterr()
    returned = run([*words, "--json"])
    said = told.readouterr()
    assert returned == code, said.err
    return json.loads(said.out)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    place = tmp_path_factory.mktemp("town")
    (place / "password").write_text("correct horse battery\n")
    operator = Operator(place / "platform")
    broker = operator.start_broker(place / "store", listen="127.0.0.1:0", log=place / "broker.log")
    made = Town(place, broker.url)
    try:
        for who, role in (("clinic", "owner"), ("lab", "analyst")):
            assert run(made.words("identity", "--name", who, "--role", role, who=who)) == 0
            roles = [f"{role}={operator.platform.measure(role)}" for role in ("broker", "driver", "worker", "egress")]
            options = [option for text in roles for option in ("--measurement", text)]
            platform = ["--simulated-platform", made.file("platform"), "--home", made.file(who)]
            assert run(["broker", "trust", broker.url, *options, *platform]) == 0
        yield made
    finally:
        broker.stop()


def party(town: Town, who: str, told: Told) -> str:
    return str(answer(["identity", "--home", town.file(who)], told)["party"])


def test_attested_broker_says_what_it_measures_and_that_it_is_simulated(town: Town, capsys: Told) -> None:
    seen = answer(["attest", "broker", "--home", town.file("lab")], capsys)
    assert (seen["broker"], seen["simulated"], seen["tier"]) == (town.url, True, "contraindicated")


def test_witness_follows_the_broker_without_trusting_it(town: Town, capsys: Told) -> None:
    assert run(["audit", "--save", town.file("for-witness"), "--home", town.file("lab")]) == 0
    key = str(Path(town.file("for-witness")) / "ledger-key")
    words = ["witness", town.url, "--ledger-key", key, "--state", town.file("witness"), "--once"]
    seen = answer(words, capsys)
    assert (seen["holds"], seen["grown"] == seen["size"]) == (True, True)
    assert answer(words, capsys)["grown"] == 0


def test_witness_of_one_ledger_refuses_that_of_another_broker(town: Town, capsys: Told) -> None:
    """Attack: another broker answers where the witnessed one was."""
    assert run(["audit", "--save", town.file("before-fork"), "--home", town.file("lab")]) == 0
    key = str(Path(town.file("before-fork")) / "ledger-key")
    other = Operator(Path(town.file("other-platform"))).start_broker(
        Path(town.file("other-store")), listen="127.0.0.1:0", log=Path(town.file("other.log"))
    )
    try:
        words = ["witness", other.url, "--ledger-key", key, "--state", town.file("witness-forked"), "--once"]
        capsys.readouterr()
        assert run([*words, "--json"]) == 4
        assert "ledger" in capsys.readouterr().err
    finally:
        other.stop()


def test_broker_with_another_measurement_is_not_trusted(town: Town, capsys: Told) -> None:
    home = ["--home", town.file("stranger")]
    options = ["--measurement", "broker=sgx:" + "0" * 64, "--simulated-platform", town.file("platform")]
    answer(["broker", "trust", town.url, *options, *home], capsys)
    told = answer(["attest", "broker", *home], capsys, code=4)
    assert told["error"]["step"] == "measurement"


def test_simulated_broker_is_not_trusted_under_intels_root(town: Town, capsys: Told) -> None:
    """Who trusts Intel's root must not be talked to by a laptop's vendor, whatever collateral it brings."""
    home = ["--home", town.file("prudent")]
    measurement = answer(["attest", "broker", "--home", town.file("lab")], capsys)["measurement"]
    options = ["--measurement", f"broker={measurement}", "--collateral", town.file("platform/collateral.json")]
    answer(["broker", "trust", town.url, *options, *home], capsys)
    answer(["attest", "broker", *home], capsys, code=4)


def test_journey_from_plaintext_to_result_and_to_revocation(town: Town, capsys: Told) -> None:
    rows = "".join(f"{n},c{n % 3},{n % 90}\n" for n in range(300))
    Path(town.file("people.csv")).write_text("id,city,age\n" + rows)
    Path(town.file("q.sql")).write_text("SELECT city, count(*) AS n FROM people GROUP BY city ORDER BY city")
    clinic, lab = party(town, "clinic", capsys), party(town, "lab", capsys)

    answer(
        town.words("encrypt", town.file("people.csv"), "--dataset", "people", "--to", town.file("encrypted")), capsys
    )
    reference = {
        role: measurement
        for one in answer(["broker", "list", "--home", town.file("clinic")], capsys)["brokers"]
        for role, measurement in one["measurements"].items()
    }
    Path(town.file("reference.json")).write_text(json.dumps(reference))
    words = ["permit", town.file("p.toml"), "--init", "--dataset", "people", "--purpose", "study", "--analyst", lab]
    words += ["--sql", "--measurements", town.file("reference.json"), "--allow-simulated"]
    answer(town.words(*words), capsys)
    answer(town.words("permit", town.file("p.toml"), "--to", town.file("p.json")), capsys)
    answer(town.words("register", town.file("encrypted"), "--policy", town.file("p.json")), capsys)

    job = (
        'name = "cities"\nkind = "sql"\npurpose = "{purpose}"\nprogram = "q.sql"\n'
        f'[inputs.people]\nowner = "{clinic}"\nlocation = "{town.file("encrypted")}"\ncolumns = ["city"]\n'
        f'[outputs.cities]\nrecipients = ["{lab}"]\n'
    )
    Path(town.file("study.toml")).write_text(job.format(purpose="study"))
    Path(town.file("gossip.toml")).write_text(job.format(purpose="gossip"))
    submit = ["--platform", town.file("platform"), "--directory", town.file("job")]

    refused = answer(town.words("submit", town.file("gossip.toml"), *submit, who="lab"), capsys, code=3)
    assert any("gossip" in reason for reason in refused["error"]["reasons"])

    done = answer(town.words("submit", town.file("study.toml"), *submit, who="lab"), capsys)
    assert done["simulated"] is True
    fetched = answer(town.words("fetch", str(done["job"]), who="lab"), capsys)
    assert fetched["result"] == [{"city": f"c{n}", "n": 100} for n in range(3)]
    answer(town.words("fetch", str(done["job"]), "--to", town.file("out.csv"), who="lab"), capsys)
    assert Path(town.file("out.csv")).read_text() == '"city","n"\n"c0",100\n"c1",100\n"c2",100\n'

    seen = answer(["audit", "--save", town.file("copy"), "--entries", "--home", town.file("lab")], capsys)
    assert seen["verified"] is True
    assert {"dataset", "job", "grant", "refusal", "result"} <= set(seen["kinds"])
    copy = [town.file("copy"), "--ledger-key", town.file("copy/ledger-key")]
    answer(["audit", *copy, "--first-time"], capsys)
    falsified = Path(town.file("falsified"))
    shutil.copytree(town.file("copy"), falsified)
    (bundle,) = (falsified / "tile" / "entries").rglob("*.p/*")
    bundle.write_bytes(bundle.read_bytes().replace(b'"study"', b'"stuff"'))
    told = answer(["audit", str(falsified), "--ledger-key", copy[2], "--first-time"], capsys, code=4)
    assert told["verified"] is False

    assert answer(town.words("approve"), capsys) == {"pending": []}
    assert answer(town.words("revoke", "people", "--reason", "over"), capsys)["revoked"] is True
    after = answer(town.words("submit", town.file("study.toml"), *submit, who="lab"), capsys, code=3)
    assert any("revoked" in reason for reason in after["error"]["reasons"])


ENDLESS = """\
SELECT a.city, count(*) AS n, sum(a.id * b.id + c.id * d.id) AS noise
FROM visits AS a CROSS JOIN visits AS b CROSS JOIN visits AS c CROSS JOIN visits AS d GROUP BY a.city
"""


def test_ctrl_c_while_a_submitted_job_runs_ends_all_of_it_and_says_only_that(town: Town, capsys: Told) -> None:
    """A terminal sends Ctrl-C to the verb and to everything it started, at the same moment."""
    clinic, lab = party(town, "clinic", capsys), party(town, "lab", capsys)
    Path(town.file("visits.csv")).write_text("id,city\n" + "".join(f"{n},c{n % 3}\n" for n in range(3000)))
    Path(town.file("endless.sql")).write_text(ENDLESS)
    answer(town.words("encrypt", town.file("visits.csv"), "--dataset", "visits", "--to", town.file("visits")), capsys)
    reference = answer(["broker", "list", "--home", town.file("clinic")], capsys)["brokers"][0]["measurements"]
    Path(town.file("measured.json")).write_text(json.dumps(reference))
    words = ["permit", town.file("v.toml"), "--init", "--dataset", "visits", "--purpose", "study", "--analyst", lab]
    answer(town.words(*words, "--sql", "--measurements", town.file("measured.json"), "--allow-simulated"), capsys)
    answer(town.words("permit", town.file("v.toml"), "--to", town.file("v.json")), capsys)
    answer(town.words("register", town.file("visits"), "--policy", town.file("v.json")), capsys)
    Path(town.file("endless.toml")).write_text(
        'name = "endless"\nkind = "sql"\npurpose = "study"\nprogram = "endless.sql"\n'
        f'[inputs.visits]\nowner = "{clinic}"\nlocation = "{town.file("visits")}"\ncolumns = ["id", "city"]\n'
        f'[outputs.none]\nrecipients = ["{lab}"]\n'
    )
    place = town.file("endless.job")
    submit = ["submit", town.file("endless.toml"), "--platform", town.file("platform"), "--directory", place]
    with subprocess.Popen(
        [sys.executable, "-m", "strongroom", *town.words(*submit, who="lab")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "program started" in line:
                break
        assert processes_naming(place), said
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == INTERRUPTED, said + rest
    assert rest.splitlines()[-1] == "interrupted"
    assert "Traceback" not in said + rest
    assert processes_naming(place) == []
    assert not any(Path(place, "outbox").iterdir())


def processes_naming(place: str) -> list[int]:
    everyone = psutil.process_iter(["cmdline"])
    return [
        one.pid
        for one in everyone
        if one.pid != os.getpid()
        and any(place in part for part in one.info["cmdline"] or ())
        and "submit" not in one.info["cmdline"]
    ]


def test_full_disk_while_encrypting_is_one_sentence_and_leaves_nothing(town: Town) -> None:
    """The system lets no file grow beyond 300 kB, as a full disk or a quota does."""
    Path(town.file("noise.csv")).write_text(
        "n,text\n" + "".join(f"{n},{os.urandom(40).hex()}\n" for n in range(20_000))
    )
    words = town.words("encrypt", town.file("noise.csv"), "--dataset", "noise", "--to", town.file("noise"), "--json")
    limited = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "from strongroom.cli.journey import main\nmain(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", limited, *words]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1, ended.stderr
    error = json.loads(ended.stdout)["error"]
    assert "no room left" in error["message"]
    assert "nothing was kept" in error["hint"]
    assert not [path for path in town.place.iterdir() if path.name.startswith((".noise", "noise/"))]
    assert not Path(town.file("noise")).exists()


def test_broker_started_by_the_verb_says_where_it_is_and_ends_when_told(tmp_path: Path) -> None:
    words = ["broker", "start", "--platform", str(tmp_path / "platform"), "--store", str(tmp_path / "store"), "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "strongroom", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        said = ""
        while not said.rstrip().endswith("}"):
            line = process.stdout.readline()
            assert line, process.communicate()
            said += line
        assert json.loads(said)["url"].startswith("https://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        _, talk = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert talk.splitlines()[-1] == "stopped"


def test_broker_that_cannot_listen_says_so_in_its_own_words(town: Town, capsys: Told) -> None:
    told = answer(
        ["broker", "start", "--platform", town.file("p2"), "--store", town.file("s2"), "--listen", "nonsense"],
        capsys,
        code=1,
    )
    assert told["error"]["message"] == "--listen is host:port, got 'nonsense'"
