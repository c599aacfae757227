"""Place a job on machines that an operator lends: an agent on each, and a control line to it (spec/3-job.md §7.1).

The agents run on untrusted hosts. They start measured processes for parties that their operator named, hold no secret
of any job, and decide nothing about who may join one.
"""

from strongroom.jobs.launch.standalone.agent import HostAgent
from strongroom.jobs.launch.standalone.placement import HostPool
from strongroom.jobs.launch.standalone.settings import HostSettings, load_hosts

__all__ = ["HostAgent", "HostPool", "HostSettings", "load_hosts"]
