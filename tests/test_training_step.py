"""One optimizer step of the Trainer: loss, clipping, non-finite steps, teacher forcing, EMA."""

import copy
import math

import pytest
import torch
from helpers import assert_close, make_dataset, random_clips
from helpers import make_trainer as trainer_in
from torch.distributions import Normal, kl_divergence

from dataloader import Dataset_Dance
from modules.config import OPTIMIZERS, PoseTraining
from modules.training.schedules import coins

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def make_trainer(tmp_path):
    def make(**changes):
        return trainer_in(tmp_path / "run", **changes)

    return make


def values(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def gradient_norm(trainer):
    return math.sqrt(sum(p.grad.pow(2).sum().item() for p in trainer.model.parameters()))


def seeded_step(trainer, *clips, forced, seed=0):
    torch.manual_seed(seed)
    return trainer.training_one_step(*clips, adapt_TeacherForcing=forced)


def reference_sgd(model, frames, poses, forced, steps, lr, clip):
    """Steps of SGD with momentum 0.9 at beta 1, in place -> losses and gradient norms.

    The loss is the sum over the predicted frames; its means are returned.
    """
    weights = list(model.train().parameters())
    momentum, log = [torch.zeros_like(w) for w in weights], []
    for step in range(steps):
        torch.manual_seed(step)
        pred, mu, logvar = model(frames, poses, forced)
        mse = (pred - frames[:, 1:]).pow(2).mean()
        posterior = Normal(mu, torch.exp(0.5 * logvar))
        batch, predicted = pred.shape[:2]
        kl = kl_divergence(posterior, Normal(0.0, 1.0)).sum() / (batch * predicted)
        grads = torch.autograd.grad(predicted * (mse + kl), weights)
        norm = math.sqrt(sum(g.double().pow(2).sum().item() for g in grads))
        scale = min(1.0, clip / norm)
        momentum = [0.9 * m + scale * g for m, g in zip(momentum, grads)]
        with torch.no_grad():
            for w, m in zip(weights, momentum):
                w -= lr * m
        log.append(((mse + kl).item(), mse.item(), kl.item(), norm))
    return log


@pytest.mark.parametrize("forced", [True, False])
@pytest.mark.parametrize("clip", [0.05, 1e6])
def test_steps_match_clipped_sgd_on_the_sum_over_frames(make_trainer, forced, clip):
    lr = 2.5e-4
    trainer = make_trainer(optim="SGD", lr=lr, grad_clip=clip, kl_anneal_type="None")
    reference, (frames, poses) = copy.deepcopy(trainer.model), random_clips(2)
    log = reference_sgd(reference, frames, poses, forced, 3, lr, clip)
    assert all((norm > clip) == (clip < 1) for *_, norm in log)
    for seed, expected in enumerate(log):
        found = seeded_step(trainer, frames, poses, forced=forced, seed=seed)
        assert found[:3].tolist() == pytest.approx(expected[:3])
    for name, value in reference.state_dict().items():
        assert_close(trainer.model.state_dict()[name], value)


# ---------------------------------------------------------------- loss and gradient


def test_gradients_are_clipped_to_the_given_norm(make_trainer):
    norms = {}
    for clip in (0.0, 1e-3, 1e6):
        trainer = make_trainer(grad_clip=clip)
        seeded_step(trainer, *random_clips(2), forced=False)
        norms[clip] = gradient_norm(trainer)
    assert norms[1e-3] == pytest.approx(1e-3)
    assert norms[0.0] == pytest.approx(norms[1e6]) and norms[0.0] > 1e-2


@pytest.mark.parametrize("length", [2, 5, 9])
def test_the_gradient_of_the_sum_is_that_of_the_mean_times_the_predicted_frames(
    make_trainer, length
):
    """The reported losses are means over the frames in both cases."""
    results, grads = {}, {}
    for reduction in ("sum", "mean"):
        trainer = make_trainer(loss_reduction=reduction, grad_clip=0.0, kl_anneal_type="None")
        results[reduction] = seeded_step(trainer, *random_clips(2, length), forced=True)
        grads[reduction] = [p.grad for p in trainer.model.parameters()]
    assert torch.equal(results["sum"], results["mean"])
    for total, mean in zip(grads["sum"], grads["mean"]):
        assert_close(total, (length - 1) * mean)


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_one_step_changes_every_net_and_ten_lower_the_loss(make_trainer, optim):
    trainer = make_trainer(optim=optim, lr=1e-3)
    before, clips = copy.deepcopy(trainer.model), random_clips(2)
    losses = [seeded_step(trainer, *clips, forced=True)[0].item()]
    for (name, old), new in zip(before.named_children(), trainer.model.children()):
        assert any(not torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters())), name
    losses += [seeded_step(trainer, *clips, forced=True)[0].item() for _ in range(10)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("epoch", [0, 3, 5])
def test_the_kl_is_weighted_by_the_beta_of_the_epoch(make_trainer, epoch):
    trainer = make_trainer()
    for _ in range(epoch):
        trainer.step_schedules()
    loss, mse, kl, *_ = seeded_step(trainer, *random_clips(2), forced=True).tolist()
    assert kl > 0
    assert loss == pytest.approx(mse + epoch / 7 * kl)


def test_pretraining_has_no_kl_and_does_not_train_the_posterior(make_trainer):
    trainer = make_trainer(pretrain_epochs=1, kl_anneal_type="None")
    before, clips = copy.deepcopy(trainer.model), random_clips(2)
    loss, mse, kl, *_ = seeded_step(trainer, *clips, forced=False).tolist()
    assert kl == 0 and loss == mse > 0
    assert torch.equal(values(before.Gaussian_Predictor), values(trainer.model.Gaussian_Predictor))
    assert not torch.equal(values(before.Generator), values(trainer.model.Generator))
    trainer.step_schedules()
    assert seeded_step(trainer, *clips, forced=False)[2] > 0


# ---------------------------------------------------------------- epochs and teacher forcing


def test_an_epoch_starts_in_training_mode_after_a_validation(make_trainer, tmp_path):
    data = make_dataset(tmp_path / "data")
    trainer = make_trainer(val_set=Dataset_Dance(data, "val", 6, size=(12, 16)))
    trainer.validate()
    assert not trainer.model.training
    trainer.start_epoch()
    assert all(module.training for module in trainer.model.modules())


@pytest.mark.parametrize("coin", ["epoch", "batch"])
def test_teacher_forcing_is_drawn_once_per_epoch_or_per_batch(coin):
    settings, epochs = PoseTraining(tfr_coin=coin), []
    for epoch in range(400):
        epochs.append(coins(0.3, epoch, 20, settings).tolist())
        assert coins(0.3, epoch, 20, settings).tolist() == epochs[-1]
    assert all(len(drawn) == 20 for drawn in epochs)
    assert any(len(set(drawn)) == 2 for drawn in epochs) == (coin == "batch")
    assert sum(map(sum, epochs)) / (400 * 20) == pytest.approx(0.3, abs=0.08)
    for tfr in (0, 1):  # never, and always
        assert set(coins(tfr, 0, 1000, settings).tolist()) == {bool(tfr)}


# ---------------------------------------------------------------- exponential moving average


def test_ema_has_the_given_decay_after_the_first_steps(make_trainer):
    trainer = make_trainer(ema=0.9, lr=0.01)
    trainer.step = 100_000
    for seed in range(3):
        before = values(trainer.ema)
        seeded_step(trainer, *random_clips(2, seed=seed), forced=True)
        assert_close(values(trainer.ema), 0.9 * before + 0.1 * values(trainer.model))
    assert not torch.allclose(values(trainer.ema), values(trainer.model))


def test_ema_has_the_pose_statistics_of_the_model(make_trainer):
    trainer = make_trainer(ema=0.999)
    seeded_step(trainer, *random_clips(2), forced=True)
    for mean, value in zip(trainer.ema.buffers(), trainer.model.buffers()):
        assert torch.equal(mean, value)
    assert trainer.model.label_transformation[2].running_mean.any()


def test_validation_uses_the_averaged_weights(make_trainer):
    trainer = make_trainer(ema=0.9)
    first, poses = trainer.val_frames[:, :1], trainer.val_conditions
    with torch.no_grad():
        for weight in trainer.ema.Generator[-1].parameters():
            weight.fill_(0.25 if weight.ndim == 1 else 0.0)
    pred = trainer.val_one_step(first, poses)
    assert_close(pred[:, 1:], torch.full_like(pred[:, 1:], 0.25))
