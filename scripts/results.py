"""What the runs of a sweep show together: the comparison page, tables, and figures for a paper.

A figure is a PNG and a PDF as wide as a column and as a page, with text of 8 points.
"""

import shutil
import statistics
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from functools import partial
from itertools import islice
from pathlib import Path

import matplotlib
import numpy as np
from jobs import ROOT, Job
from matplotlib.figure import Figure

from modules.errors import UserError, on_plot, one_line
from modules.files import write_atomically
from modules.report import charts, clips
from modules.report.boundary import part
from modules.report.groups import figure, group, readable
from modules.report.pictures import spread, tiled
from modules.report.reading import Run
from modules.report.tables import HEAD, finished, last_values, markdown, row_of
from modules.runs.folder import TEST_FUTURES, VAL_CLIP, clip_file, run_folder

Table = tuple[list[str], list[list[str]]]  # head, rows
WIDTHS = {"column": 3.3, "page": 7.0}  # inches
POINTS, DPI = 8, 300
TALL, LINE = 2.0, 0.17  # inches: of a panel, of a line of a legend
CHARACTER, HANDLE = 0.065, 0.5  # inches: of a legend's text, of the line beside it
ROWS = 12  # runs in a film strip
FRAME = 0.5  # inches: the least width of a frame of a film strip
STYLE = {"font.size": POINTS, "axes.titlesize": POINTS, "figure.titlesize": POINTS}
STYLE |= {"pdf.fonttype": 42}  # text stays text
STANDARD = {"psnr_per_frame": charts.PER_FRAME, "kl": "train/kl"}  # figures of every sweep


def compare(folder: Path, jobs: Sequence[Job], flags: Sequence[str]) -> None:
    """The comparison page of the runs that have begun: compare.py."""
    runs = [str(job.folder) for job in jobs if (job.folder / "metrics.csv").is_file()]
    command = [sys.executable, str(ROOT / "scripts" / "compare.py"), *runs]
    command += ["--out", str(folder / "compare"), *flags]
    if runs and subprocess.run(command).returncode:
        raise UserError("compare.py failed, its message is above")


def report(args: Namespace, jobs: Sequence[Job]) -> None:
    """The tables and figures, printed and in SAVE_ROOT/figures; what fails is left out."""
    runs = {job.name: one for job in jobs for one in readable([job.folder])}
    runs = {name: one for name, one in runs.items() if one.epochs}
    folder = run_folder(args.save_root / "figures")
    if args.published:
        with part("the table of published scores"):
            write_table(folder / "published.md", *published_table(runs, args.published))
    for name, patterns, by, *columns in args.table:
        with part(f"table {name}"):
            write_table(folder / f"{name}.md", *mean_table(chosen(runs, patterns), by, columns))
    for name, column, patterns, *by in args.figure:
        with part(f"figure {name}"):
            draw_chart(folder, figure(name, column, chosen(runs, patterns), *by))
    for name, source in args.copy:
        with part(f"figure {name}"):
            copy(args.save_root / source, folder / f"{name}{Path(source).suffix}")
    draw_standard(folder, runs, {name for name, *_ in args.figure})


def say(text: str) -> None:
    print(one_line(text))


# ---------------------------------------------------------------- tables


def write_table(path: Path, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    text = markdown(head, rows)
    write_atomically(path, lambda file: file.write(f"{text}\n".encode()))
    print(f"\n{one_line(path)}\n\n{text}\n")


def chosen(runs: Mapping[str, Run], patterns: str) -> dict[str, Run]:
    """The runs with such names: 'None/*', or several patterns, 'a,b'."""
    return {
        name: run
        for name, run in runs.items()
        if any(fnmatch(name, pattern) for pattern in patterns.split(","))
    }


def published_table(runs: Mapping[str, Run], published: Sequence[Sequence[str]]) -> Table:
    """A row for each run: what was published of it, and what it reaches here."""
    texts = dict.fromkeys(runs, "-")
    for patterns, text in reversed(published):  # the first of several counts
        texts |= dict.fromkeys(chosen(runs, patterns), text)
    rows = [[name, texts[name], *row_of([one])[1:]] for name, one in runs.items()]
    return ["run", "published", *HEAD[1:]], rows


def mean_table(runs: Mapping[str, Run], by: str, columns: Sequence[str]) -> Table:
    """A row for each value of a flag: mean and deviation of the last values of its runs."""
    groups = {name: finished(members) for name, members in group([*runs.values()], [by]).items()}
    rows = [
        [name, str(len(members)), *(cell([*last_values(members, column)]) for column in columns)]
        for name, members in groups.items()
    ]
    return ["runs", "n", *(charts.QUANTITIES[column][1] for column in columns)], rows


def cell(values: Sequence[float]) -> str:
    """Mean, and deviation of several values, in digits that show a small loss."""
    parts = (statistics.fmean, statistics.stdev)[: len(values)]
    return " ± ".join(f"{part(values):.4g}" for part in parts) or "-"


# ---------------------------------------------------------------- figures


def copy(source: Path, target: Path) -> None:
    if source.exists():
        shutil.copy(source, target)
    say(f"figure {target.stem}: {target if source.exists() else f'there is no {source}'}")


def draw_standard(folder: Path, runs: Mapping[str, Run], listed: set[str]) -> None:
    """The figures of every sweep: PSNR by frame, KL by epoch, rollouts and sampled futures."""
    for name, column in STANDARD.items():
        if name not in listed:
            with part(f"figure {name}"):
                draw_chart(folder, figure(name, column, runs))
    for file in (clip_file(0), VAL_CLIP):
        with part(f"figure {Path(file).stem}"):
            draw_strip(folder, Path(file).stem, rollouts(runs, file))
    for name, one in runs.items():
        if TEST_FUTURES in one.tested:
            with part(f"figure futures of {name}"):
                tracks = clips.frames_of(one.folder / TEST_FUTURES)
                draw_strip(folder, f"futures_{name}".replace("/", "_"), tracks)


def rollouts(runs: Mapping[str, Run], file: str) -> dict[str, np.ndarray]:
    """The truth of a clip, and what each run predicts of it; runs on other clips are left out."""
    rows = {}
    for name, one in islice(runs.items(), ROWS):
        if (one.folder / file).is_file() and (file == VAL_CLIP or file in one.tested):
            tracks = clips.frames_of(one.folder / file)
            truth = tracks.get(clips.TRUTH, tracks[clips.PREDICTION])
            if np.array_equal(rows.setdefault(clips.TRUTH, truth), truth):
                rows[name] = tracks[clips.PREDICTION]
    return rows


def draw_strip(folder: Path, name: str, rows: Mapping[str, np.ndarray]) -> None:
    """{label: uint8 clip (T, H, W, 3)}: a row a clip, a column a time."""
    if rows:
        save(folder, name, lambda width: strip_figure(width, rows))


def strip_figure(width: float, rows: Mapping[str, np.ndarray]) -> Figure:
    left = max(map(len, rows)) * CHARACTER
    times = spread(min(map(len, rows.values())), int((width - left) / FRAME))
    image = tiled([*rows.values()], times, len(times)).repeat(4, 0).repeat(4, 1)
    tall = (width - left) * image.shape[0] / image.shape[1] + 3 * LINE
    drawn = Figure(figsize=(width, tall), layout="constrained")
    axes = drawn.subplots()
    axes.imshow(image, interpolation="nearest", aspect="equal")
    gap = image.shape[1] / len(times), image.shape[0] / len(rows)
    axes.set_xticks((np.arange(len(times)) + 0.5) * gap[0], times)
    axes.set_yticks((np.arange(len(rows)) + 0.5) * gap[1], map(on_plot, rows))
    axes.set_xlabel("frame")
    axes.xaxis.set_label_position("top")
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return drawn


def draw_chart(folder: Path, chart: charts.Chart) -> None:
    if chart.panels:
        save(folder, chart.name, lambda width: chart_figure(width, chart))
    else:
        say(f"figure {chart.name}: no run has values")


def chart_figure(width: float, chart: charts.Chart) -> Figure:
    """The panels beside each other as far as they fit, the legend below."""
    count = len(chart.panels)
    across = min(count, max(1, int(width / 2.3)))
    down = -(-count // across)
    labels = [*dict.fromkeys(on_plot(x.label) for panel in chart.panels for x in panel.series)]
    columns = max(1, int(width / (max(map(len, labels)) * CHARACTER + HANDLE)))
    lines = -(-len(labels) // columns) if 1 < len(labels) <= charts.LEGEND else 0
    drawn = Figure(figsize=(width, TALL * down + LINE * lines), layout="constrained")
    grid = drawn.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[count:]:
        axes.axis("off")
    if chart.panels[0].title:
        drawn.suptitle(chart.title)
    handles = {}
    for axes, panel in zip(grid.flat, chart.panels):
        charts.draw_panel(axes, chart, panel)
        axes.set(title=on_plot(panel.title or chart.title), xlabel=chart.x, ylabel=chart.y)
        axes.label_outer()
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels())))
        if axes.get_legend():
            axes.get_legend().remove()
    if lines:
        drawn.legend(
            handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False
        )
    return drawn


def save(folder: Path, name: str, draw: Callable[[float], Figure]) -> None:
    """As wide as a column and as a page, as PNG and PDF."""
    kinds = {"png": {"dpi": DPI}, "pdf": {"metadata": {"CreationDate": None}}}
    for place, width in WIDTHS.items():
        path = run_folder(folder / place) / f"{name}.png"
        with matplotlib.rc_context(STYLE):
            drawn = draw(width)
            for kind, more in kinds.items():
                write = partial(drawn.savefig, format=kind, **more)
                write_atomically(path.with_suffix(f".{kind}"), write)
        say(f"figure {name}: {path}")
