"""Shared by all tests: a tiny dataset, tiny nets, and the scripts called as a user calls them."""

import csv
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from children import Children
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import Tester  # noqa: E402
import Trainer  # noqa: E402
from modules import options, report  # noqa: E402

torch.set_num_threads(1)  # tiny nets: a second thread only waits for the first
SCRIPTS = {"Trainer": Trainer, "Tester": Tester}
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


def no_plots_in(patch):
    for name in ("draw_curves", "draw_strip", "draw_psnr_per_frame"):
        patch.setattr(report, name, lambda *clips: None)


@pytest.fixture
def no_plots(monkeypatch):
    """Drawing takes longest; for tests that look at no plot."""
    no_plots_in(monkeypatch)


def train_once(base):
    """A dataset and a run of one epoch on it, for tests that read them and change only copies."""
    data, run = make_dataset(base / "data"), base / "run"
    flags = ["--DR", str(data), "--save_root", str(run), "--num_epoch", "1", *SHORT]
    with pytest.MonkeyPatch.context() as patch:
        no_plots_in(patch)
        Trainer.train_or_validate(*options.parse("Trainer", flags))
    return SimpleNamespace(data=data, run=run, best=run / "best_score.ckpt")


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "data")


@pytest.fixture
def args():
    """The template's default flags, on tiny nets."""
    return options.build_parser("Trainer").parse_args([*TINY, "--precision", "float32"])


@pytest.fixture
def call(monkeypatch, capsys):
    """call("Trainer", flag, ...) -> code, out, err: the script in this process, as from a shell."""

    def run(script, *flags):
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, flags)])
        code = 0
        try:
            options.run(SCRIPTS[script].main)
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        if isinstance(code, str):  # sys.exit(text) prints it and ends with 1
            code, err = 1, err + code
        return SimpleNamespace(code=code or 0, out=out, err=err)

    return run


@pytest.fixture(scope="session")
def children(tmp_path_factory):
    """children.run("Trainer", flag, ...): the script in a process of its own; see children.py."""
    family = Children(tmp_path_factory.mktemp("children"))
    yield family
    family.close()


# ---------------------------------------------------------------- faults tried


@pytest.fixture
def fault(request):
    """fault("what was done", "what happened", times): a row of the table at the end."""

    def tried(what, happened, times=1):
        request.node.user_properties.append(("fault", (what, happened, times)))

    return tried


def pytest_terminal_summary(terminalreporter):
    """The faults that were tried by tests that passed, as a table for the README."""
    rows = Counter()
    for done in terminalreporter.stats.get("passed", []):
        for what, happened, times in (row for name, row in done.user_properties if name == "fault"):
            rows[what, happened] += times
    if rows:
        lines = ["| fault | times | what happened |", "|---|---|---|"]
        lines += [f"| {what} | {times} | {happened} |" for (what, happened), times in rows.items()]
        terminalreporter.write_line("\n" + "\n".join(lines))
