"""Eight training steps of many settings, by one process or by the ranks of torchrun.

torchrun --nproc_per_node N rank_cases.py POSE_DATA ROBOT_DATA OUT CASES...
"""

import sys
from pathlib import Path

import numpy as np
import torch
from helpers import ROBOT_SIZES, SHORT, in_float64, settings_of, write_clip
from PIL import Image

from modules.labs import LABS
from modules.process.ranks import ranks
from modules.training.schedules import coins
from Trainer import Trainer

WHOLE, STEPS = 4, 8  # clips of a batch: the last of an epoch is smaller, and does not divide
POSE = " ".join(SHORT) + " --shuffle --tfr_coin batch --optim SGD --lr 0.01 "
ARM = f"{ROBOT_SIZES} --epoch_size 3 --optim SGD --lr 0.0002 "
BEST = (
    POSE + "--nets unet --scene --first_frame --loss calibrated --loss_reduction mean "
    "--posterior_share 0.5 --warp 0.5 --jump_start 0.5 --tfr 0 "
    "--kl_anneal_type None --kl_anneal_stop 0.01"
)
CASES = {
    "pose, teacher forcing": ("pose", POSE + "--tfr 1 --ema 0.9 --published_step"),
    "pose, free-running": (
        "pose",
        POSE + "--tfr 0 --feedback_noise 0.1 --learned_prior --loss calibrated_batch",
    ),
    "pose, posterior of the previous frame": (
        "pose",
        POSE + "--tfr 0.5 --posterior previous --jump_start 0.5 --warp 0.5 --feedback_noise 0.1",
    ),
    "pose, best recipe": ("pose", f"{BEST} --free_bits 0.5"),
    "pose, Adam": (
        "pose",
        POSE.replace("SGD --lr 0.01", "Adam --lr 0.001") + "--tfr 0 --recompute",
    ),
    "pose, a step that is not finite": ("pose", POSE + "--tfr 0"),
    "robot, teacher forcing": ("robot", ARM + "--tfr 1 --standardise"),
    "robot, free-running": (
        "robot",
        ARM + "--tfr 0 --learned_prior --nets dcgan --loss calibrated",
    ),
}


def noise_picture(record, clip, t):
    """Clips that resemble each other would leave BatchNorm little but rounding errors."""
    rng = np.random.default_rng([record, clip, t])
    blocks = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks.repeat(8, axis=0).repeat(8, axis=1))


def make_noise_data(root):
    for i, split in enumerate(("train", "validate")):
        for clip in range(4):
            write_clip(root, split, 0, 10 * i + clip, draw=noise_picture)
    return root


def record(name, data):
    return train_steps(*CASES[name], data, spoiled="not finite" in name)


@in_float64()
def train_steps(lab, flags, data, spoiled=False):
    """-> losses of every step, the last gradients and the last weights."""
    words = f"--DR {data} --save_root unused --precision float32 --batch_size {WHOLE} {flags}"
    settings = settings_of(words, lab=lab)
    lab = LABS[settings.lab](settings)
    trainer = Trainer(settings, torch.device("cpu"), lab.open_train(), lab.open_val())
    losses = []
    while len(losses) < STEPS:
        trainer.start_epoch()
        batches = trainer.clips.batches(trainer.current_epoch)
        forced = coins(trainer.tfr, trainer.current_epoch, len(batches), settings)
        for batch, coin, clips in zip(batches, forced, trainer.clips.fetch(batches)):
            if spoiled and len(losses) == STEPS // 2:
                spoil_last_clip(clips[0], len(batch))
            losses.append(trainer.training_one_step(*clips, bool(coin), len(batch))[:3])
            trainer.steps_done += 1
        trainer.step_schedules()
    gradients = {n: x.grad for n, x in trainer.model.named_parameters() if x.grad is not None}
    weights = trainer.model.state_dict()
    averages = trainer.ema.state_dict() if trainer.ema else {}
    return {
        "losses": {"": torch.stack(losses)},
        "gradients": gradients,
        "weights": weights,
        "averages": averages,
        "random numbers": {"": torch.rand(3)},
    }


def spoil_last_clip(frames, whole):
    """NaN in the last clip of a whole batch, which only one rank has."""
    rows = ranks.rows(whole)
    if rows.stop == whole:
        frames[-1] = torch.nan


def main():
    torch.set_num_threads(1)
    pose, robot, out, *names = sys.argv[1:]
    data = {"pose": pose, "robot": robot}
    with ranks.joined():
        found = {name: record(name, data[CASES[name][0]]) for name in names}
        torch.save(found, Path(out) / f"rank{ranks.number}.pt")


if __name__ == "__main__":
    main()
