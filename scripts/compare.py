#!/usr/bin/env python
"""Compare runs: rollouts in step, curves of every quantity and tables, on one page.

    python scripts/compare.py runs/report_c              all runs in and below a folder
    python scripts/compare.py runs/a runs/b --out pages/a_b
    python scripts/compare.py runs/report_b --group_by tfr
    python scripts/compare.py runs/report_c --panel_by kl_anneal_type

Runs that differ only by seed are one line: their mean, with a band of one standard deviation on
each side. Writes OUT/report.html, which contains everything, and OUT/*.png and *.pdf for a paper.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__":  # before slow imports
    from modules.cli.start import start

    start()

from modules.cli.entry import run
from modules.report import charts, clips, pages
from modules.report.boundary import part
from modules.report.groups import (
    Groups,
    charts_of,
    differences,
    find_runs,
    labels,
    merged,
    panels,
    score_table,
)
from modules.report.reading import Run
from modules.report.tables import markdown
from modules.runs.folder import VAL_CLIP, clip_file, page_folder

PLAYED = [VAL_CLIP, *map(clip_file, range(pages.CLIPS))]


def add_rollouts(page: pages.Page, runs: list[Run]) -> None:
    """The same clip of several runs in step, as long as there is room on the page."""
    left, styles = 0, {name: i for i, name in enumerate(labels(runs))}
    for file in PLAYED:
        same = {}
        for name, one in zip(styles, runs):
            path = one.folder / file
            if not (path.is_file() if file == VAL_CLIP else file in one.tested):
                continue
            with part(path):
                clip = clips.read(path)
                pages.add_clip(pages.Page(""), {name: clip})  # alone: the others do without it
                if page.room_for(clip["tracks"].values()):
                    key = clip["tracks"].get(clips.TRUTH), *clip["size"], clip["given"]
                    same.setdefault(key, {})[name] = clip
                    for packed in clip["tracks"].values():
                        page.track(packed)
                else:
                    left += 1
        for clips_of_runs in same.values():
            pages.add_clip(page, clips_of_runs, styles)
    if page.clips:
        text = "The page would exceed 30 MB with all of them."
        more = f"{left} rollouts are left out. {text} Every run's own page has its rollouts."
        page.add("Rollouts", pages.player(), pages.note(more * bool(left)))


def strips(runs: list[Run]) -> dict[Path, str]:
    """{the film strip of a run: its label}."""
    paths = {one.folder / "val_strip.png": name for name, one in zip(labels(runs), runs)}
    label = "validation rollout of the best weights"
    return {path: f"{name}: {label}" for path, name in paths.items() if path.is_file()}


def unfinished(runs: list[Run]) -> str:
    """The runs that are not finished, and how far they are."""
    found = [
        f"{name} ({one.progress} epochs)"
        for name, one in zip(labels(runs), runs)
        if not one.finished
    ]
    return f"unfinished: {', '.join(found)}" if found else ""


def notes(runs: list[Run]) -> list[str]:
    """The runs with a test that is not shown, and why."""
    return [f"{name}: {one.note}" for name, one in zip(labels(runs), runs) if one.note]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, or folders with runs")
    parser.add_argument("--out", default="compare", help="output folder (./compare)")
    parser.add_argument(
        "--group_by", action="append", default=[], metavar="FLAG",
        help="runs with the same value of this flag are one line; may be given several times",
    )  # fmt: skip
    parser.add_argument("--panel_by", metavar="FLAG", help="a panel for every value of this flag")
    args = parser.parse_args()
    runs = find_runs(args.runs)
    grid = panels(runs, args.group_by, args.panel_by)
    out = page_folder(args.out, "--out")
    drawn = charts_of(grid)
    files = [charts.draw(out / f"{chart.name}.png", chart) for chart in drawn]
    files = [path for path in files if path]
    scores = score_table(merged(grid))
    write_page(out / "report.html", runs, merged(grid), drawn, scores)
    print(markdown(*scores), *notes(runs), sep="\n")
    print(f"{out / 'report.html'} and {len(files)} plots, as PNG and PDF")


def write_page(
    path: Path,
    runs: list[Run],
    groups: Groups,
    drawn: list[charts.Chart],
    scores: tuple[list[str], list[list[str]]],
) -> None:
    page = pages.Page(f"{len(runs)} run{'s' * (len(runs) > 1)}", unfinished(runs))
    head, rows = scores
    page.add("Scores", pages.table(rows, head), *map(pages.note, notes(runs)))
    add_rollouts(page, runs)
    keys, values = differences(groups)
    page.add("Settings that differ", pages.table(values, ["run", *keys]) if keys else "")
    page.add("Curves", pages.add_charts(page, drawn))
    page.add("Film strips", pages.pictures(strips(runs)))
    page.write(path)


if __name__ == "__main__":
    run(main, "compare fewer runs")
