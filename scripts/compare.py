#!/usr/bin/env python
"""Compare runs: a ranking, curves of every quantity, and rollouts in step, on one page.

    python scripts/compare.py runs/report_c              all runs in and below a folder
    python scripts/compare.py runs/a runs/b --out pages/a_b
    python scripts/compare.py runs/report_b --group_by tfr
    python scripts/compare.py runs/report_c --panel_by kl_anneal_type

Runs that differ only by seed are one line: their mean, with a band of one standard deviation on
each side. Writes OUT/report.html, which contains everything, and OUT/*.png and *.pdf for a paper.
"""

import argparse
import html
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__":  # before slow imports
    from modules.cli.start import start

    start()

from modules.cli.entry import run
from modules.report import charts, clips, groups, page, tables
from modules.report.boundary import part
from modules.report.pages import CLIPS
from modules.report.reading import Run
from modules.runs.folder import VAL_CLIP, clip_file, page_folder

PLAYED = [VAL_CLIP, *map(clip_file, range(CLIPS))]
Scores = tuple[list[str], list[list[str]]]  # head and rows


def ranking(runs: list[Run], members: groups.Groups, scores: Scores) -> str:
    """The best in words, the table, and the runs with a test that is not shown."""
    head, rows = scores
    best, tested = dict(zip(head, rows[0])), groups.tested(members)
    by = "test PSNR" if tested else "best val PSNR"
    text = f"Ranked by {by}. The best is {best['run']}: {best[by]} dB, {best['above baseline']} dB "
    text += "above its baseline." + " Not every finished run has a test." * (not tested)
    table = page.table(rows, head, tables.MEANINGS)
    notes = "".join(page.note(f"{one.name}: {one.note}") for one in runs if one.note)
    return f"<p>{html.escape(text)}</p>{table}{notes}"


def rollouts(shown: page.Page, runs: list[Run]) -> str:
    """The same clip of several runs in step, as long as there is room on the page."""
    left, styles = 0, {one.name: i for i, one in enumerate(runs)}
    for file in PLAYED:
        same = {}
        for one in runs:
            path = one.folder / file
            if not (path.is_file() if file == VAL_CLIP else file in one.tested):
                continue
            with part(path):
                clip = clips.read(path)
                page.add_clip(page.Page(""), {one.name: clip})  # alone: the others do without it
                if shown.room_for(clip["tracks"].values()):
                    key = clip["tracks"].get(clips.TRUTH), *clip["size"], clip["given"]
                    same.setdefault(key, {})[one.name] = clip
                    for packed in clip["tracks"].values():
                        shown.track(packed)
                else:
                    left += 1
        for clips_of_runs in same.values():
            page.add_clip(shown, clips_of_runs, styles)
    text = "The page would exceed 30 MB with all of them."
    more = f"{left} rollouts are left out. {text} Every run's own page has its rollouts."
    return page.player(shown, more * bool(left))


def strips(runs: list[Run]) -> str:
    """The film strips of the runs."""
    paths = {one.folder / "val_strip.png": one.name for one in runs}
    label = "validation rollout of the best weights"
    return page.pictures({path: f"{x}: {label}" for path, x in paths.items() if path.is_file()})


def settings(members: groups.Groups) -> str:
    keys, values = groups.differences(members)
    return page.table(values, ["run", *keys]) if keys else ""


def unfinished(runs: list[Run]) -> str:
    """The runs that are not finished, and how far they are."""
    found = [f"{one.name} ({one.progress} epochs)" for one in runs if not one.finished]
    return f"unfinished: {', '.join(found)}" if found else ""


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
    runs = groups.find_runs(args.runs)
    grid = groups.panels(runs, args.group_by, args.panel_by)
    members = groups.merged(grid)
    groups.name_runs(members)
    out = page_folder(args.out, "--out")
    drawn = groups.charts_of(grid)
    files = [charts.draw(out / f"{chart.name}.png", chart) for chart in drawn]
    scores = groups.score_table(members)
    write_page(out / "report.html", runs, members, drawn, scores)
    print(tables.markdown(*scores), *(f"{x.name}: {x.note}" for x in runs if x.note), sep="\n")
    print(f"{out / 'report.html'} and {len([*filter(None, files)])} plots, as PNG and PDF")


def write_page(
    path: Path, runs: list[Run], members: groups.Groups, drawn: list[charts.Chart], scores: Scores
) -> None:
    shown = page.Page(f"{len(runs)} run{'s' * (len(runs) > 1)}", unfinished(runs))
    shown.add("Ranking", ranking, runs, members, scores)
    shown.add("Settings that differ", settings, members)
    shown.add("Curves", page.add_charts, shown, drawn)
    shown.add("Rollouts", rollouts, shown, runs)
    shown.add("Film strips", strips, runs)
    shown.write(path)


if __name__ == "__main__":
    run(main, "compare fewer runs")
