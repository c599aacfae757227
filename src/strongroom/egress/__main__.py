"""The measured entry point of egress."""

import sys

from strongroom.egress.gate import main

sys.exit(main())
