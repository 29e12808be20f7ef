"""What a run folder shows of the predicted distribution: what z contains, and sampled futures.

`scores` are {"z": scores of Latents, "futures": scores of Futures}; those of the deterministic twin
(--no-latent) stand beside them where there is one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..evaluation import VALUES, Futures, Latents, traverse
from ..runs.folder import MOVING
from . import clips
from . import latents as figures
from .figures import draw_kl
from .pictures import spread

ACTIVE_NATS = 0.1  # a dimension of z with less KL carries no information
STRONGEST = 4  # dimensions of z in a traversal
FRAMES = 10  # of a sheet of futures
TWIN = "deterministic twin"
IDEAL = "ideal forecast"  # its samples are true futures
COLUMNS = {  # printed heading -> a score of futures
    "PSNR mean": "psnr_mean",
    "best": "psnr_best",
    "worst": "psnr_worst",
    "SSIM mean": "ssim_mean",
    "best ": "ssim_best",
    "diversity": "diversity",
    "sharpness": "sharpness",
    "energy": "energy_score",
    "in 50 %": "coverage_50",
    "in 90 %": "coverage_90",
}


# ---------------------------------------------------------------- figures


def draw_latents(
    folder: Path,
    scores: dict[str, Any],
    latents: Latents,
    events: Mapping[int, Sequence[int]],
) -> None:
    """The KL of every dimension of z, and of every frame of the first clip."""
    if latents.latent:
        draw_kl(folder / "kl_per_dimension.png", scores["z"]["kl_per_dimension"])
        path, kl = folder / "kl_over_time.png", latents.kl[0].tolist()
        frames = range(latents.given, latents.given + len(kl))
        marked = [frame for frame in events.get(0, ()) if frame in frames]
        figures.draw_kl_over_time(path, kl, latents.given, marked)


def draw_futures(
    folder: Path,
    lab: Any,
    scores: dict[str, Any],
    futures: Futures,
    twin: Futures | None = None,
) -> None:
    """The first clip's futures as film strips and moving, best of N, the rank histogram."""
    samples, moments = torch.stack(futures.samples[0]).float(), futures.moments[0]
    mean, deviation = moments.mean.float(), moments.deviation().mean(1).float()
    others = {TWIN: twin.samples[0][0].float()} if twin else {}
    times = spread(samples.shape[1], FRAMES)
    path, truth = folder / "futures.png", futures.truth[0]
    figures.draw_futures(path, truth, samples, times, deviation, mean, others)
    moving = {"truth": truth, "mean": mean}
    if twin:
        moving["twin"] = others[TWIN]
    figures.write_moving_futures(folder / MOVING, moving, samples, lab.frame_ms)
    scored, of_twin = scores["futures"], scores["twin"]["futures"] if twin else None
    curves = scored["best_of"]
    lines = {TWIN: {name: of_twin[f"{name}_mean"] for name in curves}} if of_twin else {}
    figures.draw_best_of(folder / "best_of_n.png", curves, lines)
    forecasts = {TWIN: of_twin, IDEAL: scored.get("ideal")}
    ranks = {name: fit["rank_histogram"] for name, fit in forecasts.items() if fit}
    figures.draw_rank_histogram(folder / "rank_histogram.png", scored["rank_histogram"], ranks)


def write_futures(path: Path, lab: Any, futures: Futures) -> None:
    """The frames of the first clip's futures, for the player of report.html."""
    clips.write_futures(path, lab, futures.truth[0], torch.stack(futures.shown))


def draw_traversal(
    folder: Path,
    scores: dict[str, Any],
    model: torch.nn.Module,
    clips: tuple[torch.Tensor, torch.Tensor],
    events: Mapping[int, Sequence[int]],
) -> None:
    """The strongest dimensions of z, at an event of the first clip or in its middle.

    If none has information, only the strongest.
    """
    kl = torch.tensor(scores["z"].get("kl_per_dimension", []))
    if not len(kl):
        return
    length = clips[0].shape[1]
    possible = [t for t in events.get(0, ()) if scores["z"]["given"] <= t < length]
    last = possible[0] if possible else length // 2
    strongest = kl.topk(min(STRONGEST, len(kl))).indices.tolist()
    strongest = [i for i in strongest if kl[i] > ACTIVE_NATS] or strongest[:1]
    rows = traverse(model, *(x[0, : last + 1] for x in clips), strongest)
    figures.draw_traversal(folder / "traversal.png", rows, VALUES)


# ---------------------------------------------------------------- text


def describe(scores: dict[str, Any]) -> str:
    """What is printed of the scores."""
    twin = scores.get("twin", {})
    lines = [describe_bound(scores["z"])]
    if twin:
        lines.append(f"{TWIN}: {describe_bound(twin['z'])}")
    lines += describe_z(scores["z"])
    if "futures" in scores:
        lines += describe_futures(scores["futures"], twin.get("futures"))
    return "\n".join(lines)


def describe_bound(scores: dict[str, Any]) -> str:
    return (
        f"ELBO {scores['elbo']:.1f} nats per frame, importance bound of {scores['draws']} draws "
        f"{scores['importance_bound']:.1f}, {scores['bits_per_value']:.3f} bits per value"
    )


def describe_z(scores: dict[str, Any]) -> list[str]:
    if "units" not in scores:
        return []
    kl = scores["kl_per_dimension"]
    active = sum(value > ACTIVE_NATS for value in kl)
    lines = [
        f"KL {scores['kl']:.3g} nats per frame, {active} of {len(kl)} dimensions of z above "
        f"{ACTIVE_NATS}, {scores['active_units']} of {scores['units']} units active"
        + ("" if active else ": posterior collapse, the decoder ignores z")
    ]
    events = scores.get("events", {})
    if events.get("ratio"):
        lines.append(
            f"KL at events (their frame and the next two): {events['at_events']:.3g} nats, "
            f"elsewhere {events['elsewhere']:.3g}, {events['ratio']:.1f} times"
        )
    return lines


def describe_futures(scores: dict[str, Any], twin: dict[str, Any] | None) -> list[str]:
    """A table of the scores of futures."""
    rows = {f"{scores['n_samples']} futures": scores, TWIN: twin, IDEAL: scores.get("ideal")}
    rows = {name: row for name, row in rows.items() if row}
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"{name.strip():>11}" for name in COLUMNS)]
    for label, row in rows.items():
        values = (row.get(key) for key in COLUMNS.values())
        cells = (f"{'-' if value is None else f'{value:.3f}':>11}" for value in values)
        lines.append(f"{label:<{width}}" + "".join(cells))
    known = scores["true_futures"]
    note = f"({known} true future{'s' * (known > 1)} per clip; definitions: docs/latents.md)"
    return [*lines, note]
