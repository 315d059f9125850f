# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of the cards."""

from pathlib import Path

from .results import is_training_loss


def plot_losses(log_history: list[dict], path: str | Path) -> None:
    """Draws the losses of a trainer's log over the steps: the whole, the language model's and each module's, evaluations dashed."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    # without pyplot, so that a push in the background can draw, too
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    names = sorted(
        {name for entry in log_history for name in entry if is_training_loss(name)},
        key=lambda name: (name.startswith("mctp"), int(name.rpartition("_")[2]) if name[-1].isdigit() else 0),
    )
    modules = [name for name in names if name.startswith("mctp")]
    shades = dict(zip(modules, colormaps["viridis"]([i / max(len(modules), 2) for i in range(len(modules))])))
    colors = {"loss": "black", "lm_loss": "tab:red", **shades}
    for name in names:
        for logged_name, style in ((name, "-"), (f"eval_{name}", "o--")):
            points = [(entry["step"], entry[logged_name]) for entry in log_history if logged_name in entry]
            if points:
                axes.plot(*zip(*points), style, label=logged_name, color=colors[name], linewidth=1, markersize=3)
    axes.set(xlabel="step", ylabel="loss (nats)")
    axes.grid(alpha=0.3)
    if names:
        axes.legend(fontsize="x-small", ncols=2)
    figure.savefig(path, dpi=100)


def plot_durations(durations: dict[str, list[float]], path: str | Path) -> None:
    """Draws how long the clips of a corpus are, in seconds, by their splits."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    axes.hist(list(durations.values()), bins=40, stacked=True, label=list(durations))
    axes.set(xlabel="duration (s)", ylabel="clips")
    axes.legend()
    figure.savefig(path, dpi=100)
