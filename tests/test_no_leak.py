"""No true future frame reaches a rollout: validation, the futures of a run's end, Tester's."""

import pytest
import torch
from helpers import ROBOT, TINY, make_trainer, random_clips
from robot_helpers import make_tester, random_robot_clips, scale_weights

import Tester
from modules.checkpoints import checkpoint as ckpt
from modules.cli.parser import parse
from modules.evaluation.futures import Futures
from modules.training import schedules

POSE = [
    {"learned_prior": True, "posterior_share": 0.5},
    {"posterior": "previous", "ema": 0.9},
    {"z_grid": "coarse", "z_source": "mean"},
    {"z_grid": "vector"},
    {"z_grid": "vector", "posterior": "previous"},
    {"z_grid": "coarse", "learned_prior": True, "nets": "unet"},
    {"latent": False},
    {"latent": False, "posterior": "previous"},
]
ROBOTS = [
    {"learned_prior": True, "posterior_share": 0.5},
    {"nets": "dcgan"},
    {"nets": "dcgan", "learned_prior": True},
    {"latent": False},
]
CASES = [("pose", case) for case in POSE] + [("robot", case) for case in ROBOTS]


def trained_trainer(folder, lab, **changes):
    """A Trainer with random validation clips, after one step on others."""
    clips, sizes = (random_clips, TINY) if lab == "pose" else (random_robot_clips, ROBOT)
    val_set, changes = [*zip(*clips(2, 6))], {"DR": folder, "plots": False} | changes
    trainer = make_trainer(folder, lab=lab, sizes=sizes, val_set=val_set, **changes)
    if lab == "robot":  # its initial weights predict almost the same whatever they see
        scale_weights({"state_dict": trainer.model.state_dict()})
    trainer.model.train()
    trainer.training_one_step(*clips(2, 6, seed=1), True)
    return trainer


def blind(frames, given):
    frames[:, given:] = float("nan")


@pytest.fixture
def added(monkeypatch):
    """All rollouts that are added to Futures."""
    rollouts, add = [], Futures.add

    def record(self, futures):
        rollouts.append([x.clone() for x in futures])
        add(self, futures)

    monkeypatch.setattr(Futures, "add", record)
    return rollouts


def assert_same_and_finite(seen, unseen):
    assert len(seen) == len(unseen) > 0
    for a, b in zip(seen, unseen):
        assert torch.isfinite(b).all() and torch.equal(a, b)


@pytest.mark.parametrize(("lab", "changes"), CASES, ids=str)
def test_validation_and_futures_do_not_depend_on_the_true_future(tmp_path, added, lab, changes):
    trainer = trained_trainer(tmp_path, lab, **changes)
    results = []
    for hide in (False, True):
        if hide:
            blind(trainer.val_frames, trainer.lab.given)
        added.clear()
        validated = trainer.roll_out_validation()
        trainer.report_distribution(schedules.has_posterior(0, trainer.settings))
        results.append([validated, *(clip for future in added for clip in future)])
        assert len(added) == (20 if trainer.settings.latent else 1)
    assert_same_and_finite(*results)


# ---------------------------------------------------------------- Tester


def pose_tester(base, folder, *flags):
    places = ["--DR", base.data, "--save_root", folder, "--ckpt_path", base.best]
    words = [*places, "--device", "cpu", "--precision", "float32", "--no-plots", *flags]
    settings, typed = parse("Tester", list(map(str, words)))
    return Tester.Tester(settings, typed, torch.device("cpu"), ckpt.load(base.best))


@pytest.mark.parametrize("lab", ["pose", "robot"])
@pytest.mark.parametrize("z_source", ["sample", "mean"])
def test_the_testers_futures_do_not_depend_on_the_truth(
    trained, robot_trained, tmp_path, lab, z_source
):
    make, run = (pose_tester, trained) if lab == "pose" else (make_tester, robot_trained)
    tester = make(run, tmp_path / "test", "--n_samples", 3, "--z_source", z_source)
    results = []
    for hide in (False, True):
        if hide:
            tester.truth = [clip.clone() for clip in tester.truth]
            for clip in tester.truth:
                clip[tester.lab.given :] = float("nan")
        predictions = tester.rollout()
        futures = [*tester.futures(predictions)]
        results.append([*predictions, *(clip for future in futures for clip in future)])
    assert_same_and_finite(*results)
    first, second, third = (future[0] for future in futures)
    assert not torch.equal(first, second) and not torch.equal(second, third)
