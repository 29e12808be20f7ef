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

At the end SAVE_ROOT/figures holds figures of the runs, and the tables and figures that a report's
script lists. RUNS are patterns of their names, such as 'None/*' or 'a,b'; COLUMN is one of
metrics.csv, or psnr_per_frame; GROUP_BY and PANEL_BY are flags of Trainer.py.

Complete runs are skipped, interrupted ones resumed. Failed ones are listed at the end (exit code
1). Ctrl-C stops all runs after their current step; the same command resumes them. What a run
prints is in its folder, in sweep.log. docs/sweeps.md says more.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # before slow imports; PYTHONSAFEPATH leaves the folders out
    sys.path[:0] = str(ROOT / "scripts"), str(ROOT)
    from modules.cli.start import start

    start()

from modules.cli.entry import run
from modules.errors import UserError

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
    for flag, words, least in (("--figure", args.figure, 3), ("--table", args.table, 4)):
        if short := [" ".join(one) for one in words if len(one) < least]:
            parser.error(f"{flag} {short[0]}: a word is missing")
    for word, *flags in rest:
        if word != "--run":
            args.flags[word] += flags
        elif not flags or not is_name(flags[0]) or str(Path(flags[0])) in args.runs:
            parser.error(f"--run {' '.join(flags[:1])}: a new name must follow, a folder's")
        else:
            args.runs[str(Path(flags[0]))] = flags[1:]  # a/ is a
    return args


def is_name(name: str) -> bool:
    """Whether it names a folder below that of all runs."""
    path = Path(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def jobs_of(args: argparse.Namespace) -> list:
    """The runs to carry out."""
    names = [name for name in args.runs if fnmatch(name, args.only)]
    if not names:
        raise UserError(f"no run is called {args.only}; there are: {', '.join(args.runs) or '-'}")
    return [job_of(name, args) for name in names]


def job_of(name: str, args: argparse.Namespace) -> Any:
    from jobs import Job, settings_of

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


# ---------------------------------------------------------------- the sweep


def main() -> None:
    args = parse_arguments(sys.argv[1:])
    if not (args.smoke or Path(args.DR).is_dir()):
        raise UserError(f"--DR {args.DR} is not a folder; put DR=/path/to/dataset before a script")
    import results  # imports matplotlib and torch
    from jobs import Queue, print_score, raise_failures

    from modules.report.boundary import part
    from modules.report.charts import QUANTITIES
    from modules.runs.folder import run_folder

    if unknown := {column for _, column, *_ in args.figure} - QUANTITIES.keys():
        raise UserError(f"--figure: no column {', '.join(unknown)}, but {', '.join(QUANTITIES)}")
    run_folder(args.save_root)
    jobs, gpus = jobs_of(args), args.gpus or [None]
    slots = [gpus[i % len(gpus)] for i in range(min(args.jobs, len(jobs)))]
    queue = Queue(jobs, slots, print_score)
    queue.carry_out()
    with part("the comparison page"):
        results.compare(args.save_root, jobs, args.flags["--compare"])
    with part("figures/"):
        results.report(args, jobs)
    raise_failures(queue)


if __name__ == "__main__":
    run(main)
