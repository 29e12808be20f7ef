"""Ablation study: train every arm on the same data for about the same steps -> a Markdown table.

python scripts/ablate.py --DR DATASET [--steps 480] [--seeds 0 1 2] [--arms NAME ...]

A step is about 64 predicted frames in every arm (course defaults: 30, as published). The last
weights are scored, so that no arm is selected by its score. Complete runs are not repeated.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # before slow imports; PYTHONSAFEPATH leaves the folders out
    sys.path[:0] = map(str, Path(__file__).resolve().parents[:2])
    from modules.cli.start import start

    start()

from study import Study, carry_out, epochs_on, parse_arguments

from modules.cli.entry import run

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
    "shuffling": "--shuffle",
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
SHARED = "--loss_reduction mean"


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
    "best, deterministic twin": best_with("hybrid objective", "--no-latent"),
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
} | {
    f"best - {name}": best_without(name)
    for name in (*NETS[1:], "shuffling", "jump starts", "augmentation", "input noise", "EMA")
}
ARMS = {name: f"{flags} {SHARED}" for name, flags in (COMPARED | ADDED | LEFT_OUT).items()}


STUDY = Study(
    lab="pose",
    arms=ARMS,
    columns={
        "PSNR, 630 steps": "mean/psnr",
        "pose box": "mean/psnr_pose_box",
        "drift": "mean/drift",
    },
    # columns of the unit "dB" share an axis, and a drift does not belong on it
    drawn={"PSNR, 630 steps": "dB", "pose box": "dB", "drift": "dB, end - start"},
    epochs=epochs_on,
    runs="runs/ablate",
    steps=480,
)


def main():
    carry_out(STUDY, parse_arguments(__doc__.splitlines()[0], STUDY))


if __name__ == "__main__":
    run(main)
