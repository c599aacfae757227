"""Operator and owners unseal a broker in the words they type: named, looked at, contributed to, refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from strongroom.cli.journey import run
from strongroom.parties.operator import Operator


def answer(words: list[str], told: pytest.CaptureFixture[str], *, code: int = 0) -> dict[str, object]:
    told.readouterr()
    returned = run([*words, "--json"])
    said = told.readouterr()
    assert returned == code, said.err
    return json.loads(said.out)


@pytest.mark.slow
def test_broker_in_a_trust_domain_is_unsealed_by_its_owners(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    password = tmp_path / "password"
    password.write_text("correct horse battery\n")
    common = {who: ["--home", str(tmp_path / who)] for who in ("airline", "weather")}
    sealed = {who: [*words, "--password-file", str(password)] for who, words in common.items()}
    parties = [
        str(answer(["identity", "--name", who, "--role", "owner", *words], capsys)["party"])
        for who, words in sealed.items()
    ]
    start = [sys.executable, "-m", "strongroom", "broker", "start", "--tee", "tdx"]
    start += ["--platform", str(tmp_path / "platform"), "--store", str(tmp_path / "store")]
    named = [word for party in parties for word in ("--custodian", party)]
    log = tmp_path / "operator.log"
    with log.open("w") as stream, subprocess.Popen([*start, *named], stdout=subprocess.PIPE, stderr=stream) as process:
        try:
            lines = [process.stdout.readline().decode() for _ in range(5)]
            url = lines[0].split()[-1]
            assert sum("sealed until" in line for line in lines) == 2
            measurement = Operator(tmp_path / "platform", tee="tdx").platform.measure("broker")
            for words in common.values():
                options = ["--measurement", f"broker={measurement}", "--simulated-platform", str(tmp_path / "platform")]
                answer(["broker", "trust", url, *options, *words], capsys)
            found = answer(["broker", "status", *common["airline"]], capsys)
            assert (found["state"], sorted(found["missing"])) == ("sealed", sorted(parties))
            first = answer(["unseal", *sealed["airline"]], capsys)
            assert (first["missing"], first["founding"], first["serving"]) == ([parties[1]], True, False)
            refused = answer(["attest", "broker", *common["airline"]], capsys, code=1)
            assert refused["error"]["kind"] == "SealedBrokerError"
            assert answer(["unseal", url, *sealed["weather"]], capsys)["serving"] is True
            assert answer(["broker", "status", *common["airline"]], capsys)["state"] == "serving"
            assert "is not sealed" in answer(["unseal", *sealed["weather"]], capsys, code=2)["error"]["message"]
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    assert "its custodians have unsealed it" in log.read_text()
