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


HEAD = ("runs", "epochs", "above baseline", "test PSNR", "test baseline", "best val PSNR")
HEAD += ("last val PSNR", "val baseline", "drift")
BELOW = "(below)"  # ends a gain that is negative
MEANINGS = {
    "runs": "seeds with the same settings; a score is their mean ± one standard deviation",
    "epochs": "complete epochs, of those planned",
    "above baseline": "PSNR minus that of copying the given frame, dB; of the test if available",
    "test PSNR": "mean over the predicted frames of the test clips, dB; +6 dB halve the error",
    "test baseline": "PSNR of copying the given frame to the end of each test clip, dB",
    "best val PSNR": "highest validation PSNR of all epochs, dB; its weights are best_score.ckpt",
    "last val PSNR": "validation PSNR of the last epoch, dB",
    "val baseline": "PSNR of copying the given frame to the end of each validation clip, dB",
    "drift": "PSNR of the last 100 frames minus the first 100, dB; negative: late frames are worse",
    "lowest": "PSNR of the worst predicted frame, dB",
    "baseline": "PSNR of copying the given frame, dB",
    "SSIM": "structural similarity, mean over the predicted frames; 1 is equality",
}
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
MEANINGS |= {head: AVERAGES[x].partition(": ")[2] for head, x in COLUMNS.items() if x in AVERAGES}


def print_scores(scores: dict, baseline: str) -> None:
    columns = columns_of(scores)
    print(f"{'PSNR (dB)':<10}" + "".join(f"{heading:>13}" for heading in columns))
    clips = {f"clip {i}": clip for i, clip in enumerate(scores["clips"])}
    lines = clips if len(clips) <= MANY else {}
    for name, values in (lines | {"mean": scores["mean"]}).items():
        print(f"{name:<10}" + "".join(f"{values[key]:>13.3f}" for key in columns.values()))
    gain = scores["mean"]["psnr"] - scores["mean"]["psnr_given_frame_repeated"]
    print(f"{gain_text(gain)} the {baseline}")
    if "drift" in scores["mean"]:
        print_drift(lines | {"mean": scores["mean"]})
    groups = [(UNCLAMPED, "")] + [("", "clamped, ")] * ("2024 clamped" in columns)
    for suffix, word in groups:
        for name, value in scores["mean"].get(f"psnr_competition{suffix}_groups", {}).items():
            print(f"competition, {word}{name}: {value:.3f}")
    for key in columns.values():
        if key in scores.get("averages", {}):
            print(f"  {AVERAGES[key]}")


def gain_text(gain: float) -> str:
    """What a PSNR is more than another."""
    return f"{abs(gain):.2f} dB {'above' if gain >= 0 else 'below'}"


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


def best_row(run: Run) -> dict:
    """The row of metrics.csv with the highest validation PSNR."""
    rows = [row for row in run.epochs if row.get("val/psnr") is not None]
    return max(rows, key=lambda row: row["val/psnr"], default={})


def best_psnr(run: Run) -> float | None:
    return best_row(run).get("val/psnr")


def is_tested(run: Run) -> bool:
    return run.scores.get("psnr") is not None


def score_and_baseline(run: Run, by_test: bool) -> tuple[float | None, float | None]:
    """The PSNR of the test clips, or that of the best validation, and its baseline."""
    if by_test:
        return run.scores.get("psnr"), run.scores.get("psnr_given_frame_repeated")
    return best_psnr(run), next(last_values([run], BASELINE), None)


def gains(runs: Iterable[Run], by_test: bool) -> str:
    """How far the runs are above their baselines, as text."""
    pairs = (score_and_baseline(run, by_test) for run in runs)
    gains = [score - copied for score, copied in pairs if None not in (score, copied)]
    below = f" {BELOW}" * bool(gains and statistics.mean(gains) < 0)
    return mean_text(gains) + below


def finished(runs: list[Run]) -> list[Run]:
    """The finished runs: no mean has others; all of them if none is."""
    return [run for run in runs if run.finished] or runs


def row_of(runs: list[Run], by_test: bool | None = None) -> list[str]:
    """What is below HEAD for runs that differ only by their seed, as text."""
    by_test = all(map(is_tested, runs)) if by_test is None else by_test
    last, copied = (last_values(runs, name) for name in ("val/psnr", BASELINE))
    keys = "psnr", "psnr_given_frame_repeated", "drift"
    test, of_test, drift = ([run.scores.get(key) for run in runs] for key in keys)
    scores = map(mean_text, (test, of_test, map(best_psnr, runs), last, copied, drift))
    epochs = ", ".join(dict.fromkeys(run.progress for run in runs))
    return [str(len(runs)), epochs, gains(runs, by_test), *scores]


def last_values(runs: Iterable[Run], column: str) -> Iterator[float]:
    """The last value of a column of metrics.csv in every run that has one."""
    for run in runs:
        values = [row[column] for row in run.epochs if row.get(column) is not None]
        yield from values[-1:]
