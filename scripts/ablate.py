"""Ablation study: train every arm on the same data for about the same steps -> a Markdown table.

bash scripts/ablate.sh --DR DATASET [--steps 480] [--seeds 0 1 2] [--arms NAME ...]

A step is about 64 predicted frames in every arm (course defaults: 30, as published). The last
weights are scored, so that no arm is selected by its score. Complete runs are not repeated.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from modules.cli.entry import run
from modules.cli.parser import Parser
from modules.config import BEFORE
from modules.errors import UserError
from modules.fields import settings_from
from modules.report.pages import PLACE, read_json, spread

SMALL = "--F_dim 24 --L_dim 8 --N_dim 4 --D_out_dim 40"  # a fifth of the course's width
UNET = "--nets unet --F_dim 64 --L_dim 64 --N_dim 4 --D_out_dim 64"
SHORT = "--batch_size 16 --train_vi_len 5"
LONG = "--batch_size 4 --train_vi_len 16"  # nets without a position must learn to keep a background
PUBLIC = {
    "batch": "--batch_size 4",
    "lr": "--lr 1e-4 --lr_schedule cosine --lr_min 1e-6",
    "kl": "--tfr 0 --kl_anneal_type None",
}
PARTS = {
    "nets": UNET,
    "static background": "--scene",
    "first frame": "--first_frame",
    "calibrated loss": "--loss calibrated",
    "clips": SHORT,
    "shuffling": "--shuffle --random_offset",
    "jump starts": "--jump_start 0.5",
    "augmentation": "--warp 0.5",
    "input noise": "--feedback_noise 0.05",
    "free running": "--tfr 0",
    "hybrid objective": (
        "--posterior_share 0.25 --free_bits 2 --z_source mean "
        "--kl_anneal_type Cyclical --kl_anneal_cycle 2 --kl_anneal_ratio 0.5"
    ),
    "lr": "--optim AdamW --lr 0.002 --lr_schedule cosine --warmup_epochs 1",
    "EMA": "--ema 0.995",
}
NETS = ("nets", "static background", "first frame")
SHARED = "--loss_reduction mean --kl_anneal_from start"  # as in the published runs


def join(parts, **changes):
    return " ".join((parts | changes).values())


def best_without(*names):
    return join({name: flags for name, flags in PARTS.items() if name not in names})


def best_with(name, flags):
    return join(PARTS | {name: flags})


def public_with(*names):
    return f"{SMALL} {join(PUBLIC)} {' '.join(PARTS[name] for name in names)}"


COMPARED = {
    "course defaults": SMALL,
    "best public recipe": f"{SMALL} {join(PUBLIC)}",
    "the course's nets, best training": (
        f"{SMALL} {best_without(*NETS, 'augmentation', 'clips')} {LONG}"
    ),
    "best": join(PARTS),
}
ADDED = {
    f"public + {name}": public_with(name)
    for name in (*NETS[1:], "calibrated loss", "shuffling", "jump starts", "input noise", "EMA")
}
LEFT_OUT = {
    "best - nets": f"{SMALL} {best_without('nets')}",
    "best - calibrated loss": best_with("calibrated loss", "--grad_clip 0.001"),
    "best - free running": best_with("free running", "--tfr 1 --tfr_d_step 0"),
    "best - hybrid objective": best_with(
        "hybrid objective", "--z_source mean --kl_anneal_type None"
    ),
    "best, deterministic twin": best_with("hybrid objective", "--no-latent"),
} | {
    f"best - {name}": best_without(name)
    for name in (*NETS[1:], "shuffling", "jump starts", "augmentation", "input noise", "EMA")
}
ARMS = {name: f"{flags} {SHARED}" for name, flags in (COMPARED | ADDED | LEFT_OUT).items()}


def value_of(flags, name, default):
    words = flags.split()
    return int(words[len(words) - 1 - words[::-1].index(name) + 1]) if name in words else default


def epochs_for(steps, flags, frames):
    """The number of epochs that take about this many steps."""
    clips = frames // value_of(flags, "--train_vi_len", 16)
    return max(round(steps / -(-clips // value_of(flags, "--batch_size", 2))), 1)


# ---------------------------------------------------------------- runs


def folder_of(args, name, seed):
    return args.runs / name.replace(" ", "_").replace("'", "") / f"seed{seed}"


def is_complete(folder):
    return (folder / "scores.json").exists()


def run_arm(args, name, seed, frames):
    """-> Tester's scores of the arm's last weights, averaged over the test clips."""
    folder = folder_of(args, name, seed)
    flags, data = ARMS[name], ["--DR", str(args.DR), "--save_root", str(folder)]
    flags += f" --seed {seed} --num_epoch {epochs_for(args.steps, flags, frames)}"
    if not is_complete(folder):
        call("Trainer.py", *data, *flags.split(), "--val_every", "1000000")
        call("Tester.py", *data, "--ckpt_path", str(folder / "last.ckpt"), "--no_sanity")
    same_run(folder, settings_of([*data, *flags.split()]))
    return read_json(folder / "scores.json")["mean"]


def settings_of(flags):
    parser = Parser("Trainer", "pose")
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


def run_all(args, name, frames, bar):
    """-> the scores of every seed of an arm; the bar counts the runs that were not complete."""
    for seed in args.seeds:
        bar.set_description(f"{name}, seed {seed}")
        start, new = time.perf_counter(), not is_complete(folder_of(args, name, seed))
        scores = run_arm(args, name, seed, frames)
        if new:
            seconds = time.perf_counter() - start
            text = f"{name}, seed {seed}: PSNR {scores['psnr']:.2f} dB, {seconds:.0f} s"
            tqdm.write(text, file=sys.stderr)
            bar.update()
        yield scores


def print_row(*cells):
    tqdm.write(f"| {' | '.join(cells)} |")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--DR", type=Path, required=True, help="dataset with test/test_truth")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablate"), help="for run folders")
    parser.add_argument("--steps", type=int, default=480, help="training steps of every arm")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, metavar="NAME")
    args = parser.parse_args()
    frames = len(list(args.DR.glob("**/train_img/*.png")))
    if not frames:
        raise UserError(f"--DR {args.DR} has no **/train_img/*.png")
    folders = [folder_of(args, name, seed) for name in args.arms for seed in args.seeds]
    complete = sum(map(is_complete, folders))
    print_row("arm", "PSNR, 630 steps", "pose box", "drift")
    print_row(*["---"] * 4)
    with tqdm(total=len(folders), initial=complete, unit="run", disable=None, leave=False) as bar:
        for name in args.arms:
            scores = list(run_all(args, name, frames, bar))
            keys = "psnr", "psnr_pose_box", "drift"
            print_row(name, *(spread([s[key] for s in scores]) for key in keys))


if __name__ == "__main__":
    run(main)
