"""--preview: beta, tfr and lr of every epoch, printed, drawn and written."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..files import write_csv
from ..runs.folder import SCHEDULE
from . import charts


def preview(folder: Path, rows: list[dict], notes: Iterable[str]) -> None:
    print_rows(rows)
    write_csv(folder / SCHEDULE, rows)
    charts.draw_schedules(folder / "schedules.png", rows)
    written = f"written to {folder}: schedules.png, and {SCHEDULE}, a file for --schedule"
    print(*notes, written, sep="\n")


def print_rows(rows: list[dict]) -> None:
    """Equal epochs in one line."""
    print(f"{'epochs':>9} {'beta':>10} {'tfr':>10} {'lr':>12}")
    for first, last, row in spans(rows):
        epochs = str(first) if first == last else f"{first}-{last}"
        print(f"{epochs:>9} {row['beta']:>10.6g} {row['tfr']:>10.6g} {row['lr']:>12.6g}")


def spans(rows: list[dict]) -> Iterator[tuple[int, int, dict]]:
    """Consecutive rows with equal values -> (first epoch, last epoch, row)."""
    for _, same in itertools.groupby(rows, key=lambda row: (row["beta"], row["tfr"], row["lr"])):
        first, *_, last = [*same] * 2
        yield first["epoch"], last["epoch"], first
