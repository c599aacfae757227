"""An operator whose broker does not start is told why, in the broker's last words."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import strongroom
from strongroom.attestation.simulated.platform import SimulatedPlatform
from strongroom.attestation.simulated.process import SimulatedProcess
from strongroom.parties.operator import BrokerStartError, Operator


class OutOfDate(SimulatedPlatform):
    """A machine whose Python packages are older than the broker's code."""

    def start(self, role: Any, argv: Any, **options: Any) -> SimulatedProcess:
        package = self.directory / "newer" / "strongroom"
        shutil.copytree(Path(strongroom.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
        (package / "broker" / "__main__.py").write_text("import a_library_of_tomorrow\n")
        return super().start(role, argv, package_root=package, **options)


def test_broker_that_lacks_a_library_is_told_in_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "broker.log"
    log.write_text("words of another day\n")
    with pytest.raises(BrokerStartError, match="No module named 'a_library_of_tomorrow'") as caught:
        Operator(OutOfDate(tmp_path / "platform")).start_broker(tmp_path / "store", listen="127.0.0.1:0", log=log)
    assert "scripts/setup" in caught.value.hint
