"""Curves as data: drawn by page.js on a page, and here as PNG and PDF for a paper."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ..errors import on_plot
from ..files import finite, write_atomically
from .boundary import drawing
from .figures import COLOURS, save_figure, whole_numbers

BASELINE = "val/psnr_given_frame_repeated"  # its column in metrics.csv
CURVES = {  # file name -> title, unit, columns of metrics.csv
    "loss": ("Loss", "MSE + beta KL", ["train/loss", "val/loss"]),
    "mse": ("Training MSE", "MSE", ["train/mse"]),
    "mse_sum": ("Validation MSE, sum over the rollout", "MSE", ["val/mse_sum"]),
    "kl": ("KL divergence", "nats per frame", ["train/kl", "val/kl"]),
    "beta": ("KL weight", "beta", ["train/beta"]),
    "tfr": ("Teacher forcing ratio", "tfr", ["train/tfr"]),
    "lr": ("Learning rate", "lr", ["train/lr"]),
    "psnr": ("Validation PSNR", "dB", ["val/psnr", "val/psnr_min", BASELINE]),
    "ssim": ("Validation SSIM", "SSIM", ["val/ssim"]),
    "elbo": ("Validation ELBO", "nats per frame", ["val/elbo"]),
}
MEANINGS = {  # of a chart, on hover
    "loss": "what is minimised; of validation: teacher-forced frames",
    "mse": "mean squared error of training frames, values in 0..1",
    "mse_sum": "mean squared error of a frame, summed over the rollout",
    "kl": "divergence of the posterior of z from its prior: what z may tell of a frame",
    "beta": "weight of the KL in the loss",
    "tfr": "share of training steps whose input is the true previous frame",
    "psnr": "PSNR of rollouts from the given frames: -10 log10 MSE of a frame, its mean",
    "ssim": "structural similarity of rollouts; 1 is equality",
    "elbo": "bound of the log likelihood of teacher-forced frames; higher is better",
}
SCHEDULES = "beta", "tfr", "lr"
PER_FRAME = "psnr_per_frame"

# Then other dashes: page.css has the same colours, page.js the rest.
MARKERS = "osD^vPX"
DASHES = "-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1, 2))
LEGEND = 30  # more lines than this have no legend in a PNG or PDF
SPLITS = {"train": "training", "val": "validation"}
NAMES = {"val/psnr": "mean", "val/psnr_min": "lowest frame"}
FLATTENED = 8  # see flattens


def label_of(column: str) -> str:
    return NAMES.get(column) or SPLITS[column.split("/")[0]]


QUANTITIES = {  # column -> file name, title and unit of a chart that compares runs
    column: (
        name if column == columns[0] else column.replace("/", "_"),
        title if len(columns) == 1 else f"{title} ({label_of(column)})",
        unit,
    )
    for name, (title, unit, columns) in CURVES.items()
    for column in columns
    if column != BASELINE
} | {PER_FRAME: (PER_FRAME, "PSNR per frame, best weights", "dB")}


@dataclass
class Series:
    """A line, as the mean of `runs` runs with a band of `spread` if there are several."""

    name: str
    x: list[float]
    y: list[float | None]
    spread: list[float] | None = None
    note: str = ""
    baseline: bool = False
    style: int = 0

    @property
    def label(self) -> str:
        return f"{self.name} ({self.note})" if self.note else self.name


@dataclass
class Panel:
    title: str
    series: list[Series]


@dataclass
class Chart:
    """A quantity: one panel, or several that share their axes."""

    name: str
    title: str
    x: str
    y: str
    panels: list[Panel]
    log: bool = field(init=False)

    def __post_init__(self):
        self.panels = [panel for panel in self.panels if panel.series]
        lines = [s for panel in self.panels for s in panel.series if not s.baseline]
        self.log = self.y != "dB" and flattens(lines)  # decibels are logarithms

    def as_json(self) -> dict[str, Any]:
        names = {name: getattr(self, name) for name in ("name", "title", "x", "y", "log")}
        panels = [{"title": p.title, "series": [vars(s) for s in p.series]} for p in self.panels]
        return names | {"about": MEANINGS.get(self.name), "panels": panels}


def flattens(lines: Sequence[Series]) -> bool:
    """Whether a few values leave half of all an eighth of a linear axis: then it is log."""
    values = sorted(y for s in lines for y in finite(s.y) if y is not None)
    if len(values) <= 4 * len(lines) or values[0] <= 0:  # too few to say
        return False
    low, _, high = statistics.quantiles(values, n=4)
    return values[-1] - values[0] > FLATTENED * (high - low) > 0


# ---------------------------------------------------------------- the curves of one run


def run_charts(
    epochs: list[dict], frames: list[dict], units: dict[str, str], baseline: str
) -> list[Chart]:
    """Every quantity by epoch, PSNR by frame."""
    charts = [
        Chart(
            name, title, "epoch", units.get(name, unit),
            [Panel("", column_series(epochs, columns, baseline))],
        )
        for name, (title, unit, columns) in CURVES.items()
    ]  # fmt: skip
    if frames:
        names = list(frames[0])[1:]
        names = dict(zip(names, ["validation", *names[1:]]))
        lines = [column(frames, "frame", c, name, 1) for c, name in names.items()]
        for line in lines[1:]:
            line.baseline = True
        title = "PSNR per frame, mean of the validation clips"
        charts.append(Chart(PER_FRAME, title, "frame", "dB", [Panel("", lines)]))
    return [chart for chart in charts if chart.panels]


def column_series(rows: list[dict], columns: Iterable[str], baseline: str) -> list[Series]:
    series = []
    for name in columns:
        label = baseline if name == BASELINE else label_of(name)
        style = [*SPLITS.values(), *NAMES.values(), baseline].index(label)
        line = column(rows, "epoch", name, label, style)
        line.baseline = name == BASELINE
        series += [line] * bool(line.x)
    return series


def column(rows: list[dict], x: str, name: str, label: str, style: int) -> Series:
    known = [row for row in rows if row.get(name) is not None]
    return Series(label, [row[x] for row in known], [row[name] for row in known], style=style)


def without_constants(charts: Sequence[Chart]) -> tuple[list[Chart], str]:
    """-> the charts without those of schedules that never change, and a note that names these."""
    values = {chart.name: level(chart) for chart in charts if chart.name in SCHEDULES}
    values = {name: value for name, value in values.items() if value is not None}
    text = ", ".join(f"{name} {value:g}" for name, value in values.items())
    return [c for c in charts if c.name not in values], f"constant: {text}" * bool(values)


def level(chart: Chart) -> float | None:
    """The only value of a chart with more than one point."""
    points = [y for panel in chart.panels for series in panel.series for y in series.y]
    return points[0] if len(points) > 1 and len(set(points)) == 1 else None


# ---------------------------------------------------------------- PNG and PDF


@drawing
def draw(path: Path, chart: Chart) -> Path | None:
    """A PNG, and a PDF beside it -> the path of the PNG; None if it is left out."""
    count = len(chart.panels)
    size = (9, 4) if count == 1 else (4.5 * count, 4)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(1, count, sharey=True, squeeze=False)
    for axes, panel in zip(grid.flat, chart.panels):
        draw_panel(axes, chart, panel)
        axes.set(title=on_plot(panel.title or chart.title), xlabel=chart.x)
    grid[0, 0].set_ylabel(chart.y)
    if chart.panels[0].title:
        figure.suptitle(chart.title)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # one layout serves both files
    with matplotlib.rc_context({"pdf.fonttype": 42}):  # text stays text
        pdf = {"format": "pdf", "metadata": {"CreationDate": None}}
        write_atomically(path.with_suffix(".pdf"), lambda file: figure.savefig(file, **pdf))
    save_figure(figure, path)
    return path


@drawing
def draw_curves(folder: Path, rows: list[dict], loss: str, baseline: str) -> None:
    """A run's quantities by epoch, and curves.png with all. `loss` and `baseline` are labels."""
    charts = run_charts(rows, [], {"loss": loss}, baseline)
    for chart in charts:
        draw(folder / f"{chart.name}.png", chart)
    draw_grid(folder / "curves.png", *without_constants(charts))


@drawing
def draw_schedules(path: Path, rows: list[dict]) -> None:
    """beta, tfr and lr of every epoch."""
    columns = [{"epoch": row["epoch"]} | {f"train/{x}": row[x] for x in SCHEDULES} for row in rows]
    draw_grid(path, run_charts(columns, [], {}, ""), columns=3)


@drawing
def draw_grid(path: Path, charts: Sequence[Chart], title: str = "", columns: int = 4) -> None:
    """Charts of one panel each, in one picture."""
    lines = -(-len(charts) // columns)
    figure = Figure(figsize=(4.5 * columns, 3.5 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, chart in zip(grid.flat, charts):
        axes.axis("on")
        draw_panel(axes, chart, chart.panels[0])
        axes.set(title=chart.title, xlabel=chart.x, ylabel=chart.y)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


def draw_panel(axes: Any, chart: Chart, panel: Panel) -> None:
    if chart.log:
        axes.set_yscale("log")
    for line in panel.series:
        draw_line(axes, line, marked=len(panel.series) > 1)
    axes.grid(alpha=0.3)
    whole_numbers(axes)
    if 1 < len(panel.series) <= LEGEND:
        axes.legend(fontsize=8, framealpha=0.6)


def draw_line(axes: Any, line: Series, marked: bool) -> None:
    if line.baseline:
        axes.plot(line.x, line.y, label=on_plot(line.label), color="0.6", ls="--", lw=1)
        return
    colour = COLOURS[line.style % len(COLOURS)]
    style = {"color": colour, "ls": DASHES[line.style // len(COLOURS) % len(DASHES)], "lw": 1.2}
    if marked or len(line.x) == 1:
        style |= {"marker": MARKERS[line.style % len(MARKERS)], "ms": 4}
        step = math.ceil(len(line.x) / 7)  # from another place in each line: equal lines show
        style["markevery"] = line.style * step // 4 % step, step
    axes.plot(line.x, line.y, label=on_plot(line.label), **style)
    if line.spread is not None:
        mean, spread = (np.array(x, dtype=float) for x in (line.y, line.spread))
        axes.fill_between(line.x, mean - spread, mean + spread, color=colour, alpha=0.2, lw=0)
