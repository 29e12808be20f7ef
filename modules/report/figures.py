"""Plots of single clips and of ablation studies; how figures are saved.

Every figure is a matplotlib Figure without pyplot: the backend stays the user's, as in a notebook.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..errors import on_plot
from ..files import write_atomically
from .boundary import drawing

DPI = 110
# Okabe and Ito's colours, as in page.css
COLOURS = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4d4d4d"


def save_figure(figure: Figure, path: Path) -> None:
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=DPI))


def plot(width: float, height: float, panels: int = 1) -> tuple[Figure, Any]:
    """A figure in inches, and its axes (an array of several) in the colours of the page."""
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(1, panels, squeeze=False)[0]
    for axes in grid:
        axes.set_prop_cycle(color=COLOURS)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    return figure, grid if panels > 1 else grid[0]


def whole_numbers(axes: Any) -> None:
    """Ticks of x at whole numbers: epochs, frames, dimensions."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


@drawing
def draw_psnr_per_frame(path: Path, curves: dict[str, list[float]], first: int = 1) -> None:
    """{label: PSNR of frames first, first + 1, ...} -> one plot; the baseline is dashed."""
    figure, axes = plot(8, 4)
    for label, psnr in curves.items():
        style = {"color": "0.6", "ls": "--"} if label.startswith("copy-") else {}
        label = f"{label}: mean {np.mean(psnr):.2f} dB"
        axes.plot(range(first, first + len(psnr)), psnr, lw=1, label=label, **style)
    axes.set(title="PSNR per frame of the rollout", xlabel="frame", ylabel="PSNR (dB)")
    whole_numbers(axes)
    axes.legend(fontsize=8)
    save_figure(figure, path)


@drawing
def draw_kl(path: Path, values: list[float]) -> None:
    """The KL of each dimension of z, in nats per frame."""
    figure, axes = plot(6, 4)
    axes.bar(range(len(values)), values)
    axes.set(title="KL per dimension of z", xlabel="dimension of z", ylabel="KL (nats per frame)")
    whole_numbers(axes)
    save_figure(figure, path)


@drawing
def draw_arms(
    path: Path, arms: dict[str, dict[str, list[float | None]]], units: dict[str, str]
) -> None:
    """{arm: {heading: a value per seed}} -> a row per arm: a point per seed, a bar at the mean.

    Columns in dB have one axis: PSNR is compared with PSNR.
    """
    size = (2 + 2.2 * len(units), 1.2 + 0.22 * len(arms))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(1, len(units), sharey=True, squeeze=False)
    in_db = [axes for axes, unit in zip(grid.flat, units.values()) if unit == "dB"]
    for axes in in_db[1:]:
        axes.sharex(in_db[0])
    for axes, (heading, unit) in zip(grid.flat, units.items()):
        rows = [[x for x in columns[heading] if x is not None] for columns in arms.values()]
        for row, values in enumerate(rows):
            axes.plot(values, [row] * len(values), "o", ms=4, mew=0, alpha=0.6, color="C0")
            if values:
                axes.plot(np.mean(values), row, "|", ms=11, mew=2, color="C1")
        found = [x for values in rows for x in values]
        if found and 0 < 1000 * min(found) < max(found):  # three orders of magnitude
            axes.set_xscale("log")
        axes.set_title(heading, fontsize=10)
        axes.set_xlabel(unit)
        axes.grid(alpha=0.3)
    grid[0, 0].set_yticks(range(len(arms)), [on_plot(name) for name in arms], fontsize=8)
    grid[0, 0].invert_yaxis()
    save_figure(figure, path)
