"""Runs as groups: those that differ by their seed alone, or by anything but the flags asked for."""

import json
import math
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import BASELINES, OBJECTIVES
from ..config.fields import SCHEDULED
from ..errors import UserError, one_line
from . import tables
from .boundary import part
from .charts import BASELINE, CURVES, PER_FRAME, QUANTITIES, Chart, Panel, Series
from .pages import PLACE
from .reading import Run, read_run

Groups = dict[str, list[Run]]
COPIED = "copied given frame"  # the column of the baseline in rows of val_frames.csv
SAME = 0.01  # dB: baselines of several runs that differ by less are one line


# ---------------------------------------------------------------- groups


def find_runs(paths: Iterable[Path]) -> list[Run]:
    """All runs in and below the paths, sorted by name, without those moved aside."""
    found = set()
    for path in paths:
        here = {file.parent for file in path.rglob("metrics.csv")}
        here = {folder for folder in here if not folder.name.startswith("before-")}
        if not here:
            raise UserError(f"no run (metrics.csv) in or below {path}")
        found |= here
    runs = readable(sorted(found))
    if not runs:
        raise UserError("none of the runs can be read")
    for run, name in zip(runs, names([[run] for run in runs])):
        run.name = name
    return runs


def readable(folders: Iterable[Path]) -> list[Run]:
    """The runs in the folders, without those that cannot be read or shown even alone."""
    runs = []
    for folder in folders:
        with part(folder):
            run = read_run(folder)
            score_table({"": [run]}), charts_of({"": {"": [run]}})
            runs.append(run)
    return runs


def group(runs: Sequence[Run], flags: Sequence[str] = ()) -> Groups:
    """{name: runs with the same settings except for the seed, or with the same `flags`}."""
    found = {}
    for one in runs:
        settings = compared(one)
        if flags:
            name = json.dumps([settings.get(flag) for flag in flags])
        else:
            name = json.dumps(settings, sort_keys=True) if settings else str(one.folder)
        found.setdefault(name, []).append(one)
    if flags:
        return {described(members[0], flags): members for members in found.values()}
    return dict(zip(names(list(found.values())), found.values()))


def panels(runs: Sequence[Run], by: Sequence[str], panel_by: str | None) -> dict[str, Groups]:
    """{title of a panel: its groups}. Without --panel_by it is one panel without a title.

    Lines of the same settings have the same name in every panel.
    """
    for flag, given in [*(("--group_by", flag) for flag in by), ("--panel_by", panel_by)]:
        check_flag(runs, flag, given)
    if not panel_by:
        return {"": group(runs, by)}
    if not by:
        keys = [k for k in differing(map(compared, runs)) if k != panel_by]
        by = keys or [panel_by]
    values = {described(run, [panel_by]): [] for run in runs}
    for run in runs:
        values[described(run, [panel_by])].append(run)
    return {title: group(members, by) for title, members in values.items()}


def check_flag(runs: Sequence[Run], flag: str, name: str | None) -> None:
    known = {key for run in runs for key in run.settings} - {"environment"}
    if name is not None and name not in known:
        raise UserError(f"{flag} {name}: no run has this setting")


def described(run: Run, flags: Iterable[str]) -> str:
    """Settings as the name of a group."""
    return ", ".join(f"{flag} {cell(run.settings.get(flag))}" for flag in flags)


def cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list) and value and isinstance(value[0], list):  # rows of a --schedule
        value = [name for name, given in zip(SCHEDULED, value[0][1:]) if given is not None]
    return one_line(" ".join(map(str, value)) if isinstance(value, list) else value)


def compared(one: Run) -> dict[str, Any]:
    """The settings that distinguish runs."""
    return {k: v for k, v in one.settings.items() if k not in PLACE | {"seed"}}


def names(groups: Sequence[Sequence[Run]]) -> list[str]:
    """A name for every group: the path of its runs below the folder of all groups."""
    folders = [[run.folder.resolve() for run in runs] for runs in groups]
    shared = [Path(os.path.commonpath(paths)) for paths in folders]
    parents = [path.parent for paths in folders for path in paths]
    home = Path(os.path.commonpath(parents)) if len(groups) > 1 else shared[0].parent
    return [
        one_line(path.relative_to(home))
        if home in path.parents and shared.count(path) == 1
        else f"{one_line(paths[0].relative_to(home))} and {len(paths) - 1} more"  # a shared folder
        for path, paths in zip(shared, folders)
    ]


def comparable(groups: Groups) -> Groups:
    """The finished runs of every group, which have a mean; each other run by itself.

    So no mean has a run that is not finished.
    """
    found = {}
    for name, runs in groups.items():
        if done := [run for run in runs if run.finished]:
            found[name] = done
        for run in runs:
            if not run.finished:
                found[name if len(runs) == 1 else run.name or run.folder.name] = [run]
    return found


def name_runs(groups: Groups) -> None:
    """The only run of a group has the group's name."""
    for name, runs in groups.items():
        if len(runs) == 1:
            runs[0].name = name


def differing(settings: Iterable[Mapping[str, Any]]) -> list[str]:
    """The settings with more than one value."""
    settings = [*settings]
    keys = dict.fromkeys(key for each in settings for key in each)
    return [k for k in keys if len({json.dumps(each.get(k)) for each in settings}) > 1]


def differences(groups: Groups) -> tuple[list[str], list[list[str]]]:
    """The flags that differ between runs, and their values in every group."""
    keys = differing(compared(run) for runs in groups.values() for run in runs)
    rows = []
    for name, runs in groups.items():
        values = ({cell(compared(run).get(key)): None for run in runs} for key in keys)
        rows.append([name, *(", ".join(found) for found in values)])
    return keys, rows


# ---------------------------------------------------------------- lines


def mean_of_runs(
    tables: Iterable[list[dict]], x: str, column: str
) -> tuple[int, list[float], list[float], list[float] | None]:
    """Rows of every run -> number of runs with values, x, mean, standard deviation.

    At every x that all of these runs have. The standard deviation of one run is None.
    """
    tables = [{r[x]: r[column] for r in rows if r.get(column) is not None} for rows in tables]
    tables = [table for table in tables if table]  # a run that is not finished may have none
    places = sorted(set.intersection(*map(set, tables))) if tables else []
    values = [[table[place] for table in tables] for place in places]
    spread = [statistics.stdev(v) for v in values] if len(tables) > 1 else None
    return len(tables), places, [statistics.fmean(v) for v in values], spread


def lines(
    groups: Groups, rows_of: Callable[[Run], list[dict]], x: str, column: str
) -> list[Series]:
    """One line per group, a mean with a band if it has several runs."""
    found = []
    for name, runs in comparable(groups).items():
        n, places, mean, spread = mean_of_runs(map(rows_of, runs), x, column)
        count = len(runs)
        note = "" if count == 1 else f"{n} runs" if n == count else f"{n} of {count} runs"
        if not runs[0].finished:
            note = f"unfinished: {runs[0].progress} epochs"
        found += [Series(name, places, mean, spread, note)] if places else []
    return found


def baseline(
    runs: Sequence[Run], rows_of: Callable[[Run], list[dict]], x: str, column: str
) -> list[Series]:
    """The baseline, if it is the same for all runs."""
    _, places, mean, spread = mean_of_runs(map(rows_of, tables.finished(runs)), x, column)
    if not places or (spread is not None and max(spread) >= SAME):
        return []
    labs = {run.settings.get("lab", "pose") for run in runs}
    label = " or ".join(BASELINES.get(lab, "baseline") for lab in sorted(map(str, labs)))
    return [Series(label, places, mean, baseline=True)]


def charts_of(grid: dict[str, Groups]) -> list[Chart]:
    """Every quantity by epoch, PSNR by frame."""
    charts = [chart_of(grid, column) for column in QUANTITIES]
    charts = [chart for chart in charts if chart.panels]
    set_styles(charts)
    return charts


def chart_of(grid: dict[str, Groups], column: str) -> Chart:
    """A column of metrics.csv by epoch, or PSNR by frame, with its baseline if there is one."""
    name, title, unit = QUANTITIES[column]
    runs = [run for groups in grid.values() for members in groups.values() for run in members]
    if column in CURVES["loss"][2]:
        losses = sorted({str(run.settings.get("loss", "mse")) for run in runs}, reverse=True)
        unit = " or ".join(OBJECTIVES.get(loss, loss) for loss in losses)
    rows_of, x, y, copied = epochs_of, "epoch", column, BASELINE * (column == "val/psnr")
    if column == PER_FRAME:
        rows_of, x, y, copied = frames_of, "frame", "rollout", COPIED
    drawn = []
    for panel, groups in grid.items():
        series = lines(groups, rows_of, x, y)
        runs = [run for members in groups.values() for run in members]
        if series and copied:
            series += baseline(runs, rows_of, x, copied)
        drawn.append(Panel(panel, series))
    return Chart(name, title, x, unit, drawn)


def set_styles(charts: Sequence[Chart]) -> None:
    """The same name has the same colour, dashes and marker everywhere."""
    every = [s for chart in charts for panel in chart.panels for s in panel.series]
    style = {s: i for i, s in enumerate(dict.fromkeys(s.name for s in every if not s.baseline))}
    for series in every:
        series.style = style.get(series.name, 0)


def figure(
    name: str,
    column: str,
    runs: Mapping[str, Run],
    by: str | None = None,
    panel_by: str | None = None,
) -> Chart:
    """A chart of a report: a line for each run, or for each value of the setting `by`."""
    grid = {"": {label: [run] for label, run in runs.items()}}
    if by and runs:
        grid = panels([*runs.values()], [by], panel_by)
    chart = chart_of(grid, column)
    chart.name = name
    set_styles([chart])
    return chart


def epochs_of(one: Run) -> list[dict]:
    return one.epochs


def frames_of(one: Run) -> list[dict]:
    """Rows of val_frames.csv; the name of the baseline's column is the lab's."""
    return [dict(zip(("frame", "rollout", COPIED), row.values())) for row in one.frames]


# ---------------------------------------------------------------- scores


def merged(grid: dict[str, Groups]) -> Groups:
    """The groups of all panels."""
    return {
        " · ".join(filter(None, [panel, name])): runs
        for panel, groups in grid.items()
        for name, runs in groups.items()
    }


def score_table(groups: Groups) -> tuple[list[str], list[list[str]]]:
    """Head and rows, the best first. A run that is not finished has a row of its own."""
    by_test = tested(groups)
    ranking = sorted(comparable(groups).items(), key=lambda x: rank(x[1], by_test), reverse=True)
    return ["run", *tables.HEAD], [[name, *tables.row_of(runs, by_test)] for name, runs in ranking]


def tested(groups: Groups) -> bool:
    """Whether every finished run has a test score; else groups are ranked by validation."""
    runs = [run for members in groups.values() for run in members if run.finished]
    return bool(runs) and all(map(tables.is_tested, runs))


def rank(runs: list[Run], by_test: bool) -> float:
    """The mean PSNR of the runs."""
    scores = (tables.score_and_baseline(run, by_test)[0] for run in runs)
    known = [x for x in scores if x is not None]
    return statistics.fmean(known) if known else -math.inf
