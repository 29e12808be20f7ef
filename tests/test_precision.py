"""Half precision and float32, where what counts is not lost to rounding."""

import pytest
import torch
from helpers import make_model, random_clips

from modules.evaluation.latents import log_ratio
from modules.training.losses import kl_criterion

EPSILON = torch.finfo(torch.float32).eps


def forward(model, clips):
    torch.manual_seed(0)
    with torch.no_grad():
        return model(*clips, False)


def rms(x):
    return x.pow(2).mean().sqrt()


def test_bf16_results_are_float32_and_as_close_as_rounded_weights():
    """The noise is that of float32 with weights rounded to bf16; activations are rounded, too."""
    exact, rounded, rough = make_model(), make_model(), make_model(precision="bf16")
    rough.load_state_dict(exact.state_dict())
    with torch.no_grad():
        for weight in rounded.parameters():
            weight.copy_(weight.bfloat16())
    for found, near, expected in zip(
        *(forward(m, random_clips(2)) for m in (rough, rounded, exact))
    ):
        assert found.dtype == torch.float32
        assert 0 < rms(found - expected) < 4 * rms(near - expected)


@pytest.mark.parametrize("autocast", [False, True])
def test_kl_of_half_precision_is_computed_in_float32(autocast):
    mu = torch.full((1, 4), 0.01, dtype=torch.float32 if autocast else torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        kl = kl_criterion(mu, mu, 1)
    assert kl.dtype == torch.float32
    assert torch.equal(kl, kl_criterion(mu.float(), mu.float(), 1))


@pytest.fixture
def near_prior():
    """mu and logvar in float32, and by how much rounding each logvar once changes their sum."""
    mu, logvar = torch.full((1, 1, 64), 1e-4), torch.full((1, 1, 64), 2e-4)
    return mu, logvar, EPSILON * logvar.sum().item()


def test_a_tiny_kl_is_not_lost_to_rounding(near_prior):
    mu, logvar, rounding = near_prior
    exact = 0.5 * (mu.double() ** 2 + logvar.double().expm1() - logvar.double()).sum().item()
    assert kl_criterion(mu, logvar, 1).item() == pytest.approx(exact, abs=rounding)
    assert rounding < 0.01 * exact


def test_a_tiny_log_ratio_is_not_lost_to_rounding(near_prior):
    mu, logvar, rounding = near_prior
    noise = torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(0))
    z = mu.double() + noise.double() * (logvar.double() / 2).exp()
    exact = 0.5 * (noise.double() ** 2 + logvar.double() - z**2).sum().item()
    assert log_ratio(mu, logvar, noise).item() == pytest.approx(exact, abs=rounding)
    assert rounding < 0.01 * abs(exact)
