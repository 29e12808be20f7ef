"""Folders of PNGs -> one uint8 array per split, decoded once -> clips and their conditions.

The pose lab: DR/train/train_img/*.png + DR/train/train_label/*.png        (val alike)
              DR/test/test_img/{i}/*.png (one image) + DR/test/test_label/{i}/*.png (its poses)
The robot lab: DR/{train,validate,test}/{record}/{n}/{t}.png, with actions.csv and
               endeffector_positions.csv
"""

import itertools
import re
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from modules.cache import cached, cached_pictures, decode, to_float, unreadable
from modules.device import fits
from modules.options import UserError
from modules.warp import Warp

AHEAD = 2  # batches that are read ahead where they come from the disk
CUT_PSNR = 12.0  # neighbouring frames that score less are two takes; the fastest leap scores more


# ---------------------------------------------------------------- folders


def candidates(root, val):
    """root itself and the folders one or two below it, where zips nest what they hold."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(
            f"--DR {root} is no folder; give the one that holds train/, {val}/ and test/"
        )
    yield root
    for pattern in ("*", "*/*"):
        yield from sorted(root.glob(pattern))


def find_root(root, split):
    """The folder that holds `split`: root itself, or one or two folders below (the nested zip)."""
    for folder in candidates(root, "val"):
        if (folder / split / f"{split}_img").is_dir():
            return folder
    raise UserError(
        f"--DR {root} holds no {split}/{split}_img; expected {Path(root) / split / f'{split}_img'}"
    )


def frame_number(path):
    """frame000012.png -> 12. Order is numeric, whatever the number of digits."""
    stem = path.stem.lower().removeprefix("frame")
    if not stem.isdecimal():
        raise UserError(f"{path}: a picture must be named frameNNN.png or NNN.png")
    return int(stem)


def list_pictures(folder):
    """The PNGs of a folder in numeric order."""
    if not folder.is_dir():
        raise UserError(
            f"{folder} is missing; every *_img folder needs its *_label folder beside it"
        )
    files = [p for p in folder.iterdir() if p.suffix.lower() == ".png" and p.name[0] != "."]
    if not files:
        raise UserError(f"{folder} holds no .png picture")
    return sorted(files, key=frame_number)


def list_pairs(images, labels):
    """Frames and the poses of the same number. A frame without its pose is an error."""
    frames = list_pictures(images)
    poses = {frame_number(p): p for p in list_pictures(labels)}
    for frame in frames:
        if frame_number(frame) not in poses:
            raise UserError(f"{frame} has no pose: {labels / frame.name} is missing")
    return frames, [poses[frame_number(f)] for f in frames]


def clip_folders(folder):
    """The numbered folders of clips, in numeric order, wherever their numbers start."""
    found = [p for p in folder.iterdir() if p.name.isdecimal() and p.is_dir()]
    if not found:
        raise UserError(f"{folder} holds no clip: folders named 0, 1, 2, ... are expected")
    return sorted(found, key=lambda p: int(p.name))


# ---------------------------------------------------------------- the pose lab


class Dataset_Dance(torch.utils.data.Dataset):
    """Consecutive clips of one split: item i is (frames, poses), each (T, 3, H, W) in 0..1.

    `frames` and `conditions` are the whole split as uint8 arrays (N, H, W, 3) on disk.
    """

    def __init__(
        self,
        root,
        mode="train",
        video_len=16,
        partial=1.0,
        size=(32, 64),
        cache_dir=None,
        workers=4,
        skip_bad=False,
    ):
        base = find_root(root, mode) / mode
        image_files, pose_files = list_pairs(base / f"{mode}_img", base / f"{mode}_label")
        cache = Path(cache_dir) if cache_dir else base.parent / ".cache"
        self.frames, self.conditions = (
            cached_pictures(files, size, cache, f"{mode}-{name}", workers, skip_bad)
            for name, files in (("frames", image_files), ("poses", pose_files))
        )
        self.numbers = np.array([frame_number(p) for p in image_files])
        self.video_len, self.partial = video_len, partial
        count = int(len(self.frames) * partial) // video_len
        if count == 0:
            raise UserError(
                f"{base / f'{mode}_img'} holds {len(self.frames)} frames, used are {partial:.0%}: "
                f"too few for one clip of {video_len}; lower --{mode}_vi_len or raise the share"
            )
        self.bad = np.union1d(unreadable(self.frames), unreadable(self.conditions))
        clips = np.arange(count)[:, None] * video_len + np.arange(video_len)
        self.starts = sound(clips, self.bad)[:, 0]
        say_left_out(base, self.bad, clips, self.starts)

    def __len__(self):
        return len(self.starts)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        clip = slice(self.starts[index], self.starts[index] + self.video_len)
        return tuple(to_float(torch.tensor(x[clip])) for x in (self.frames, self.conditions))


def sound(clips, bad):
    """The clips (N, T) of frame numbers that hold none of the bad ones."""
    good = clips[~np.isin(clips, bad).any(axis=1)]
    if len(good) == 0:
        raise UserError("--skip_bad_frames leaves no clip: every one holds a bad picture")
    return good


def say_left_out(folder, bad, clips, good):
    if len(bad):
        print(
            f"{folder}: {len(bad)} pictures cannot be read; "
            f"{len(clips) - len(good)} of {len(clips)} clips left out"
        )


class TrainClips:
    """The training split on the device, and the clips of every epoch as a pure function of it."""

    def __init__(self, dataset, args, device):
        self.args, self.dataset, self.device = args, dataset, torch.device(device)
        arrays = dataset.frames, dataset.conditions
        self.resident = fits(arrays, args.data_on, self.device)
        home = self.device if self.resident else "cpu"
        # frames (N, H, W, 3) uint8; where they are not on a GPU they are the memory-mapped file
        self.frames, self.conditions = (torch.from_numpy(np.asarray(x)).to(home) for x in arrays)

    def batches(self, epoch):
        """-> the epoch's batches: frame numbers (B, T) each, where the frames are."""
        clips = torch.from_numpy(self.clips_at(epoch)).to(self.frames.device)
        return clips.split(self.args.batch_size)

    def fetch(self, batches):
        """Yield frames (B, T, 3, H, W) in 0..1 and conditions of every batch, on the device.

        What is not kept there is read while the batch before it is being trained on.
        """
        batches = iter(batches)
        if self.resident:
            yield from (self.to_device(self.gather(clips)) for clips in batches)
            return
        with ThreadPoolExecutor(1) as reader:
            ahead = deque(reader.submit(self.gather, x) for x in itertools.islice(batches, AHEAD))
            while ahead:
                arrays = ahead.popleft().result()
                ahead.extend(reader.submit(self.gather, x) for x in itertools.islice(batches, 1))
                yield self.to_device(arrays)

    def gather(self, clips):
        arrays = [x[clips] for x in (self.frames, self.conditions)]
        pinned = not self.resident and self.device.type == "cuda"
        return [x.pin_memory() for x in arrays] if pinned else arrays

    def to_device(self, arrays):
        return tuple(to_float(x.to(self.device, non_blocking=True)) for x in arrays)


class DanceClips(TrainClips):
    """Consecutive clips that cover the split once an epoch."""

    def __init__(self, dataset, args, device):
        super().__init__(dataset, args, device)
        self.takes = find_takes(dataset) if args.jump_start else None
        self.warp = Warp(args.warp, dataset, device, args.partial) if args.warp else None

    def clips_at(self, epoch):
        """-> frame numbers (clips, T). Jump starts replace the given frame of some clips."""
        args, rng = self.args, np.random.default_rng([self.args.seed, epoch])
        fast = args.fast_train and epoch < args.fast_train_epoch
        length = self.clip_length(epoch)
        share = min(args.partial, args.fast_partial) if fast else args.partial
        usable = int(len(self.frames) * share)
        if usable < length:
            raise UserError(
                f"--fast_partial {args.fast_partial} leaves {usable} frames, a clip has {length}"
            )
        offset = rng.integers(min(length, usable - length + 1)) if args.random_offset else 0
        starts = np.arange(offset, usable - length + 1, length)
        if args.shuffle:
            rng.shuffle(starts)
        clips = sound(starts[:, None] + np.arange(length), self.dataset.bad)
        return self.jump(clips, usable, rng) if args.jump_start else clips

    def to_device(self, arrays):
        clips = super().to_device(arrays)
        return self.warp(*clips) if self.warp else clips

    def clip_length(self, epoch):
        """--train_vi_len, or in the first --curriculum epochs what it has grown to."""
        longest, epochs = self.args.train_vi_len, self.args.curriculum
        return 2 + (longest - 2) * epoch // epochs if epoch < epochs else longest

    def jump(self, clips, usable, rng):
        """Let some clips start from any usable frame of the take that their second frame is in."""
        first, last = self.takes[clips[:, 1]].T  # the take is frames first..last
        anywhere = rng.integers(first, np.minimum(last, usable - 1) + 1)
        jumps = rng.random(len(clips)) < self.args.jump_start
        jumps &= ~np.isin(anywhere, self.dataset.bad)
        clips[:, 0] = np.where(jumps, anywhere, clips[:, 0])
        return clips


def find_takes(dataset):
    """(N, 2): ends of each frame's take. Takes change where numbers or pictures jump."""
    frames = np.asarray(dataset.frames)
    mse = np.array(
        [np.mean((a.astype(np.float32) - b) ** 2) for a, b in zip(frames[:-1], frames[1:])]
    )
    cut = (mse > 255**2 * 10 ** (-CUT_PSNR / 10)) | (np.diff(dataset.numbers) != 1)
    edges = np.concatenate([[0], np.flatnonzero(cut) + 1, [len(frames)]])
    return np.repeat(np.stack([edges[:-1], edges[1:] - 1], 1), np.diff(edges), axis=0)


def load_test_clips(root, size, cache_dir=None, workers=4):
    """-> [(first frame (3, H, W), poses (T, 3, H, W))] of every test clip, in 0..1."""
    base = find_root(root, "test") / "test"
    cache = Path(cache_dir) if cache_dir else base.parent / ".cache"
    clips = []
    for folder in clip_folders(base / "test_img"):
        given = list_pictures(folder)[0]
        pose_files = list_pictures(base / "test_label" / folder.name)
        if len(pose_files) < 2:
            raise UserError(f"{pose_files[0].parent} holds one pose; a rollout needs at least two")
        poses = cached_pictures(pose_files, size, cache, f"test{folder.name}-poses", workers)
        clips.append((to_float(torch.tensor(decode(given, size))), to_float(torch.tensor(poses))))
    return clips


def truth_folder(root):
    """Where the true frames of the test clips are, if they are there."""
    path = find_root(root, "test") / "test" / "test_truth"
    return path if path.is_dir() else None


def load_truth(path, size, lengths, cut=None):
    """True frames (T, 3, H, W) of every test clip, from a folder or a csv like submission.csv."""
    path = Path(path)
    if path.is_dir():
        folders = clip_folders(path) if not any(path.glob("*.png")) else [path]
        truth = [np.stack([decode(p, size) for p in list_pictures(f)[:cut]]) for f in folders]
    elif path.is_file():
        truth = read_csv(path, size, lengths)
    else:
        raise UserError(f"--truth {path} is neither a folder of frames nor a csv file")
    found = [len(t) for t in truth]
    if found != list(lengths):
        raise UserError(
            f"--truth {path} holds clips of {found} frames, but the test clips have {list(lengths)}"
        )
    return [to_float(torch.from_numpy(np.ascontiguousarray(t))) for t in truth]


def read_csv(path, size, lengths):
    """Rows of id and C*H*W integers -> one array per clip."""
    values = 3 * size[0] * size[1]
    try:
        rows = np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.float32, ndmin=2)
    except ValueError as error:
        raise UserError(f"--truth {path} is not a csv of numbers ({error})") from None
    if rows.shape[1] != values + 1 or len(rows) != sum(lengths):
        raise UserError(
            f"--truth {path} has {rows.shape[0]} rows of {rows.shape[1]} values; "
            f"{sum(lengths)} rows of {values + 1} are expected"
        )
    frames = rows[:, 1:].clip(0, 255).astype(np.uint8).reshape(-1, 3, *size).transpose(0, 2, 3, 1)
    return np.split(frames, np.cumsum(lengths)[:-1])


# ---------------------------------------------------------------- the robot lab

ROBOT_SIZE = (64, 64)
TABLES = {"actions.csv": 4, "endeffector_positions.csv": 3}  # the numbers in a row of each


def find_records(root, split):
    """The record folders of a split, in the order of the numbers in their names."""
    for folder in candidates(root, "validate"):
        base = folder / split
        if base.is_dir() and (records := [p for p in base.glob("[!.]*") if p.is_dir()]):
            return sorted(records, key=natural_key)
    raise UserError(
        f"--DR {root} holds no clips to {split}; expected "
        f"{Path(root) / split}/traj_0_to_255.tfrecords/0/0.png and so on"
    )


def natural_key(path):
    """Text and numbers of a name apart, so that 256 comes after 0 and before 1024."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def read_tables(folder, first, out):
    """Fill out (rows, 7) from the clip's two csv files: row t belongs to frame t.

    Frames counted from 0 may be fewer than the rows; where they start at another number only as
    many frames as rows are sure to belong together.
    """
    column, rows = 0, len(out)
    for name, width in TABLES.items():
        table = read_table(folder / name)
        enough = len(table) >= rows if first == 0 else len(table) == rows
        if not enough or table.shape[1] != width or not np.isfinite(table).all():
            raise UserError(
                f"{folder / name} holds {table.shape[0]} rows of {table.shape[1]} values; one row "
                f"of {width} finite numbers is expected for each of the clip's {rows} frames"
                + (f", which start at {first}.png" if first else "")
            )
        out[:, column : column + width] = table[:rows]
        column += width


def read_table(path):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy only warns of an empty file
            return np.loadtxt(path, delimiter=",", dtype=np.float32, ndmin=2)
    except (ValueError, UserWarning) as error:
        raise UserError(f"{path} is not a csv of numbers ({error})") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def list_clip(folder, needed, flag):
    """A clip's pictures and the number of the first: none may be missing."""
    files = list_pictures(folder)
    numbers = [frame_number(path) for path in files]
    if len(files) < needed:
        raise UserError(f"{folder} holds {len(files)} frames, {needed} are needed ({flag})")
    gaps = np.flatnonzero(np.diff(numbers) != 1)
    if len(gaps):
        raise UserError(f"{folder}: after {files[gaps[0]].name} comes {files[gaps[0] + 1].name}")
    for path in (folder / name for name in TABLES):
        if not path.is_file():
            raise UserError(f"{path} is missing: every clip needs {' and '.join(TABLES)}")
    return files, numbers[0]


class Dataset_Robot(torch.utils.data.Dataset):
    """The clips of one split: item i is its first frames (T, 3, 64, 64) and conditions (T, 7).

    `frames` and `conditions` are all frames of all clips, one clip after the other, on disk;
    clip i is rows starts[i] .. starts[i] + lengths[i] - 1.
    """

    def __init__(self, root, split, video_len, flag, cache_dir=None, workers=4, skip_bad=False):
        records = find_records(root, split)
        folders = [clip for record in records for clip in clip_folders(record)]
        pictures, firsts = zip(*(list_clip(folder, video_len, flag) for folder in folders))
        tables = [folder / name for folder in folders for name in TABLES]
        self.video_len = video_len
        self.lengths = np.array([len(files) for files in pictures])
        self.starts = np.cumsum(self.lengths) - self.lengths
        base = records[0].parent
        cache = Path(cache_dir) if cache_dir else base.parent / ".cache"
        files = [path for clip in pictures for path in clip]
        name = f"{split}-frames"
        self.frames = cached_pictures(files, ROBOT_SIZE, cache, name, workers, skip_bad)

        def fill(array):
            for folder, first, start, rows in zip(folders, firsts, self.starts, self.lengths):
                read_tables(folder, first, array[start : start + rows])

        shape = (len(files), sum(TABLES.values()))
        whose = f"{firsts} {self.lengths.tolist()}"  # which rows are whose is not in their files
        self.conditions = cached(tables, shape, np.float32, cache, f"{split}-rows", fill, whose)
        self.leave_out(unreadable(self.frames), base)

    def leave_out(self, bad, base):
        """Forget the clips that hold a bad picture."""
        clips = np.arange(len(self.starts))
        kept = sound(clips[:, None], np.repeat(clips, self.lengths)[bad])[:, 0]
        say_left_out(base, bad, clips, kept)
        self.starts, self.lengths = self.starts[kept], self.lengths[kept]

    def __len__(self):
        return len(self.starts)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        clip = slice(self.starts[index], self.starts[index] + self.video_len)
        return tuple(to_float(torch.tensor(x[clip])) for x in (self.frames, self.conditions))


class RobotClips(TrainClips):
    """--epoch_size batches an epoch, of clips drawn at random."""

    def clips_at(self, epoch):
        """-> frame numbers (clips, T)."""
        args, rng = self.args, np.random.default_rng([self.args.seed, epoch])
        length = self.dataset.video_len
        chosen = rng.integers(len(self.dataset), size=args.epoch_size * args.batch_size)
        starts = self.dataset.starts[chosen]
        if args.random_offset:
            starts = starts + rng.integers(self.dataset.lengths[chosen] - length + 1)
        return starts[:, None] + np.arange(length)
