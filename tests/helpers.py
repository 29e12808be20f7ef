"""What several test files share: tiny data, tiny nets, settings from a line of flags."""

import csv
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # before modules is imported

from modules.cli.parser import Parser  # noqa: E402
from modules.fields import settings_from  # noqa: E402

TINY = "--F_dim 8 --L_dim 2 --N_dim 4 --D_out_dim 8 --frame_H 12 --frame_W 16".split()
SHORT = [*TINY, "--train_vi_len", "4", "--val_vi_len", "6", "--device", "cpu"]


def draw(i, pose):
    """A 24x32 picture: a square whose place follows i, on a grey ramp (a pose: on white)."""
    image = np.full((24, 32, 3), 255, np.uint8)
    if not pose:
        image[:] = np.linspace(60, 120, 32).astype(np.uint8)[None, :, None]
    x = 4 + (3 * i) % 20
    image[8:18, x : x + 6] = (200, 40, 90) if pose else (240, 220, 30)
    return Image.fromarray(image)


def write_pictures(folder, numbers, pose):
    folder.mkdir(parents=True)
    for i in numbers:
        draw(i, pose).save(folder / f"frame{i:06d}.png")


def make_dataset(root, train=16, val=6, clips=(6, 5)):
    """The contract's layout, with the truth of the test clips."""
    for split, count in (("train", train), ("val", val)):
        write_pictures(root / split / f"{split}_img", range(count), pose=False)
        write_pictures(root / split / f"{split}_label", range(count), pose=True)
    for clip, length in enumerate(clips):
        numbers = range(100 * clip, 100 * clip + length)
        write_pictures(root / f"test/test_img/{clip}", numbers[:1], pose=False)
        write_pictures(root / f"test/test_label/{clip}", numbers, pose=True)
        write_pictures(root / f"test/test_truth/{clip}", numbers, pose=False)
    return root


def read_csv(path):
    """metrics.csv and its like -> a dict a row; None where there is no value."""
    with open(path, newline="") as file:
        return [
            {k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)
        ]


def settings_of(flags, script="Trainer", lab="pose"):
    """The settings of some flags, as a line or a list: nothing is required of them together."""
    parser = Parser(script, lab)
    words = flags.split() if isinstance(flags, str) else [str(flag) for flag in flags]
    return settings_from(parser.settings, parser.read(words))


def train_once(base):
    """A dataset and a run of one epoch on it, for tests that read them and change only copies."""
    from Trainer import train

    data, run = make_dataset(base / "data"), base / "run"
    flags = ["--DR", data, "--save_root", run, "--num_epoch", 1, "--no-plots", *SHORT]
    train(settings_of(flags))
    return SimpleNamespace(data=data, run=run, best=run / "best_score.ckpt")
