"""Numbers as text: Markdown, Tester's printed table, the scores of runs."""

import statistics
from collections.abc import Iterable, Iterator, Sequence

from ..errors import one_line
from ..evaluation.metrics import AVERAGES, UNCLAMPED
from .charts import BASELINE
from .reading import Run


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    lines = [[one_line(text).replace("|", r"\|") for text in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


HEAD = ("runs", "epochs", "best val PSNR", "last val PSNR", "val baseline", "test PSNR")
HEAD += ("test baseline", "drift")
MANY = 8  # with more clips than this, plot and table show only the mean
COLUMNS = {  # printed heading -> key of a score
    "mean": "psnr",
    "2023 tester": "psnr_2023_tester_unclamped",
    "2023 clamped": "psnr_2023_tester",
    "competition": "psnr_competition_unclamped",
    "2024 clamped": "psnr_competition",
    "lowest": "psnr_min",
    "pose box": "psnr_pose_box",
    "baseline": "psnr_given_frame_repeated",
    "SSIM": "ssim",
}


def print_scores(scores: dict, baseline: str) -> None:
    columns = columns_of(scores)
    print(f"{'PSNR (dB)':<10}" + "".join(f"{heading:>13}" for heading in columns))
    clips = {f"clip {i}": clip for i, clip in enumerate(scores["clips"])}
    lines = clips if len(clips) <= MANY else {}
    for name, values in (lines | {"mean": scores["mean"]}).items():
        print(f"{name:<10}" + "".join(f"{values[key]:>13.3f}" for key in columns.values()))
    gain = scores["mean"]["psnr"] - scores["mean"]["psnr_given_frame_repeated"]
    print(f"{gain:+.2f} dB over the {baseline}")
    if "drift" in scores["mean"]:
        print_drift(lines | {"mean": scores["mean"]})
    groups = [(UNCLAMPED, "")] + [("", "clamped, ")] * ("2024 clamped" in columns)
    for suffix, word in groups:
        for name, value in scores["mean"].get(f"psnr_competition{suffix}_groups", {}).items():
            print(f"competition, {word}{name}: {value:.3f}")
    for key in columns.values():
        if key in scores.get("averages", {}):
            print(f"  {AVERAGES[key]}")


def columns_of(scores: dict) -> dict[str, str]:
    """{heading: key} of what is printed; a clamped score only where the clamp changes it."""
    columns = {heading: key for heading, key in COLUMNS.items() if key in scores["mean"]}
    return {
        heading: key
        for heading, key in columns.items()
        if not heading.endswith(" clamped") or any(differs(clip, key) for clip in scores["clips"])
    }


def differs(clip: dict, key: str) -> bool:
    """Whether a clamp changes a clip's score. Earlier versions have the clamped one only."""
    scores = clip.get(key), clip.get(key + UNCLAMPED)
    return None in scores or abs(scores[0] - scores[1]) > 5e-4


def print_drift(clips: dict[str, dict]) -> None:
    print("drift (dB): the last 100 frames minus the first 100, and the last frame minus frame 30;")
    print("one-step: the same of one-step predictions, each from the true previous frame")
    print(f"{'':<10}{'drift':>13}{'one-step':>13}{'since 30':>13}{'PSNR one-step':>15}")
    for name, values in clips.items():
        row = [values[key] for key in ("drift", "drift_one_step", "drift_since_frame_30")]
        row = "".join(f"{value:>+13.3f}" for value in row)
        print(f"{name:<10}{row}{values['psnr_one_step']:>15.3f}")


# ---------------------------------------------------------------- runs in a table


def mean_text(values: Iterable[float | None]) -> str:
    """Mean, and standard deviation of several values; a dash for none.

    Two decimals; one digit where that would show nothing, none from 1,000 on.
    """
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    mean = statistics.mean(values)
    digits = ".0f" if abs(mean) >= 1000 else ".2f"

    def cell(value):
        return f"{value:{'.1g' if 0 < abs(value) < 0.005 else digits}}"

    return " ± ".join(map(cell, [mean, *([statistics.stdev(values)] if len(values) > 1 else [])]))


def val_psnr(run: Run) -> list[float]:
    return [row["val/psnr"] for row in run.epochs if row.get("val/psnr") is not None]


def best_psnr(run: Run) -> float | None:
    return max(val_psnr(run), default=None)


def finished(runs: list[Run]) -> list[Run]:
    """The finished runs: no mean has others; all of them if none is."""
    return [run for run in runs if run.finished] or runs


def row_of(runs: list[Run]) -> list[str]:
    """What is below HEAD for runs that differ only by their seed, as text."""
    done = finished(runs)
    count = str(len(runs)) if len(done) == len(runs) else f"{len(done)} of {len(runs)}"
    best = [best_psnr(run) for run in done]
    last, copied = ([*last_values(done, name)] for name in ("val/psnr", BASELINE))
    keys = "psnr", "psnr_given_frame_repeated", "drift"
    test = [[run.scores.get(key) for run in done] for key in keys]
    return [count, epochs_of(runs), *map(mean_text, (best, last, copied, *test))]


def last_values(runs: Iterable[Run], column: str) -> Iterator[float]:
    """The last value of a column of metrics.csv in every run that has one."""
    for run in runs:
        values = [row[column] for row in run.epochs if row.get(column) is not None]
        yield from values[-1:]


def epochs_of(runs: list[Run]) -> str:
    """Epochs done; of unfinished runs, of how many."""
    if all(run.finished for run in runs):
        counts = sorted({len(run.epochs) for run in runs if run.epochs})
        return "-".join(map(str, counts)) or "-"
    return ", ".join(dict.fromkeys(run.progress for run in runs))
