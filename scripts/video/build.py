"""A data set in the lab's layout from the frames of a video and the keypoints found in them."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from modules.data.cache import resize, to_float
from modules.errors import UserError
from modules.evaluation.metrics import frame_psnr

from .estimator import Estimator
from .joints import fill_gaps, has_pose, jumps, masked, runs, smooth, standing_height, write_joints
from .skeleton import SEEN, skeleton_picture
from .source import Video, is_cut_off

CHECKED_FRAMES = 16  # are searched for a second person
MIN_SECOND_HEIGHT = 0.5  # of a second person, in heights of the first
HELD_OUT_DIVISOR, MAX_HELD_OUT = 8, 630  # default length of val and of test: an eighth, at most 630
MIN_FRAMES = 64  # of a dataset
SCORED_HEIGHT = 32  # at which the copy-first-frame baseline is measured: that of the recipes
SAMPLE_FRAMES, SAMPLE_HEIGHT = 48, 128  # of the page and of the test for a moving camera
MARGIN, MIN_MARGIN = 0.12, 0.03  # around all poses, in their height; the least in a tight picture
BODY_MARGIN = 0.15  # beyond the keypoints, in heights of the pose: hair, hands, feet
MAX_JUMP = 0.25  # motion from frame to frame, in heights of the person
MAX_GAP = 0.3  # seconds; default of --gap
STATIC_PSNR = 22.0  # dB between background and median: a shift of 0.5 % of the width is below it


@dataclass
class Track:
    """The keypoints (T, 18, 3) of a video in pixels of its frames, and which frames have a pose."""

    found: np.ndarray  # as estimated
    joints: np.ndarray  # gaps filled, smoothed
    kept: np.ndarray  # (T,) of bool
    looked: int = 0  # number of frames searched for a second person
    others: int = 0  # number of frames with one
    cut_off: bool = False  # the file ended early


@dataclass
class Plan:
    """What is written: a window of the video, resized, and the frames of its three parts."""

    window: tuple[float, float, float, float]  # left, top, width, height in the video's pixels
    size: tuple[int, int]  # height and width of the pictures
    joints: np.ndarray  # (T, 18, 3) in pixels of the pictures
    parts: dict[str, np.ndarray]  # train, val, test0: numbers of frames


@dataclass
class Written:
    """Measurements of the pictures, made while they are written."""

    baseline: dict[str, float] = field(default_factory=dict)  # part: PSNR of its first frame copied
    samples: dict[int, np.ndarray] = field(default_factory=dict)  # number: uint8 (H, W, 3)
    background: float | None = None  # PSNR of the background with its median; None: hidden


# ---------------------------------------------------------------- poses


def follow(
    video: Video, estimator: Estimator, gap: float, deviation: float, progress: Callable
) -> Track:
    """Find the person in every frame. `gap`: seconds without a keypoint that are filled."""
    joints, looked, others = [], 0, 0
    every = max(1, video.expected // CHECKED_FRAMES)
    for t, frame in enumerate(progress(video.frames())):
        found = estimator.follow(frame)
        joints.append(np.zeros((18, 3), np.float32) if found is None else known(found))
        if found is not None and t % every == 0 and looked < 2 * CHECKED_FRAMES:
            looked, others = looked + 1, others + has_another(frame, found, estimator)
    if not joints:
        raise UserError(f"{video.path} has no frame between --start and --end")
    found = np.array(joints, np.float32)
    filled = fill_gaps(found, round(gap * video.fps))
    kept = has_pose(filled)
    if not kept.any():
        raise UserError(
            f"{video.path}: no person was found in {len(kept)} frames; film one whole person, "
            "or name the part to read with --start, --end and --crop"
        )
    filled[~kept] = 0
    smoothed = smooth(filled, deviation)
    return Track(found, smoothed, kept, looked, others, is_cut_off(video, len(kept)))


def known(joints: np.ndarray) -> np.ndarray:
    """The keypoints (18, 3), all 0 where one is no finite number: not found."""
    return np.where(np.isfinite(joints).all(-1, keepdims=True), joints, 0)


def has_another(frame: np.ndarray, found: np.ndarray, estimator: Estimator) -> bool:
    """Whether a second person is in the frame, outside the box of the first."""
    if (found[:, 2] >= SEEN).sum() < 2:
        return False
    covered = frame.copy()
    covered[pose_box(found)] = np.median(frame, axis=(0, 1))
    other = estimator.find(covered)
    if other is None or not has_pose(other[None])[0]:
        return False
    return tallness(other) >= MIN_SECOND_HEIGHT * tallness(found)


def tallness(joints: np.ndarray) -> float:
    """From the highest to the lowest keypoint of (18, 3)."""
    return float(np.ptp(joints[joints[:, 2] >= SEEN, 1]))


def pose_box(joints: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the person with keypoints (18, 3)."""
    seen, margin = joints[joints[:, 2] >= SEEN, :2], BODY_MARGIN * tallness(joints)
    (left, top), (right, bottom) = (
        np.maximum(corner, 0).astype(int) for corner in (seen.min(0) - margin, seen.max(0) + margin)
    )
    return slice(top, bottom + 1), slice(left, right + 1)


# ---------------------------------------------------------------- what to write


def make_plan(
    track: Track,
    video: Video,
    size: tuple[int, int],
    whole: bool,
    val: int | None,
    test: int | None,
) -> Plan:
    """The window around all poses, for pictures (H, W); frames of train, then val, then test."""
    aspect = size[1] / size[0]
    if whole:
        window = whole_window(video.size, aspect)
    else:
        window = window_around(track.joints, video.size, aspect)
    scale = size[0] / window[3]
    joints = track.joints.copy()
    joints[..., :2] = (joints[..., :2] - window[:2]) * scale
    return Plan(window, size, joints, split(np.flatnonzero(track.kept), val, test))


def split(numbers: np.ndarray, val: int | None, test: int | None) -> dict[str, np.ndarray]:
    """Consecutive parts; the test clip is the last."""
    if len(numbers) < MIN_FRAMES:
        raise UserError(
            f"only {len(numbers)} frames show a person; a data set needs {MIN_FRAMES} at least, "
            "some seconds of video"
        )
    share = min(MAX_HELD_OUT, len(numbers) // HELD_OUT_DIVISOR)
    val, test = (share if n is None else n for n in (val, test))
    train = len(numbers) - val - test
    if train < MIN_FRAMES // 2:
        raise UserError(
            f"--val_frames {val} and --test_frames {test} leave {train} of {len(numbers)} frames "
            f"to train on; leave {MIN_FRAMES // 2} at least"
        )
    return dict(zip(("train", "val", "test0"), np.split(numbers, [train, train + val])))


def whole_window(size: tuple[int, int], aspect: float) -> tuple[float, float, float, float]:
    """All of a picture (H, W), with bars if its aspect differs."""
    height = max(size[0], size[1] / aspect)
    width = aspect * height
    return (size[1] - width) / 2, (size[0] - height) / 2, width, height


def window_around(
    joints: np.ndarray, size: tuple[int, int], aspect: float
) -> tuple[float, float, float, float]:
    """Around the poses of all frames, within the picture if possible, else with bars."""
    points = masked(joints)[has_pose(joints)].reshape(-1, 2)
    low, high = np.nanpercentile(points, (0.5, 99.5), axis=0)
    low, high = np.clip(low, 0, size[::-1]), np.clip(high, 0, size[::-1])
    across, tall = np.maximum(high - low, 2)
    wanted, least = (
        max(tall * (1 + 2 * margin), (across + 2 * margin * tall) / aspect)
        for margin in (MARGIN, MIN_MARGIN)
    )
    height = max(least, min(wanted, size[0], size[1] / aspect))
    width = aspect * height
    room = np.array([size[1] - width, size[0] - height])
    corner = (low + high) / 2 - (width / 2, height / 2)
    left, top = np.where(room >= 0, np.clip(corner, 0, np.maximum(room, 0)), room / 2)
    return float(left), float(top), width, height


# ---------------------------------------------------------------- writing


def write_data_set(
    video: Video, plan: Plan, track: Track, root: Path, progress: Callable
) -> Written:
    """Read the video again and write frames, poses and joints.npz into the folder `root`."""
    folders = make_folders(root)
    where = {int(n): part for part, numbers in plan.parts.items() for n in numbers}
    every, written = max(1, len(where) // SAMPLE_FRAMES), Written()
    scores, first = {part: [] for part in plan.parts}, {}
    for number, frame in enumerate(progress(video.frames())):
        if number not in where:
            continue
        part, name = where[number], f"frame{number:06d}.png"
        picture = cut(frame, plan.window, plan.size)
        picture.save(folders[part][0] / name, compress_level=3)
        pose = Image.fromarray(skeleton_picture(plan.joints[number], plan.size))
        pose.save(folders[part][1] / name, compress_level=3)
        small = to_float(torch.tensor(resize(picture, scored_size(plan.size))))
        if part in first:
            scores[part].append(frame_psnr(first[part], small).item())
        first.setdefault(part, small)
        if number % every == 0:
            written.samples[number] = np.asarray(reduced(picture))
    give_first_frame(root, plan.parts["test0"])
    parts = {part: plan.joints[numbers] for part, numbers in plan.parts.items()}
    write_joints(root, parts, plan.size, video.fps)
    written.baseline = {part: float(np.mean(psnr)) for part, psnr in scores.items() if psnr}
    written.background = background_psnr(written.samples, plan, video.size)
    return written


def make_folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """part -> the folders of its frames and of its poses."""
    names = {part: (f"{part}/{part}_img", f"{part}/{part}_label") for part in ("train", "val")}
    names["test0"] = "test/test_truth/0", "test/test_label/0"
    folders = {part: tuple(root / name for name in both) for part, both in names.items()}
    for both in folders.values():
        for folder in both:
            folder.mkdir(parents=True)
    return folders


def give_first_frame(root: Path, numbers: np.ndarray) -> None:
    """Of a test clip only the first frame is given."""
    given, name = root / "test/test_img/0", f"frame{numbers[0]:06d}.png"
    given.mkdir(parents=True)
    shutil.copyfile(root / "test/test_truth/0" / name, given / name)


def cut(
    frame: np.ndarray, window: tuple[float, float, float, float], size: tuple[int, int]
) -> Image.Image:
    """The window of a frame, resized to (H, W); black outside the frame."""
    left, top, width, height = window
    image, box = Image.fromarray(frame), (left, top, left + width, top + height)
    if left >= 0 and top >= 0 and box[2] <= image.width and box[3] <= image.height:
        return image.resize(size[::-1], Image.BILINEAR, box=box)
    return image.crop([round(x) for x in box]).resize(size[::-1], Image.BILINEAR)


def scored_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size that the recipe trains at: even, since U-Nets halve it."""
    return SCORED_HEIGHT, 2 * round(SCORED_HEIGHT * size[1] / size[0] / 2)


def reduced(picture: Image.Image) -> Image.Image:
    scale = min(1, SAMPLE_HEIGHT / picture.height)
    return picture.resize((round(scale * picture.width), round(scale * picture.height)))


def sample_joints(plan: Plan, number: int) -> np.ndarray:
    """The keypoints (18, 3) of a frame in pixels of its sample."""
    return plan.joints[number] * (*[min(1, SAMPLE_HEIGHT / plan.size[0])] * 2, 1)


def background_psnr(
    samples: dict[int, np.ndarray], plan: Plan, video_size: tuple[int, int]
) -> float | None:
    """PSNR of the background with its median: the first decile over the frames."""
    if len(samples) < 3:
        return None
    frames = np.array([*samples.values()], np.float32) / 255  # (N, H, W, 3)
    for frame, number in zip(frames, samples):
        frame[pose_box(sample_joints(plan, number))] = np.nan
    left, top, right, bottom = visible_box(plan, video_size, frames.shape[1])
    frames = frames[:, top:bottom, left:right]
    empty = np.isnan(frames).all((0, 3))
    frames = frames[:, ~empty]  # (N, pixels, 3)
    error = (frames - np.nanmedian(frames, axis=0)) ** 2
    known = ~np.isnan(error).all((1, 2))
    if not known.any():
        return None
    mse = np.nanmean(error[known], axis=(1, 2)).clip(1e-10)
    return float(np.percentile(-10 * np.log10(mse), 10))


# ---------------------------------------------------------------- facts


def quality_facts(track: Track, plan: Plan, written: Written, video: Video) -> dict:
    """The contents of quality.json; the page shows them."""
    found, steps = has_pose(track.found), motion(track)
    left_out = [(a, b) for a, b in runs(~track.kept)]
    moves = written.background is not None and written.background < STATIC_PSNR
    bars = 1 - visible_share(plan.window, video.size)
    return {
        "frames": len(track.kept),
        "fps": video.fps,
        "size": list(plan.size),
        "window": [round(x, 1) for x in plan.window],
        "bars": bars,
        "found": float(found.mean()),
        "interpolated": int((track.kept & ~found).sum()),
        "left_out": [[a, b - 1] for a, b in left_out],
        "jumps": [[int(t), float(steps[t])] for t in np.argsort(-steps)[:3]],
        "jumped": int((steps > MAX_JUMP).sum()),
        "height": standing_height(track.joints) * plan.size[0] / plan.window[3],
        "looked": track.looked,
        "others": track.others,
        "cut_off": track.cut_off,
        "background_psnr": written.background,
        "camera_moves": moves,
        "parts": {part: len(numbers) for part, numbers in plan.parts.items()},
        "scored_at": list(scored_size(plan.size)),
        "copy_first_frame": written.baseline,
    }


def motion(track: Track) -> np.ndarray:
    """(T,): the distance of the estimated pose from that of the previous frame, in heights."""
    found = has_pose(track.found)
    return np.concatenate([[0.0], np.where(found[1:] & found[:-1], jumps(track.found), 0)])


def visible_box(plan: Plan, size: tuple[int, int], height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom inside the bars, in a picture of the window of this height."""
    left, top, width, tall = plan.window
    edges = max(left, 0) - left, max(top, 0) - top
    edges += min(left + width, size[1]) - left, min(top + tall, size[0]) - top
    return tuple(round(x * height / tall) for x in edges)


def visible_share(window: tuple[float, float, float, float], size: tuple[int, int]) -> float:
    """The share of the window that lies within the picture."""
    left, top, width, height = window
    across = min(left + width, size[1]) - max(left, 0)
    down = min(top + height, size[0]) - max(top, 0)
    return across * down / (width * height)
