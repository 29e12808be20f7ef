"""What a report knows of a run: the contents of its folder."""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError

LARGEST = 1e15  # of a score


@dataclass
class Run:
    """The contents of a run folder."""

    folder: Path
    settings: dict
    epochs: list  # rows of metrics.csv
    frames: list  # rows of val_frames.csv
    scores: dict  # Tester's means over the clips, if it has run since
    clips: list  # Tester's scores of every clip

    @property
    def finished(self) -> bool:
        """Whether all planned epochs are done; older runs do not tell."""
        planned = self.settings.get("num_epoch")
        return not isinstance(planned, int) or len(self.epochs) >= planned

    @property
    def progress(self) -> str:
        if self.finished:
            return str(len(self.epochs)) if self.epochs else "-"
        return f"{len(self.epochs)} of {self.settings['num_epoch']}"


def read_run(folder: Path) -> Run:
    epochs, frames = read_csv(folder / "metrics.csv"), read_csv(folder / "val_frames.csv")
    scores = folder / "scores.json"
    scores = read_json(scores) if tested_since(scores) else {}
    settings = read_json(folder / "args.json")
    run = Run(folder, settings, epochs, frames, scores.get("mean", {}), scores.get("clips", []))
    check(run)
    return run


def check(run: Run) -> None:
    """Refuse a run whose files are not what Trainer and Tester write."""
    for name, rows in (("epoch", run.epochs), ("frame", run.frames)):
        if rows and not all(row.get(name) is not None for row in rows):
            raise UserError(f"{run.folder} is damaged: a table has a row without its {name}")
    if not all(isinstance(run.settings.get(name, ""), str) for name in ("lab", "loss")):
        raise UserError(f"{run.folder / 'args.json'} is damaged: its lab or loss is no word")
    if not (isinstance(run.clips, list) and all(map(are_scores, [run.scores, *run.clips]))):
        raise UserError(f"{run.folder / 'scores.json'} is damaged: it has no scores")


def are_scores(values: Any) -> bool:
    """Whether these are the scores of a clip, or their means: numbers, and tables."""
    return isinstance(values, dict) and all(map(is_score, values.values()))


def is_score(value: Any) -> bool:
    if isinstance(value, (int, float)):
        return abs(value) < LARGEST
    return value is None or isinstance(value, (dict, list))


def tested_since(path: Path) -> bool:
    """Whether Tester wrote the file after the run's last weights."""
    last = path.parent / "last.ckpt"
    return path.exists() and (not last.exists() or path.stat().st_mtime >= last.stat().st_mtime)


def read_json(path: Path) -> dict:
    """-> the contents of the file; nothing, if there is none."""
    try:
        values = loads(path.read_text("utf-8-sig")) if path.exists() else {}
    except (OSError, RecursionError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged: it holds no names with values")
    return values


def loads(text: str) -> Any:
    """JSON -> its values; None for what Python writes for numbers that are not finite."""
    return json.loads(text, parse_constant=lambda _: None)


def read_csv(path: Path) -> list[dict]:
    """-> a dict of numbers a row, None where there is none or it is not finite; [] for no file."""
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        return [{k: number(v) for k, v in row.items()} for row in rows]
    except (OSError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is damaged: {error}") from None


def number(cell: str | None) -> float | None:
    """A cell of a table: nothing can be drawn where it is empty or not finite."""
    value = float(cell) if cell else math.nan
    return value if math.isfinite(value) else None
