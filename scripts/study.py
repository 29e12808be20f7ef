"""What ablation studies share: train and test every arm with every seed, print a table, draw it.

The last weights are scored, so that no arm is selected by its score. Complete runs are not
repeated.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jobs import Job, Queue, print_score, raise_failures
from tqdm import tqdm

from modules.errors import UserError
from modules.evaluation.intervals import bootstrap
from modules.report import measures
from modules.report.figures import draw_arms
from modules.report.reading import read_json, score_of
from modules.report.tables import mean_text


@dataclass(frozen=True)
class Study:
    """Arms {name: flags of Trainer.py} on one data set of a lab."""

    lab: str
    arms: dict[str, str]
    columns: dict[str, str]  # heading of the table -> a score, such as mean/psnr
    drawn: dict[str, str]  # heading of a column that the figure shows too -> its unit
    epochs: Callable[[int, str, Path], int]  # steps, flags, data set -> epochs of an arm
    runs: str  # default folder of the runs
    steps: int  # default steps of every arm
    test: str = ""  # flags of Tester.py
    after: Mapping[str, str] = field(default_factory=dict)  # an arm -> that whose runs it needs
    flags_after: Callable[[Path], str] | None = None  # such a run's folder -> flags of the arm


def value_of(flags, name, default):
    """The last value given for a flag."""
    words = flags.split()
    return int(words[-words[::-1].index(name)]) if name in words else default


def epochs_for(steps, flags, frames):
    """The number of epochs that take about this many steps."""
    clips = frames // value_of(flags, "--train_vi_len", 16)
    return max(round(steps / -(-clips // value_of(flags, "--batch_size", 2))), 1)


def epochs_on(steps, flags, root):
    """The same for the frames of a data set."""
    frames = len(list(root.glob("**/train_img/*.png")))
    if not frames:
        raise UserError(f"--DR {root} has no **/train_img/*.png")
    return epochs_for(steps, flags, frames)


# ---------------------------------------------------------------- runs


def folder_of(args, name, seed):
    return args.runs / name.replace(",", "").replace(" ", "_").replace("'", "") / f"seed{seed}"


def job_of(study, args, name, seed):
    """An arm's run with this seed; its last weights are tested."""
    flags = study.arms[name]
    if name in study.after:
        flags += study.flags_after(folder_of(args, study.after[name], seed))
    flags += f" --seed {seed} --num_epoch {study.epochs(args.steps, flags, args.DR)}"
    place = ["--lab", study.lab, "--DR", str(args.DR), "--save_root"]
    place += [str(folder_of(args, name, seed))]
    train = [*place, *flags.split(), "--val_every", "1000000"]
    test = ["--no_sanity", *study.test.split()]
    return Job(f"{name}, seed {seed}", train, test, "last.ckpt", data_counts=True)


# ---------------------------------------------------------------- the table


def print_row(*cells):
    tqdm.write(f"| {' | '.join(cells)} |")
    sys.stdout.flush()


def parse_arguments(about, *studies):
    def default(field):
        return "default: " + ", ".join(
            f"{getattr(study, field)} ({study.lab})" for study in studies
        )

    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--DR", type=Path, required=True, help="dataset with true test frames")
    parser.add_argument(
        "--runs",
        type=Path,
        help=f"folder for the runs, and arms.png, the figure of the last table ({default('runs')})",
    )
    parser.add_argument(
        "--steps", type=int, help=f"training steps of every arm ({default('steps')})"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    names = list(studies[0].arms)
    parser.add_argument("--arms", nargs="+", default=names, choices=names, metavar="NAME")
    text = "also print how much each arm differs from this one, with 95%% intervals"
    parser.add_argument("--against", choices=names, metavar="NAME", help=text)
    return parser.parse_args()


def carry_out(study, args):
    """Train and test what is missing, print an arm's row when it is complete, draw the table."""
    args.runs, args.steps = args.runs or Path(study.runs), args.steps or study.steps
    args.arms = dict.fromkeys([*args.arms, *([args.against] if args.against else [])])
    print_row("arm", *study.columns)
    print_row(*["---"] * (1 + len(study.columns)))
    complete = {}
    for later in (False, True):
        names = [name for name in args.arms if (name in study.after) == later]
        complete |= train_and_test(study, args, names)
    columns = {
        arm: {heading: values_of(scores, path) for heading, path in study.columns.items()}
        for arm, scores in ((arm, complete[arm]) for arm in args.arms)
    }
    draw_arms(args.runs / "arms.png", columns, study.drawn)
    if args.against:
        print_differences(study, complete, args.against)


def train_and_test(study, args, names):
    """-> {arm: scores.json of every seed}."""
    seeds = dict.fromkeys(args.seeds)  # each once
    arms = {name: [job_of(study, args, name, seed) for seed in seeds] for name in names}
    left = {job.name: name for name, jobs in arms.items() for job in jobs}
    complete = {}

    def ended(job, seconds):
        print_score(job, seconds)
        arm = left.pop(job.name)
        if arm not in left.values():
            complete[arm] = [read_json(one.folder / "scores.json") for one in arms[arm]]
            columns = (values_of(complete[arm], path) for path in study.columns.values())
            print_row(arm, *map(mean_text, columns))

    queue = Queue([job for jobs in arms.values() for job in jobs], ended=ended)
    queue.carry_out()
    raise_failures(queue)
    return complete


def values_of(scores, path):
    """A score of every seed."""
    return [score_of(one, path) for one in scores]


def print_differences(study, complete, against):
    """A row an arm: its scores minus those of another. Intervals are over the seeds, and those of
    a mean over the clips are also over these."""

    def values(arm, path):
        part, _, name = path.partition("/")
        if part == "mean":
            clips = [[clip[name] for clip in one["clips"]] for one in complete[arm]]
            return np.array(clips, float)
        return np.array([values_of(complete[arm], path)], float).T

    print_row(f"minus {against}", *study.columns)
    print_row(*["---"] * (1 + len(study.columns)))
    for arm in complete:
        pairs = ((values(arm, path), values(against, path)) for path in study.columns.values())
        print_row(arm, *(measures.text(bootstrap(ours - theirs)) for ours, theirs in pairs))
