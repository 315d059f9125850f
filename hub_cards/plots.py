# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of the cards."""

import re
from pathlib import Path

from .results import logged_losses


def plot_losses(log_history: list[dict], path: str | Path) -> None:
    """
    Draws the losses of a trainer's log over the steps, and its rewards, if there are any, below. Losses of evaluations
    are dashed.
    """
    draw_losses(log_history).savefig(path, dpi=100)


def draw_losses(log_history: list[dict]):
    """The figure of [`plot_losses`]."""
    # Imported here, because most commands that import this module draw nothing.
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    # pyplot must not be used in the background, where pushes run.
    rewards = sorted({name for entry in log_history for name in entry if re.fullmatch(r"rewards/.+/mean", name)})
    figure = Figure(figsize=(8, 8 if rewards else 5), layout="constrained")
    axes, *below = figure.subplots(2 if rewards else 1, squeeze=False)[:, 0]
    names = logged_losses(log_history)
    modules = [name for name in names if name.startswith("mctp")]
    # The lighter the colour, the further ahead the module predicts.
    shades = dict(zip(modules, colormaps["viridis"]([i / max(len(modules), 2) for i in range(len(modules))])))
    colors = {"loss": "black", "lm_loss": "tab:red", **shades}
    for name in names:
        for logged_name, style in ((name, "-"), (f"eval_{name}", "o--")):
            points = [(entry["step"], entry[logged_name]) for entry in log_history if logged_name in entry]
            if points:
                # A line through a single point would not be visible.
                style = "o" if len(points) == 1 else style
                axes.plot(*zip(*points), style, label=logged_name, color=colors[name], linewidth=1, markersize=3)
    axes.set(xlabel="step", ylabel="loss (nats)")
    axes.grid(alpha=0.3)
    for axes in below:
        for name in rewards:
            points = [(entry["step"], entry[name]) for entry in log_history if name in entry]
            axes.plot(*zip(*points), "o" if len(points) == 1 else "-", label=name.split("/")[1], linewidth=1)
        axes.set(xlabel="step", ylabel="mean reward")
        axes.grid(alpha=0.3)
    if names:
        # beside the axes, where it covers nothing
        figure.legend(fontsize="x-small", loc="outside right upper")
    return figure


def plot_durations(durations: dict[str, list[float]], path: str | Path) -> None:
    """Draws how long the clips of a corpus are, in seconds, by their splits."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    axes.hist(list(durations.values()), bins=40, stacked=True, label=list(durations))
    axes.set(xlabel="duration (s)", ylabel="clips")
    figure.legend(loc="outside right upper")
    figure.savefig(path, dpi=100)
