"""The robot lab's data: clips of frames with actions and positions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..config import FRAME
from ..errors import UserError
from .cache import Cached, cached, cached_images, fingerprint
from .clips import ClipDataset, TrainClips
from .folders import (
    clip_folders,
    find_data_set,
    frame_number,
    is_foreign,
    list_images,
    natural_key,
)

ROBOT_SIZE = (FRAME, FRAME)
TABLES = {"actions.csv": 4, "endeffector_positions.csv": 3}  # the numbers in a row of each


def find_records(root: str | Path, split: str) -> list[Path]:
    """The record folders of a split, in the order of the numbers in their names."""
    splits = ("train", "validate", "test")
    folder = find_data_set(root, split, splits, lambda p, s: bool(records_in(p / s)))
    if folder:
        return sorted(records_in(folder / split), key=natural_key)
    raise UserError(
        f"--DR {root} has no {split} clips; expected "
        f"{Path(root) / split}/traj_0_to_255.tfrecords/0/0.png and so on"
    )


def records_in(base: Path) -> list[Path]:
    """The folders of a split; __MACOSX and hidden ones are no records."""
    return [p for p in base.glob("*") if not is_foreign(p.name) and p.is_dir()]


def read_tables(folder: Path, first: int, rows: int) -> np.ndarray:
    """The clip's two csv files -> (rows, 7): row t belongs to frame t.

    Frames counted from 0 may be fewer than the rows; where they start at another number only as
    many frames as rows are sure to belong together.
    """
    tables = []
    for name, width in TABLES.items():
        table = read_table(folder / name)
        enough = len(table) >= rows if first == 0 else len(table) == rows
        if not enough or table.shape[1] != width or not np.isfinite(table).all():
            raise UserError(
                f"{folder / name} holds {table.shape[0]} rows of {table.shape[1]} values; one row "
                f"of {width} finite numbers is expected for each of the clip's {rows} frames"
                + (f", which start at {first}.png" if first else "")
            )
        tables.append(table[:rows])
    return np.concatenate(tables, axis=1)


def read_table(path: Path) -> np.ndarray:
    try:
        return np.loadtxt(path, delimiter=",", dtype=np.float32, ndmin=2)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a csv of numbers ({error})") from None


def list_clip(folder: Path, needed: int, flag: str) -> tuple[list[Path], int]:
    """A clip's images and the number of the first; a gap is an error."""
    files = list_images(folder)
    numbers = [frame_number(path) for path in files]
    if len(files) < needed:
        raise UserError(f"{folder} holds {len(files)} frames, {needed} are needed ({flag})")
    gaps = np.flatnonzero(np.diff(numbers) != 1)
    if len(gaps):
        raise UserError(f"{folder}: after {files[gaps[0]].name} comes {files[gaps[0] + 1].name}")
    return files, numbers[0]


def cached_tables(
    folders: Sequence[Path], firsts: Sequence[int], lengths: np.ndarray, cache: Path, name: str
) -> Cached:
    """The rows (frames, 7) of all clips."""
    files = [folder / table for folder in folders for table in TABLES]
    if missing := [path for path in files if not path.is_file()]:
        needed = f"every clip needs {' and '.join(TABLES)}, or --condition none"
        raise UserError(f"{missing[0]} is missing: {needed}")

    def rows():
        for clip in zip(folders, firsts, lengths):
            yield from read_tables(*clip)

    shape = (int(lengths.sum()), sum(TABLES.values()))
    more = f"{firsts} {lengths.tolist()}"  # not determined by the files alone
    return cached(files, shape, np.float32, cache, name, rows, more)


class Dataset_Robot(ClipDataset):
    """The clips of one split: item i is its first frames (T, 3, 64, 64) and conditions (T, 7).

    `frames` and `conditions` are all frames of all clips, one clip after the other, on disk;
    clip i is rows starts[i] .. starts[i] + lengths[i] - 1. If not `conditioned`, clips need no csv
    files and the conditions are 0.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        video_len: int,
        flag: str,
        cache_dir: str | Path | None = None,
        workers: int = 4,
        conditioned: bool = True,
    ):
        records = find_records(root, split)
        folders = [clip for record in records for clip in clip_folders(record)]
        pictures, firsts = zip(*(list_clip(folder, video_len, flag) for folder in folders))
        self.video_len = video_len
        self.lengths = np.array([len(files) for files in pictures])
        self.starts = np.cumsum(self.lengths) - self.lengths
        base = records[0].parent
        cache = Path(cache_dir) if cache_dir else base.parent / ".cache"
        files = [path for clip in pictures for path in clip]
        parts = [cached_images(files, ROBOT_SIZE, cache, f"{split}-frames", workers)]
        self.conditions = np.zeros((len(files), sum(TABLES.values())), np.float32)
        if conditioned:
            parts.append(cached_tables(folders, firsts, self.lengths, cache, f"{split}-rows"))
            self.conditions = parts[1].array
        self.frames, self.fingerprint = parts[0].array, fingerprint(*parts)


class RobotClips(TrainClips):
    """--epoch_size batches an epoch, of clips drawn at random."""

    def clips_at(self, epoch: int) -> np.ndarray:
        """-> frame numbers (clips, T)."""
        settings, rng = self.settings, np.random.default_rng([self.settings.seed, epoch])
        length = self.dataset.video_len
        clips = settings.epoch_size * settings.batch_size
        chosen = rng.integers(len(self.dataset), size=clips)
        starts = self.dataset.starts[chosen]
        if settings.random_offset:
            starts = starts + rng.integers(self.dataset.lengths[chosen] - length + 1)
        return starts[:, None] + np.arange(length)
