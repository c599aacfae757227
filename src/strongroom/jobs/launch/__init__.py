"""Place a job's processes: start the driver, and the workers and the egress that the driver asks for.

The launcher runs on the untrusted host. It holds no secret, sees no plaintext, and nothing it says is believed:
whoever it starts must prove itself. ``process`` keeps everything in one driver (the embedded engine); ``standalone``
adds workers; ``kubernetes`` makes a pod of each.
"""

from strongroom.jobs.launch.launcher import Launcher
from strongroom.jobs.launch.placement import JobHost, Leavable, Placement, RunningProcess, TeeHost

__all__ = ["JobHost", "Launcher", "Leavable", "Placement", "RunningProcess", "TeeHost"]
