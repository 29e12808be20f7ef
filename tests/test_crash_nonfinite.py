"""Steps that are not finite, and settings that produced them elsewhere."""

import copy
import json

import pytest
import torch
from conftest import LINES
from helpers import assert_ended, differences, load, reproducible

import Trainer
from modules.cli.parser import parse
from modules.config import OPTIMIZERS
from modules.errors import UserError
from modules.runs import stuck
from modules.runs.resume import state_of


@pytest.fixture
def one_trainer(lab_data, tmp_path):
    """one_trainer(lab, flags) -> a Trainer before its first step."""

    def make(lab, *more):
        place = "--DR", lab_data[lab], "--save_root", tmp_path / "run"
        settings, _ = parse("Trainer", [str(flag) for flag in (*place, *LINES[lab], *more)])
        lab = Trainer.LABS[lab](settings)
        return Trainer.Trainer(settings, torch.device("cpu"), lab.open_train(), lab.open_val())

    return make


def learned(trainer):
    state = state_of(trainer)
    kept = ("state_dict", "trained_weights")
    return {name: state[name] for name in kept} | {"moments": state["optimizer"]["state"]}


def without_moments_of_zero(moments):
    """A skipped step may initialise moments, to zero."""
    return {i: m for i, m in moments.items() if any(v.any() for v in m.values() if v.dim())}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("optim", OPTIMIZERS)
@pytest.mark.parametrize("lab", ["pose", "robot"])
def test_a_poisoned_batch_leaves_every_tensor_as_it_was(one_trainer, lab, optim, first):
    trainer = one_trainer(lab, "--ema", 0.5, "--optim", optim, "--tfr", 0, "--lr", 1e-3)
    trainer.model.train()
    frames, conditions = next(trainer.clips.fetch(trainer.clips.batches(0)))
    if not first:
        trainer.training_one_step(frames, conditions, False)
    before = copy.deepcopy(learned(trainer))
    for value in (float("nan"), float("inf")):
        poisoned = frames.clone()
        poisoned[0, 1, 0, 0, 0] = value
        assert trainer.training_one_step(poisoned, conditions, False).tolist() == [0] * 5
    after = learned(trainer)
    for state in (before, after) if first else ():
        state["moments"] = without_moments_of_zero(state["moments"])
    assert differences(before, after) == []
    for _ in range(2):
        trainer.training_one_step(frames, conditions, False)
    weights = torch.cat([w.flatten() for w in trainer.model.parameters()])
    assert weights.isfinite().all() and weights.abs().max() < 10
    assert differences(before, learned(trainer)) != []


def test_a_step_with_infinite_statistics_leaves_every_tensor_as_it_was(one_trainer):
    """BatchNorm divides by them: the loss of weights that have diverged stays finite."""
    trainer = one_trainer("robot", "--ema", 0.5)
    trainer.model.train()
    with torch.no_grad():
        trainer.model.encoder.stages[0][0][0].weight.mul_(1e25)
    before = copy.deepcopy(learned(trainer))
    clips = next(trainer.clips.fetch(trainer.clips.batches(0)))
    losses = trainer.losses(trainer.model, *clips, True, False)
    assert losses[0].isfinite()
    trainer.model.load_state_dict(before["trained_weights"])
    assert trainer.training_one_step(*clips, True).tolist() == [0] * 5
    after = learned(trainer)
    for state in (before, after):
        state["moments"] = without_moments_of_zero(state["moments"])
    assert differences(before, after) == []


def test_a_run_gives_up_after_many_skipped_steps_with_its_last_good_checkpoint(
    whole, command, children, tmp_path
):
    """Also if it was stopped between its non-finite steps."""
    folder = whole()
    flags = command("plain", tmp_path / "run")
    done = children.run(*flags, poison=[4], at=[("stepped", 4, "SIGTERM")], most_skipped=3)
    assert_ended(done, 143)
    done = children.run(*flags, poison=[1, 2], most_skipped=3)
    assert_ended(done, 1)
    assert "3 consecutive steps" in done.err
    good, kept = map(reproducible, (folder / "epoch=0.ckpt", tmp_path / "run/last.ckpt"))
    assert (kept["last_epoch"], kept["steps_done"]) == (1, 1)
    for part in ("state_dict", "optimizer", "history"):
        assert differences(good[part], kept[part]) == []


@pytest.mark.parametrize(
    ("typed", "advice"),
    [
        ("--lr 0.1 --grad_clip 0", "--lr 0.001 (if that does not suffice, --grad_clip 1 or --kl"),
        ("--kl_anneal_type None", "with --lr 0.0001, as a new run"),
    ],
)
def test_the_advice_is_not_what_is_typed(one_trainer, monkeypatch, typed, advice):
    monkeypatch.setattr(stuck, "MOST_SKIPPED", 1)
    trainer = one_trainer("pose", *typed.split())
    trainer.most_in_a_row.fill_(1)
    with pytest.raises(UserError) as error:
        stuck.stop_if_stuck(trainer)
    assert advice in str(error.value)


def test_a_few_poisoned_batches_are_skipped_and_counted(command, children, tmp_path):
    run = tmp_path / "run"
    done = children.run(*command("plain", run), poison=[2, 4, 5], most_skipped=3)
    assert_ended(done)
    state = load(run)
    assert [row["train/skipped"] for row in state["history"]] == [1, 2, 0]
    assert all(w.isfinite().all() for w in state["state_dict"].values())


@pytest.mark.parametrize("lab", ["pose", "robot"])
def test_predictions_that_are_not_finite_are_one_line_and_null_in_the_scores(
    call, lab_data, tmp_path, lab, no_plots
):
    place = "--DR", lab_data[lab], "--save_root", tmp_path / "run"
    assert_ended(call("Trainer", *place, *LINES[lab], "--num_epoch", 1))
    state = load(tmp_path / "run")
    for weight in state["state_dict"].values():
        if weight.is_floating_point():
            weight.mul_(1e30)
    torch.save(state, tmp_path / "x.ckpt")
    done = call("Tester", *place, "--ckpt_path", tmp_path / "x.ckpt", "--device", "cpu")
    assert_ended(done)
    assert len([line for line in done.out.splitlines() if "not finite" in line]) == 1
    assert json.loads((tmp_path / "run/scores.json").read_text())["mean"]["psnr"] is None
