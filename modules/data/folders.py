"""Folders of pictures: where a data set is, and its files in numeric order."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, require_folder

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg"}


def levels(root: str | Path) -> Iterator[list[Path]]:
    """[root], the folders in it, and the folders in these, as in nested zips."""
    root = Path(root)
    require_folder(root)
    yield [root]
    for pattern in ("*", "*/*"):
        matches = (
            p for p in root.glob(pattern) if not any(map(is_foreign, p.parts[len(root.parts) :]))
        )
        yield sorted(matches)


def is_foreign(name: str) -> bool:
    """A file or folder that the system or an archiver made."""
    return name.startswith(".") or name == "__MACOSX"


def find_data_set(
    root: str | Path, split: str, splits: Sequence[str], has: Callable[[Path, str], bool]
) -> Path | None:
    """The folder with this split: root itself, or one or two levels below it (a nested zip).

    All splits are of one data set: those at the first level with any, and one folder of each.
    """
    for folders in levels(root):
        matches = {name: [p for p in folders if has(p, name)] for name in splits}
        for name, places in matches.items():
            if len(places) > 1:
                raise UserError(
                    f"--DR {root} contains more than one data set: {places[0] / name} and "
                    f"{places[1] / name}; name one of them"
                )
        if any(matches.values()):
            return next(iter(matches[split]), None)
    return None


def find_file(root: str | Path, name: str) -> Path | None:
    """A file of the data set, which may be nested as in a zip."""
    for folders in levels(root):
        for path in (folder / name for folder in folders):
            if path.is_file():
                return path
    return None


def origin(root: str | Path) -> dict[str, Any]:
    """What the scripts that make data sets recorded: `world` of a synthetic one, `video`, `fps`."""
    path, joints = find_file(root, "about.json"), find_file(root, "joints.npz")
    facts = json.loads(path.read_text()) if path else {}
    if joints:
        with np.load(joints, allow_pickle=False) as archive:
            facts["fps"] = float(archive["fps"])
    return facts


def find_root(root: str | Path, split: str) -> Path:
    """The folder of the pose lab's data set with `split`."""
    splits = ("train", "val", "test")
    folder = find_data_set(root, split, splits, lambda p, s: (p / s / f"{s}_img").is_dir())
    if folder is None:
        raise UserError(
            f"--DR {root} has no {split}/{split}_img; "
            f"expected {Path(root) / split / f'{split}_img'}"
            + f"; python scripts/make_dataset.py {root} OUT makes a data set of a person's pictures"
            * any(map(is_picture, Path(root).iterdir()))
        )
    return folder


def frame_number(path: Path) -> int:
    """frame000012.png -> 12. The order is numeric for any number of digits."""
    stem = path.stem.lower().removeprefix("frame")
    if not stem.isdecimal():
        raise UserError(f"{path}: a picture must be named frameNNN.png or NNN.png")
    return int(stem)


def list_images(folder: Path) -> list[Path]:
    """The pictures of a folder in numeric order."""
    if not folder.is_dir():
        raise UserError(
            f"{folder} is missing; every *_img folder needs its *_label folder beside it"
        )
    files = [p for p in folder.iterdir() if is_picture(p)]
    if not files:
        raise UserError(f"{folder} has no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return in_order(files, frame_number)


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."


def in_order(files: list[Path], number: Callable[[Path], int]) -> list[Path]:
    """Sorted by number; two of one number are an error."""
    files = sorted(files, key=number)
    for one, other in zip(files, files[1:]):
        if number(one) == number(other):
            names = " and ".join(sorted((one.name, other.name)))
            raise UserError(f"{one.parent}: {names} have the same number; remove one of them")
    return files


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
    matches = [p for p in folder.iterdir() if p.name.isdecimal() and p.is_dir()]
    if not matches:
        raise UserError(f"{folder} has no clip: folders named 0, 1, 2, ... are expected")
    return in_order(matches, lambda p: int(p.name))


def natural_key(path: Path) -> list[int | str]:
    """A sort key with the numbers of a name as integers: 256 is between 0 and 1024."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]
