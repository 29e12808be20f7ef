"""Losses. Predictions and targets are floats in 0..1, (B, T, C, H, W)."""

import torch

from ..process.ranks import ranks

MSE_FLOOR = 1e-5  # no gain beyond 50 dB


def kl_criterion(mu: torch.Tensor, logvar: torch.Tensor, batch_size: int) -> torch.Tensor:
    """KL(N(mu, exp logvar) || N(0, I)), summed over the latent values, per item of the batch."""
    return kl_values(mu, logvar).sum() / batch_size


def kl_values(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    mu, logvar = mu.float(), logvar.float()
    # expm1: near the prior 1 + logvar - exp(logvar) would be lost in rounding
    return 0.5 * (mu.pow(2) + torch.expm1(logvar) - logvar)


def kl_per_dimension(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """(B, T, N, ...) twice -> (N,): the KL of each dimension of z, in nats per frame."""
    values = kl_values(mu, logvar).flatten(0, 1)  # (frames, N, ...)
    return values.mean(0).flatten(1).sum(1) if values.dim() > 2 else values.mean(0)


def kl_above(free_bits: float, mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """The KL above `free_bits` nats per dimension: the first nats are free.

    Its mean over the clips of all ranks decides.
    """
    kl = kl_per_dimension(mu, logvar)
    if not ranks.shares_batches:
        return kl.clamp_min(free_bits).sum()
    return torch.where(ranks.mean_of_batch(kl) < free_bits, free_bits, kl).sum()


def calibrated_loss(pred: torch.Tensor, true: torch.Tensor, of_batch: bool = False) -> torch.Tensor:
    """(B, T, C, H, W) twice -> the negative log-likelihood of a frame's values, up to a constant.

    Of a Gaussian with the optimal variance, which is the mean squared error; times 2 / (C H W).
    Each frame has its own: then every frame counts alike, as it does in a mean of PSNRs. Or one
    serves all clips that are trained on at once, on all ranks: then frames with large errors count
    more, as in the MSE.
    """
    mse = (pred - true).pow(2).mean(dim=(-3, -2, -1))
    if not of_batch:
        return torch.log(mse + MSE_FLOOR).mean()
    mse = mse.mean()
    if not ranks.shares_batches:
        return torch.log(mse + MSE_FLOOR)
    of_ranks = ranks.mean_of_batch(mse) + MSE_FLOOR
    return torch.log(of_ranks) + (mse - mse.detach()) / of_ranks  # the gradient of that logarithm


def loss_scale(reduction: str, frames: torch.Tensor, size: int) -> float:
    """What a mean over the predicted frames of clips (B, T, ...) in a batch of `size` is times.

    The template minimises the sum over a clip's predicted frames, and clips that gradient.
    """
    total = frames.shape[1] - 1
    return {"sum": total, "batch": total / size, "mean": 1}[reduction]
