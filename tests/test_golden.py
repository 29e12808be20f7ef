"""Checkpoints of version 0.1.0 (commit fbc87d8), loaded, rolled out and resumed as it did.

`golden/LAB_epoch=1.ckpt` is a run of four epochs after two; `golden/LAB_expected.npz` has the
rollout of its first test clip, and the curves and weights that version 0.1.0 reached after all
four. Other machines add in another order, hence the tolerances.
"""

import shutil

import numpy as np
import pytest
import torch
from helpers import ROOT, TINY, make_dataset, make_robot_data

from modules.config import TESTS
from modules.fields import settings_from
from modules.labs import LABS
from modules.models import load_model, roll_out
from modules.models.rollout import noise_source
from modules.runs import checkpoint as ckpt

GOLDEN = ROOT / "tests" / "golden"
FLAGS = {
    "pose": [*TINY, *"""--train_vi_len 4 --val_vi_len 6 --pretrain_epochs 1 --kl_anneal_cycle 1
        --num_epoch 4 --tfr 0.5 --tfr_coin batch --per_save 1 --shuffle
        --jump_start 0.5""".split()],
    "robot": """--lab robot --vgg_width 1 --g_dim 4 --z_dim 3 --rnn_size 8 --n_past 2 --n_future 4
        --n_eval 6 --niter 4 --epoch_size 2 --batch_size 2 --per_save 1 --standardise""".split(),
}  # fmt: skip
MAKE = {"pose": make_dataset, "robot": make_robot_data}


@pytest.fixture(params=["pose", "robot"])
def lab(request):
    return request.param


@pytest.fixture
def data(lab, tmp_path):
    return MAKE[lab](tmp_path / "data")


@pytest.fixture
def expected(lab):
    return np.load(GOLDEN / f"{lab}_expected.npz")


def test_a_rollout_is_the_same(lab, data, expected):
    path = GOLDEN / f"{lab}_epoch=1.ckpt"
    stored = ckpt.load(path)["args"] | {"DR": data, "cache_dir": None}
    settings = settings_from(TESTS[lab], {k: v for k, v in stored.items() if v is not None})
    given, conditions, _ = LABS[lab](settings).open_test(set())
    noise = noise_source("sample", settings.seed, range(1))
    frames = roll_out(
        load_model(path, "cpu", "float32"), given[0][None], conditions[0][None], noise
    )
    np.testing.assert_allclose(frames[0], expected["rollout"], atol=1e-4)


def test_the_run_is_resumed_and_ends_the_same(lab, data, expected, tmp_path, call, no_plots):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copyfile(GOLDEN / f"{lab}_epoch=1.ckpt", run / "last.ckpt")
    places = ["--DR", data, "--save_root", run, "--device", "cpu", "--precision", "float32"]
    done = call("Trainer", *places, *FLAGS[lab])
    assert done.code == 0, done.err
    assert "resuming" in done.out and "at epoch 2" in done.out
    state = ckpt.load(run / "last.ckpt")
    losses = [row["train/loss"] for row in state["history"]]
    np.testing.assert_allclose(losses, expected["loss"], rtol=1e-4)
    psnr = [row["val/psnr"] for row in state["history"]]
    np.testing.assert_allclose(psnr, expected["psnr"], atol=1e-2)
    weights = torch.cat([w.flatten().float() for w in state["state_dict"].values()])
    np.testing.assert_allclose(weights, expected["weights"], atol=1e-3)
