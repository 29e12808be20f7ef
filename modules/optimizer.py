"""Optimizers, and steps that count only where they are `good`: a truth value on the device.

Nothing here makes the host wait to know it, but for optimizers that torch has not fused.
"""

import torch

FUSED = ("Adam", "AdamW", "SGD")  # these skip a step by themselves, on the device


def make_optimizer(parameters, args):
    """--optim by name; --beta1 is its momentum."""
    momentum = {"momentum": args.beta1}
    more = momentum if args.optim in ("SGD", "RMSprop") else {"betas": (args.beta1, 0.999)}
    more |= {"fused": True} if args.optim in FUSED else {}
    return getattr(torch.optim, args.optim)(parameters, lr=args.lr, **more)


def load_optimizer(optim, state):
    """Take up the moments of a checkpoint, if they fit."""
    optim.load_state_dict(state)
    for weight, moments in optim.state.items():
        for name, moment in moments.items():
            if torch.is_tensor(moment) and moment.shape not in (weight.shape, torch.Size()):
                raise ValueError(f"a moment {name} is of another shape than its weights")


def step_if(good, optim):
    """An optimizer step; where it is not good, weights and moments stay as they are."""
    if type(optim).__name__ in FUSED:
        optim.found_inf = (~good).float()
        optim.step()
    elif good:
        optim.step()


def statistics(model):
    """A copy of what the forward pass itself changes: the running means of normalisation."""
    return [buffer.clone() for buffer in model.buffers()]


def put_back_unless(good, model, before):
    for now, then in zip(model.buffers(), before):
        now.copy_(torch.where(good, now, then))


def average_if(good, mean, model, decay):
    """Move the averaged model `mean` towards the model, by 1 - decay."""
    means, values = list(mean.parameters()), list(model.parameters())
    change = torch._foreach_sub(values, means)
    torch._foreach_mul_(change, (1 - decay) * good)
    torch._foreach_add_(means, change)
    for mean_buffer, buffer in zip(mean.buffers(), model.buffers()):
        mean_buffer.copy_(buffer)
