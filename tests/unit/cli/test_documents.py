"""The documents say what the code does: the tutorial runs as it stands, references are current, links lead on."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from strongroom.cli.reference import pages

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_tutorial_runs_as_it_is_written(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "tutorial.md").read_text()
    script = "\n".join(re.findall(r"^```bash\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))
    assert "strongroom fetch" in script
    script = "trap 'kill $(jobs -p) 2>/dev/null' EXIT\n" + script.replace("7443", str(free_port()))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("STRONGROOM_HOME", None)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = [line.split() for line in done.stdout.splitlines() if line.startswith(("east", "north", "south", "hut"))]
    assert result == [[station, "100", "11.14"] for station in ("east", "north", "south")]
    assert "marketing" in done.stderr
    assert "revoked" in done.stderr


@pytest.mark.parametrize("name", sorted(pages()))
def test_generated_reference_is_current(name: str) -> None:
    assert (ROOT / "docs" / "reference" / name).read_text() == pages()[name], "run scripts/docs"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_that_documents_name_exist_and_can_be_run(document: Path) -> None:
    for name in re.findall(r"\bscripts/([a-z]+)", document.read_text()):
        assert os.access(ROOT / "scripts" / name, os.X_OK), name


def named_in(text: str) -> set[str]:
    """Return the tests that a document names in code style, with or without their folder and ending."""
    return set(re.findall(r"`(?:tests/)?((?:[a-z]+/)*test_\w+)(?:\.py)?`", text))


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, *sorted((ROOT / "spec").glob("*.md"))], ids=lambda path: str(path.relative_to(ROOT))
)
def test_every_test_that_a_document_names_is_there(document: Path) -> None:
    for name in named_in(document.read_text()):
        assert list((ROOT / "tests").glob(f"{name}.py" if "/" in name else f"**/{name}.py")), name


@pytest.mark.parametrize("attacked", ["evidence", "channel"])
def test_every_attack_on_evidence_and_channels_stands_in_the_table(attacked: str) -> None:
    named = named_in((ROOT / "docs" / "explanation" / "attestation.md").read_text())
    made = {f"malice/{path.stem}" for path in (ROOT / "tests" / "malice").glob(f"test_{attacked}_*.py")}
    assert made - named == set()
