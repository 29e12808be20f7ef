"""Data sets with an open future: events/ and futures/CLIP.npz beside the clips.

An event is a frame that is the first to show an outcome which nothing given determines. The
futures of a test clip are further true clips with the same given frames and conditions.
"""

import csv
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..errors import UserError
from .cache import resize
from .folders import find_file


def read_events(root: str | Path, split: str) -> dict[int, list[int]] | None:
    """The event frames of each clip of val or test, in order; a clip without any is left out.

    Clips are numbered in their natural order, frames from the clip's first. None: no such file.
    """
    path, events = find_file(root, f"events/{split}.csv"), {}
    if path is None:
        return None
    try:
        for row in csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()):
            events.setdefault(int(row["clip"]), set()).add(int(row["frame"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} has no two numbers clip,frame in every row ({error})") from None
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
    with np.load(path) as archive:
        frames = archive["frames"]  # uint8 (N, T, H, W, 3)
    if frames.shape[1] <= given:
        raise UserError(f"futures/{clip}.npz has no frame after the given {given}")
    if frames.shape[2:4] != tuple(size):
        images = frames.reshape(-1, *frames.shape[2:])
        resized = np.stack([resize(Image.fromarray(image), size) for image in images])
        frames = resized.reshape(*frames.shape[:2], *size, 3)
    return torch.from_numpy(frames).movedim(-1, 2).contiguous()
