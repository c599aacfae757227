"""Let the moves of this folder be made against the same scenes as the unit tests."""

import sys
from pathlib import Path

for room in ("broker", "ledger"):
    sys.path.insert(0, str(Path(__file__).parent.parent / "unit" / room))
