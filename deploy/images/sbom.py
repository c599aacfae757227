"""List what an image holds: Python distributions and Debian packages, as CycloneDX 1.6 JSON; same image, same list."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5


def list_distributions(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a component for each Python distribution installed in ``folder``."""
    for metadata in sorted(folder.glob("*.dist-info/METADATA")):
        header = HeaderParser().parsestr(metadata.read_text(errors="replace"))
        name = re.sub(r"[-_.]+", "-", header["Name"]).lower()
        licence = header.get("License-Expression") or _short(header.get("License", ""))
        component: dict[str, Any] = {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{header['Version']}",
            "name": name,
            "version": header["Version"],
            "purl": f"pkg:pypi/{name}@{header['Version']}",
        }
        if licence:
            component["licenses"] = [{"license": {"name": licence}}]
        yield component


def list_packages(root: Path) -> Iterator[dict[str, Any]]:
    """Yield a component for each Debian package installed below ``root``."""
    status = root / "var/lib/dpkg/status"
    if not status.is_file():
        return
    for paragraph in status.read_text(errors="replace").split("\n\n"):
        header = HeaderParser().parsestr(paragraph)
        if header.get("Package") and "installed" in header.get("Status", "").split():
            reference = f"pkg:deb/debian/{header['Package']}@{header['Version']}?arch={header['Architecture']}"
            yield {
                "type": "library",
                "bom-ref": reference,
                "name": header["Package"],
                "version": header["Version"],
                "purl": reference,
            }


def write_sbom(target: Path, components: Iterator[Mapping[str, Any]], *, image: str, digest: str) -> None:
    """Write the list for the image of that name and digest; its serial number is made from the digest."""
    listed = sorted(components, key=lambda one: str(one["bom-ref"]))
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, digest)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": digest,
                "name": image.partition(":")[0],
                "version": image.partition(":")[2],
                "hashes": [{"alg": "SHA-256", "content": digest.partition(":")[2]}],
            }
        },
        "components": listed,
    }
    target.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def _short(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= 80 else ""  # noqa: PLR2004  a whole licence text is no name of one
