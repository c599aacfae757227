"""Hold the pods of a job's workers and egress as templates, rendered once by the analyst's client.

Whoever keeps the job fills in a number and the driver's address, and needs to know nothing else about the job: neither
its program nor the cluster's settings.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from strongroom.jobs.launch.kubernetes.manifests import CONTAINER, JobPods, Manifest
from strongroom.jobs.launch.placement import PlacementError

ROLES = ("worker", "egress")
_NOWHERE = ("0.0.0.0", 0)  # noqa: S104  stands where the driver's address will be; nobody listens there


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberTemplates:
    """One pod a role, with a number and an address of the driver yet to come; ``job`` is the job's name there."""

    job: str
    by_role: Mapping[str, Manifest]

    @classmethod
    def render(cls, pods: JobPods, *, owner: Manifest) -> Self:
        """Return the templates of a job whose objects belong to ``owner``, its driver's pod."""
        return cls(job=pods.name, by_role={role: pods.member(role, 0, driver=_NOWHERE, owner=owner) for role in ROLES})

    @classmethod
    def decode(cls, value: object) -> Self:
        """Parse what :meth:`encode` gave; raise PlacementError otherwise."""
        try:
            made = cls(job=str(value["job"]), by_role=dict(value["pods"]))  # type: ignore[index]
            for role in made.by_role:
                made.fill(role, 1, driver=_NOWHERE)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlacementError("the templates of the job's pods are damaged", hint="submit the job again") from error
        return made

    def encode(self) -> dict[str, Any]:
        """Return the templates as they lie in the cluster; nothing in them is secret."""
        return {"job": self.job, "pods": dict(self.by_role)}

    def fill(self, role: str, number: int, *, driver: tuple[str, int]) -> Manifest:
        """Return the pod of worker or egress ``number``, which proves itself to the driver at that address."""
        pod: Manifest = copy.deepcopy(self.by_role[role])
        pod["metadata"]["name"] = f"{self.job}-{role}-{number}"
        (container,) = [one for one in pod["spec"]["containers"] if one["name"] == CONTAINER]
        command = container["command"]
        command[command.index("--driver") + 1] = f"{driver[0]}:{driver[1]}"
        if "--name" in command:
            command[command.index("--name") + 1] = pod["metadata"]["name"]
        return pod
