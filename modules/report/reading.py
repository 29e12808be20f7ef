"""What a report knows of a run: the contents of its folder."""

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_json
from ..runs.folder import FACTS, TEST, TESTED, is_one_of, trained
from .boundary import part

PREDICTED = "z", "codes", "futures", "twin", "minus_twin"  # of the distribution


@dataclass
class Run:
    """The contents of a run folder."""

    folder: Path
    settings: dict
    epochs: list  # rows of metrics.csv
    frames: list  # rows of val_frames.csv
    scores: dict  # Tester's means over the clips, if it has run since
    clips: list  # Tester's scores of every clip
    tested: set[str]  # the files of one test of the run's last weights
    note: str = ""  # why there are none of a test that was done
    predicted: dict = field(default_factory=dict)  # Tester's scores of z, of futures, of the twin
    facts: dict = field(default_factory=dict)  # size of the model, time, origin of the data
    name: str = ""  # on a page of several runs

    @property
    def finished(self) -> bool:
        """Whether all planned epochs are done."""
        planned = self.settings.get("num_epoch")
        return not isinstance(planned, int) or len(self.epochs) >= planned

    @property
    def progress(self) -> str:
        if self.finished:
            return str(len(self.epochs)) if self.epochs else "-"
        return f"{len(self.epochs)} of {self.settings['num_epoch']}"


def read_run(folder: Path) -> Run:
    epochs, frames = read_csv(folder / "metrics.csv"), read_csv(folder / "val_frames.csv")
    tested, note = files_of_test(folder)
    scores = read_json(folder / "scores.json") if "scores.json" in tested else {}
    settings, of_clips = read_json(folder / "args.json"), scores.get("clips", [])
    means, predicted = scores.get("mean", {}), {key: scores.get(key) for key in PREDICTED}
    facts = {}
    with part(folder / FACTS):
        facts = read_json(folder / FACTS)
    return Run(folder, settings, epochs, frames, means, of_clips, tested, note, predicted, facts)


def score_of(scores: Any, path: str) -> Any:
    """What scores hold at a path such as mean/psnr; None where they hold nothing."""
    for key in path.split("/"):
        scores = scores.get(key) if isinstance(scores, dict) else None
    return scores


# ---------------------------------------------------------------- the files of one test


def write_test(folder: Path, place: Path, about: Mapping[str, Any]) -> None:
    """Move the files of a test into the folder, where they replace those of the test before.

    test.json lists them. As long as they are moved it says that they are not complete.
    """
    new = {p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file()}
    old = listed(read_test(folder))
    write_json(folder / TEST, {**about, "complete": False, "files": sorted(old | new)})
    for name in sorted(old | new):
        try:
            if name in new:
                (folder / name).parent.mkdir(exist_ok=True)
                os.replace(place / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{folder / name} cannot be replaced: {error.strerror}") from None
    write_json(folder / TEST, {**about, "complete": True, "files": sorted(new)})


def read_test(folder: Path) -> dict:
    """test.json; nothing, if it is damaged."""
    try:
        return read_json(folder / TEST)
    except UserError:
        return {}


def listed(test: Mapping[str, Any]) -> set[str]:
    """The files that test.json lists, of those that Tester writes."""
    files = test.get("files")
    names = files if isinstance(files, list) else []
    return {name for name in names if isinstance(name, str) and is_one_of(name, TESTED)} - {TEST}


def files_of_test(folder: Path) -> tuple[set[str], str]:
    """-> the files of one test of the last weights; why there are none of a test that was done."""
    if not (folder / TEST).is_file():
        return set(), ""
    test = read_test(folder)
    if test.get("complete") is not True:
        return set(), "A test was stopped while it moved its files; run Tester.py again."
    if test.get("trained") != trained(folder):
        return set(), "The run was trained on after its test; run Tester.py again."
    return {name for name in listed(test) if (folder / name).is_file()}, ""


# ---------------------------------------------------------------- files


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Errors within name the file that is read."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{path} is damaged: {error}") from error


def read_json(path: Path) -> dict:
    """-> the contents of the file, None for numbers that are not finite; {} for no file."""
    if not path.is_file():
        return {}
    with named(path):
        values = json.loads(path.read_text("utf-8-sig"), parse_constant=lambda _: None)
        if not isinstance(values, dict):
            raise ValueError("it holds no names with values")
        return values


def read_csv(path: Path) -> list[dict]:
    """-> a dict of numbers a row, None where there is none or it is not finite; [] for no file."""
    if not path.is_file():
        return []
    with named(path), open(path, newline="", encoding="utf-8-sig") as file:
        return [{k: number(v) for k, v in row.items()} for row in csv.DictReader(file)]


def number(cell: str | None) -> float | None:
    """A cell of a table: nothing can be drawn where it is empty or not finite."""
    value = float(cell) if cell else math.nan
    return value if math.isfinite(value) else None
