"""Draw the demo's result: delays by carrier, in fair weather and in fog."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa


def draw_delays(table: pa.Table, target: Path) -> Path:
    """Write a bar chart of late departures by carrier to ``target`` (PNG) and return its path."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    fair = {row["carrier"]: row for row in table.to_pylist() if not row["poor_visibility"]}
    fog = {row["carrier"]: row for row in table.to_pylist() if row["poor_visibility"]}
    carriers = sorted(fair, key=lambda carrier: float(fair[carrier]["mean_delay"]))
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for place, carrier in enumerate(carriers):
        if carrier in fog:
            delay = float(fog[carrier]["mean_delay"])
            axes.barh(place + 0.2, delay, height=0.38, color="#c44e52", label="visibility below 5 miles")
        delay = float(fair[carrier]["mean_delay"])
        axes.barh(place - 0.2, delay, height=0.38, color="#4c72b0", label="visibility of 5 miles or more")
    departures = [
        sum(int(part[carrier]["departures"]) for part in (fair, fog) if carrier in part) for carrier in carriers
    ]
    axes.set_yticks(
        range(len(carriers)), [f"{carrier}  ({count:,})" for carrier, count in zip(carriers, departures, strict=True)]
    )
    axes.set_xlabel("mean delay of departures (minutes)")
    axes.set_title(
        "Delays from New York, 2013, by carrier (departures)\nthree owners' data, joined inside attested processes"
    )
    handles, labels = axes.get_legend_handles_labels()
    shown = dict(zip(labels, handles, strict=True))
    axes.legend(shown.values(), shown.keys(), loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=130)
    plt.close(figure)
    return target
