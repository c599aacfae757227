"""Let the tests of this folder share its scenes."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
