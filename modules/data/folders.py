"""Folders of PNGs: where a data set is, and its files in numeric order."""

import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError


def candidates(root: str | Path, val: str) -> Iterator[Path]:
    """root itself and the folders one or two levels below it, as in nested zips."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(
            f"--DR {root} is not a folder; pass the folder that contains train/, {val}/ and test/"
        )
    yield root
    for pattern in ("*", "*/*"):
        yield from sorted(root.glob(pattern))


def find_root(root: str | Path, split: str) -> Path:
    """The folder with `split`: root itself, or one or two levels below it (a nested zip)."""
    for folder in candidates(root, "val"):
        if (folder / split / f"{split}_img").is_dir():
            return folder
    raise UserError(
        f"--DR {root} has no {split}/{split}_img; expected {Path(root) / split / f'{split}_img'}"
    )


def frame_number(path: Path) -> int:
    """frame000012.png -> 12. The order is numeric for any number of digits."""
    stem = path.stem.lower().removeprefix("frame")
    if not stem.isdecimal():
        raise UserError(f"{path}: a picture must be named frameNNN.png or NNN.png")
    return int(stem)


def list_images(folder: Path) -> list[Path]:
    """The PNGs of a folder in numeric order."""
    if not folder.is_dir():
        raise UserError(
            f"{folder} is missing; every *_img folder needs its *_label folder beside it"
        )
    files = [p for p in folder.iterdir() if p.suffix.lower() == ".png" and p.name[0] != "."]
    if not files:
        raise UserError(f"{folder} has no .png image")
    return sorted(files, key=frame_number)


def list_pairs(images: Path, labels: Path) -> tuple[list[Path], list[Path]]:
    """Frames and the poses of the same number. A frame without its pose is an error."""
    frames = list_images(images)
    poses = {frame_number(p): p for p in list_images(labels)}
    for frame in frames:
        if frame_number(frame) not in poses:
            raise UserError(f"{frame} has no pose: {labels / frame.name} is missing")
    return frames, [poses[frame_number(f)] for f in frames]


def clip_folders(folder: Path) -> list[Path]:
    """The numbered folders of clips, in numeric order, wherever their numbers start."""
    found = [p for p in folder.iterdir() if p.name.isdecimal() and p.is_dir()]
    if not found:
        raise UserError(f"{folder} has no clip: folders named 0, 1, 2, ... are expected")
    return sorted(found, key=lambda p: int(p.name))


def natural_key(path: Path) -> list[int | str]:
    """A sort key with the numbers of a name as integers: 256 is between 0 and 1024."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]
