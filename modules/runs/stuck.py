"""When no step is finite any more: the run stops, with advice on flags."""

from typing import Any

import torch

from ..config import Training
from ..errors import UserError

MOST_SKIPPED = 50  # non-finite steps in a row; checked only every MOST_SKIPPED steps


def count_skipped(trainer: Any, finite: torch.Tensor) -> None:
    """Count the non-finite steps in a row, on the device."""
    trainer.skipped_in_a_row.add_(1).mul_(~finite)
    most = torch.maximum(trainer.most_in_a_row, trainer.skipped_in_a_row)
    trainer.most_in_a_row.copy_(most)


def stop_if_stuck(trainer: Any) -> None:
    """Stop after MOST_SKIPPED non-finite steps in a row."""
    if trainer.step % MOST_SKIPPED:
        return
    if trainer.most_in_a_row >= MOST_SKIPPED:
        raise UserError(
            f"{MOST_SKIPPED} consecutive steps were not finite (loss, gradient or BatchNorm "
            "statistics); none of them changed the weights. Start again with "
            f"{remedy(trainer.settings)}, as a new run (--resume never), or from an earlier "
            "checkpoint with --ckpt_path and another --save_root"
        )
    trainer.most_in_a_row.zero_()


def remedy(settings: Training) -> str:
    """What to type instead; only what is not typed already."""
    lr = f"--lr {min(settings.lr / 10, settings.default('lr')):g}"
    if "lr" in settings.scheduled:
        lr = "a smaller lr in the --schedule file"
    others = ["--grad_clip 1"] * (not 0 < settings.grad_clip <= 1)
    ramp = settings.kl_anneal_type != "None" and "beta" not in settings.scheduled
    if settings.latent and ramp:
        others.append("--kl_anneal_type None")
    return f"{lr} (if that does not suffice, {' or '.join(others)})" if others else lr
