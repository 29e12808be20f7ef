"""Rollouts of any model: many steps from the given frames, collected on the CPU."""

from collections.abc import Callable, Sequence

import torch

from ..nets.sequence import repeated

STEPS_AT_ONCE = 64  # steps that a rollout prepares at once: memory is constant in the clip's length


def noise_source(
    kind: str, seed: int, clips: Sequence[int], sample: int = 0
) -> Callable[[tuple], torch.Tensor]:
    """draw(shape) -> (clips, *shape): one generator per clip, so that batching changes nothing."""
    if kind == "mean":
        return lambda shape: torch.zeros(len(clips), *shape)
    seeds = [seed * 1_000_003 + clip + sample * 500_009 for clip in clips]
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    return lambda shape: torch.stack([torch.randn(shape, generator=s) for s in generators])


def roll_out(
    model: torch.nn.Module,
    given: torch.Tensor,
    conditions: torch.Tensor,
    noise: Callable | None = None,
    progress: Callable = iter,
) -> torch.Tensor:
    """given (B, P, 3, H, W), conditions (B, T, ...) -> all T frames of a rollout, on the CPU.

    `noise` draws z (see noise_source); by default it follows the model's z_source and seed 0.
    """
    model.eval()
    given = given.to(next(model.parameters()).device)
    noise = noise or noise_source(model.settings.z_source, 0, range(len(given)))
    out, waiting = torch.empty(*conditions.shape[:2], *given.shape[2:]), []
    for t, frame in enumerate(progress(model.rollout(given, conditions, noise)), start=1):
        waiting.append(frame)
        if len(waiting) == STEPS_AT_ONCE or t == out.shape[1]:  # one copy for many steps
            out[:, t - len(waiting) : t] = torch.stack(waiting, 1)
            waiting.clear()
    return out


def sample_futures(
    model: torch.nn.Module,
    given: torch.Tensor,
    conditions: torch.Tensor,
    n: int,
    seed: int = 0,
    progress: Callable = iter,
) -> torch.Tensor:
    """given (B, P, 3, H, W), conditions (B, T, ...) -> (n, B, T, 3, H, W), in one rollout.

    Future k is drawn by noise_source("sample", seed, clips, k), as Tester's are.
    """
    sources = [noise_source("sample", seed, range(len(given)), k) for k in range(n)]

    def noise(shape):
        return torch.cat([draw(shape) for draw in sources])

    given, conditions = repeated(given, n), repeated(conditions, n)
    return roll_out(model, given, conditions, noise, progress).unflatten(0, (n, -1))


@torch.no_grad()
def one_step(
    model: torch.nn.Module, frames: torch.Tensor, poses: torch.Tensor, noise: Callable | None
) -> torch.Tensor:
    """Frames 1..T-1 of a clip (T, 3, H, W), each from the true previous frame, on the CPU.

    One-step (teacher-forced) prediction, for comparison: a rollout never sees true frames.
    """
    model.eval()
    device = next(model.parameters()).device
    pieces = []
    for before, pose in zip(frames[:-1].split(STEPS_AT_ONCE), poses[1:].split(STEPS_AT_ONCE)):
        with model.autocast():
            conditions = model.encode_conditions(pose[None].to(device), frames[:1].to(device))[0]
        z = noise((len(before), *model.z_shape))[0].to(device)
        pieces.append(model.predict_frame(before.to(device), conditions, z)[0].cpu())
    return torch.cat(pieces)
