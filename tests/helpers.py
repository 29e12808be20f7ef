"""What several test files share: tiny data, tiny nets, settings from a line of flags."""

import contextlib
import csv
import json
import os
import re
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # before modules is imported

from modules.cli.parser import Parser  # noqa: E402
from modules.config.fields import settings_from  # noqa: E402
from modules.process.signals import listener  # noqa: E402
from modules.report.reading import write_test  # noqa: E402
from modules.runs.folder import trained  # noqa: E402

ALL = bool(os.environ.get("ALL_TESTS"))
long = pytest.mark.skipif(not ALL, reason="set ALL_TESTS=1: it takes long")


def fewer(count):
    """How many random cases are tried: half as many without ALL_TESTS."""
    return count if ALL else count // 2


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


def write_tested(folder, files):
    """What a complete test of the run's last weights leaves: {file: its text}."""
    place = folder / "place"
    place.mkdir()
    for name, text in files.items():
        (place / name).write_text(text)
    write_test(folder, place, {"trained": trained(folder)})
    place.rmdir()


# ---------------------------------------------------------------- data of the robot lab

PAST, FUTURE, EVAL = 2, 3, 6  # n_past, n_future, n_eval
ROBOT_SIZES = "--vgg_width 2 --g_dim 4 --z_dim 2 --rnn_size 4 --n_past 2 --n_future 3 --n_eval 6"
ROBOT = ["--lab", "robot", *ROBOT_SIZES.split(), "--epoch_size", "3", "--batch_size", "2"]
ROBOT += "--device cpu --precision float32".split()


def robot_picture(record, clip, t):
    """A square that moves right, on the clip's colour; pixel (0, 0) encodes which frame it is."""
    image = np.full((64, 64, 3), (30 + 9 * clip % 90, 60 + record // 64, 50 + 7 * clip % 90))
    image[20:40, 4 + 5 * t % 40 : 20 + 5 * t % 40] = (240 - 4 * t, 220, 130 + 4 * t)
    image[0, 0] = record // 256, clip, t
    return Image.fromarray(image.astype(np.uint8))


def robot_table(record, clip, length):
    """Actions and positions (T, 7); the first three columns encode record, clip and frame."""
    t = np.arange(length) / 16
    n = np.full(length, clip / 16)
    r = np.full(length, record / 1024)
    return np.stack([r, n, t, 1 - t, -n, 0 * t + 0.25, np.sin(9 * t)], axis=1)


def record_folder(root, split, record):
    return root / split / f"traj_{record}_to_{record + 255}.tfrecords"


def write_clip(root, split, record, clip, length=EVAL, draw=robot_picture):
    folder = record_folder(root, split, record) / str(clip)
    folder.mkdir(parents=True)
    for t in range(length):
        draw(record, clip, t).save(folder / f"{t}.png")
    rows = robot_table(record, clip, length)
    np.savetxt(folder / "actions.csv", rows[:, :4], "%.6f", ",")
    np.savetxt(folder / "endeffector_positions.csv", rows[:, 4:], "%.6f", ",")
    return folder


def make_robot_data(root, train=4, validate=3, test=2):
    """The contract's layout, with this many clips per split."""
    splits = {"train": train, "validate": validate, "test": test}
    for i, (split, clips) in enumerate(splits.items()):
        for clip in range(clips):
            write_clip(root, split, 0, 10 * i + clip)
    return root


# ---------------------------------------------------------------- comparing runs


def files_below(folder):
    return [str(path) for path in tree(folder)]


def load(folder, name="last.ckpt"):
    return torch.load(folder / name, weights_only=True)


def differences(a, b, path=""):
    """Where two nested dicts and lists of tensors and numbers differ, be it by one bit."""
    if isinstance(a, torch.Tensor):
        same = a.shape == b.shape and a.dtype == b.dtype and bits(a) == bits(b)
        return [] if same else [path]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [path]
        return [d for key in a for d in differences(a[key], b[key], f"{path}.{key}")]
    if isinstance(a, list):
        return differences(dict(enumerate(a)), dict(enumerate(b)), path)
    return [] if repr(a) == repr(b) and type(a) is type(b) else [path]


def bits(tensor):
    return tensor.contiguous().numpy().tobytes()


SPEED = "train/frames_per_second"


def reproducible(path, free=("save_root",)):
    """A run's file without what may differ: speed, environment, the folder's name, `free` flags."""
    if path.suffix == ".ckpt":
        state = load(path.parent, path.name)
        state["args"] = without(state["args"], free)
        return state | {"history": [without(row, [SPEED]) for row in state["history"]]}
    if path.name == "args.json":
        return without(json.loads(path.read_text()), [*free, "environment"])
    if path.name == "facts.json":
        return without(json.loads(path.read_text()), ["seconds"])
    if path.name == "metrics.csv":
        with open(path, newline="") as file:
            head, *rows = csv.reader(file)
        return [[x for name, x in zip(head, row) if name != SPEED] for row in [head, *rows]]
    if path.name == "report.html":
        text = path.read_text()
        flags = rf" --({'|'.join(free)}|ckpt_path) [^ <]+"
        times = r", [\d:]+, seed |\d{4}-\d\d-\d\d \d\d:\d\d(, commit \w+\+?)?"
        for varying in (flags, times, r">Run [^<]*<", r" runs/[^ <]*-again"):
            text = re.sub(varying, "", text)
        return text
    if path.name == "console.txt":  # an interrupted run has more to tell
        return None
    return path.read_bytes()


def without(values, names):
    return {name: value for name, value in values.items() if name not in names}


def assert_same_run(a, b):
    """Two run folders hold the same run, but for where it is and how many epochs were asked for."""
    for name in ("last.ckpt", "best_score.ckpt", "metrics.csv"):
        files = [reproducible(folder / name, ("save_root", "num_epoch")) for folder in (a, b)]
        assert differences(*files) == []


def tree(folder):
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


def contents(folder):
    return {path: (folder / path).read_bytes() for path in tree(folder)}


# What a run that was interrupted may have been told otherwise than the uninterrupted one.
FREE = ("save_root", "resume", "save_every_steps", "keep", "cache_dir")


def assert_same_files(a, b):
    """Two run folders hold the same files, to the bit: see `reproducible`."""
    assert tree(a) == tree(b)
    pairs = {str(p): [reproducible(folder / p, FREE) for folder in (a, b)] for p in tree(a)}
    found = {name: d for name, pair in pairs.items() if (d := differences(*pair))}
    assert found == {}


def assert_ended(done, code=0):
    assert done.code == code, done.out + done.err
    assert_no_traceback(done)


def assert_no_traceback(done):
    assert "Traceback" not in done.out + done.err, done.err


def nothing_unfinished(folder):
    return not list(Path(folder).rglob("*.partial"))


def interrupt(monkeypatch, epoch, step):
    """Ctrl-C before this step of this epoch: nothing is saved."""
    at_step(monkeypatch, epoch, step, keyboard_interrupt)


def stop(monkeypatch, epoch, step):
    """SIGTERM in this step of this epoch: the run saves after it, and ends with 143."""
    at_step(monkeypatch, epoch, step, lambda: setattr(listener, "asked", signal.SIGTERM))


def keyboard_interrupt():
    raise KeyboardInterrupt


def at_step(monkeypatch, epoch, step, action):
    from Trainer import Trainer

    one_step, steps = Trainer.training_one_step, []

    def training_one_step(self, *batch, **more):
        steps.append(self.current_epoch)
        if steps.count(epoch) > step:
            action()
        return one_step(self, *batch, **more)

    monkeypatch.setattr(Trainer, "training_one_step", training_one_step)


# ---------------------------------------------------------------- tiny models and trainers

BATCH, LENGTH, SIZE = 3, 5, (12, 16)  # of random clips; SIZE is the frame size of TINY


def random_clips(batch=BATCH, length=LENGTH, seed=0):
    """Random frames and poses (B, T, 3, 12, 16)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, batch, length, 3, *SIZE, generator=generator).unbind(0)


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_trainer(folder, *flags, device="cpu", sizes=TINY, lab="pose", val_set=None, **changes):
    """A Trainer without training data; its validation set is one black clip unless given."""
    from Trainer import Trainer

    words = ["--save_root", folder, "--precision", "float32", *sizes, *flags]
    settings = settings_of(words, lab=lab).replace(**changes)
    image = torch.zeros(2, 3, *SIZE)
    return Trainer(settings, torch.device(device), None, val_set or [(image, image)])


def make_model(**changes):
    """A pose model in eval mode, float32, whose BatchNorm has seen one batch."""
    from modules.models.pose import VAE_Model

    torch.manual_seed(0)
    model = VAE_Model(settings_of([*TINY, "--precision", "float32"]).replace(**changes))
    with torch.no_grad():
        model(*random_clips(2, seed=9), True)
    return model.eval()


@contextlib.contextmanager
def in_float64():
    """Everything new in float64, where another order of sums changes some 1e-15 of a number.

    In float32 it changes 1e-5 of a prediction, and Adam divides a gradient that is 0 but for
    rounding errors by itself. Numbers so compared are the same on every CPU.
    """
    single, torch.Tensor.float = torch.Tensor.float, torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.Tensor.float = single
        torch.set_default_dtype(torch.float32)


def assert_close(found, expected):
    """Equal but for the order of sums in float64."""
    assert expected.dtype != torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def read_submission(folder):
    with open(folder / "submission.csv") as file:
        header = next(file).strip().split(",")
        return header, np.array([[int(v) for v in line.split(",")] for line in file])


def to_rows(clips):
    rows = np.concatenate([clip.reshape(len(clip), -1) for clip in clips])
    return np.rint(255 * np.clip(rows, 0, 1)).astype(int)
