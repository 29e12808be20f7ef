"""The hybrid objective (--posterior_share), and what is reported of z and of the loss."""

import pytest
import torch
from helpers import ROBOT, SHORT, make_dataset, make_robot_data, settings_of

from modules.checkpoints import checkpoint as ckpt
from modules.report import charts
from modules.training import schedules
from Trainer import train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("hybrid") / "data", train=64)


@pytest.fixture(scope="module")
def robot_data(tmp_path_factory):
    return make_robot_data(tmp_path_factory.mktemp("hybrid") / "robot")


@pytest.fixture
def run(data, tmp_path):
    def start(name, *flags):
        places = ["--DR", data, "--save_root", tmp_path / name, "--no-plots", "--precision"]
        return train(settings_of([*places, "float32", *SHORT, "--num_epoch", 2, *flags]))

    return start


@pytest.fixture(params=["pose", "robot"])
def run_lab(request, run, robot_data, tmp_path):
    """`run` in either lab."""

    def start(name, *flags):
        places = ["--DR", robot_data, "--save_root", tmp_path / name, "--no-plots"]
        return train(settings_of([*places, *ROBOT, "--num_epoch", 2, *flags], lab="robot"))

    return run if request.param == "pose" else start


def weights(trainer):
    return trainer.model.state_dict()


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


PRIORS = pytest.mark.parametrize("prior", ["--no-learned_prior", "--learned_prior"])


@PRIORS
@pytest.mark.parametrize("share", [0, 1])
def test_shares_0_and_1_are_training_without_a_choice(run_lab, monkeypatch, prior, share):
    hybrid = run_lab("a", prior, "--posterior_share", share)
    monkeypatch.setattr(schedules, "draws_from_prior", lambda *_: not share)
    plain = run_lab("b", prior, "--posterior_share", 0.5)
    assert same(weights(hybrid), weights(plain))


@PRIORS
def test_shares_0_and_1_differ(run_lab, prior):
    flags = [prior, "--num_epoch", 1, "--posterior_share"]
    assert not same(weights(run_lab("a", *flags, 0)), weights(run_lab("b", *flags, 1)))


@PRIORS
def test_share_0_is_pre_training_that_does_not_end(run, capsys, prior):
    flags = [prior, "--num_epoch", 1]
    prior = run("a", *flags, "--posterior_share", 0)
    assert same(weights(prior), weights(run("b", *flags, "--pretrain_epochs", 2)))
    assert "\nKL " not in capsys.readouterr().out  # there is no posterior to report
    assert prior.history[-1]["val/kl"] is None


def test_a_share_between_mixes_them_and_the_kl_is_that_of_posterior_steps(run):
    trainer = run("a", "--posterior_share", 0.5)
    kinds = []
    for epoch in range(40):
        for step in range(25):
            kinds.append(schedules.draws_from_prior(epoch, step, trainer.settings))
    assert 0.45 < sum(kinds) / len(kinds) < 0.55
    full = run("b")
    row, reference = trainer.history[0], full.history[0]
    assert row["train/kl"] == pytest.approx(reference["train/kl"], rel=0.2)  # not halved


@pytest.mark.parametrize("line", ["", "--learned_prior"])
def test_a_resumed_run_draws_the_same_steps(run, line):
    constant = "--posterior_share 0.5 --kl_anneal_type None --lr_schedule constant".split()
    constant += line.split()
    whole = run("a", *constant)
    run("b", *constant, "--num_epoch", 1)
    resumed = run("b", *constant)
    assert resumed.history[0]["epoch"] == 0 and len(resumed.history) == 2
    assert same(weights(whole), weights(resumed))


# ---------------------------------------------------------------- what is reported of z


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


@pytest.mark.parametrize(
    ("loss", "label"),
    [
        ("mse", "MSE + beta KL"),
        ("calibrated", "log MSE + beta KL"),
        ("calibrated_batch", "log MSE of the batch + beta KL"),
    ],
)
def test_curves_name_the_loss_that_is_minimised(data, tmp_path, monkeypatch, loss, label):
    labels = []
    monkeypatch.setattr(charts, "draw_curves", lambda *given: labels.append(given[2]))
    places = ["--DR", data, "--save_root", tmp_path, "--num_epoch", 1, "--loss", loss]
    train(settings_of([*places, *SHORT]))
    assert set(labels) == {label}
