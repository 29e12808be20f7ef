"""Steps on samples of the learned prior, and the balance of the KL's gradient (--kl_balance)."""

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    ROBOT,
    TINY,
    assert_close,
    assert_ended,
    assert_same_run,
    interrupt,
    make_model,
    make_trainer,
    random_clips,
)
from pose_reference import condition_on, encode, gaussian, generate
from robot_helpers import make_robot, random_robot_clips

from modules.nets.gaussian import relative_to_prior
from modules.training.losses import kl_criterion

BOTH = [True, False]
LABS = ["pose", "robot"]
MAKE = {"pose": (make_model, random_clips), "robot": (make_robot, random_robot_clips)}
POSTERIORS = {"pose": "Gaussian_Predictor", "robot": "posterior"}


def noise_of(model, frames, seed=3):
    torch.manual_seed(seed)
    return torch.randn(len(frames), frames.shape[1] - 1, *model.z_shape)


# ---------------------------------------------------------------- z of prior steps


@pytest.mark.parametrize("forced", BOTH)
@pytest.mark.parametrize("changes", [{}, {"first_frame": True}, {"learned_prior": False}], ids=str)
def test_z_of_a_prior_step_is_drawn_from_the_prior_of_every_frame(forced, changes):
    model, (frames, poses) = make_model(**{"learned_prior": True} | changes), random_clips()
    noise, last, expected = noise_of(model, frames), frames[:, 0], []
    for t in range(1, frames.shape[1]):
        features = encode(model, frames[:, t - 1] if forced else last)
        condition, z = condition_on(model, poses[:, t], frames[:, 0]), noise[:, t - 1]
        if model.prior:
            mu, logvar = gaussian(model.prior, features, condition)
            z = mu + torch.exp(logvar / 2) * z
        last = generate(model, features, condition, z)
        expected.append(last)
    pred, mu, logvar = model(frames, poses, forced, prior=True, noise=noise)
    assert mu is None and logvar is None
    assert_close(pred, torch.stack(expected, 1))


@pytest.mark.parametrize("lab", LABS)
@pytest.mark.parametrize("prior", BOTH)
@pytest.mark.parametrize("forced", BOTH)
def test_given_noise_is_used_as_the_drawn_noise_is(lab, prior, forced):
    make, clips = MAKE[lab]
    model, inputs = make(learned_prior=True), clips(2)
    noise = noise_of(model, inputs[0])
    torch.manual_seed(3)
    drawn = model(*inputs, forced, prior=prior)
    given = model(*inputs, forced, prior=prior, noise=noise)
    other = model(*inputs, forced, prior=prior, noise=-noise)
    assert all(torch.equal(a, b) for a, b in zip(drawn, given) if a is not None)
    assert not torch.allclose(given[0], other[0], atol=1e-4)


@pytest.mark.parametrize("lab", LABS)
@pytest.mark.parametrize("forced", BOTH)
def test_a_prior_step_trains_the_prior_and_not_the_posterior(tmp_path, lab, forced):
    _, clips = MAKE[lab]
    sizes = TINY if lab == "pose" else ROBOT
    frames = clips(2)
    trainer = make_trainer(
        tmp_path, sizes=sizes, lab=lab, learned_prior=True, val_set=[*zip(*frames)]
    )
    loss, _, kl = trainer.losses(trainer.model.train(), *frames, forced, prior=True)
    loss.backward()
    assert kl == 0
    assert all(p.grad is not None for p in trainer.model.prior.parameters())
    assert sum(p.grad.abs().sum() for p in trainer.model.prior.parameters()) > 0
    posterior = getattr(trainer.model, POSTERIORS[lab])
    assert all(p.grad is None for p in posterior.parameters())


# ---------------------------------------------------------------- the balance of the KL


def gaussians():
    """mu and logvar of a posterior and of a prior."""
    torch.manual_seed(0)
    return [torch.randn(2, 3, 4, requires_grad=True) for _ in range(4)]


def test_the_balance_scales_both_gradients_and_changes_no_value():
    values, grads = {}, {}
    for balance in (0.5, 0.8, 0.0, 1.0):
        parts = gaussians()
        relative = relative_to_prior(*parts, balance)
        values[balance] = relative
        grads[balance] = torch.autograd.grad(kl_criterion(*relative, 6), parts)
    for balance in (0.8, 0.0, 1.0):
        assert all(torch.equal(a, b) for a, b in zip(values[0.5], values[balance]))
        factors = [2 * (1 - balance)] * 2 + [2 * balance] * 2
        for factor, found, plain in zip(factors, grads[balance], grads[0.5]):
            assert plain.abs().max() > 0.01
            assert_close(found, factor * plain)


def test_a_balance_of_one_half_is_no_balance_to_the_bit():
    mu, logvar, mu_p, logvar_p = parts = gaussians()
    plain = (mu - mu_p) * torch.exp(-0.5 * logvar_p), logvar - logvar_p
    found = relative_to_prior(*parts, 0.5)
    grads = [torch.autograd.grad(kl_criterion(*x, 6), parts) for x in (plain, found)]
    assert all(torch.equal(a, b) for a, b in zip(plain, found))
    assert all(torch.equal(a, b) for a, b in zip(*grads))


def gradients_of(lab, forced, **changes):
    """The predictions, the KL, and the gradients of MSE and KL of every parameter."""
    make, clips = MAKE[lab]
    model, inputs = make(**changes), clips(2)
    pred, mu, logvar = model(*inputs, forced, noise=noise_of(model, inputs[0]))
    kl, names = kl_criterion(mu, logvar, mu.shape[0] * mu.shape[1]), dict(model.named_parameters())
    losses = F.mse_loss(pred, inputs[0][:, 1:]), kl
    grads = [
        torch.autograd.grad(x, names.values(), retain_graph=True, allow_unused=True) for x in losses
    ]
    return pred, kl, *(dict(zip(names, g)) for g in grads)


@pytest.mark.parametrize("lab", LABS)
@pytest.mark.parametrize("forced", BOTH)
def test_the_balance_in_a_model(lab, forced):
    pred, kl, of_mse, of_kl = gradients_of(lab, forced, learned_prior=True)
    pred_b, kl_b, of_mse_b, of_kl_b = gradients_of(lab, forced, learned_prior=True, kl_balance=0.8)
    assert torch.equal(pred, pred_b) and torch.equal(kl, kl_b)
    for name, plain in of_mse.items():
        assert plain is of_mse_b[name] is None or torch.equal(plain, of_mse_b[name])
    if not forced:  # the posterior has a say in the prior, too: by way of the predictions
        return
    for net, factor in ((POSTERIORS[lab], 0.4), ("prior", 1.6)):
        names = [name for name in of_kl if name.startswith(f"{net}.")]
        assert max(of_kl[name].abs().max() for name in names) > 0
        for name in names:
            scale = of_kl[name].abs().max().item() or 1
            assert_close(of_kl_b[name] / scale, factor * of_kl[name] / scale, 1e-4)


@pytest.mark.parametrize("lab", LABS)
def test_without_a_learned_prior_there_is_nothing_to_balance(lab):
    *_, of_kl = gradients_of(lab, True)
    *_, balanced = gradients_of(lab, True, kl_balance=0.8)
    for name, plain in of_kl.items():
        assert plain is balanced[name] is None or torch.equal(plain, balanced[name])


@pytest.mark.parametrize("setting", ["free running, AdamW", "the robot lab"])
def test_a_resumed_run_is_the_uninterrupted_one(call, command, tmp_path, monkeypatch, setting):
    more = "--learned_prior --posterior_share 0.5 --kl_balance 0.8 --no-plots".split()
    assert_ended(call(*command(setting, tmp_path / "whole", *more)))
    with monkeypatch.context() as patch:
        interrupt(patch, epoch=1, step=1)
        assert_ended(call(*command(setting, tmp_path / "parts", *more)), 130)
    assert_ended(call(*command(setting, tmp_path / "parts", *more)))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
