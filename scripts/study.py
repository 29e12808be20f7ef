"""What ablation studies share: train and test every arm with every seed, print a Markdown table.

The last weights are scored, so that no arm is selected by its score. Complete runs are not
repeated.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from modules.cli.parser import Parser
from modules.config import BEFORE
from modules.errors import UserError
from modules.fields import settings_from
from modules.report.pages import PLACE, read_json, spread


@dataclass(frozen=True)
class Study:
    """Arms {name: flags of Trainer.py} on one data set of a lab."""

    lab: str
    arms: dict[str, str]
    columns: dict[str, str]  # heading of the table -> a score, such as mean/psnr
    epochs: Callable[[int, str, Path], int]  # steps, flags, data set -> epochs of an arm
    runs: str  # default folder of the runs
    steps: int  # default steps of every arm
    test: str = ""  # flags of Tester.py


def value_of(flags, name, default):
    words = flags.split()
    return int(words[len(words) - 1 - words[::-1].index(name) + 1]) if name in words else default


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


def is_complete(folder):
    return (folder / "scores.json").exists()


def run_arm(study, args, name, seed):
    """-> Tester's scores of the arm's last weights."""
    folder = folder_of(args, name, seed)
    data = ["--lab", study.lab, "--DR", str(args.DR), "--save_root", str(folder)]
    flags = study.arms[name]
    flags += f" --seed {seed} --num_epoch {study.epochs(args.steps, flags, args.DR)}"
    if not is_complete(folder):
        call("Trainer.py", *data, *flags.split(), "--val_every", "1000000")
        last = ["--ckpt_path", str(folder / "last.ckpt"), "--no_sanity"]
        call("Tester.py", *data, *last, *study.test.split())
    same_run(folder, settings_of(study.lab, [*data, *flags.split()]))
    return read_json(folder / "scores.json")


def settings_of(lab, flags):
    parser = Parser("Trainer", lab)
    return settings_from(parser.settings, parser.read(flags)).as_dict()


def same_run(folder, wanted):
    """Refuse the scores of other data, other steps or another arm."""
    stored = BEFORE | read_json(folder / "args.json")
    for flag in sorted((wanted.keys() - PLACE - {"precision"}) | {"DR"}):
        if stored.get(flag) != wanted[flag]:
            raise UserError(
                f"{folder} was trained with --{flag} {stored.get(flag)}, now it is "
                f"{wanted[flag]}: remove it, or choose another folder with --runs"
            )


def call(script, *flags):
    command = [sys.executable, str(ROOT / script), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{script} {' '.join(flags)}\n{done.stderr}")


def run_all(study, args, name, bar):
    """-> the scores of every seed of an arm; the bar counts the runs that were not complete."""
    for seed in args.seeds:
        bar.set_description(f"{name}, seed {seed}")
        start, new = time.perf_counter(), not is_complete(folder_of(args, name, seed))
        scores = run_arm(study, args, name, seed)
        if new:
            seconds = time.perf_counter() - start
            text = f"{name}, seed {seed}: PSNR {scores['mean']['psnr']:.2f} dB, {seconds:.0f} s"
            tqdm.write(text, file=sys.stderr)
            bar.update()
        yield scores


# ---------------------------------------------------------------- the table


def score_of(scores, path):
    """The score at a path such as mean/psnr; None where a run has none."""
    for key in path.split("/"):
        scores = scores.get(key) if isinstance(scores, dict) else None
    return scores


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
    parser.add_argument("--runs", type=Path, help=f"folder for the runs ({default('runs')})")
    parser.add_argument(
        "--steps", type=int, help=f"training steps of every arm ({default('steps')})"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    names = list(studies[0].arms)
    parser.add_argument("--arms", nargs="+", default=names, choices=names, metavar="NAME")
    return parser.parse_args()


def carry_out(study, args):
    """Train and test what is missing, and print the table."""
    args.runs, args.steps = args.runs or Path(study.runs), args.steps or study.steps
    folders = [folder_of(args, name, seed) for name in args.arms for seed in args.seeds]
    complete = sum(map(is_complete, folders))
    print_row("arm", *study.columns)
    print_row(*["---"] * (1 + len(study.columns)))
    with tqdm(total=len(folders), initial=complete, unit="run", disable=None, leave=False) as bar:
        for name in args.arms:
            scores = list(run_all(study, args, name, bar))
            cells = ([score_of(s, path) for s in scores] for path in study.columns.values())
            print_row(name, *map(spread, cells))
