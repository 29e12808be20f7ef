"""beta, tfr and lr of every epoch: pure functions of (epoch, settings).

Epochs count from 0 to num_epoch - 1.
"""

import bisect
import math
from collections.abc import Iterator

import numpy as np

from ..config import Training
from ..config.fields import SCHEDULED


class kl_annealing:
    """The weight beta of the KL term, epoch by epoch."""

    def __init__(self, settings: Training, current_epoch: int = 0):
        self.settings = settings
        self.current_epoch = current_epoch

    def update(self) -> None:
        self.current_epoch += 1

    def get_beta(self) -> float:
        return beta_at(self.current_epoch, self.settings)

    @staticmethod
    def frange_cycle_linear(
        n_iter: int, start: float = 0.0, stop: float = 1.0, n_cycle: int = 1, ratio: float = 1
    ) -> list[float]:
        """The whole table of n_iter values: n_cycle ramps from start to stop."""
        return [cycle_linear(i, n_iter, start, stop, n_cycle, ratio) for i in range(n_iter)]


def cycle_linear(
    i: int, n_iter: int, start: float, stop: float, n_cycle: int, ratio: float
) -> float:
    """Value i of n_cycle ramps: each rises for `ratio` of its cycle, then stays at stop."""
    cycle = ((i + 1) * n_cycle - 1) // n_iter  # the current cycle: c * n_iter // n_cycle <= i
    return ramp(i - cycle * n_iter // n_cycle, ratio * n_iter / n_cycle, start, stop)


def ramp(age: int, rise: float, start: float, stop: float) -> float:
    """From start to stop in `rise` epochs, then level."""
    return stop if age >= rise else start + (stop - start) * age / rise


def beta_at(epoch: int, settings: Training) -> float:
    first = settings.pretrain_epochs
    if epoch < first:
        return 0.0
    if (value := from_file("beta", epoch, settings)) is not None:
        return value
    epochs = max(settings.num_epoch - first, 1)
    if settings.kl_anneal_type == "None":
        return settings.kl_anneal_stop
    cycles = 1 if settings.kl_anneal_type == "Monotonic" else settings.kl_anneal_cycle
    age, ratio = min(epoch - first, epochs - 1), settings.kl_anneal_ratio
    return cycle_linear(age, epochs, 0.0, settings.kl_anneal_stop, min(cycles, epochs), ratio)


def from_file(column: str, epoch: int, settings: Training) -> float | None:
    """The value of the --schedule file: that of its last row up to this epoch."""
    rows = settings.schedule
    row = rows and rows[bisect.bisect(rows, epoch, key=lambda row: row[0]) - 1]
    return row and row[1 + [*SCHEDULED].index(column)]


def rows_of_file(settings: Training) -> list[dict]:
    """The rows of the --schedule file, with the columns that it has."""
    names = ["epoch", *SCHEDULED]
    rows = (zip(names, row) for row in settings.schedule)
    return [{name: value for name, value in row if value is not None} for row in rows]


def has_posterior(epoch: int, settings: Training) -> bool:
    """Whether the posterior is trained in this epoch."""
    trained = settings.latent and settings.posterior_share > 0
    return trained and epoch >= settings.pretrain_epochs


def draws_from_prior(epoch: int, step: int, settings: Training) -> bool:
    """Whether z of this step is a prior sample: pre-training, or the hybrid objective."""
    if not has_posterior(epoch, settings):
        return True
    draw = np.random.default_rng([settings.seed, epoch, 2, step]).random()
    return draw >= settings.posterior_share


def coins(tfr: float, epoch: int, steps: int, settings: Training) -> np.ndarray:
    """True where a step is teacher-forced, at ratio tfr: drawn once for the epoch, or per batch."""
    rng = np.random.default_rng([settings.seed, epoch, 1])
    draws = rng.random(steps if settings.tfr_coin == "batch" else 1) < tfr
    return np.broadcast_to(draws, steps)


def tfr_at(epoch: int, settings: Training) -> float:
    """Probability of teacher forcing: --tfr before --tfr_sde, then decaying to its lower bound."""
    if (value := from_file("tfr", epoch, settings)) is not None:
        return value
    decays = max(epoch - settings.tfr_sde + 1, 0)
    return max(settings.tfr_lower_bound, settings.tfr - settings.tfr_d_step * decays)


def lr_at(epoch: int, settings: Training) -> float:
    """Linear warm-up, then --lr_schedule; cosine is at --lr_min in the last epoch."""
    if (value := from_file("lr", epoch, settings)) is not None:
        return value
    if epoch < settings.warmup_epochs:
        return settings.lr * (epoch + 1) / (settings.warmup_epochs + 1)
    if settings.lr_schedule == "multistep":
        return settings.lr * settings.lr_gamma ** sum(epoch >= m for m in settings.lr_milestones)
    if settings.lr_schedule == "cosine":
        span = settings.num_epoch - 1 - settings.warmup_epochs
        turn = math.pi * min((epoch - settings.warmup_epochs) / span, 1.0) if span > 0 else 0.0
        return settings.lr_min + (settings.lr - settings.lr_min) * (1 + math.cos(turn)) / 2
    return settings.lr


def table(settings: Training) -> list[dict]:
    """One dict an epoch: what a run with these flags will do."""
    return [
        {
            "epoch": e,
            "beta": beta_at(e, settings),
            "tfr": tfr_at(e, settings),
            "lr": lr_at(e, settings),
        }
        for e in range(settings.num_epoch)
    ]


def collapse(settings: Training) -> Iterator[str]:
    """Notes on settings under which z is known to collapse (docs/latents.md).

    MSE + beta KL is the negative log-likelihood of a Gaussian with variance beta * values / 2, up
    to a factor (Lucas et al., 2019). With a standard deviation of half the range of values, noise
    hides what z could encode. Free bits keep the KL above 0 all the same.
    """
    if not settings.latent or settings.posterior_share == 0 or settings.free_bits:
        return
    beta = max(row["beta"] for row in table(settings))
    deviation = math.sqrt(beta * settings.frame_values / 2)
    if settings.loss == "mse" and deviation > 0.5:
        yield (
            f"note: --loss mse with beta {beta:g} is a Gaussian likelihood with standard deviation "
            f"{deviation:.2g}, of values in 0..1: posterior collapse (KL near 0) is likely. "
            "--loss calibrated prevents it"
        )
    elif settings.posterior_share < 1 and beta > 1:
        yield (
            f"note: --posterior_share {settings.posterior_share:g} with beta {beta:g}: posterior "
            "collapse (KL near 0) is likely. --free_bits 2 keeps the KL above 0"
        )


def warnings(settings: Training) -> Iterator[str]:
    """Notes on legal but surprising settings."""
    yield from collapse(settings)
    annealed = settings.num_epoch - settings.pretrain_epochs
    cycles = settings.kl_anneal_cycle
    cyclical = settings.kl_anneal_type == "Cyclical" and "beta" not in settings.scheduled
    if cyclical and 0 < annealed <= cycles:
        beta = beta_at(settings.num_epoch - 1, settings)
        yield f"note: {cycles} KL cycles in {annealed} epochs: beta stays {beta:g}"
    lr = lr_at(settings.num_epoch - 1, settings)
    multistep = settings.lr_schedule == "multistep" and "lr" not in settings.scheduled
    if multistep and lr < settings.lr:
        yield (f"note: lr falls to {lr:.3g} (--lr_milestones); --lr_schedule constant keeps it")
