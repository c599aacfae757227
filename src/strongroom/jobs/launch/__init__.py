"""Place a job's processes: start the driver, and the workers and the egress that the driver asks for.

The launcher runs on the untrusted host. It holds no secret, sees no plaintext, and nothing it says is believed:
whoever it starts must prove itself. ``process`` keeps everything in one driver (the embedded engine); ``standalone``
adds workers.
"""

from strongroom.jobs.launch.placement import Launcher, RunningProcess, TeeHost

__all__ = ["Launcher", "RunningProcess", "TeeHost"]
