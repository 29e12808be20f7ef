"""Diagonal Gaussians: bounded log variance, sampling, a learned prior's reference frame."""

import torch

LOGVAR_MIN, LOGVAR_MAX = -30.0, 10.0


def bound(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Clamp with a straight-through gradient, so that values out of range can return."""
    return x.clamp(low, high).detach() + (x - x.detach())


def sample(mu: torch.Tensor, logvar: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    return mu + noise * torch.exp(0.5 * logvar)


def relative_to_prior(
    mu: torch.Tensor, logvar: torch.Tensor, mu_p: torch.Tensor, logvar_p: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The posterior after the affine map that makes the prior N(0, I); the KL does not change."""
    return (mu - mu_p) * torch.exp(-0.5 * logvar_p), logvar - logvar_p
