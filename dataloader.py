"""The dance dataset: folders of PNGs -> one uint8 array per split, decoded once -> clips.

DR/train/train_img/*.png + DR/train/train_label/*.png        (val alike)
DR/test/test_img/{i}/*.png (one image) + DR/test/test_label/{i}/*.png (its poses)
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from modules.options import UserError

try:
    import fcntl
except ImportError:  # Windows: two runs may both decode; whoever ends last finds the cache there
    fcntl = None

CACHE_VERSION = 1
UNREADABLE = (
    UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError,
)  # fmt: skip
CUT_PSNR = 12.0  # neighbouring frames that score less are two takes; the fastest leap scores more


# ---------------------------------------------------------------- folders


def find_root(root, split):
    """The folder that holds `split`: root itself, or one or two folders below (the nested zip)."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"--DR {root} is no folder; give the one that holds train/, val/ and test/")
    for pattern in ("", "*", "*/*"):
        for folder in sorted(root.glob(pattern)) if pattern else [root]:
            if (folder / split / f"{split}_img").is_dir():
                return folder
    raise UserError(
        f"--DR {root} holds no {split}/{split}_img; expected {root / split / f'{split}_img'}"
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
    """The numbered folders of test clips, in numeric order."""
    found = [p for p in folder.iterdir() if p.is_dir() and p.name.isdecimal()]
    if not found:
        raise UserError(f"{folder} holds no test clip: folders named 0, 1, 2, ... are expected")
    return sorted(found, key=lambda p: int(p.name))


# ---------------------------------------------------------------- decoding, once


def decode(path, size):
    """A picture file -> uint8 (H, W, 3), resized as PIL's bilinear does."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((size[1], size[0]), Image.BILINEAR))
    except UNREADABLE as error:
        raise UserError(
            f"{path} cannot be read as a picture ({error}); replace it or remove it"
        ) from None


def decode_all(files, size, workers, out, name):
    """Fill out (N, H, W, 3), several threads at a time (PIL decodes outside Python's lock)."""
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        images = pool.map(decode, files, [size] * len(files))
        try:
            for i, image in enumerate(tqdm(images, f"reading {name}", len(files), disable=None)):
                out[i] = image
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def fingerprint(files, size):
    """Changes when a file is added, removed, renamed or rewritten, and with the size asked for."""
    digest = hashlib.sha256(f"{CACHE_VERSION} {size}".encode())
    for path in files:
        stat = path.stat()
        digest.update(
            f"{path.parent.name}/{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode()
        )
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def locked(path):
    """One process at a time. It saves work; what makes it safe is the rename at the end."""
    with open(path, "w") as file:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cached(files, size, cache_dir, name, workers):
    """uint8 (N, H, W, 3) of these files, memory-mapped; decoded only where the cache is stale."""
    home = hashlib.sha256(str(files[0].parent.resolve()).encode()).hexdigest()[:8]
    stem = f"{name}_{size[0]}x{size[1]}_{home}_"
    target = cache_dir / f"{stem}{fingerprint(files, size)}.npy"
    try:
        if not target.exists():
            cache_dir.mkdir(parents=True, exist_ok=True)
            with locked(cache_dir / f"{stem}lock"):
                if not target.exists():
                    build_cache(files, size, target, stem, workers)
        return np.load(target, mmap_mode="r")
    except ValueError as error:
        raise UserError(f"{target} is damaged ({error}); delete it, it is made anew") from None
    except OSError as error:
        raise UserError(
            f"decoded pictures cannot be kept in {cache_dir} ({error.strerror or error}); "
            "name another folder with --cache_dir"
        ) from None


def build_cache(files, size, target, stem, workers):
    """Decode into a temporary file, then rename: a cache is there as a whole or not at all."""
    handle, temporary = tempfile.mkstemp(suffix=".partial", dir=target.parent)
    os.close(handle)
    try:
        shape = (len(files), *size, 3)
        free = shutil.disk_usage(target.parent).free
        if np.prod(shape) > free:  # a memory-mapped file that finds the disk full dies by SIGBUS
            raise OSError(None, f"{np.prod(shape) / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free")
        array = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
        decode_all(files, size, workers, array, stem.split("_")[0])
        array.flush()
        os.replace(temporary, target)
        for old in set(target.parent.glob(f"{stem}*.npy")) - {target}:
            old.unlink(missing_ok=True)
    finally:
        Path(temporary).unlink(missing_ok=True)


# ---------------------------------------------------------------- clips


class Dataset_Dance(torch.utils.data.Dataset):
    """Consecutive clips of one split: item i is (frames, poses), each (T, 3, H, W) in 0..1.

    `frames` and `poses` are the whole split as uint8 arrays (N, H, W, 3) on disk.
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
    ):
        base = find_root(root, mode) / mode
        image_files, pose_files = list_pairs(base / f"{mode}_img", base / f"{mode}_label")
        cache = Path(cache_dir) if cache_dir else base.parent / ".cache"
        self.frames = cached(image_files, size, cache, f"{mode}-frames", workers)
        self.poses = cached(pose_files, size, cache, f"{mode}-poses", workers)
        self.numbers = np.array([frame_number(p) for p in image_files])
        self.video_len, self.partial = video_len, partial
        if len(self) == 0:
            raise UserError(
                f"{base / f'{mode}_img'} holds {len(self.frames)} frames, used are {partial:.0%}: "
                f"too few for one clip of {video_len}; lower --{mode}_vi_len or raise the share"
            )

    def __len__(self):
        return int(len(self.frames) * self.partial) // self.video_len

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        clip = slice(index * self.video_len, (index + 1) * self.video_len)
        return to_float(torch.tensor(self.frames[clip])), to_float(torch.tensor(self.poses[clip]))


class TrainClips:
    """The training split on the device, and the clips of every epoch as a pure function of it."""

    def __init__(self, dataset, args, device):
        self.args = args
        self.frames = torch.tensor(dataset.frames, device=device)  # (N, H, W, 3) uint8
        self.poses = torch.tensor(dataset.poses, device=device)
        self.takes = find_takes(dataset) if args.jump_start else None

    def clips_at(self, epoch):
        """-> frame numbers (clips, T). Jump starts replace the given frame of some clips."""
        args, rng = self.args, np.random.default_rng([self.args.seed, epoch])
        fast = args.fast_train and epoch < args.fast_train_epoch
        length = args.train_vi_len
        usable = int(len(self.frames) * (args.fast_partial if fast else args.partial))
        if usable < length:
            raise UserError(
                f"--fast_partial {args.fast_partial} leaves {usable} frames, a clip has {length}"
            )
        offset = rng.integers(min(length, usable - length + 1)) if args.random_offset else 0
        starts = np.arange(offset, usable - length + 1, length)
        if args.shuffle:
            rng.shuffle(starts)
        clips = starts[:, None] + np.arange(length)
        return self.jump(clips, rng) if args.jump_start else clips

    def jump(self, clips, rng):
        """Let some clips start from any frame of the take that their second frame is in."""
        first, last = self.takes[clips[:, 1]].T  # the take is frames first..last
        anywhere = rng.integers(first, last + 1)
        clips[:, 0] = np.where(rng.random(len(clips)) < self.args.jump_start, anywhere, clips[:, 0])
        return clips

    def num_batches(self, epoch):
        return -(-len(self.clips_at(epoch)) // self.args.batch_size)

    def batches(self, epoch):
        """Yield (frames, poses), each (B, T, 3, H, W) in 0..1, on the device."""
        for clips in torch.from_numpy(self.clips_at(epoch)).split(self.args.batch_size):
            clips = clips.to(self.frames.device)
            yield to_float(self.frames[clips]), to_float(self.poses[clips])


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
        poses = cached(pose_files, size, cache, f"test{folder.name}-poses", workers)
        clips.append((to_float(torch.tensor(decode(given, size))), to_float(torch.tensor(poses))))
    return clips


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


def to_float(pictures):
    """uint8 (..., H, W, 3) -> float (..., 3, H, W) in 0..1."""
    return pictures.movedim(-1, -3).float().div_(255)
