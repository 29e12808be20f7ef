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

if __name__ == "__main__":  # before slow imports; PYTHONSAFEPATH leaves the folders out
    sys.path[:0] = map(str, Path(__file__).resolve().parents[:2])
    from modules.cli.start import start

    start()

from jobs import ROOT, Job, Queue, print_score, raise_failures, settings_of

from modules.cli.entry import run
from modules.errors import UserError
from modules.files import write_atomically
from modules.report.pages import spread
from modules.report.reading import read_run
from modules.runs.folder import run_folder

SECTIONS = "--all", "--run", "--more", "--compare"
DRAWN = {  # SMOKE=1: flags of make_toy_data.py
    "pose": "--train_frames 16 --test_clips 1 --height 32",
    "robot": "--train_clips 16 --eval_clips 4",
}
SMALL = {  # SMOKE=1: flags of Trainer.py
    "pose": "--F_dim 8 --L_dim 4 --N_dim 4 --D_out_dim 8 --frame_H 16 --frame_W 32 "
    "--num_epoch 24 --val_every 12 --train_vi_len 8 --val_vi_len 20",
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
    published = "a row of the table at the end: what was published of the runs with such names"
    add("--published", **pairs, metavar=("NAMES", "TEXT"), help=published)
    figure = "a figure of a report: copied to SAVE_ROOT/figures from this file of SAVE_ROOT"
    add("--figure", **pairs, metavar=("NAME", "FILE"), help=figure)
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


def print_published(jobs: Sequence[Job], published: Sequence[Sequence[str]]) -> None:
    """A table: what was published of these runs, and what they reach here."""
    rows = [
        (names, text, [job for job in jobs if fnmatch(job.name, names)])
        for names, text in published
    ]
    rows = [row for row in rows if row[2]]
    if rows:
        print("\n| runs | published | ours: test PSNR | ours: best validation PSNR |")
        print("|---|---|---|---|")
    for names, text, found in rows:
        runs = [read_run(job.folder) for job in found]
        psnr = [[row.get("val/psnr") for row in one.epochs] for one in runs]
        best = [max((x for x in values if x is not None), default=None) for values in psnr]
        ours = spread(one.scores.get("psnr") for one in runs), spread(best)
        print(f"| {names} | {text} | {' | '.join(ours)} |")


def copy_figures(folder: Path, figures: Sequence[Sequence[str]]) -> None:
    """The figures of a report, under its names for them."""
    for name, source in figures:
        source = folder / source
        target = run_folder(folder / "figures") / f"{name}{source.suffix}"
        if source.exists():
            data = source.read_bytes()
            write_atomically(target, lambda file, data=data: file.write(data))
            print(f"figure {name}: {target}")
        else:
            print(f"figure {name}: there is no {source}")


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
    print_published(jobs, args.published)
    copy_figures(args.save_root, args.figure)
    raise_failures(queue)
    if not compared:
        raise UserError("the runs are complete, but compare.py failed: its message is above")


if __name__ == "__main__":
    run(main)
