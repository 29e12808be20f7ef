"""Figures of what z does: its KL over time, sampled futures, their scores, a traversal of z."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator, NullLocator

from .figures import plt, save_figure
from .pictures import draw_strip, labelled, to_uint8, write_gif

SHOWN = 5  # sampled futures in a film strip
MOVING = 128  # frames of a gif of futures
BASELINE = {"color": "0.4", "ls": "--"}
SCORES = {"psnr": ("PSNR (dB)", 0.01), "ssim": ("SSIM", 1e-4)}  # label, least height of an axis


def draw_kl_over_time(
    path: Path, kl: Sequence[float], first: int, events: Sequence[int] | None = None
) -> None:
    """The KL of frames first, first + 1, ... of one clip; vertical lines at its events."""
    figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
    axes.plot(range(first, first + len(kl)), kl, marker=".", lw=1.2, label="KL", clip_on=False)
    for i, event in enumerate(events or ()):
        axes.axvline(event, color="0.2", ls=":", lw=1.5, label=None if i else "event")
    axes.set(title="KL of z over time", xlabel="frame", ylabel="KL (nats per frame)")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)


def draw_futures(
    path: Path,
    truth: torch.Tensor,
    futures: torch.Tensor,
    times: Sequence[int],
    deviation: torch.Tensor,
    mean: torch.Tensor | None = None,
    baselines: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """A film strip of the truth (T, 3, H, W), the first SHOWN futures of (N, T, 3, H, W), their
    mean, {label: (T, 3, H, W)} of baselines, and the standard deviation (T, H, W) in grey.

    `mean` and `deviation` may be over more futures than are given here.
    """
    rows = {"truth": truth} | {f"future {i}": x for i, x in enumerate(futures[:SHOWN], start=1)}
    rows |= {"mean": futures.mean(0) if mean is None else mean, **(baselines or {})}
    rows = {label: to_uint8(clip) for label, clip in rows.items()}
    shown = deviation[list(times)]
    white = max(shown.max().item(), 1 / 255)  # a difference that no image shows stays black
    grey = (deviation / white)[:, None].expand(-1, 3, -1, -1)
    rows[f"deviation\nwhite: {255 * white:.0f}/255"] = to_uint8(grey)
    draw_strip(path, rows, times)


def write_moving_futures(
    path: Path, clips: Mapping[str, torch.Tensor], futures: torch.Tensor, frame_ms: int
) -> None:
    """A gif of the first SHOWN futures (N, T, 3, H, W) beside {label: (T, 3, H, W)}, in a row.

    The first of these comes before the futures, the others after them.
    """
    (first, *others), length = clips.items(), min(MOVING, futures.shape[1])
    rows = [first, *((f"future {i}", x) for i, x in enumerate(futures[:SHOWN], start=1)), *others]
    write_gif(path, labelled({name: to_uint8(x[:length]) for name, x in rows}), frame_ms)


def draw_best_of(
    path: Path,
    curves: Mapping[str, Mapping[str, Sequence[float]]],
    baselines: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """{psnr, ssim: best, mean and worst of n futures (see best_of_curve)}, a panel for each.

    {label: {psnr, ssim: score}} of baselines are dashed.
    """
    figure, panels = plt.subplots(1, len(curves), figsize=(9, 4), squeeze=False)
    figure.set_layout_engine("constrained")
    for axes, (score, curve) in zip(panels[0], curves.items()):
        label, least = SCORES[score]
        draw_curve(axes, curve, {name: x[score] for name, x in (baselines or {}).items()}, least)
        axes.set(xlabel="futures N", ylabel=label)
    figure.suptitle("Best of N futures")
    save_figure(figure, path)


def draw_curve(
    axes: Any, curves: Mapping[str, Sequence[float]], baselines: Mapping[str, float], least: float
) -> None:
    """best, mean and worst against n; an axis is not lower than `least`, else rounding fills it."""
    n = np.asarray(curves["n"])
    marked = [2**i - 1 for i in range(len(n).bit_length())] + [-1]  # at 1, 2, 4, ... M futures
    for name, marker in (("best", "^"), ("mean", "o"), ("worst", "v")):
        axes.plot(n, curves[name], marker=marker, markevery=marked, ms=5, lw=1.2, label=name)
    for name, value in baselines.items():
        axes.plot(n, np.full(n.shape, value), label=name, **BASELINE)
    axes.set_xscale("log")
    ticks = [d * 10**e for e in range(6) for d in (1, 2, 5) if d * 10**e <= n[-1]]
    axes.set_xticks(ticks, ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    if high - low < least:
        axes.set_ylim((low + high - least) / 2, (low + high + least) / 2)
        axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def draw_rank_histogram(
    path: Path, counts: Sequence[int], baselines: Mapping[str, Sequence[int]] | None = None
) -> None:
    """How many true values have their PIT in each equal part of 0..1, in percent.

    {label: counts} of baselines are lines.
    """
    bins = len(counts)
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    edges, middles = np.linspace(0, 1, bins + 1), (np.arange(bins) + 0.5) / bins
    axes.bar(middles, percent(counts), 1 / bins, color="0.8", ec="0.3", label="model")
    for i, (name, other) in enumerate((baselines or {}).items(), start=1):
        axes.stairs(percent(other), edges, baseline=None, lw=1.5, color=f"C{i}", label=name)
    axes.axhline(100 / bins, color="black", ls="--", label="uniform")
    axes.set(
        title="Rank histogram",
        xlabel="rank of the true value among the samples (0: below all, 1: above all)",
        ylabel="true values (%)",
        xlim=(0, 1),
    )
    axes.legend(fontsize=8)
    save_figure(figure, path)


def percent(counts: Sequence[int]) -> np.ndarray:
    counts = np.asarray(counts, dtype=float)
    return 100 * counts / max(counts.sum(), 1)


def draw_traversal(path: Path, frames: Mapping[str, torch.Tensor], values: Sequence[float]) -> None:
    """{dimension of z: (S, 3, H, W)} -> a row a dimension, a column for each of its S values."""
    rows = {label: to_uint8(clip) for label, clip in frames.items()}
    headings = [f"z = {value:g}" for value in values]
    draw_strip(path, rows, range(len(values)), headings)
