"""Compute what the simulated TEE will measure in containers of an image, from its archive, without running it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from strongroom.attestation.images import Image, ImageError, read_image, resolve
from strongroom.attestation.roles import Role
from strongroom.attestation.simulated.measuring import Measured, measure, read_tree

SITE: Final = "usr/local/lib/python3.11/dist-packages"
_INTERPRETER: Final = "/usr/bin/python3"
# Another variable could load other code than what is measured here.
_ENVIRONMENT: Final = {"PATH": "/usr/bin", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
_WANTED: Final = re.compile(rf"usr/bin/python3[^/]*|{SITE}/strongroom/.*|{SITE}/[^/]+\.dist-info/(METADATA|RECORD)")


def measure_image(archive: Path, roles: Iterable[Role]) -> tuple[Image, dict[Role, Measured]]:
    """Return the image in ``archive`` and what each role measures in a container of it.

    Raise ImageError for an image that starts in another way than ours do, or that runs as root.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        image = read_image(archive, into=root, wanted=lambda name: _WANTED.fullmatch(name) is not None)
        if dict(image.environment) != _ENVIRONMENT:
            given = ", ".join(f"{name}={value}" for name, value in sorted(image.environment.items()))
            raise ImageError(f"the image's environment is {given[:200]}", hint="use an image made by scripts/image")
        if image.user.partition(":")[0] in {"", "0", "root"}:
            raise ImageError("containers of the image run as root", hint="use scripts/image")
        interpreter, site = resolve(root, _INTERPRETER), resolve(root, SITE)
        tree = read_tree(site / "strongroom")
        return image, {role: measure(role, tree, interpreter=interpreter, site=site) for role in roles}
