"""Train every arm of the ablation on the same data for about the same steps -> a Markdown table.

bash scripts/ablate.sh --DR DATASET [--steps 480] [--seeds 0 1 2] [--arms NAME ...]

A step is about 64 predicted frames (the course's defaults: 30, as published), whatever the arm. The
last weights are scored, so no arm is chosen by its score. What is done already is not done again.
"""

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from modules.cli.entry import run
from modules.cli.parser import parse
from modules.errors import UserError  # noqa: E402
from modules.report.pages import PLACE, read_json, spread  # noqa: E402

SMALL = "--F_dim 24 --L_dim 8 --N_dim 4 --D_out_dim 40"  # a fifth of the course's width
UNET = "--nets unet --F_dim 64 --L_dim 64 --N_dim 4 --D_out_dim 64"
SHORT = "--batch_size 16 --train_vi_len 5"
LONG = "--batch_size 4 --train_vi_len 16"  # nets that know no place must learn to keep a background
PUBLIC = {
    "batch": "--batch_size 4",
    "lr": "--lr 1e-4 --lr_schedule cosine --lr_min 1e-6",
    "kl": "--tfr 0 --kl_anneal_type None",
}
MEANS = {
    "nets": UNET,
    "scene": "--scene",
    "given frame": "--first_frame",
    "loss": "--loss calibrated",
    "clips": SHORT,
    "order": "--shuffle --random_offset",
    "jump starts": "--jump_start 0.5",
    "warps": "--warp 0.5",
    "noise": "--feedback_noise 0.05",
    "forcing": "--tfr 0",
    "z": "--pretrain_epochs 100000 --z_source mean",
    "lr": "--optim AdamW --lr 0.002 --lr_schedule cosine --warmup_epochs 1",
    "average": "--ema 0.995",
}
NETS = ("nets", "scene", "given frame")


def join(means, **changes):
    return " ".join((means | changes).values())


def best_without(*names):
    return join({name: flags for name, flags in MEANS.items() if name not in names})


def public_with(*names):
    return f"{SMALL} {join(PUBLIC)} {' '.join(MEANS[name] for name in names)}"


COMPARED = {
    "course's defaults": SMALL,
    "best public recipe": f"{SMALL} {join(PUBLIC)}",
    "course's nets, trained better": f"{SMALL} {best_without(*NETS, 'warps', 'clips')} {LONG}",
    "best": join(MEANS),
}
ALONE = {
    f"public + {name}": public_with(name)
    for name in ("scene", "given frame", "loss", "order", "jump starts", "noise", "average")
}
LEFT_OUT = {
    "best - nets": f"{SMALL} {best_without('nets')}",
    "best - loss": join(MEANS, loss="--grad_clip 0.001"),
    "best - forcing": join(MEANS, forcing="--tfr 1 --tfr_d_step 0"),
    "best - z": join(MEANS, z="--z_source mean --kl_anneal_type None"),
} | {
    f"best - {name}": best_without(name)
    for name in ("scene", "given frame", "order", "jump starts", "warps", "noise", "average")
}
ARMS = COMPARED | ALONE | LEFT_OUT


def value_of(flags, name, default):
    words = flags.split()
    return int(words[len(words) - 1 - words[::-1].index(name) + 1]) if name in words else default


def epochs_for(steps, flags, frames):
    """How many epochs take about so many steps."""
    clips = frames // value_of(flags, "--train_vi_len", 16)
    return max(round(steps / -(-clips // value_of(flags, "--batch_size", 2))), 1)


def run_arm(args, name, seed, frames):
    """-> what Tester says of the arm's last weights, averaged over the test clips."""
    folder = args.runs / name.replace(" ", "_").replace("'", "") / f"seed{seed}"
    flags, data = ARMS[name], ["--DR", str(args.DR), "--save_root", str(folder)]
    flags += f" --seed {seed} --num_epoch {epochs_for(args.steps, flags, frames)}"
    if not (folder / "scores.json").exists():
        call("Trainer.py", *data, *flags.split(), "--val_every", "1000000")
        call("Tester.py", *data, "--ckpt_path", str(folder / "last.ckpt"), "--no_sanity")
    same_run(folder, vars(parse("Trainer", [*data, *flags.split()])[0]))
    return read_json(folder / "scores.json")["mean"]


def same_run(folder, wanted):
    """Refuse the scores of other data, other steps or another arm."""
    stored = read_json(folder / "args.json")
    for flag in (wanted.keys() - PLACE - {"precision"}) | {"DR"}:
        if stored.get(flag) != wanted[flag]:
            raise UserError(
                f"{folder} was trained with --{flag} {stored.get(flag)}, now it is "
                f"{wanted[flag]}: remove it, or give another folder with --runs"
            )


def call(script, *flags):
    done = subprocess.run([sys.executable, script, *flags], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{script} {' '.join(flags)}\n{done.stderr}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--DR", type=Path, required=True, help="dataset with test/test_truth")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/ablate"), help="run folders go here"
    )
    parser.add_argument("--steps", type=int, default=480, help="training steps of every arm")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, metavar="NAME")
    args = parser.parse_args()
    frames = len(list(args.DR.glob("**/train_img/*.png")))
    if not frames:
        raise UserError(f"--DR {args.DR} holds no **/train_img/*.png")
    print("| arm | PSNR, 630 steps | pose box | drift |\n|---|---|---|---|", flush=True)
    for name in args.arms:
        scores = [run_arm(args, name, seed, frames) for seed in args.seeds]
        columns = [spread([s[key] for s in scores]) for key in ("psnr", "psnr_pose_box", "drift")]
        print(f"| {name} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    run(main)
