"""Data sets with an open future: events/ and futures/CLIP.npz beside the clips.

An event is a frame that is the first to show an outcome which nothing given determines. The
futures of a test clip are further true clips with the same given frames and conditions.
"""

import json
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..errors import UserError
from .cache import resize
from .folders import find_file

ROW = re.compile(r"([0-9]{1,9}),([0-9]{1,9})", re.ASCII)


def read_events(root: str | Path, split: str) -> dict[int, list[int]] | None:
    """The event frames of each clip of val or test, in order; a clip without any is left out.

    Clips are numbered in their natural order, frames from the clip's first. None: no such file.
    """
    path, events = find_file(root, f"events/{split}.csv"), {}
    if path is None:
        return None
    try:
        header, *rows = path.read_text(encoding="utf-8-sig").splitlines() or [""]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as text ({error})") from None
    if header != "clip,frame":
        raise UserError(
            f"{path} must begin with the row clip,frame; it begins with {header[:40]!r}"
        )
    for number, row in enumerate(rows, 2):
        if not (numbers := ROW.fullmatch(row.strip())):
            raise UserError(
                f"{path}, row {number}: expected two numbers like 0,12; got {row[:40]!r}"
            )
        clip, frame = map(int, numbers.groups())
        events.setdefault(clip, set()).add(frame)
    return {clip: sorted(frames) for clip, frames in events.items()}


def read_entropy(root: str | Path) -> dict[str, float] | None:
    """{event, other}: the nats that are random in the frame of an event, and in any other."""
    path = find_file(root, "events/entropy.json")
    try:
        found = path and json.loads(path.read_text())
        return found and {name: float(found[name]) for name in ("event", "other")}
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path} must hold the numbers event and other") from None


def cut_events(events: dict[int, list[int]], length: int) -> dict[int, list[int]]:
    """Events of one take, clip 0 -> of the clips of `length` frames that it is cut into."""
    cut = {}
    for frame in events.get(0, ()):
        cut.setdefault(frame // length, []).append(frame % length)
    return cut


def read_futures(
    root: str | Path, clip: int, size: tuple[int, int], given: int = 0
) -> torch.Tensor | None:
    """uint8 (N, T, 3, H, W): N true futures of a test clip with their given frames.

    They are resized to (H, W) as the frames of the data set are. None: the clip has no file.
    """
    path = find_file(root, f"futures/{clip}.npz")
    if path is None:
        return None
    frames = load_frames(path)
    if frames.shape[1] <= given:
        raise UserError(f"futures/{clip}.npz has no frame after the given {given}")
    if frames.shape[2:4] != tuple(size):
        images = frames.reshape(-1, *frames.shape[2:])
        resized = np.stack([resize(Image.fromarray(image), size) for image in images])
        frames = resized.reshape(*frames.shape[:2], *size, 3)
    return torch.from_numpy(frames).movedim(-1, 2).contiguous()


def load_frames(path: Path) -> np.ndarray:
    """The array `frames` of an npz file: uint8 (N, T, H, W, 3)."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            frames = archive["frames"]
    except Exception as error:  # a damaged file can make numpy raise anything
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} cannot be read as an npz with the array frames ({text})") from None
    if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise UserError(
            f"{path}: frames is {frames.dtype} {frames.shape}; "
            "uint8 (futures, frames, height, width, 3) is expected"
        )
    return frames
