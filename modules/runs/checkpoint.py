"""Checkpoints: one dict of plain data, written atomically, read without running code."""

import contextlib
import pickle
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..files import write_atomically
from . import published

VERSION = 2  # 1 had no random states and no place within an epoch


def save(path: Path, checkpoint: dict) -> None:
    write_atomically(path, lambda file: torch.save(checkpoint, file))


def load(path: str | Path) -> dict:
    """-> the dict of a checkpoint file; a bare state_dict is wrapped. It never unpickles code."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is not a checkpoint file")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                check_records(file)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = (
            "loading it would run code"
            if "weights_only" in str(error)
            else "it is damaged or not a checkpoint"
        )
        raise UserError(f"{path} is refused: {reason}") from None
    except Exception as error:  # a damaged file can make torch raise anything
        detail = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"{path} is damaged or not a checkpoint ({detail})") from None
    if isinstance(checkpoint, dict) and "frame_transformation.0.conv1.weight" in checkpoint:
        checkpoint = {"state_dict": checkpoint}
    if published.is_published_robot(checkpoint):
        checkpoint = {"state_dict": published.convert(checkpoint)}
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(
        isinstance(w, torch.Tensor) for w in weights.values()
    ):
        raise UserError(f"{path} is not a checkpoint of this package: it has no state_dict")
    return checkpoint


def check_records(file: zipfile.ZipFile) -> None:
    """Refuse a zip file with a wrong bit. torch checks no checksums, and leaves memory unset if a
    record is marked as a folder; zipfile's own test accepts a record that its index truncates.
    """
    for record in file.infolist():
        data = file.read(record)
        whole = len(data) == record.file_size == record.compress_size  # torch compresses nothing
        folder = record.external_attr & 0x10
        if folder or not whole or zlib.crc32(data) != record.CRC:
            raise ValueError(f"the checksum of {record.filename} is wrong")


def newest(folder: Path) -> tuple[Path, dict] | None:
    """-> (path, checkpoint) to resume, or None. Without a whole last.ckpt: the newest whole one."""
    last, best = (Path(folder) / name for name in ("last.ckpt", "best_score.ckpt"))
    others = [*epoch_files(folder), *[best] * best.exists()]
    if not (last.exists() or others):
        return None
    try:
        if not last.exists():
            raise UserError(f"{last} is missing")
        return last, load(last)
    except UserError as error:
        older = sorted(readable(others))
        if not older:
            raise UserError(
                f"{error}; {folder} has no other checkpoint: start a new run with "
                "--resume never, or name a checkpoint with --resume PATH"
            ) from None
        *_, path = older[-1]
        print(f"{error}; resuming from the newest complete checkpoint: {path.name}")
        return path, load(path)


def readable(paths: Iterable[Path]) -> Iterator[tuple[int, int, Path]]:
    """-> (epochs, steps, path) of those checkpoints of a run that are whole."""
    for path in paths:
        with contextlib.suppress(UserError):
            checkpoint = load(path)
            check_run(checkpoint, path)
            yield checkpoint["last_epoch"], checkpoint["step"], path


def epoch_files(folder: Path) -> list[Path]:
    """The epoch=N.ckpt of a run, oldest first."""
    files = [p for p in Path(folder).glob("epoch=*.ckpt") if p.stem[6:].isdecimal()]
    return sorted(files, key=lambda path: int(path.stem[6:]))


def prune(folder: Path, keep: int, every: int, newest: int) -> None:
    """Delete all but the newest `keep` epoch=N.ckpt that this run wrote, 0 keeps all.

    It wrote those of every `every`-th epoch up to `newest`.
    """
    mine = [p for p in epoch_files(folder) if (n := int(p.stem[6:])) <= newest and n % every == 0]
    for path in mine[:-keep] if keep else ():
        path.unlink(missing_ok=True)


PARTS = {"optimizer": dict, "last_epoch": int, "step": int, "history": list}  # of a run
MORE_PARTS = {"steps_done": int, "skipped": list, "total": torch.Tensor, "rng": dict}  # version 2


def check_run(checkpoint: dict, path: Path) -> None:
    """Refuse a checkpoint that no run can resume from."""
    if not is_ours(checkpoint):
        raise UserError(
            f"{path} is not from this package, so no run can resume from it; "
            "start from its weights with --ckpt_path and another --save_root"
        )
    if not checkpoint["version"] <= VERSION:
        raise UserError(f"{path} is from a newer version of this package; update it")
    for part, kind in (PARTS | (MORE_PARTS if checkpoint["version"] > 1 else {})).items():
        value = checkpoint.get(part)
        if not isinstance(value, kind) or (kind is int and value < 0):
            raise UserError(f"{path} is damaged: it has no {part}")
    rows, epochs = checkpoint["history"], checkpoint["last_epoch"]
    numbers = [row.get("epoch") for row in rows if is_row(row)]
    if len(rows) != epochs or numbers != [*range(epochs)]:
        raise UserError(f"{path} is damaged: its history does not have {epochs} epochs")
    best = checkpoint.get("best_score")
    if best is not None and not isinstance(best, (int, float)):
        raise UserError(f"{path} is damaged: its best_score is not a number")


def is_row(row: Any) -> bool:
    plain = (int, float, type(None))
    return isinstance(row, dict) and all(isinstance(x, plain) for x in row.values())


@contextlib.contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Report what does not fit while a run is restored as damage of the checkpoint."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        detail = (str(error).splitlines() or [""])[0][:120]
        raise UserError(f"{path} is damaged: {type(error).__name__} {detail}") from None


def is_ours(checkpoint: dict) -> bool:
    """Whether this package wrote it: the template's files have no version."""
    return isinstance(checkpoint.get("version"), int) and isinstance(checkpoint.get("args"), dict)


def describe_template(path: str | Path, checkpoint: dict) -> str:
    """One line about which parts of a template file are used."""
    ignored = [k for k in checkpoint if k != "state_dict"]
    note = f"; ignored: {', '.join(ignored)}" if ignored else ""
    return f"{path}: a checkpoint of published code; its weights are used{note}"


def lab_of(checkpoint: dict) -> str:
    """Stored in ours (runs from before there were two labs: pose); else told by the weights."""
    if is_ours(checkpoint):
        return checkpoint["args"].get("lab", "pose")
    return "robot" if "posterior.mu_net.weight" in checkpoint["state_dict"] else "pose"


def lab_of_file(path: str | None) -> str | None:
    """The lab of a checkpoint file; an unreadable file is reported later."""
    try:
        return lab_of(load(path)) if path else None
    except UserError:
        return None
