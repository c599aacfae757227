"""The measured entry point of an endpoint."""

import sys

from strongroom.serving.endpoint import main

sys.exit(main())
