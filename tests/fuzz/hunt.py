"""Hunt with coverage guidance: ``python tests/fuzz/hunt.py TARGET [corpus directory] [libFuzzer options]``."""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))
with atheris.instrument_imports(include=["strongroom.attestation", "strongroom.envelope.custody"]):
    from targets import targets

warnings.simplefilter("ignore")


def main() -> None:
    """Run libFuzzer on one target until it finds something or its time is over."""
    names = targets()
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(f"error: name a target\nhint: {', '.join(names)}")
    target = names[sys.argv[1]]
    with tempfile.TemporaryDirectory() as seeds:
        for number, seed in enumerate(target.seeds):
            (Path(seeds) / f"seed{number}").write_bytes(seed)
        atheris.Setup([sys.argv[0], *sys.argv[2:], seeds], target.try_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
