#!/usr/bin/env python
"""Draw runs over one another: curves of every quantity, PSNR of every frame, a table, one page.

    python scripts/compare.py runs/report_c              all runs in and below a folder
    python scripts/compare.py runs/a runs/b --out pages/a_b

Runs whose settings differ in nothing but the seed are one line: their mean, in a band of one
standard deviation either side. Writes OUT/report.html, with all in it, and OUT/*.png.
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
from modules.errors import UserError  # noqa: E402
from modules.report import pages  # noqa: E402
from modules.report.figures import COPIED, CURVES, plt, save_figure  # noqa: E402
from modules.report.pages import HEAD, PLACE, read_run, row_of  # noqa: E402
from modules.runs.folder import run_folder  # noqa: E402

# ---------------------------------------------------------------- groups


def find_runs(paths):
    """Every run in and below the paths, in the order of names; none that was moved aside."""
    found = set()
    for path in paths:
        here = {file.parent for file in path.rglob("metrics.csv")}
        here = {folder for folder in here if not folder.name.startswith("before-")}
        if not here:
            raise UserError(f"no run (metrics.csv) in or below {path}")
        found |= here
    return [read_run(folder) for folder in sorted(found)]


def group(runs):
    """{name: runs}: those that have the same settings but for the seed go together."""
    found = {}
    for one in runs:
        kept = {k: v for k, v in one.settings.items() if k not in PLACE | {"seed"}}
        what = json.dumps(kept, sort_keys=True) if kept else str(one.folder)
        found.setdefault(what, []).append(one)
    return dict(zip(names(list(found.values())), found.values()))


def names(groups):
    """A name for every group: what its runs' path is below the folder that holds all groups."""
    folders = [[run.folder.resolve() for run in runs] for runs in groups]
    shared = [Path(os.path.commonpath(paths)) for paths in folders]
    parents = [path.parent for paths in folders for path in paths]
    home = Path(os.path.commonpath(parents)) if len(groups) > 1 else shared[0].parent
    return [
        str(path.relative_to(home))
        if home in path.parents and shared.count(path) == 1
        else f"{paths[0].relative_to(home)} and {len(paths) - 1} more"  # side by side with others
        for path, paths in zip(shared, folders)
    ]


def differences(groups):
    """{name: the flags in which its settings differ from those of other groups}."""
    settings = {name: runs[0].settings for name, runs in groups.items()}
    keys = dict.fromkeys(key for each in settings.values() for key in each)
    keys = [k for k in keys if k not in PLACE | {"seed"} and len(values_of(k, settings)) > 1]
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
    """Rows of every run -> x, mean and standard deviation (None for one run) where all have it."""
    tables = [{r[x]: r[column] for r in rows if r.get(column) is not None} for rows in tables]
    places = sorted(set.intersection(*map(set, tables)))
    values = np.array([[table[place] for place in places] for table in tables])
    return places, values.mean(axis=0), values.std(axis=0, ddof=1) if len(tables) > 1 else None


def draw_lines(axes, groups, rows_of, x, column):
    """One line a group, in a band where it holds several runs."""
    for name, runs in groups.items():
        places, mean, spread = mean_of_runs([rows_of(run) for run in runs], x, column)
        if not places:
            continue
        label = name if spread is None else f"{name} ({len(runs)} runs)"
        marker = "." if len(places) < 30 else None
        (line,) = axes.plot(places, mean, label=label, lw=1.2, marker=marker)
        if spread is not None:
            band = {"color": line.get_color(), "alpha": 0.2, "lw": 0}
            axes.fill_between(places, mean - spread, mean + spread, **band)


def draw_repeated(axes, groups, rows_of, x, column):
    """What repeating the given frame scores, where it is the same for all runs."""
    places, mean, spread = mean_of_runs(
        [rows_of(run) for runs in groups.values() for run in runs], x, column
    )
    if places and (spread is None or spread.max() < 0.01):
        axes.plot(places, mean, label=COPIED, color="0.6", ls="--", lw=1)


def draw(path, title, unit, groups, rows_of, x, column, repeated=None):
    """-> the picture's path, or None where no run has anything of it."""
    figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    draw_lines(axes, groups, rows_of, x, column)
    if not axes.lines:
        plt.close(figure)
        return None
    draw_repeated(axes, groups, rows_of, x, repeated)
    axes.set(title=title, xlabel=x, ylabel=unit)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, framealpha=0.6)
    save_figure(figure, path)
    return path


def draw_all(out, groups):
    """-> the pictures that were drawn: every quantity by epoch, PSNR by frame."""
    drawn = [
        draw(out / f"{name}.png", title, unit, groups, attrgetter("epochs"), "epoch", *columns[::2])
        for name, (title, unit, columns) in CURVES.items()
    ]
    path, title = out / "psnr_per_frame.png", "PSNR of every frame, best weights"
    drawn.append(draw(path, title, "dB", groups, attrgetter("frames"), "frame", "rollout", COPIED))
    return [path for path in drawn if path]


# ---------------------------------------------------------------- the page


def strips(groups):
    """A rollout of every run, as parts of the page."""
    for name, runs in groups.items():
        for one in runs:
            if (strip := one.folder / "val_strip.png").exists():
                yield pages.heading(
                    f"{name}, seed {one.settings.get('seed')}: a rollout of its best weights"
                )
                yield pages.picture(strip)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, or folders that hold some")
    parser.add_argument("--out", default="compare", help="where pictures and page go (./compare)")
    args = parser.parse_args()
    groups = group(find_runs(args.runs))
    out = run_folder(args.out, "--out")
    pictures = draw_all(out, groups)
    head, rows = ["run", *HEAD], [[name, *row_of(runs)] for name, runs in groups.items()]
    pages.write_page(
        out / "report.html",
        "Runs",
        pages.table(rows, head),
        pages.heading("What differs"),
        pages.table(differences(groups).items()),
        *map(pages.picture, pictures),
        *strips(groups),
    )
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |")
    print(f"{out / 'report.html'} and {len(pictures)} pictures beside it")


if __name__ == "__main__":
    run(main)
