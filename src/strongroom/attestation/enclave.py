"""Be the first program of an SGX enclave: start one role, whose name is measured, with arguments that are not.

``python3 -P -s -m strongroom.attestation.enclave ROLE``. Gramine fixes this command line in the manifest, so no host
can run anything else under the same measurement. What differs from job to job (addresses, a job's digest) comes from
the host in one variable, and is as little to be trusted as it always was: the job's digest is bound into the evidence,
addresses lead to peers that must prove themselves, and a role's own parser refuses every other word.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import MutableMapping, Sequence

from strongroom.attestation.roles import Role
from strongroom.attestation.simulated.measuring import ENTRY
from strongroom.errors import UsageError

ARGUMENTS = "STRONGROOM_ARGUMENTS"
_MOST_ARGUMENTS, _LONGEST = 32, 1024


def take_arguments(environment: MutableMapping[str, str]) -> list[str]:
    """Return the role's arguments and remove the variable that held them: a JSON array of short printable texts."""
    text = environment.pop(ARGUMENTS, "[]")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{ARGUMENTS} is not JSON", hint='write ["--listen", "0.0.0.0:8443"]') from error
    if (
        not isinstance(found, list)
        or len(found) > _MOST_ARGUMENTS
        or not all(isinstance(one, str) and len(one) <= _LONGEST and one.isprintable() for one in found)
    ):
        raise UsageError(f"{ARGUMENTS} is not an array of at most {_MOST_ARGUMENTS} short texts")
    return found


def main(argv: Sequence[str]) -> None:
    """Become the role that ``argv`` names; raise UsageError for anything else."""
    if len(argv) != 1:
        raise UsageError(f"an enclave has one role, got {len(argv)}")
    role = Role.parse(argv[0])
    if role not in ENTRY:
        raise UsageError(f"role {role.value} does not run in a TEE")
    sys.argv = [ENTRY[role], *take_arguments(os.environ)]
    runpy.run_module(ENTRY[role], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UsageError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
