#!/usr/bin/env python
"""Train and test a list of runs, several at once, then compare them on one page.

    python scripts/sweep.py --DR data --save_root runs/kl --jobs 2 --all --lr 1e-4 \\
        --run None --kl_anneal_type None --run Cyclical --kl_anneal_type Cyclical

A list in a shell script is easier to read and to edit: scripts/sweep_*.sh, scripts/report_*.sh.
After the flags below come, in this order:

  --all FLAGS        flags of Trainer.py for every run
  --run NAME FLAGS   a run, in the folder SAVE_ROOT/NAME, and its own flags; once for each run
  --more FLAGS       flags of Trainer.py for every run that override the others
  --compare FLAGS    flags of compare.py

A report's script also lists what is drawn and printed of its runs at the end, in SAVE_ROOT/figures.
RUNS are patterns of their names, such as 'None/*' or 'a,b'; COLUMN is one of metrics.csv, or
psnr_per_frame; GROUP_BY and PANEL_BY are flags of Trainer.py.

Complete runs are skipped, interrupted ones resumed. Failed ones are listed at the end (exit code
1). Ctrl-C stops all runs after their current step; the same command resumes them. What a run
prints is in its folder, in sweep.log. docs/sweeps.md says more.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

if __name__ == "__main__":  # before slow imports; PYTHONSAFEPATH leaves the folders out
    sys.path[:0] = map(str, Path(__file__).resolve().parents[:2])
    from modules.cli.start import start

    start()

from jobs import ROOT, Job, Queue, print_score, raise_failures, settings_of

from modules.cli.entry import run
from modules.errors import UserError
from modules.report.charts import QUANTITIES, draw
from modules.report.groups import figure, group, readable
from modules.report.reading import Run
from modules.report.tables import HEAD, finished, last_values, markdown, row_of
from modules.runs.folder import run_folder

Table = tuple[list[str], list[list[str]]]  # head, rows
SECTIONS = "--all", "--run", "--more", "--compare"
DRAWN = {  # SMOKE=1: flags of make_toy_data.py
    "pose": "--train_frames 16 --test_clips 1 --height 32",
    "robot": "--train_clips 16 --eval_clips 4",
}
SMALL = {  # SMOKE=1: flags of Trainer.py
    "pose": "--F_dim 8 --L_dim 4 --N_dim 4 --D_out_dim 8 --frame_H 16 --frame_W 32 "
    "--num_epoch 24 --val_every 12 --train_vi_len 8 --val_vi_len 20 --kl_anneal_cycle 4",
    "robot": "--vgg_width 4 --g_dim 16 --z_dim 4 --rnn_size 16 --num_epoch 30 --epoch_size 2 "
    "--batch_size 4 --n_eval 12 --val_every 15",
}
SHORT = {"pose": "--val_vi_len 20", "robot": ""}  # SMOKE=1: flags of Tester.py


# ---------------------------------------------------------------- the command line


def sections_of(words: Sequence[str]) -> list[list[str]]:
    """Cut where a section begins: the first is that of our own flags."""
    found = [[]]
    for word in words:
        if word in SECTIONS:
            found.append([])
        found[-1].append(word)
    return found


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--DR", required=True, help="dataset of every run")
    add("--save_root", type=Path, required=True, help="folder of the runs")
    add("--jobs", type=int, default=0, help="runs at once; 0: one for each GPU of --gpus")
    add("--gpus", default="", help="GPUs to spread the runs over, such as 0,1")
    add("--only", default="*", help="carry out the runs with such a name only: 'None/*'")
    add("--smoke", action="store_true", help="tiny nets and a drawn dataset: minutes, no results")
    pairs = {"nargs": 2, "action": "append", "default": []}
    listed = {"nargs": "+", "action": "append", "default": []}
    published = "what was published of these runs: it is printed beside what they reach here"
    add("--published", **pairs, metavar=("RUNS", "TEXT"), help=published)
    figure = "NAME COLUMN RUNS [GROUP_BY [PANEL_BY]]: a line for each run or group, as PNG and PDF"
    add("--figure", **listed, metavar="WORD", help=figure)
    table = "NAME RUNS GROUP_BY COLUMN...: mean and deviation of the last values of each group"
    add("--table", **listed, metavar="WORD", help=table)
    add("--copy", **pairs, metavar=("NAME", "FILE"), help="a file of SAVE_ROOT, such as a gif")
    own, *rest = sections_of(words)
    args = parser.parse_args(own)
    args.gpus = [gpu for gpu in args.gpus.split(",") if gpu]
    args.jobs = args.jobs or max(len(args.gpus), 1)
    if args.jobs < 0:
        parser.error(f"--jobs {args.jobs} must be 1 or more")
    args.flags = {word: [] for word in SECTIONS}
    args.runs = {}
    for word, *flags in rest:
        if word != "--run":
            args.flags[word] += flags
        elif not flags or not is_name(flags[0]) or flags[0] in args.runs:
            parser.error(f"--run {' '.join(flags[:1])}: a new name must follow, a folder's")
        else:
            args.runs[flags[0]] = flags[1:]
    if unknown := {column for _, column, *_ in args.figure} - QUANTITIES.keys():
        parser.error(f"--figure: no column {', '.join(unknown)}, but {', '.join(QUANTITIES)}")
    return args


def is_name(name: str) -> bool:
    """Whether it names a folder below that of all runs."""
    path = Path(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def jobs_of(args: argparse.Namespace) -> list[Job]:
    names = [name for name in args.runs if fnmatch(name, args.only)]
    if not names:
        raise UserError(f"no run is called {args.only}; there are: {', '.join(args.runs) or '-'}")
    return [job_of(name, args) for name in names]


def job_of(name: str, args: argparse.Namespace) -> Job:
    given, test = [*args.flags["--all"], *args.runs[name]], []
    place = ["--DR", args.DR, "--save_root", str(args.save_root / name)]
    if args.smoke:
        lab = settings_of(given).lab
        place[1] = str(draw_data(args.save_root, lab))
        given += SMALL[lab].split()
        test = SHORT[lab].split()
    job = Job(name, [*place, *given, *args.flags["--more"]], test)
    if job.folder != args.save_root / name:
        raise UserError(f"--save_root {job.folder}: a sweep chooses the folder of each run itself")
    return job


def draw_data(folder: Path, lab: str) -> Path:
    """A small synthetic dataset of the lab, drawn once."""
    path = folder / f"drawn_{lab}"
    if not path.exists():
        command = [sys.executable, str(ROOT / "scripts" / "make_toy_data.py"), str(path)]
        if subprocess.run([*command, "--lab", lab, *DRAWN[lab].split()]).returncode:
            raise UserError(f"{path} could not be drawn")
    return path


# ---------------------------------------------------------------- what the runs show together


def compare(folder: Path, jobs: Sequence[Job], flags: Sequence[str]) -> bool:
    """The comparison page of the runs that have begun: compare.py -> whether it was written."""
    runs = [str(job.folder) for job in jobs if (job.folder / "metrics.csv").exists()]
    command = [sys.executable, str(ROOT / "scripts" / "compare.py"), *runs]
    command += ["--out", str(folder / "compare"), *flags]
    return not runs or subprocess.run(command).returncode == 0


def report(args: argparse.Namespace, jobs: Sequence[Job]) -> None:
    """The tables and figures of a report, printed and in SAVE_ROOT/figures."""
    runs = {job.name: one for job in jobs for one in readable([job.folder])}
    runs = {name: one for name, one in runs.items() if one.epochs}
    folder = run_folder(args.save_root / "figures")
    if args.published:
        write_table(folder / "published.md", *published_table(runs, args.published))
    for name, patterns, by, *columns in args.table:
        write_table(folder / f"{name}.md", *mean_table(chosen(runs, patterns), by, columns))
    for name, column, patterns, *by in args.figure:
        chart = figure(name, column, chosen(runs, patterns), *by)
        path = draw(folder / f"{name}.png", chart) if chart.panels else "no run has values"
        print(f"figure {name}: {path}")
    for name, source in args.copy:
        source, target = args.save_root / source, folder / f"{name}{Path(source).suffix}"
        if source.exists():
            shutil.copy(source, target)
        print(f"figure {name}: {target if source.exists() else f'there is no {source}'}")


def write_table(path: Path, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    text = markdown(head, rows)
    path.write_text(f"{text}\n")
    print(f"\n{path}\n\n{text}\n")


def chosen(runs: Mapping[str, Run], patterns: str) -> dict[str, Run]:
    """The runs with such names: 'None/*', or several patterns, 'a,b'."""
    found = {name: [fnmatch(name, pattern) for pattern in patterns.split(",")] for name in runs}
    return {name: runs[name] for name, matches in found.items() if any(matches)}


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
    return ["runs", "n", *(QUANTITIES[column][1] for column in columns)], rows


def cell(values: Sequence[float]) -> str:
    """Mean, and deviation of several values, in digits that show a small loss."""
    parts = (statistics.fmean, statistics.stdev)[: len(values)]
    return " ± ".join(f"{part(values):.4g}" for part in parts) or "-"


def main() -> None:
    args = parse_arguments(sys.argv[1:])
    run_folder(args.save_root)
    jobs = jobs_of(args)
    if not (args.smoke or Path(args.DR).is_dir()):
        raise UserError(f"--DR {args.DR} is not a folder; put DR=/path/to/dataset before a script")
    gpus = args.gpus or [None]
    queue = Queue(jobs, [gpus[i % len(gpus)] for i in range(args.jobs)], print_score)
    queue.carry_out()
    compared = compare(args.save_root, jobs, args.flags["--compare"])
    report(args, jobs)
    raise_failures(queue)
    if not compared:
        raise UserError("the runs are complete, but compare.py failed: its message is above")


if __name__ == "__main__":
    run(main)
