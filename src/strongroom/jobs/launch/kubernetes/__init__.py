"""Place a job's processes as pods of a Kubernetes cluster.

The cluster is the untrusted host: it gets images, addresses and digests, and no secret in any form.
"""

from strongroom.jobs.launch.kubernetes.host import KubernetesHost
from strongroom.jobs.launch.kubernetes.launcher import KubernetesLauncher
from strongroom.jobs.launch.kubernetes.manifests import JobPods
from strongroom.jobs.launch.kubernetes.settings import KubernetesSettings, load_settings

__all__ = ["JobPods", "KubernetesHost", "KubernetesLauncher", "KubernetesSettings", "load_settings"]
