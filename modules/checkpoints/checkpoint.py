"""Checkpoints: one dict of plain data, written atomically; no code of a file runs."""

import argparse
import contextlib
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError, is_short_of_memory, visible
from ..files import write_atomically
from . import published

VERSION = 4


def save(path: Path, checkpoint: dict) -> None:
    write_atomically(path, lambda file: torch.save(checkpoint, file))


def load(path: str | Path) -> dict:
    """-> a checkpoint of this package; of another file its weights, and the names of the rest."""
    if not Path(path).is_file():
        raise UserError(f"{path} is not a checkpoint file")
    content = read_file(path)
    if not is_ours(content):
        return published.weights_of(content, path)
    if content["version"] != VERSION:
        raise UserError(
            f"{path} has version {visible(str(content['version'])[:20])}, this package reads "
            f"{VERSION}: use the release that wrote it"
        )
    return content


def read_file(path: str | Path) -> Any:
    """What a file of torch.save holds. torch.load verifies no checksum of a zip file's records."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                if record := file.testzip():
                    raise ValueError(f"the checksum of {record} is wrong")
        with torch.serialization.safe_globals([argparse.Namespace]):  # some forks save their flags
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make torch raise anything
        if is_short_of_memory(error):
            raise
        raise UserError(f"{path} {problem(error)}") from None


def problem(error: Exception) -> str:
    """Why a file is refused; torch's own text advises to run its code."""
    if match := re.search(r"GLOBAL (\S+)", str(error)):
        name = visible(match[1][:60])
        return (
            f"is refused: loading it would run code ({name}); if it holds whole modules, save "
            "their state dicts first: docs/robot.md, Weights of published runs"
        )
    lines = [] if isinstance(error, pickle.UnpicklingError) else str(error).splitlines()
    detail = visible((lines or ["torch.save did not write it"])[0][:200])
    return f"is damaged or not a checkpoint ({detail}): copy it again, or name another file"


def load_if_readable(path: str | None) -> dict | None:
    with contextlib.suppress(UserError):
        return load(path) if path else None
    return None


# ---------------------------------------------------------------- whose file it is


def is_ours(checkpoint: Any) -> bool:
    """Whether this package wrote it: the template's files have no version."""
    return isinstance(checkpoint, dict) and {"version", "args", "state_dict"} <= checkpoint.keys()


def source_of(checkpoint: dict) -> str:
    """Who wrote a file, and which parts of it are not used."""
    if is_ours(checkpoint):
        return "this package"
    ignored = checkpoint["ignored"]
    return "published code" + (f"; ignored: {', '.join(ignored[:20])}" if ignored else "")


def lab_of(checkpoint: dict) -> str | None:
    """Stored in ours, else read off the weights; None where they are of neither lab."""
    if is_ours(checkpoint):
        return checkpoint["args"]["lab"]
    nets = {name.partition(".")[0] for name in checkpoint["state_dict"]}
    return next((lab for lab, net in published.MARKS.items() if net in nets), None)


def contents_of(checkpoint: dict) -> str:
    """What a file is, for an error: a run of ours, published weights of a lab, or neither."""
    lab = lab_of(checkpoint)
    if is_ours(checkpoint):
        return f"a checkpoint of --lab {lab}"
    if lab:
        return f"weights of published code of --lab {lab}"
    names = [visible(name[:60]) for name in checkpoint["state_dict"]]
    rest = ", ..." * (len(names) > 3)
    return f"weights of another model: {', '.join(names[:3])}{rest}" if names else "no weights"
