"""What a run folder shows of the predicted distribution: what z contains, and sampled futures.

`scores` are {"z": scores of Latents, "futures": scores of Futures}; if available, "twin" has those
of the deterministic twin (--no-latent).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.ticker import NullLocator

from ..evaluation.futures import Futures
from ..evaluation.lab import Lab
from ..evaluation.latents import ACTIVE_NATS, TRAVERSED_VALUES, Latents
from ..runs.folder import MOVING
from . import clips, measures
from .boundary import drawing
from .figures import COLOURS, draw_kl, plot, save_figure, whole_numbers
from .pictures import draw_strip, labelled, spread, to_uint8, write_gif

STRIP_FUTURES = 5  # in a film strip and in a gif
STRIP_TIMES = 10  # columns of a film strip of futures
GIF_FRAMES = 128  # of a gif of futures
FREE = 1.1  # a KL up to this share of what free bits leave out is theirs
VISIBLE = 1.0  # a deviation over the futures, of 255, that a picture can show
TWIN = "deterministic twin"
IDEAL = "ideal forecast"  # its samples are true futures
SCORE_AXES = {  # label, least height
    "psnr": ("PSNR (dB)", 0.01),
    "psnr_from_event": ("PSNR from the first event on (dB)", 0.01),
    "ssim": ("SSIM", 1e-4),
}


# ---------------------------------------------------------------- figures of z


@drawing
def draw_latents(
    folder: Path, scores: dict[str, Any], latents: Latents, events: Mapping[int, Sequence[int]]
) -> None:
    """The KL of every dimension of z, and of every frame of the first clip."""
    if latents.latent:
        draw_kl(folder / "kl_per_dimension.png", scores["z"]["kl_per_dimension"])
        kl, first = latents.kl[0].tolist(), latents.given
        marked = [t for t in events.get(0, ()) if first <= t < first + len(kl)]
        draw_kl_over_time(folder / "kl_over_time.png", kl, first, marked)


@drawing
def draw_kl_over_time(path: Path, kl: Sequence[float], first: int, events: Sequence[int]) -> None:
    """The KL of frames first, first + 1, ... of one clip; vertical lines at its events."""
    figure, axes = plot(8, 3.5)
    axes.plot(range(first, first + len(kl)), kl, marker=".", lw=1.2, label="KL", clip_on=False)
    for i, event in enumerate(events):
        axes.axvline(event, color="0.2", ls=":", lw=1.5, label=None if i else "event")
    axes.set(title="KL of z over time", xlabel="frame", ylabel="KL (nats per frame)")
    axes.set_ylim(bottom=0)
    whole_numbers(axes)
    axes.legend(fontsize=8)
    save_figure(figure, path)


@drawing
def draw_traversal(folder: Path, frames: Mapping[str, torch.Tensor]) -> None:
    """{dimension of z: (values, 3, H, W)} -> a row a dimension, a column a value."""
    if frames:
        rows = {label: to_uint8(clip) for label, clip in frames.items()}
        headings = [f"z = {value:g}" for value in TRAVERSED_VALUES]
        draw_strip(folder / "traversal.png", rows, range(len(headings)), headings)


# ---------------------------------------------------------------- figures of futures


@drawing
def draw_futures(
    folder: Path,
    lab: Lab,
    scores: dict[str, Any],
    futures: Futures,
    twin: Futures | None = None,
) -> None:
    """The first clip's futures as film strips and moving, best of N, the rank histogram."""
    samples, moments = torch.stack(futures.samples[0]).float(), futures.moments[0]
    shown = {"truth": futures.truth[0]}
    shown |= {f"future {i}": x for i, x in enumerate(samples[:STRIP_FUTURES], start=1)}
    shown |= {"mean": moments.mean.float()} | ({TWIN: twin.moments[0].mean.float()} if twin else {})
    rows = {label: to_uint8(clip[: samples.shape[1]]) for label, clip in shown.items()}
    moving = labelled({label: row[:GIF_FRAMES] for label, row in rows.items()})
    write_gif(folder / MOVING, moving, lab.frame_ms)
    deviation = moments.deviation().mean(1).float()
    draw_sheet(folder / "futures.png", rows, spread(samples.shape[1], STRIP_TIMES), deviation)
    fit, of_twin = scores["futures"], scores["twin"]["futures"] if twin else None
    curves = fit["best_of"]
    lines = {"pixel mean": {name: fit[f"{name}_of_mean"] for name in curves}}
    if of_twin:
        lines[f"{TWIN}, pixel mean"] = {name: of_twin[f"{name}_of_mean"] for name in curves}
    if ideal := fit.get("ideal"):
        lines["best of N true futures"] = {name: ideal[f"{name}_best"] for name in curves}
    draw_best_of(folder / "best_of_n.png", curves, lines)
    forecasts = {TWIN: of_twin, IDEAL: fit.get("ideal")}
    ranks = {name: scored["rank_histogram"] for name, scored in forecasts.items() if scored}
    draw_rank_histogram(folder / "rank_histogram.png", fit["rank_histogram"], ranks)


@drawing
def draw_sheet(
    path: Path, rows: Mapping[str, np.ndarray], times: Sequence[int], deviation: torch.Tensor
) -> None:
    """A film strip of {label: uint8 clip}, and the standard deviation (T, H, W) in grey."""
    # a difference that no image shows stays black
    white = max(deviation[list(times)].max().item(), 1 / 255)
    grey = to_uint8((deviation / white)[:, None].expand(-1, 3, -1, -1))
    draw_strip(path, rows | {f"deviation\nwhite: {255 * white:.0f}/255": grey}, times)


@drawing
def pack_futures(path: Path, lab: Lab, futures: Futures) -> None:
    """The frames of the first clip's futures, for the player of report.html."""
    clips.write_futures(path, lab, futures.truth[0], torch.stack(futures.played))


@drawing
def draw_best_of(
    path: Path,
    curves: Mapping[str, Mapping[str, Sequence[float]]],
    baselines: Mapping[str, Mapping[str, float]],
) -> None:
    """{score: best, mean and worst of n futures (see best_of_curve)}, a panel for each.

    {label: {score: value}} of baselines are dashed lines.
    """
    figure, panels = plot(4.5 * len(curves), 4, len(curves))
    for axes, (score, curve) in zip(panels, curves.items()):
        label, least = SCORE_AXES[score]
        draw_curve(axes, curve, {name: x[score] for name, x in baselines.items()}, least)
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
    for (name, value), style in zip(baselines.items(), ("--", "-.", ":")):
        axes.plot(n, np.full(n.shape, value), label=name, color="0.4", ls=style)
    axes.set_xscale("log")
    ticks = [d * 10**e for e in range(6) for d in (1, 2, 5) if d * 10**e <= n[-1]]
    axes.set_xticks(ticks, ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    if high - low < least:
        axes.set_ylim((low + high - least) / 2, (low + high + least) / 2)
        axes.ticklabel_format(axis="y", useOffset=False)
    axes.legend(fontsize=8)


@drawing
def draw_rank_histogram(
    path: Path, counts: Sequence[int], baselines: Mapping[str, Sequence[int]]
) -> None:
    """The share of true values whose PIT is in each equal part of 0..1, in percent.

    {label: counts} of baselines are lines.
    """
    edges = np.linspace(0, 1, len(counts) + 1)
    figure, axes = plot(6, 4)
    style = {"color": "0.8", "ec": "0.3", "label": "model", "align": "edge"}
    axes.bar(edges[:-1], percent(counts), 1 / len(counts), **style)
    for i, (name, other) in enumerate(baselines.items(), start=1):
        axes.stairs(percent(other), edges, baseline=None, lw=1.5, color=COLOURS[i], label=name)
    axes.axhline(100 / len(counts), color="black", ls="--", label="uniform")
    axes.set(
        title="Rank histogram",
        xlabel="rank of the true value among the samples (0: below all, 1: above all)",
        ylabel="true values (%)",
        xlim=(0, 1),
    )
    axes.legend(fontsize=8)
    save_figure(figure, path)


def percent(counts: Sequence[int]) -> np.ndarray:
    return 100 * np.asarray(counts) / max(sum(counts), 1)


# ---------------------------------------------------------------- text


def scores_text(scores: dict[str, Any]) -> str:
    """What is printed of the scores."""
    twin = scores.get("twin", {})
    lines = [describe_bound(scores["z"])]
    if twin:
        lines.append(f"{TWIN}: {describe_bound(twin['z'])}")
    if "bits_per_value" in scores["z"]:
        lines.append(describe_codes(scores["codes"]))
    lines += describe_z(scores["z"], scores.get("futures", {}))
    if "futures" in scores:
        lines += describe_futures(scores)
    return "\n".join(lines)


def describe_bound(scores: dict[str, Any]) -> str:
    bits = f", {scores['bits_per_value']:.3f} bits per value" if "bits_per_value" in scores else ""
    draws = f"{scores['draws']} draw{'s' * (scores['draws'] != 1)}"
    return (
        f"ELBO {scores['elbo']:.1f} nats per frame, importance bound of {draws} "
        f"{scores['importance_bound']:.1f}{bits}"
    )


def describe_codes(codes: dict[str, float]) -> str:
    return (
        f"bits per value without a model: {codes['uniform']:g} uniform, "
        f"{codes['gaussian_per_pixel']:.3f} a Gaussian per pixel, "
        f"{codes['png_of_differences']:.3f} PNG of the differences to the previous frame"
    )


def describe_z(scores: dict[str, Any], futures: dict[str, Any]) -> list[str]:
    """What z contains, by its scores and by those of futures, if there are any."""
    if "units" not in scores:
        return []
    kl = scores["kl_per_dimension"]
    active = sum(value > ACTIVE_NATS for value in kl)
    lines = [
        f"KL {scores['kl']:.3g} nats per frame, {active} of {len(kl)} dimensions of z above "
        f"{ACTIVE_NATS}, {scores['active_units']} of {scores['units']} units active",
        f"I(x; z) {scores['mutual_information']:.3g} nats, KL(q(z) || p(z)) "
        f"{scores['marginal_kl']:.3g}",
    ]
    lines += z_in_futures(scores, active, futures.get("diversity"), futures.get("diversity_max"))
    events = scores.get("events", {})
    if events.get("difference") is not None:
        lines.append(
            f"KL at events (their frame and the next two): {events['at_events']:.3g} nats, "
            f"elsewhere {events['elsewhere']:.3g}"
        )
    if events.get("entropy_at_events") is not None:
        lines.append(
            f"the world's true entropy: {events['entropy']:.3g} nats per frame, at events "
            f"{events['entropy_at_events']:.3g}, elsewhere {events['entropy_elsewhere']:.3g}"
        )
    return lines


def z_in_futures(
    scores: dict[str, Any], active: int, mean: float | None, largest: float | None
) -> Iterator[str]:
    """Whether the decoder uses z: by what changes when it is drawn anew, where that is known."""
    free, known = scores.get("free_bits", 0), len(scores["kl_per_dimension"])
    if free and scores["kl"] <= FREE * free * known:
        yield (
            f"--free_bits {free:g} leaves {free:g} nats of each of the {known} dimensions out of "
            "the loss: the KL is no more than these"
        )
    if largest is None:
        return
    if largest >= VISIBLE:
        yield f"z drawn anew changes a value by {mean:.2g} of 255, at most by {largest:.3g}"
    else:
        cause = "posterior collapse, " * (not active) + "the decoder ignores z"
        yield f"z drawn anew changes no value by more than {largest:.2g} of 255: {cause}"


def describe_futures(scores: dict[str, Any]) -> list[str]:
    """A table of the scores of futures: a row a measure."""
    futures, twin = scores["futures"], scores.get("twin")
    columns = {f"{futures['n_samples']} futures": scores, TWIN: twin}
    columns |= {IDEAL: {"futures": futures.get("ideal")}, measures.MINUS: scores.get("minus_twin")}
    rows = [row[:-1] for row in measures.table_of(columns, "futures/")]
    widths = [max(map(len, column)) + 2 for column in zip(*rows)]
    lines = ["".join(f"{cell:>{w}}" for cell, w in zip(row, widths)) for row in rows]
    note = "intervals over the clips, by bootstrap; " * ("minus_twin" in scores)
    return [*lines, f"({note}definitions: docs/latents.md)"]
