"""Stand in for a client that left: keep a job's pods from inside the cluster, and write down what happened to it.

Entry point of the keeper's pod. It is untrusted, holds no secret but its own token for the cluster, and decides nothing
about who may join: whoever it makes must prove itself to the driver. Killed and started anew, it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from strongroom.errors import StrongroomError, UsageError
from strongroom.jobs.launch.kubernetes.access import keeper_access
from strongroom.jobs.launch.kubernetes.api import Cluster, ClusterRefusedError
from strongroom.jobs.launch.kubernetes.history import KEEPER, HistoryWriter
from strongroom.jobs.launch.kubernetes.keeping import PodKeeper, is_told_to_leave, phase
from strongroom.jobs.launch.kubernetes.template import MemberTemplates
from strongroom.jobs.launch.placement import PlacementEvent

_REACH_SECONDS = 60.0
_LAST_WORDS_SECONDS = 10.0
_LOOK_SECONDS = 0.5
_UNFINISHED = 1  # so that the cluster makes a successor
_PATIENCE_SECONDS = 30.0  # for the driver's own word on why it cannot go on


def keep(settings: Mapping[str, Any], *, cluster: Cluster, closing: threading.Event) -> str:
    """Keep the job until its driver ended or ``closing`` is set; return how it ended, by the host's lights."""
    templates = MemberTemplates.decode(settings["templates"])
    history = HistoryWriter(cluster, job=templates.job, part=KEEPER)
    history.resume()

    def take(event: PlacementEvent) -> None:
        history.take(event)
        _say(
            event.kind, role=event.role, **{name: event.detail[name] for name in ("pod", "why") if name in event.detail}
        )

    keeper = PodKeeper(
        cluster,
        job=templates.job,
        start_seconds=int(settings["start_seconds"]),
        on_event=take,
        restarts=int(settings["restarts"]),
    )
    for role, count in dict(settings["ahead"]).items():
        keeper.foresee(str(role), int(count))
    keeper.watch.see(cluster.get("pods", keeper.driver_name))
    keeper.hear()
    keeper.keep(templates, after=history.highest_number())
    gave_up = 0.0
    while keeper.running() and not closing.wait(_LOOK_SECONDS):
        history.flush()
        if keeper.trouble and not gave_up:
            gave_up = time.monotonic()
            history.note("trouble", why=keeper.trouble)
        if gave_up and time.monotonic() - gave_up > _PATIENCE_SECONDS:
            break
    state, why = _end(keeper)
    if state == "failed" and keeper.running():  # nothing it waits for will ever come
        cluster.delete("pods", keeper.driver_name)
    keeper.close()
    if state == "kept":  # only this pod goes; whoever comes next takes the job up
        history.note("keeper-stopped")
        history.flush(at_once=True)
        return state
    keeper.delete_members()
    history.end(state, why=why)
    history.flush(at_once=True)
    return state


def _end(keeper: PodKeeper) -> tuple[str, str]:
    """Return how the job ended and why; ``kept`` if it did not."""
    if keeper.running() and (keeper.driver() or {}).get("metadata", {}).get("deletionTimestamp"):
        return "cancelled", f"pod {keeper.driver_name} was deleted while the job ran"
    if keeper.running():
        return ("failed", keeper.trouble) if keeper.trouble else ("kept", "")
    keeper.heard_all.wait(_LAST_WORDS_SECONDS)
    if keeper.watch.is_lost(keeper.driver_name):
        last = keeper.watch.last(keeper.driver_name)
        if phase(last) == "Succeeded":
            return "done", ""
        failed = phase(last) == "Failed" and not is_told_to_leave(last)
        return "failed" if failed else "lost", keeper.driver_end().message
    if phase(keeper.driver() or {}) == "Succeeded":
        return "done", ""
    return "failed", keeper.trouble or keeper.driver_end().message


def open_cluster(settings: Mapping[str, Any], account: Path) -> Cluster:
    """Return the cluster by the first of its addresses that answers; raise StrongroomError if none does."""
    until = time.monotonic() + _REACH_SECONDS
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    own = f"https://{f'[{host}]' if ':' in host else host}:{port}" if host else ""
    servers = [one for one in dict.fromkeys(str(one) or own for one in settings["servers"]) if one]
    namespace = str(settings["namespace"])
    failed: StrongroomError = UsageError(
        "no address of the API server is known", hint="name api_server in the settings"
    )
    while time.monotonic() < until:
        for access in keeper_access(account, servers, str(settings["authority"]), namespace=namespace):
            cluster = Cluster(access, namespace=namespace, seconds=_LAST_WORDS_SECONDS)
            try:
                cluster.list("pods", labels="strongroom.dev/job=none")
            except ClusterRefusedError:
                raise  # it answers, and says no
            except StrongroomError as error:
                failed = error
                cluster.close()
            else:
                return cluster
        time.sleep(_LOOK_SECONDS)
    raise failed


def main(argv: Sequence[str] | None = None) -> int:
    """Keep one job; nothing given here is secret but the account's token, which is this pod's own."""
    parser = argparse.ArgumentParser(prog="strongroom-keeper")
    parser.add_argument("--settings", type=Path, required=True, help="what the client left for the keeper, as JSON")
    parser.add_argument("--account", type=Path, required=True, help="the folder with the pod's token")
    asked = parser.parse_args(argv)
    closing = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: closing.set())
    try:
        settings = json.loads(asked.settings.read_text())
        state = keep(settings, cluster=open_cluster(settings, asked.account), closing=closing)
    except StrongroomError as error:
        _say("failed", kind=error.kind, message=error.message, hint=error.hint)
        return error.exit_code
    _say("ended", state=state)
    return _UNFINISHED if state == "kept" else 0


def _say(event: str, **facts: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
