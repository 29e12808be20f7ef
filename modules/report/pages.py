"""HTML pages of runs: each is one file with all its images. They read run folders only."""

import base64
import csv
import html
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import MAY_CHANGE, TRAINING
from ..errors import UserError
from ..files import write_atomically
from ..runs.folder import FUTURES, LATENTS

# These do not distinguish runs: where a run is and what it computes on.
PLACE = (MAY_CHANGE | {"environment"}) - {"num_epoch", "precision", "ckpt_path"}
SHOWN = ["plots/curves.png", "val_strip.png", "plots/psnr_per_frame.png"]
SHOWN += [f"plots/{name}" for name in FUTURES + LATENTS]
SHOWN_OF_TEST = ["psnr_per_frame.png", *(f"strip{i}.png" for i in range(8)), *FUTURES, *LATENTS]
HEAD = "runs", "epochs", "best val PSNR", "last val PSNR", "test PSNR", "drift"
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}
img{max-width:100%}td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}table{border-collapse:collapse}"""


@dataclass
class Run:
    """The contents of a run folder."""

    folder: Path
    settings: dict
    epochs: list  # rows of metrics.csv
    frames: list  # rows of val_frames.csv
    scores: dict  # Tester's, if it has run since


# ---------------------------------------------------------------- reading


def read_run(folder: Path) -> Run:
    epochs, frames = read_csv(folder / "metrics.csv"), read_csv(folder / "val_frames.csv")
    scores = folder / "scores.json"
    scores = read_json(scores).get("mean", {}) if tested_since(scores) else {}
    return Run(folder, read_json(folder / "args.json"), epochs, frames, scores)


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


# ---------------------------------------------------------------- a row of the table


def spread(values: Iterable[float | None]) -> str:
    """Mean, and standard deviation of several values; a dash for none."""
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    more = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{more}"


def row_of(runs: list[Run]) -> list[str]:
    """What is below HEAD for runs that differ only by their seed, as text."""
    psnr = [[r["val/psnr"] for r in run.epochs if r.get("val/psnr") is not None] for run in runs]
    best, last = [max(p, default=None) for p in psnr], [p[-1] if p else None for p in psnr]
    test, drift = ([run.scores.get(key) for run in runs] for key in ("psnr", "drift"))
    epochs = "-".join(map(str, sorted({len(run.epochs) for run in runs if run.epochs}))) or "-"
    return [str(len(runs)), epochs, *map(spread, (best, last, test, drift))]


# ---------------------------------------------------------------- html


def write_page(path: Path, title: str, *parts: str) -> None:
    text = f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title>"
    text = "\n".join([f"{text}<style>{STYLE}</style>", f"<h1>{html.escape(title)}</h1>", *parts])
    write_atomically(path, lambda file: file.write(text.encode()))


def heading(text: str) -> str:
    return f"<h2>{html.escape(text)}</h2>"


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Rows of text below an optional head."""
    lines = [("th", head)] if head else []
    lines += [("td", row) for row in rows]
    cells = ("".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) for tag, row in lines)
    return "<table>" + "\n".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def picture(path: Path) -> str:
    """A PNG embedded in the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="{html.escape(path.stem)}" src="data:image/png;base64,{data}"></p>'


# ---------------------------------------------------------------- the page of one run


def flags(settings: dict, keys: Iterable[str]) -> str:
    """Settings as they are typed."""
    return " ".join(typed(key, settings[key]) for key in keys)


def typed(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{key}" if value else f"--no-{key}"
    return f"--{key} {' '.join(map(str, value)) if isinstance(value, list) else value}"


def write_run_page(folder: Path) -> None:
    """report.html: what Trainer and Tester wrote into the folder."""
    run = read_run(folder)
    lab = TRAINING[run.settings.get("lab", "pose")]
    same = PLACE | {"precision", "lab"}  # auto was typed, or nothing
    known = {k: v for k, v in run.settings.items() if k in lab.names() - same}
    changed = [k for k, v in known.items() if v is not None and v != lab.default(k)]
    changed = ["lab"] * (lab.default("lab") != "pose") + changed
    command = "python Trainer.py --DR DATASET --save_root RUN " + flags(run.settings, changed)
    shown = [folder / name for name in SHOWN if (folder / name).exists()]
    shown += [folder / name for name in SHOWN_OF_TEST if tested_since(folder / name)]
    write_page(
        folder / "report.html",
        f"Run {folder.name}",
        f"<p><code>{html.escape(command)}</code></p>" if run.settings else "",
        table([row_of([run])[1:]], HEAD[1:]),
        *map(picture, shown),
    )
