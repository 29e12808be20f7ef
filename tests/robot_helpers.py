"""What the tests of the robot lab share: runs on tiny data, and rollouts computed by hand."""

import shlex
from types import SimpleNamespace

import numpy as np
import torch
from helpers import EVAL, FUTURE, PAST, ROBOT, load, make_robot_data, record_folder, settings_of
from PIL import Image

import Tester
from dataloader import Dataset_Robot
from modules.cli.parser import parse
from modules.config import RobotModel
from modules.config.fields import settings_from
from modules.models.robot import RecurrentVAE
from modules.models.rollout import noise_source
from Trainer import train

ACTIONS, POSITIONS = "actions.csv", "endeffector_positions.csv"


def open_split(root, split="train", length=PAST + FUTURE, workers=2):
    return Dataset_Robot(root, split, length, "--flag", workers=workers)


def train_in(call, data, folder, epochs=1, line=""):
    """Trainer.py on tiny robot data -> code, out, err."""
    places = ["--DR", data, "--save_root", folder, "--niter", epochs]
    return call("Trainer", *places, *ROBOT, *shlex.split(line))


def train_robot_once(base):
    """Data and a run of one epoch with a learned prior; `scaled`: its checkpoint, larger weights.

    For tests that change neither.
    """
    data = make_robot_data(base / "robot")
    flags = ["--DR", data, "--save_root", base / "run", "--niter", 1, "--no-plots", *ROBOT]
    train(settings_of([*flags, "--learned_prior"], lab="robot"))
    torch.save(scale_weights(load(base / "run")), base / "scaled.ckpt")
    best, scaled = base / "run/best_score.ckpt", base / "scaled.ckpt"
    return SimpleNamespace(data=data, run=base / "run", best=best, scaled=scaled)


def scale_weights(state, seed=0):
    """Weights so large that frames, conditions and z all have a visible effect."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in state["state_dict"].items():
        if value.dim() > 1:
            fan_in = len(value) if name == "decoder.head.0.weight" else value[0].numel()
            value.normal_(0, 2 / fan_in**0.5, generator=generator)
    return state


def make_robot(**changes):
    """A tiny robot model in eval mode with such weights, whose BatchNorm has seen one batch."""
    torch.manual_seed(0)
    model = RecurrentVAE(settings_of(ROBOT, lab="robot").replace(**changes))
    scale_weights({"state_dict": model.state_dict()})  # in place
    with torch.no_grad():
        model(*random_robot_clips(2, seed=9), True)
    return model.eval()


def random_robot_clips(batch=2, length=EVAL, seed=0):
    """Random frames (B, T, 3, 64, 64) and conditions (B, T, 7)."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.rand(batch, length, 3, 64, 64, generator=generator)
    return frames, torch.randn(batch, length, 7, generator=generator)


def make_tester(run, folder, *flags):
    """A Tester of the scaled weights."""
    places = ["--DR", run.data, "--save_root", folder, "--ckpt_path", run.scaled]
    line = map(str, [*places, "--precision", "float32", *flags])
    settings, typed = parse("Tester", list(line), lab="robot")
    checkpoint = load(run.scaled.parent, run.scaled.name)
    return Tester.Tester(settings, typed, torch.device("cpu"), checkpoint)


# ---------------------------------------------------------------- by hand


def read_clip(folder, length=EVAL):
    """Frames (T, 3, 64, 64) in 0..1 and conditions (T, 7)."""
    images = [np.asarray(Image.open(folder / f"{t}.png")) for t in range(length)]
    frames = torch.tensor(np.stack(images).transpose(0, 3, 1, 2)).float() / 255
    tables = [np.loadtxt(folder / x, np.float32, delimiter=",") for x in (ACTIONS, POSITIONS)]
    return frames, torch.tensor(np.concatenate(tables, 1)[:length]).float()


def clips_of(data, split):
    folders = sorted(record_folder(data, split, 0).iterdir(), key=lambda p: int(p.name))
    return [read_clip(folder) for folder in folders]


def predict(path, clips, seed=1, kind="sample", sample=0, noise=noise_source):
    """The expected rollout of each clip, one by one."""
    state = load(path.parent, path.name)
    model, out = RecurrentVAE(settings_from(RobotModel, state["args"])), []
    model.load_state_dict(state["state_dict"])
    for i, (frames, conditions) in enumerate(clips):
        draw = noise(kind, seed, [i], sample)
        rollout = model.eval().rollout(frames[None, :PAST], conditions[None], draw)
        out.append(torch.cat([*rollout]))
    return out


def psnr(pred, true):
    """The score of one clip: the mean over channels and predicted frames."""
    scored = slice(PAST, PAST + FUTURE)
    error = np.square(np.float64(pred[scored]) - np.float64(true[scored])).mean(axis=(2, 3))
    return (10 * np.log10(1 / error)).mean()


def is_picture(path):
    """Whether an image file is neither tiny nor blank."""
    with Image.open(path) as image:
        image.load()
    return min(image.size) > 50 and len(np.unique(np.asarray(image.convert("RGBA")))) > 10
