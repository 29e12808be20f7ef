"""What a report knows of a run: the contents of its folder."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError


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
    return Run(folder, settings, epochs, frames, scores.get("mean", {}), scores.get("clips", []))


def tested_since(path: Path) -> bool:
    """Whether Tester wrote the file after the run's last weights."""
    last = path.parent / "last.ckpt"
    return path.exists() and (not last.exists() or path.stat().st_mtime >= last.stat().st_mtime)


def read_json(path: Path) -> dict:
    """-> the contents of the file; nothing, if there is none."""
    try:
        return dict(json.loads(path.read_text())) if path.exists() else {}
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}") from None


def read_csv(path: Path) -> list[dict]:
    """-> a dict of numbers a row, None where a cell is empty; nothing, if there is no file."""
    if not path.exists():
        return []
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        return [{k: float(v) if v else None for k, v in row.items()} for row in rows]
    except (TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is damaged: {error}") from None
