"""The loss curve, as CSV and as a picture."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_COLUMNS = ("step", "loss", "learning_rate", "grad_norm", "mean_token_accuracy")


def write_curve(folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write `loss.csv` and `loss.png`.

    Args:
        folder: the adapter's.
        history: the trainer's log; entries without a loss are passed over.
    """
    entries = [entry for entry in history if "loss" in entry]
    with (folder / "loss.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        writer.writerows([entry.get(name, "") for name in _COLUMNS] for entry in entries)
    import matplotlib as mpl  # half a second of imports, needed once

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot([entry["step"] for entry in entries], [entry["loss"] for entry in entries], linewidth=1.2)
    axes.set(xlabel="step", ylabel="loss", title="Fine-tuning")
    axes.grid(visible=True, alpha=0.3)
    figure.savefig(folder / "loss.png", dpi=120)
    pyplot.close(figure)
