"""Use from Python: the README's code and the notebook are executed as they stand."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from helpers import ROOT, SHORT, make_dataset, settings_of

from modules.config import PoseTraining
from modules.errors import UserError
from modules.models import load_model
from Trainer import train

README = (ROOT / "README.md").read_text()


def python_blocks():
    section = README.split("## Use from Python")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def run(code, folder, **more):
    env = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"} | more
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readmes_code_trains_loads_and_rolls_out(tmp_path):
    """In any working directory, on data of its own with the names that the README has."""
    make_dataset(tmp_path / "data" / "toy", train=32, val=630)
    code = "\n".join(python_blocks()).replace("num_epoch=10", "num_epoch=1, plots=False")
    assert "train(" in code and "load_model(" in code and "roll_out(" in code
    small = f"{', '.join(f'{k[2:]}={v}' for k, v in zip(SHORT[0:12:2], SHORT[1:12:2]))}"
    code = code.replace("num_epoch=1,", f"num_epoch=1, {small}, device='cpu',")
    code = code.replace("video_len=630", "video_len=630, size=(12, 16)")
    run(f"{code}\nassert frames.shape == (1, 630, 3, 12, 16), frames.shape", tmp_path)
    assert (tmp_path / "runs" / "mine" / "report.html").exists()


def test_the_notebook_runs_from_any_folder_of_the_repository(tmp_path):
    notebook = json.loads((ROOT / "scripts" / "quickstart.ipynb").read_text())
    assert notebook["nbformat"] == 4
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    code = "\n".join(cells)
    for stated, small in (
        ("num_epoch=16", "num_epoch=1, plots=False"), ("=16,", "=1,"), ("=60", "=12"),
        ("10, 20, 30, 40, 59", "11"), ("300", "80"), ("--height 64", "--height 32"),
    ):  # fmt: skip
        assert stated in code
        code = code.replace(stated, small)
    text = run(code, ROOT / "docs", TMPDIR=str(tmp_path))
    assert re.search(r"PSNR ([\d.]+) dB, copy-first-frame baseline ([\d.]+) dB", text)


def test_an_import_leaves_matplotlibs_backend_alone(tmp_path):
    code = "import sys, Trainer, Tester, modules.report.charts"
    run(f"{code}\nassert 'matplotlib.pyplot' not in sys.modules", tmp_path)


def test_training_from_settings_is_that_of_the_command_line(dataset, tmp_path, call, no_plots):
    flags = ["--num_epoch", "1", *SHORT]
    assert call("Trainer", "--DR", dataset, "--save_root", tmp_path / "a", *flags).code == 0
    train(settings_of(["--DR", dataset, "--save_root", tmp_path / "b", "--no-plots", *flags]))
    a, b = (load_model(tmp_path / name / "last.ckpt", "cpu").state_dict() for name in "ab")
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_settings_that_contradict_each_other_are_refused(tmp_path):
    with pytest.raises(UserError, match="--lr_min 0.5 is above --lr 0.2"):
        train(PoseTraining(DR=tmp_path, save_root=tmp_path, lr=0.2, lr_min=0.5))
    with pytest.raises(UserError, match="required: DR and save_root"):
        train(PoseTraining())
