"""Optimizers, and steps that are taken only if they are `finite`: a truth value on the device.

No host-device synchronisation, except with optimizers that torch has not fused.
"""

import copy
import math
from collections.abc import Iterable

import torch

from ..config import Optimization

FUSED = ("Adam", "AdamW", "SGD")  # these skip a step by themselves, on the device


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter], settings: Optimization
) -> torch.optim.Optimizer:
    """--optim by name; --beta1 is its momentum."""
    momentum = {"momentum": settings.beta1}
    more = momentum if settings.optim in ("SGD", "RMSprop") else {"betas": (settings.beta1, 0.999)}
    more |= {"fused": True} if settings.optim in FUSED else {}
    kind = getattr(torch.optim, settings.optim)
    return start_momentum(kind(parameters, lr=settings.lr, **more))


def set_lr(optim: torch.optim.Optimizer, lr: float) -> None:
    for group in optim.param_groups:
        group["lr"] = lr


def start_momentum(optim: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Initialise SGD's momentum with zeros: torch does so in the first step, but leaves memory
    uninitialised if that step is skipped, and requires a first step for all weights at once."""
    for group in optim.param_groups if isinstance(optim, torch.optim.SGD) else ():
        for weight in group["params"] if group["momentum"] else ():
            optim.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
    return optim


def load_optimizer(optim: torch.optim.Optimizer, state: dict) -> None:
    """Restore the moments of a checkpoint; settings stay those of the flags."""
    own = optim.state_dict()["param_groups"]
    optim.load_state_dict({"state": state["state"], "param_groups": own})
    start_momentum(optim)


def step_if(finite: torch.Tensor, optim: torch.optim.Optimizer) -> None:
    """An optimizer step; a non-finite one leaves weights and moments as they are."""
    if type(optim).__name__ in FUSED:
        optim.found_inf = (~finite).to(torch.float32)
        optim.step()
    elif finite:
        optim.step()


def buffer_copies(model: torch.nn.Module) -> list[torch.Tensor]:
    """Copies of the running statistics of BatchNorm, which the forward pass changes."""
    return [buffer.clone() for buffer in model.buffers()]


def finite_step(loss_and_gradient: torch.Tensor, model: torch.nn.Module) -> torch.Tensor:
    """Whether loss, gradient norm and the model's buffers (BatchNorm statistics) are finite."""
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    largest = torch._foreach_norm(buffers, math.inf) if buffers else []
    return torch.stack([loss_and_gradient, *largest]).isfinite().all()


def restore_buffers_unless(
    finite: torch.Tensor, model: torch.nn.Module, before: list[torch.Tensor]
) -> None:
    for now, then in zip(model.buffers(), before):
        now.copy_(torch.where(finite, now, then))


def apply_if(
    finite: torch.Tensor,
    optim: torch.optim.Optimizer,
    model: torch.nn.Module,
    buffers: list[torch.Tensor],
    ema: torch.nn.Module | None,
    share: float,
) -> None:
    """Update weights, moments and the average; a step that is not finite restores the buffers."""
    step_if(finite, optim)
    restore_buffers_unless(finite, model, buffers)
    if ema:
        update_ema_if(finite, ema, model, share)


def average_of(model: torch.nn.Module) -> torch.nn.Module:
    """A copy for the moving average; .to() restores the memory layout of an LSTM's weights."""
    device = next(model.parameters()).device
    return copy.deepcopy(model).requires_grad_(False).to(device)


def update_ema_if(
    finite: torch.Tensor, mean: torch.nn.Module, model: torch.nn.Module, share: float
) -> None:
    """Move the averaged model `mean` towards the model, by this share of the way."""
    means, values = list(mean.parameters()), list(model.parameters())
    change = torch._foreach_sub(values, means)
    torch._foreach_mul_(change, share * finite)
    torch._foreach_add_(means, change)
    for mean_buffer, buffer in zip(mean.buffers(), model.buffers()):
        mean_buffer.copy_(buffer)
