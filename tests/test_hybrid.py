"""The hybrid objective (--posterior_share), and what is reported of z and of the loss."""

import pytest
import torch
from helpers import ROBOT, SHORT, make_dataset, make_robot_data, settings_of

from modules.checkpoints import checkpoint as ckpt
from modules.training.schedules import draws_from_prior
from Trainer import train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("hybrid")
    return {
        "pose": make_dataset(root / "pose", train=64),
        "robot": make_robot_data(root / "robot"),
    }


@pytest.fixture
def run(data, tmp_path):
    def start(name, *flags, lab="pose"):
        sizes = SHORT if lab == "pose" else ROBOT
        places = ["--DR", data[lab], "--save_root", tmp_path / name, "--no-plots"]
        line = [*places, "--precision", "float32", *sizes, "--num_epoch", 2, *flags]
        return train(settings_of(line, lab=lab))

    return start


@pytest.mark.parametrize(("share", "low", "high"), [(0, 0, 0), (0.25, 0.2, 0.3), (1, 1, 1)])
def test_a_share_of_the_steps_after_pretraining_has_a_posterior(share, low, high):
    settings = settings_of(["--posterior_share", share, "--pretrain_epochs", 3])
    prior = [[draws_from_prior(epoch, step, settings) for step in range(25)] for epoch in range(43)]
    assert all(map(all, prior[:3]))
    assert low <= 1 - sum(map(sum, prior[3:])) / 1000 <= high


@pytest.mark.parametrize("prior", ["--no-learned_prior", "--learned_prior"])
def test_share_0_is_pre_training_that_does_not_end(run, capsys, prior):
    flags = [prior, "--num_epoch", 1]
    trainer = run("a", *flags, "--posterior_share", 0)
    other = run("b", *flags, "--pretrain_epochs", 2).model.state_dict()
    assert all(torch.equal(value, other[key]) for key, value in trainer.model.state_dict().items())
    assert "\nKL " not in capsys.readouterr().out  # there is no posterior to report
    assert trainer.history[-1]["val/kl"] is None


def test_the_kl_of_an_epoch_is_that_of_its_posterior_steps(run):
    half, full = (run(name, "--posterior_share", name).history[0] for name in ("0.5", "1"))
    assert half["train/kl"] == pytest.approx(full["train/kl"], rel=0.2)  # not halved


def test_best_weights_from_before_the_posterior_get_no_kl_report(run, tmp_path, capsys):
    flags = ["--pretrain_epochs", 1, "--lr_schedule", "constant"]
    run("a", *flags, "--num_epoch", 1)
    for name in ("last.ckpt", "best_score.ckpt"):  # as if no later epoch could score more
        state = ckpt.load(tmp_path / "a" / name) | {"best_score": 99.0}
        ckpt.save(tmp_path / "a" / name, state)
    capsys.readouterr()
    assert run("a", *flags).history[1]["train/kl"] > 0
    printed = capsys.readouterr().out
    assert "\nELBO" in printed and "\nKL " not in printed
    run("b", *flags, "--num_epoch", 3, "--val_every", 3)  # the best weights have a posterior
    assert "\nKL " in capsys.readouterr().out
