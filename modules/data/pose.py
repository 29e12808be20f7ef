"""The pose lab's data: frames and pose images of one dancer."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from ..errors import UserError
from ..process.ranks import ranks
from .cache import cached_images, decode, fingerprint, to_float
from .clips import ClipDataset, TrainClips
from .folders import clip_folders, find_root, frame_number, is_picture, list_images, list_pairs
from .warp import Warp

CUT_PSNR = 12.0  # dB; consecutive frames below it are two takes; fast motion stays above


class Dataset_Dance(ClipDataset):
    """Consecutive clips of one split: item i is (frames, poses), each (T, 3, H, W) in 0..1.

    `frames` and `conditions` are the whole split as uint8 arrays (N, H, W, 3) on disk.
    """

    def __init__(
        self,
        root: str | Path,
        mode="train",
        video_len=16,
        partial=1.0,
        size: tuple[int, int] = (32, 64),
        cache_dir: str | None = None,
        workers: int = 4,
    ):
        base = find_root(root, mode) / mode
        image_files, pose_files = list_pairs(base / f"{mode}_img", base / f"{mode}_label")
        cache = Path(cache_dir) if cache_dir else base.parent / ".cache"
        frames, poses = (
            cached_images(files, size, cache, f"{mode}-{name}", workers)
            for name, files in (("frames", image_files), ("poses", pose_files))
        )
        self.frames, self.conditions = frames.array, poses.array
        self.fingerprint = fingerprint(frames, poses)
        self.numbers = np.array([frame_number(p) for p in image_files])
        self.video_len, self.partial = video_len, partial
        count = int(len(self.frames) * partial) // video_len
        if count == 0:
            raise UserError(
                f"{base / f'{mode}_img'} has {len(self.frames)} frames, {partial:.0%} are used: "
                f"too few for one clip of {video_len}; lower --{mode}_vi_len or raise --partial"
            )
        self.starts = np.arange(count) * video_len


class DanceClips(TrainClips):
    """Consecutive clips that cover the split once an epoch."""

    def __init__(self, dataset: Dataset_Dance, settings, device):
        super().__init__(dataset, settings, device)
        self.takes = find_takes(dataset) if settings.jump_start else None
        self.warp = (
            Warp(settings.warp, dataset, device, settings.partial) if settings.warp else None
        )

    def clips_at(self, epoch: int) -> np.ndarray:
        """-> frame numbers (clips, T). Jump starts replace the first frame of some clips."""
        settings, rng = self.settings, np.random.default_rng([self.settings.seed, epoch])
        fast = settings.fast_train and epoch < settings.fast_train_epoch
        length = self.settings.train_vi_len
        share = min(settings.partial, settings.fast_partial) if fast else settings.partial
        usable = int(len(self.frames) * share)
        if usable < length:
            raise UserError(
                f"--fast_partial {settings.fast_partial} leaves {usable} frames, "
                f"a clip has {length}"
            )
        offset = rng.integers(min(length, usable - length + 1)) if settings.shuffle else 0
        starts = np.arange(offset, usable - length + 1, length)
        if settings.shuffle:
            rng.shuffle(starts)
        clips = starts[:, None] + np.arange(length)
        return self.jump(clips, usable, rng) if settings.jump_start else clips

    def to_device(self, arrays: Iterable, size: int) -> tuple[torch.Tensor, ...]:
        clips = super().to_device(arrays, size)
        return self.warp(*clips, first=ranks.rows(size).start, size=size) if self.warp else clips

    def jump(self, clips: np.ndarray, usable: int, rng: np.random.Generator) -> np.ndarray:
        """Let a share of the clips start from a random usable frame of the same take."""
        first, last = self.takes[clips[:, 1]].T  # the take is frames first..last
        anywhere = rng.integers(first, np.minimum(last, usable - 1) + 1)
        jumps = rng.random(len(clips)) < self.settings.jump_start
        clips[:, 0] = np.where(jumps, anywhere, clips[:, 0])
        return clips


def find_takes(dataset: Dataset_Dance) -> np.ndarray:
    """(N, 2): first and last frame of each frame's take, split at gaps in numbers and at cuts."""
    frames = np.asarray(dataset.frames)
    mse = np.array(
        [np.mean((a.astype(np.float32) - b) ** 2) for a, b in zip(frames[:-1], frames[1:])]
    )
    cut = (mse > 255**2 * 10 ** (-CUT_PSNR / 10)) | (np.diff(dataset.numbers) != 1)
    edges = np.concatenate([[0], np.flatnonzero(cut) + 1, [len(frames)]])
    return np.repeat(np.stack([edges[:-1], edges[1:] - 1], 1), np.diff(edges), axis=0)


def load_test_clips(
    root: str | Path, size: tuple[int, int], cache_dir: str | None = None, workers: int = 4
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """-> [(first frame (3, H, W), poses (T, 3, H, W))] of every test clip, in 0..1."""
    base = find_root(root, "test") / "test"
    cache = Path(cache_dir) if cache_dir else base.parent / ".cache"
    clips = []
    for folder in clip_folders(base / "test_img"):
        given = list_images(folder)[0]
        pose_files = list_images(base / "test_label" / folder.name)
        if len(pose_files) < 2:
            raise UserError(f"{pose_files[0].parent} holds one pose; a rollout needs at least two")
        poses = cached_images(pose_files, size, cache, f"test{folder.name}-poses", workers).array
        clips.append((to_float(torch.tensor(decode(given, size))), to_float(torch.tensor(poses))))
    return clips


def truth_folder(root: str | Path, needed: bool = False) -> Path | None:
    """The folder of the test clips' true frames, if available."""
    path = find_root(root, "test") / "test" / "test_truth"
    if needed and not path.is_dir():
        raise UserError("--n_samples scores futures: it needs --truth")
    return path if path.is_dir() else None


def load_truth(
    path: str | Path, size: tuple[int, int], lengths: Sequence[int], cut: int | None = None
) -> list[torch.Tensor]:
    """True frames (T, 3, H, W) of every test clip, from a folder or a csv like submission.csv."""
    path = Path(path)
    if path.is_dir():
        folders = clip_folders(path) if not any(map(is_picture, path.iterdir())) else [path]
        truth = [np.stack([decode(p, size) for p in list_images(f)[:cut]]) for f in folders]
    elif path.is_file():
        truth = read_rows(path, size, lengths)
    else:
        raise UserError(f"--truth {path} is neither a folder of frames nor a csv file")
    counts = [len(t) for t in truth]
    if counts != list(lengths):
        raise UserError(
            f"--truth {path} holds clips of {counts} frames, the test clips have {list(lengths)}"
        )
    return [to_float(torch.from_numpy(np.ascontiguousarray(t))) for t in truth]


def read_rows(path: str | Path, size: tuple[int, int], lengths: Sequence[int]) -> list[np.ndarray]:
    """Rows of id and C*H*W integers -> one array per clip."""
    shape = sum(lengths), 1 + 3 * size[0] * size[1]
    try:
        rows = np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.float32, ndmin=2)
    except ValueError as error:
        raise UserError(f"--truth {path} is not a csv of numbers ({error})") from None
    pixels = rows[:, 1:]
    if rows.shape != shape or not ((pixels >= 0) & (pixels <= 255) & (pixels % 1 == 0)).all():
        raise UserError(
            f"--truth {path} has {rows.shape[0]} rows of {rows.shape[1]} values; {shape[0]} rows "
            f"of {shape[1]} are expected: an id, then whole numbers from 0 to 255"
        )
    frames = pixels.astype(np.uint8).reshape(-1, 3, *size).transpose(0, 2, 3, 1)
    return np.split(frames, np.cumsum(lengths)[:-1])
