"""What a run resumes and starts from, and which checkpoints it writes."""

import errno
import os
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from helpers import (
    SHORT,
    assert_same_run,
    contents,
    differences,
    load,
    read_csv,
)

import Trainer
from modules.config import PoseTraining
from modules.errors import UserError
from modules.report.monitor import VAL_SCORES
from modules.runs.resume import same_experiment

CONSTANT = "--lr_schedule constant --kl_anneal_type None"  # what num_epoch does not change

pytestmark = pytest.mark.usefixtures("no_plots")


@pytest.fixture
def train(call, trained, tmp_path):
    """train(folder, epochs, flags) -> code, out, err of Trainer.py."""

    def run(name, epochs, line=""):
        flags = ["--DR", trained.data, "--save_root", tmp_path / name, "--num_epoch", epochs]
        return call("Trainer", *flags, *SHORT, *shlex.split(CONSTANT), *shlex.split(line))

    return run


# ---------------------------------------------------------------- resuming


@pytest.mark.parametrize("name", ["last.ckpt", "metrics.csv"])
def test_a_run_that_failed_while_saving_resumes_identically(train, tmp_path, monkeypatch, name):
    train("parts", 1, "--per_save 1")
    replace = os.replace

    def fail(source, target):
        if os.path.basename(target) == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    assert train("parts", 3, "--per_save 1").code == 1
    monkeypatch.setattr(os, "replace", replace)
    assert train("parts", 3, "--per_save 1").code == 0
    train("whole", 3, "--per_save 1")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def count_steps(monkeypatch):
    one_step, epochs = Trainer.Trainer.training_one_step, []

    def training_one_step(self, *batch, **more):
        epochs.append(self.current_epoch)
        return one_step(self, *batch, **more)

    monkeypatch.setattr(Trainer.Trainer, "training_one_step", training_one_step)
    return epochs


def test_a_saved_epoch_is_not_trained_again(train, monkeypatch):
    epochs = count_steps(monkeypatch)
    for num_epoch in (1, 2, 2, 4):
        assert train("run", num_epoch).code == 0
    assert epochs == [0, 0, 1, 1, 2, 2, 3, 3]


def test_resume_never_starts_a_new_run(train, tmp_path, monkeypatch):
    train("run", 2)
    epochs = count_steps(monkeypatch)
    done = train("run", 1, "--resume never --lr 0.002")
    assert done.code == 0, done.err
    assert "resuming" not in done.out
    assert epochs == [0, 0]
    assert load(tmp_path / "run")["last_epoch"] == 1
    assert len(read_csv(tmp_path / "run/metrics.csv")) == 1


def test_resume_takes_precedence_over_ckpt_path(train, tmp_path):
    train("other", 1, "--seed 3")
    start = f"--ckpt_path {tmp_path / 'other/last.ckpt'}"
    train("whole", 2, start)
    assert "--ckpt_path has no effect" not in train("parts", 1, start).out
    assert "--ckpt_path has no effect" in train("parts", 2, start).out
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_ckpt_path_starts_from_the_weights_and_nothing_else(train, tmp_path, monkeypatch):
    train("first", 2)
    trainers = []
    monkeypatch.setattr(Trainer.Trainer, "training_stage", lambda self: trainers.append(self))
    train("second", 1, f"--ckpt_path {tmp_path / 'first/last.ckpt'} --lr 0.5")
    (trainer,) = trainers
    stored = load(tmp_path / "first")["state_dict"]
    assert differences(trainer.model.state_dict(), stored) == []
    assert (trainer.current_epoch, trainer.step, trainer.best_score) == (0, 0, None)
    assert trainer.optim.state_dict()["state"] == {}


# ---------------------------------------------------------------- another experiment

CHANGES = {  # flag -> its value in the first run, and in the second
    "lr": (0.001, 0.002),
    "seed": (0, 1),
    "kl_anneal_type": ("None", "Monotonic"),
    "F_dim": (8, 16),
    "ema": (0.0, 0.5),
    "output_activation": ("none", "sigmoid"),
    "published_step": (False, True),
}


@pytest.mark.parametrize("flag", CHANGES)
def test_flags_that_change_the_experiment_are_refused_with_both_values(flag):
    old, new = CHANGES[flag]
    stored = PoseTraining().replace(**{flag: old}).as_dict()
    with pytest.raises(UserError, match=rf"x\.ckpt .* --{flag} {old}, but it is {new} now"):
        same_experiment(PoseTraining().replace(**{flag: new}), stored, Path("x.ckpt"))


def test_flags_that_do_not_change_the_experiment_may_change():
    changes = {"num_workers": 1, "per_save": 1, "val_every": 2, "precision": "float32"}
    changed = same_experiment(PoseTraining(**changes), PoseTraining().as_dict(), Path("x.ckpt"))
    assert len(changed) == len(changes) and "--per_save 3 -> 1" in changed


def test_another_experiment_is_refused_before_anything_is_written(train, trained, tmp_path):
    run = shutil.copytree(trained.run, tmp_path / "run")
    before = contents(run)
    done = train("run", 2, "--lr 0.002 --lr_schedule multistep --kl_anneal_type Cyclical")
    assert done.code == 1 and "--lr 0.001, but it is 0.002 now" in done.err
    assert contents(run) == before


# ---------------------------------------------------------------- which files are written


def scripted_validation(monkeypatch, psnrs):
    """Let the validation of epoch e score psnrs[e]."""

    def validate(self):
        return dict.fromkeys(VAL_SCORES, 0.0) | {"psnr": psnrs[self.current_epoch]}

    monkeypatch.setattr(Trainer.Trainer, "validate", validate)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("psnrs", "best"),
    [
        ([20, 20, 20], 0),
        ([NAN, 10, NAN], 1),
        ([10, NAN, 11], 2),
        ([-5, -7, NAN], 0),
        ([INF, 10, -INF], 1),
    ],
)
def test_best_score_is_the_first_highest_psnr_and_never_nan(
    train, tmp_path, monkeypatch, psnrs, best
):
    scripted_validation(monkeypatch, psnrs)
    done = train("run", 3, "--partial 0.25")
    assert done.code == 0, done.err
    state = load(tmp_path / "run", "best_score.ckpt")
    assert state["last_epoch"] == best + 1
    assert state["best_score"] == load(tmp_path / "run")["best_score"] == psnrs[best]


def test_without_one_finite_validation_there_is_no_best_score(train, tmp_path, monkeypatch):
    scripted_validation(monkeypatch, [NAN])
    assert train("run", 1).code == 0
    assert not (tmp_path / "run/best_score.ckpt").exists()
    assert (tmp_path / "run/last.ckpt").exists()


def test_every_checkpoint_is_plain_data_of_the_contracts_keys(train, tmp_path):
    train("run", 1, "--ema 0.5 --store_visualization --shuffle")
    for path in (tmp_path / "run").glob("*.ckpt"):
        state = torch.load(path, weights_only=True)  # refuses anything else
        assert {"state_dict", "optimizer", "lr", "tfr", "last_epoch"} <= set(state)
        assert all(isinstance(w, torch.Tensor) for w in state["state_dict"].values())
        assert set(state["optimizer"]) == {"state", "param_groups"}


def test_with_ema_the_averaged_weights_are_the_ones_to_use(train, tmp_path):
    train("run", 2, "--ema 0.9")
    state = load(tmp_path / "run")
    assert differences(state["state_dict"], state["trained_weights"]) != []
    train("plain", 1)
    plain = load(tmp_path / "plain")
    assert "trained_weights" not in plain
    assert plain["state_dict"].keys() == state["state_dict"].keys()
