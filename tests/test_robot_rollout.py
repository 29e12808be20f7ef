"""Rollouts of the robot lab use no true frame after the given ones, and are reproducible."""

import pytest
import torch
from helpers import PAST, ROBOT, settings_of
from robot_helpers import clips_of, make_tester, predict, train_robot_once

import Trainer
from modules.labs import LABS

NAN = float("nan")
SAME = {"rtol": 0, "atol": 1e-3}  # the order of sums differs, and large weights amplify it


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_robot_once(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def trainer(trained, tmp_path):
    flags = ["--DR", trained.data, "--save_root", tmp_path / "run", *ROBOT, "--learned_prior"]
    settings = settings_of(flags, lab="robot")
    lab = LABS["robot"](settings)
    trainer = Trainer.Trainer(settings, torch.device("cpu"), lab.open_train(), lab.open_val())
    trainer.start_from(trained.scaled)
    return trainer


@pytest.fixture
def tester(trained, tmp_path):
    return make_tester(trained, tmp_path / "test")


def test_validation_uses_the_given_frames_only(trainer):
    before = trainer.roll_out_validation()
    assert before[:, PAST:].std(dim=1).mean() > 1e-3  # frames do change over time
    trainer.val_frames[:, PAST:] = NAN
    assert torch.equal(trainer.roll_out_validation(), before)
    trainer.val_frames[:, 0] = NAN  # every given frame has an effect
    assert trainer.roll_out_validation()[:, PAST:].isnan().flatten(1).any(1).all()


def test_the_tester_uses_the_given_frames_only(tester):
    before = torch.stack(tester.rollout())
    for frames in tester.truth:
        frames[PAST:] = NAN
    assert torch.equal(torch.stack(tester.rollout()), before)
    for given in tester.given:
        given[0] = NAN
    assert torch.stack(tester.rollout())[:, PAST:].isnan().flatten(1).any(1).all()


def test_validation_rollouts_do_not_depend_on_batching(trainer, monkeypatch):
    together = trainer.roll_out_validation()
    assert torch.equal(trainer.roll_out_validation(), together)
    assert (together[0] - together[1])[PAST:].abs().max() > 0.1
    monkeypatch.setattr(Trainer, "VAL_BATCH", 1)
    torch.testing.assert_close(trainer.roll_out_validation(), together, **SAME)


def test_test_rollouts_do_not_depend_on_batching(tester, trained, tmp_path):
    together = torch.stack(tester.rollout())
    assert torch.equal(torch.stack(tester.rollout()), together)
    alone = make_tester(trained, tmp_path / "alone", "--batch_size", 1)
    torch.testing.assert_close(torch.stack(alone.rollout()), together, **SAME)


def test_rollouts_equal_those_of_the_model_by_itself(tester, trainer, trained):
    for split, found in (("test", tester.rollout()), ("validate", trainer.roll_out_validation())):
        expected = predict(trained.scaled, clips_of(trained.data, split))
        torch.testing.assert_close(torch.stack([*found]), torch.stack(expected), **SAME)
