"""The pose lab's model in training: its forward pass and gradients against a loop over frames."""

import itertools

import pytest
import torch
from helpers import assert_close, make_model, random_clips
from pose_reference import EXTRAS, reference_forward

pytestmark = pytest.mark.usefixtures("float64")


def forward(model, frames, poses, forced):
    """The forward pass with the noise of seed 0."""
    torch.manual_seed(0)
    return model(frames, poses, forced)


def noise_of(model, frames):
    """The noise that forward() draws for z."""
    torch.manual_seed(0)
    batch, length = frames.shape[:2]
    return torch.randn(batch, length - 1, model.settings.N_dim, *model.feature_size)


def gradients(model, results, frames):
    """Of a loss that depends on predictions, mu and logvar."""
    pred, mu, logvar = results
    loss = (pred - frames[:, 1:]).pow(2).mean() + 0.1 * mu.pow(2).mean() + 0.1 * logvar.exp().mean()
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return dict(zip(dict(model.named_parameters()), grads))


# ---------------------------------------------------------------- forward pass and gradients

STRATEGIES = [
    pytest.param(forced, posterior, feedback, EXTRAS[extra], id=f"{mode}-{posterior}-{rest}")
    for mode, posterior, feedback, extra in itertools.product(
        ("forced", "free"), ("current", "previous"), ("full", "frame", "features"), EXTRAS
    )
    for forced, rest in [(mode == "forced", f"{feedback}-{extra}")]
]


@pytest.mark.parametrize(("forced", "posterior", "feedback", "extra"), STRATEGIES)
def test_forward_and_gradients_match_the_loop_over_frames(forced, posterior, feedback, extra):
    model = make_model(posterior=posterior, feedback=feedback, **extra)
    frames, poses = random_clips(2)
    found = forward(model, frames, poses, forced)
    expected = reference_forward(model, frames, poses, forced, noise_of(model, frames))
    for a, b in zip(found, expected):
        assert_close(a, b)
    found, expected = (gradients(model, results, frames) for results in (found, expected))
    for name, grad in expected.items():
        assert (found[name] is None) == (grad is None), name
        if grad is not None:
            assert_close(found[name], grad)


def test_the_gradient_reaches_the_first_frame_only_with_full_feedback():
    reached = {}
    for feedback in ("full", "frame", "features"):
        model, (frames, poses) = make_model(feedback=feedback), random_clips(2)
        frames.requires_grad_(True)
        pred = forward(model, frames, poses, False)[0]
        reached[feedback] = torch.autograd.grad(pred[:, -1].sum(), frames)[0][:, 0].abs().max()
    assert reached["full"] > 0
    assert reached["frame"] == 0 and reached["features"] == 0


def test_the_foreground_has_a_gradient_where_the_mask_is_saturated():
    model = make_model(scene=True)
    last = model.Generator[-1]
    with torch.no_grad():
        last.bias[3] = -100
    frames, poses = random_clips(2)
    pred, *_ = model(frames, poses, False)
    (pred - frames[:, 1:]).square().mean().backward()
    assert (last.weight.grad[:3].abs().amax(1) > 0).all()


# ---------------------------------------------------------------- z and noise


def test_input_noise_is_added_in_training_only():
    model, (frames, poses) = make_model(feedback_noise=0.5), random_clips(2)
    exact = forward(make_model(), frames, poses, False)[0]
    assert torch.equal(forward(model, frames, poses, False)[0], exact)
    model.train()
    assert not torch.allclose(forward(model, frames, poses, False)[0], exact, atol=1e-3)


# ---------------------------------------------------------------- poses and the true future


def test_the_pose_of_the_given_frame_is_not_used():
    model, (frames, poses) = make_model(), random_clips(2)
    other = poses.clone()
    other[:, 0] = float("nan")
    found = [forward(model, frames, p, False)[0] for p in (other, poses)]
    assert torch.equal(*found)


@pytest.mark.parametrize("changes", [{"prior": True}, {"posterior": "previous"}])
def test_free_running_without_the_current_posterior_ignores_the_true_future(changes):
    changes = dict(changes)
    prior = changes.pop("prior", False)
    model, (frames, poses) = make_model(**changes), random_clips(2)
    blind, found = frames.clone(), []
    blind[:, 1:] = float("nan")
    for given in (frames, blind):
        torch.manual_seed(0)
        found.append(model(given, poses, False, prior=prior)[0])
    assert torch.equal(*found)
