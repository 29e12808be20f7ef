#!/usr/bin/env python
"""Compare runs: curves of every quantity, PSNR per frame and a table, on one page.

    python scripts/compare.py runs/report_c              all runs in and below a folder
    python scripts/compare.py runs/a runs/b --out pages/a_b

Runs that differ only by seed are one line: their mean, with a band of one standard deviation on
each side. Writes OUT/report.html, which contains everything, and OUT/*.png.
"""

import argparse
import json
import os
import sys
from operator import attrgetter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from modules.cli.entry import run
from modules.config import BASELINES, BEFORE, OBJECTIVES  # noqa: E402
from modules.errors import UserError
from modules.report import pages
from modules.report.figures import CURVES, plt, save_figure
from modules.report.pages import HEAD, PLACE, read_run, row_of
from modules.runs.folder import run_folder

COPIED = "copied given frame"  # the column of the baseline in rows of val_frames.csv

# ---------------------------------------------------------------- groups


def find_runs(paths):
    """All runs in and below the paths, sorted by name, without those moved aside."""
    found = set()
    for path in paths:
        here = {file.parent for file in path.rglob("metrics.csv")}
        here = {folder for folder in here if not folder.name.startswith("before-")}
        if not here:
            raise UserError(f"no run (metrics.csv) in or below {path}")
        found |= here
    return [read_run(folder) for folder in sorted(found)]


def group(runs):
    """{name: runs with the same settings except for the seed}."""
    found = {}
    for one in runs:
        settings = compared(one)
        what = json.dumps(settings, sort_keys=True) if settings else str(one.folder)
        found.setdefault(what, []).append(one)
    return dict(zip(names(list(found.values())), found.values()))


def compared(one):
    """The settings that distinguish runs; what older runs did not store is added."""
    known = BEFORE | one.settings if one.settings else {}
    return {k: v for k, v in known.items() if k not in PLACE | {"seed"}}


def names(groups):
    """A name for every group: the path of its runs below the folder of all groups."""
    folders = [[run.folder.resolve() for run in runs] for runs in groups]
    shared = [Path(os.path.commonpath(paths)) for paths in folders]
    parents = [path.parent for paths in folders for path in paths]
    home = Path(os.path.commonpath(parents)) if len(groups) > 1 else shared[0].parent
    return [
        str(path.relative_to(home))
        if home in path.parents and shared.count(path) == 1
        else f"{paths[0].relative_to(home)} and {len(paths) - 1} more"  # a shared folder
        for path, paths in zip(shared, folders)
    ]


def differences(groups):
    """{name: the flags that differ between groups}."""
    settings = {name: compared(runs[0]) for name, runs in groups.items()}
    keys = dict.fromkeys(key for each in settings.values() for key in each)
    keys = [k for k in keys if len(values_of(k, settings)) > 1]
    return {
        name: pages.flags(
            each, [k for k in keys if each.get(k) is not None and each[k] is not False]
        )
        or "-"
        for name, each in settings.items()
    }


def values_of(key, settings):
    return {json.dumps(each.get(key)) for each in settings.values()}


# ---------------------------------------------------------------- drawing


def mean_of_runs(tables, x, column):
    """Rows of every run -> number of runs with values, x, mean, standard deviation.

    At every x that all of these runs have. The standard deviation of one run is None.
    """
    tables = [{r[x]: r[column] for r in rows if r.get(column) is not None} for rows in tables]
    tables = [table for table in tables if table]  # a run that is not finished may have none
    places = sorted(set.intersection(*map(set, tables))) if tables else []
    values = np.array([[table[place] for place in places] for table in tables])
    if not places:
        return len(tables), [], None, None
    spread = values.std(axis=0, ddof=1) if len(tables) > 1 else None
    return len(tables), places, values.mean(axis=0), spread


def draw_lines(axes, groups, rows_of, x, column):
    """One line per group; with a band if it has several runs."""
    for name, runs in groups.items():
        n, places, mean, spread = mean_of_runs([rows_of(run) for run in runs], x, column)
        if not places:
            continue
        label = name if len(runs) == 1 else f"{name} ({n} runs)"
        if n < len(runs):
            label = f"{name} ({n} of {len(runs)} runs)"
        marker = "." if len(places) < 30 else None
        (line,) = axes.plot(places, mean, label=label, lw=1.2, marker=marker)
        if spread is not None:
            band = {"color": line.get_color(), "alpha": 0.2, "lw": 0}
            axes.fill_between(places, mean - spread, mean + spread, **band)


def draw_baseline(axes, groups, rows_of, x, column):
    """The baseline, if it is the same for all runs."""
    _, places, mean, spread = mean_of_runs(
        [rows_of(run) for runs in groups.values() for run in runs], x, column
    )
    if places and (spread is None or spread.max() < 0.01):
        labs = {run.settings.get("lab", "pose") for runs in groups.values() for run in runs}
        label = " or ".join(BASELINES[lab] for lab in sorted(labs))
        axes.plot(places, mean, label=label, color="0.6", ls="--", lw=1)


def draw(path, title, unit, groups, rows_of, x, column, baseline=None):
    """-> the path of the plot, or None if no run has values."""
    figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    draw_lines(axes, groups, rows_of, x, column)
    if not axes.lines:
        plt.close(figure)
        return None
    draw_baseline(axes, groups, rows_of, x, baseline)
    axes.set(title=title, xlabel=x, ylabel=unit)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, framealpha=0.6)
    save_figure(figure, path)
    return path


def draw_all(out, groups):
    """-> paths of the plots: every quantity by epoch, PSNR by frame."""
    losses = {run.settings.get("loss", "mse") for runs in groups.values() for run in runs}
    units = {"loss": " or ".join(OBJECTIVES[loss] for loss in sorted(losses, reverse=True))}
    drawn = [
        draw(
            out / f"{name}.png", title, units.get(name, unit), groups, attrgetter("epochs"),
            "epoch", *columns[::2],
        )
        for name, (title, unit, columns) in CURVES.items()
    ]  # fmt: skip
    path, title = out / "psnr_per_frame.png", "PSNR per frame, best weights"
    drawn.append(draw(path, title, "dB", groups, frames_of, "frame", "rollout", COPIED))
    return [path for path in drawn if path]


def frames_of(one):
    """Rows of val_frames.csv; the baseline's column had another name in older runs."""
    return [dict(zip(("frame", "rollout", COPIED), row.values())) for row in one.frames]


# ---------------------------------------------------------------- the page


def strips(groups):
    """The film strip of every run, as parts of the page."""
    for name, runs in groups.items():
        for one in runs:
            if (strip := one.folder / "val_strip.png").exists():
                yield pages.heading(
                    f"{name}, seed {one.settings.get('seed')}: rollout of the best weights"
                )
                yield pages.picture(strip)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, or folders with runs")
    parser.add_argument("--out", default="compare", help="output folder (./compare)")
    args = parser.parse_args()
    groups = group(find_runs(args.runs))
    out = run_folder(args.out, "--out")
    pictures = draw_all(out, groups)
    head, rows = ["run", *HEAD], [[name, *row_of(runs)] for name, runs in groups.items()]
    pages.write_page(
        out / "report.html",
        "Runs",
        pages.table(rows, head),
        pages.heading("Settings that differ"),
        pages.table(differences(groups).items()),
        *map(pages.picture, pictures),
        *strips(groups),
    )
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |")
    print(f"{out / 'report.html'} and {len(pictures)} plots")


if __name__ == "__main__":
    run(main)
