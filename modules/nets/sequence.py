"""Nets of single frames applied to sequences (B, T, ...)."""

from collections.abc import Callable, Iterator, Sequence

import torch


def over_time(
    net: Callable, *inputs: torch.Tensor | None, at_once: int | None = None
) -> torch.Tensor | tuple:
    """Apply a net to (B, T, ...) as one batch of B*T, or in pieces of `at_once`."""
    pieces = zip(*(flat(x).split(at_once or len(x) * x.shape[1]) for x in inputs))
    results, batch = [net(*piece) for piece in pieces], len(inputs[0])
    if isinstance(results[0], tuple):
        return tuple(unflat(x, batch) for x in join(results, dim=0))
    return unflat(joined(results, dim=0), batch)


def step_by_step(net: Callable, *inputs: torch.Tensor) -> torch.Tensor | tuple:
    """Apply a net to (B, T, ...) in T calls, so that BatchNorm sees one time step at a time."""
    results = [over_time(net, *step) for step in one_by_one(1, *inputs)]
    return join(results, dim=1) if isinstance(results[0], tuple) else joined(results, dim=1)


def flat(x: torch.Tensor) -> torch.Tensor:
    """(B, T, ...) -> (B*T, ...), maps in channels_last like the nets."""
    x = x.flatten(0, 1)
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def unflat(x: torch.Tensor, batch: int) -> torch.Tensor:
    return x.unflatten(0, (batch, -1))


def repeated(x: torch.Tensor, times: int) -> torch.Tensor:
    """(B, ...) -> (times * B, ...)."""
    return x.expand(times, *x.shape).flatten(0, 1)


def one_by_one(dim: int, *inputs: torch.Tensor | None) -> Iterator[tuple]:
    """Tensors (or Nones) -> tuples of their slices of length one; one split, one gradient."""
    count = next(x.shape[dim] for x in inputs if x is not None)
    return zip(*([None] * count if x is None else x.split(1, dim) for x in inputs))


def join(results: list[tuple], dim: int) -> tuple:
    """Tuples of pieces (or Nones) -> one tuple."""
    return tuple(None if parts[0] is None else joined(parts, dim) for parts in zip(*results))


def joined(parts: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
