"""Diagonal Gaussians: bounded log variance, sampling, a learned prior's reference frame."""

import torch

LOGVAR_MIN, LOGVAR_MAX = -30.0, 10.0


def bound(x, low, high):
    """Clamp the value but let the gradient through, so that what left the range can come back."""
    return x.clamp(low, high).detach() + (x - x.detach())


def sample(mu, logvar, noise):
    return mu + noise * torch.exp(0.5 * logvar)


def relative_to_prior(mu, logvar, mu_p, logvar_p):
    """The posterior after the affine map that makes the prior N(0, I); the KL does not change."""
    return (mu - mu_p) * torch.exp(-0.5 * logvar_p), logvar - logvar_p
