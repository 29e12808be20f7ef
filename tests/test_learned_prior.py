"""Steps on samples of the learned prior, and a resumed run of it."""

import pytest
import torch
from helpers import (
    ROBOT,
    TINY,
    assert_close,
    make_model,
    make_trainer,
    random_clips,
)
from pose_reference import condition_on, encode, gaussian, generate
from robot_helpers import make_robot, random_robot_clips

BOTH = [True, False]
LABS = ["pose", "robot"]
MAKE = {"pose": (make_model, random_clips), "robot": (make_robot, random_robot_clips)}
POSTERIORS = {"pose": "Gaussian_Predictor", "robot": "posterior"}


def noise_of(model, frames, seed=3):
    torch.manual_seed(seed)
    return torch.randn(len(frames), frames.shape[1] - 1, *model.z_shape)


# ---------------------------------------------------------------- z of prior steps


@pytest.mark.usefixtures("float64")
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
