"""What is timed: training steps, rollouts and epochs of the package and of the plain loop."""

import os
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from modules.cli.parser import parse
from modules.config import CONDITION, FRAME
from modules.training.device import choose_device
from Trainer import Trainer

from .plain_reference import PlainDataset, PlainModel, plain_rollout, plain_step
from .timing import release_memory

FRAME_SIZE, N_DIM = (32, 64), 12  # of a frame, of z: the defaults


def make_trainer(precision, device, *flags):
    line = ["--device", str(device), "--DR", ".", "--save_root", ".", "--precision", precision]
    line += ["--lr", "1e-5", *flags]
    settings, _ = parse("Trainer", line)
    release_memory()
    with redirect_stdout(None):
        choose_device(settings)
    image = torch.zeros(2, 3, *FRAME_SIZE)
    return Trainer(settings, device, None, [(image, image)])


def make_plain(device):
    model = PlainModel().to(device)
    return model, torch.optim.Adam(model.parameters(), lr=1e-5)


def random_clips(batch, length, device, lab="pose"):
    """Frames and conditions (B, T, ...) of a lab."""
    if lab == "robot":
        shapes = (3, FRAME, FRAME), (CONDITION,)
    else:
        shapes = ((3, *FRAME_SIZE),) * 2
    return [torch.rand(batch, length, *shape, device=device) for shape in shapes]


def zero_output_layer(model):
    """Long rollouts of untrained nets would overflow."""
    torch.nn.init.zeros_(model.Generator[-1].weight)


def hardware_name(device):
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


# ---------------------------------------------------------------- the plain loop, in its process


def reference_training(batch, length, forced, device):
    (model, optim), clips = make_plain(device), random_clips(batch, length, device)
    return {"reference": lambda: plain_step(model, optim, *clips, forced)}


def reference_rollout(clips, frames, device):
    model, _ = make_plain(device)
    zero_output_layer(model.eval())
    given, poses = torch.rand(clips, 3, *FRAME_SIZE), torch.rand(clips, frames, 3, *FRAME_SIZE)
    given, poses = given.to(device), poses.to(device)
    return {"reference": lambda: plain_rollout(model, given, poses, N_DIM)}


def reference_epoch(folder, batch, length, device):
    model, optim = make_plain(device)
    loader = torch.utils.data.DataLoader(
        PlainDataset(folder, length, FRAME_SIZE), batch, num_workers=min(4, os.cpu_count())
    )

    def epoch(step):
        for clips in loader:
            step(*(x.to(device) for x in clips))

    return {
        "reference": lambda: epoch(lambda *clips: plain_step(model, optim, *clips, False)),
        "reference's loading": lambda: epoch(lambda *clips: None),
    }


# ---------------------------------------------------------------- data


def write_images(folder, count):
    """1024x512 PNGs of about the course's file sizes: 200 KB per frame, 25 KB per pose."""
    rng = np.random.default_rng(0)
    for kind, width, method in (("img", 16, Image.BICUBIC), ("label", 96, Image.NEAREST)):
        place = Path(folder) / "train" / f"train_{kind}"
        place.mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (width // 2, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((1024, 512), method).save(place / f"{i}.png")
