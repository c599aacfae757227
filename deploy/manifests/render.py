"""Write the chart's objects as plain manifests, for clusters that are run without Helm.

``python deploy/manifests/render.py``

They are the chart with its defaults, in namespace strongroom; a test holds them to it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import helm_python as helm

HERE = Path(__file__).parent
CHART = HERE.parent / "helm" / "strongroom"
VARIANTS = {
    "simulated": {"flavour": "simulated"},
    "sgx": {"flavour": "sgx"},
}
_HEAD = "# Made by deploy/manifests/render.py from deploy/helm/strongroom; change those and make it anew.\n"


def render(variant: str) -> str:
    """Return the manifests of one variant as one YAML text."""
    values = {"image": {"name": "localhost/strongroom-spark:0.1.0"}, **VARIANTS[variant]}
    with helm.Chart.load(CHART) as chart:
        rendered = chart.render(values=values, name="strongroom", namespace="strongroom")
    texts = [text.strip() for name, text in sorted(rendered.items()) if not name.endswith("NOTES.txt")]
    return _HEAD + "".join(f"---\n{text}\n" for text in texts if text)


def main() -> int:
    """Write every variant beside this file."""
    for variant in VARIANTS:
        (HERE / f"{variant}.yaml").write_text(render(variant))
    return 0


if __name__ == "__main__":
    sys.exit(main())
