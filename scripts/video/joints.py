"""Keypoints over time, (T, 18, 3): x and y in pixels, confidence. Gaps, jitter, size and place.

The confidence of a keypoint that was not found is 0, wherever its x and y are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modules.data.folders import find_file
from modules.errors import UserError
from modules.files import write_npz

from .skeleton import KEYPOINTS, SEEN

FILE = "joints.npz"
BODY = slice(1, 14)  # all but the face
MIN_KEYPOINTS = 5  # keypoints of the body that make a pose
HIPS, ANKLES = [8, 11], [10, 13]
HEAD_KEYPOINTS = [0, 1, 14, 15, 16, 17]  # and the neck, where no face is seen
STANDING = 90  # percentile of the height over time: it lowers itself, it does not grow
FAR, NEAR = 10, 90  # percentiles of the floor line
DEPTH = 0.03  # in heights: a floor line that varies by less is of one distance
CONTACT = 0.5  # seconds within which a foot touches the floor


def has_pose(joints: np.ndarray) -> np.ndarray:
    """(T, 18, 3) -> (T,) whether a person was found."""
    return (joints[:, BODY, 2] >= SEEN).sum(1) >= MIN_KEYPOINTS


def fill_gaps(joints: np.ndarray, longest: int) -> np.ndarray:
    """Each keypoint that is missing for up to `longest` frames is interpolated."""
    filled, t = joints.copy(), np.arange(len(joints))
    for k in range(joints.shape[1]):
        seen = joints[:, k, 2] >= SEEN
        for start, end in runs(~seen):
            if 0 < start and end < len(t) and end - start <= longest:
                ends = joints[[start - 1, end], k]
                share = ((t[start:end] - start + 1) / (end - start + 1))[:, None]
                filled[start:end, k] = ends[0] + share * (ends[1] - ends[0])
    return filled


def runs(marked: np.ndarray) -> list[tuple[int, int]]:
    """First and end (exclusive) of every run of True in (T,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(int)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def smooth(joints: np.ndarray, deviation: float) -> np.ndarray:
    """A Gaussian over time, `deviation` in frames; missing keypoints have no weight."""
    if not deviation:
        return joints
    reach = int(np.ceil(3 * deviation))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    smoothed, seen = joints.copy(), joints[..., 2] >= SEEN
    for k in range(joints.shape[1]):
        weight = convolve(seen[:, k], kernel)
        for axis in (0, 1):
            place = convolve(np.where(seen[:, k], joints[:, k, axis], 0), kernel)
            smoothed[seen[:, k], k, axis] = (place / np.maximum(weight, 1e-9))[seen[:, k]]
    return smoothed


def convolve(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """(T,) -> (T,), for any T."""
    half = len(kernel) // 2
    return np.convolve(values, kernel)[half : half + len(values)]


# ---------------------------------------------------------------- size and place


def masked(joints: np.ndarray) -> np.ndarray:
    """x and y (T, 18, 2), NaN where a keypoint was not found."""
    return np.where(joints[..., 2:] >= SEEN, joints[..., :2], np.nan)


def lowest(values: np.ndarray) -> np.ndarray:
    """The largest of each row of (T, N) without its NaNs; -inf in a row of NaNs."""
    return np.where(np.isnan(values), -np.inf, values).max(1, initial=-np.inf)


def heights(joints: np.ndarray) -> np.ndarray:
    """From the head to the lower ankle, in pixels (T,); NaN if one of them was not found."""
    y = masked(joints)[..., 1]
    height = lowest(y[:, ANKLES]) + lowest(-y[:, HEAD_KEYPOINTS])
    return np.where(np.isfinite(height) & (height > 0), height, np.nan)


def standing_height(joints: np.ndarray) -> float:
    """Of the person, in pixels; of the boxes of its poses if the ankles are never seen."""
    found = heights(joints)
    if np.isnan(found).all():
        y = masked(joints)[has_pose(joints)][..., 1]
        found = np.nanmax(y, 1) - np.nanmin(y, 1)
    return max(float(np.nanpercentile(found, STANDING)), 1.0)


def jumps(joints: np.ndarray) -> np.ndarray:
    """(T - 1,): the mean motion of the keypoints from frame to frame, in heights of the person."""
    steps = np.linalg.norm(np.diff(masked(joints), axis=0), axis=-1)  # (T-1, 18)
    known = ~np.isnan(steps)
    way = np.where(known, steps, 0).sum(1) / np.maximum(known.sum(1), 1)
    return way / standing_height(joints)


@dataclass
class Stance:
    """Where a person stands over time: all (T,), in pixels."""

    x: np.ndarray  # midway between the hips
    feet: np.ndarray  # y of the lower ankle
    floor: np.ndarray  # y of the floor below it
    height: np.ndarray

    def at(self, percentile: float) -> float:
        return float(np.percentile(self.floor, percentile))

    def height_near(self, line: float) -> float:
        """The standing height in the third of the frames whose floor is nearest to a line."""
        away = np.where(np.isnan(self.height), np.inf, abs(self.floor - line))
        third = np.argsort(away, kind="stable")[: max(1, int(np.isfinite(away).sum()) // 3)]
        return float(np.percentile(self.height[third], STANDING))


def stance(joints: np.ndarray, fps: float, whose: str) -> Stance:
    """A leap leaves the floor where it was: it is as low as the feet are within half a second."""
    place = masked(joints)
    height, feet = heights(joints), lowest(place[:, ANKLES, 1])
    hips = place[:, HIPS, 0]
    if (np.isfinite(feet) & np.isfinite(height)).sum() < 2 or np.isnan(hips).all():
        raise UserError(
            f"{whose} never shows a person from head to ankles, hips included: transfer needs all"
        )
    t = np.arange(len(joints))
    x = np.where(
        np.isnan(hips).all(1), np.nan, np.nansum(hips, 1) / (~np.isnan(hips)).sum(1).clip(1)
    )
    feet, x = (np.interp(t, t[np.isfinite(v)], v[np.isfinite(v)]) for v in (feet, x))
    reach = max(1, round(CONTACT * fps / 2))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(feet, reach, "edge"), 2 * reach + 1)
    floor = smooth_curve(windows.max(1), reach)
    return Stance(x, feet, np.maximum(floor, feet), height)


def smooth_curve(values: np.ndarray, reach: int) -> np.ndarray:
    kernel = np.ones(2 * reach + 1) / (2 * reach + 1)
    return np.convolve(np.pad(values, reach, "edge"), kernel, "valid")


def place_like(source: np.ndarray, person: np.ndarray, fps: tuple[float, float]) -> np.ndarray:
    """The poses of a source (T, 18, 3), in the size and place of another person (N, 18, 3).

    After Everybody Dance Now (Chan et al., 2019): the floor lines of source and person, far and
    near, are mapped on each other, and the heights there. What the feet leave the floor, and the
    way to the side, are scaled with the height.
    """
    s, p = stance(source, fps[0], "--poses"), stance(person, fps[1], "--DR")
    ends = [(x.at(FAR), x.at(NEAR)) for x in (s, p)]
    sizes = [[x.height_near(line) for line in lines] for x, lines in zip((s, p), ends)]
    (s_far, s_near), (p_far, p_near) = ends
    scales = [of_p / of_s for of_s, of_p in zip(*sizes)]
    deep = s_near - s_far > DEPTH * sizes[0][1] and p_near - p_far > DEPTH * sizes[1][1]
    share = (s.floor - s_far) / (s_near - s_far) if deep else np.full(len(source), 0.5)
    scale = np.interp(share, [0, 1], scales) if deep else np.full(len(source), np.mean(scales))
    floor = p_far + share * (p_near - p_far)
    if not deep:
        floor = floor + scale * (s.floor - np.median(s.floor))
    middles = [np.percentile(x.x, (5, 50, 95)) for x in (s, p)]
    ranges = [m[2] - m[0] for m in middles]
    sideways = min(float(scale.mean()), ranges[1] / max(ranges[0], 1e-6))
    x = (middles[1][0] + middles[1][2]) / 2 + sideways * (s.x - (middles[0][0] + middles[0][2]) / 2)
    placed = source.copy()
    placed[..., 0] = x[:, None] + scale[:, None] * (source[..., 0] - s.x[:, None])
    placed[..., 1] = floor[:, None] + scale[:, None] * (source[..., 1] - s.floor[:, None])
    return placed


# ---------------------------------------------------------------- the file of a data set


@dataclass(frozen=True)
class Poses:
    """The keypoints of every part of a data set, in pixels of its pictures."""

    parts: dict[str, np.ndarray]  # train, val, test0, test1, ...: (T, 18, 3)
    size: tuple[int, int]  # height and width of the pictures
    fps: float


def write_joints(
    root: Path, parts: Mapping[str, np.ndarray], size: tuple[int, int], fps: float
) -> None:
    """joints.npz: an array a part, `size` and `fps`."""
    arrays = {name: joints.astype(np.float32) for name, joints in parts.items()}
    write_npz(root / FILE, arrays | {"size": np.array(size), "fps": np.array(fps)})


def read_joints(root: str | Path, flag: str) -> Poses:
    path = find_file(root, FILE)
    if path is None:
        raise UserError(
            f"{flag} {root} has no {FILE}: make it with scripts/make_dataset.py or "
            "scripts/make_toy_data.py"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        size, fps = tuple(map(int, arrays.pop("size"))), float(arrays.pop("fps"))
    except Exception as error:  # a damaged file can make numpy raise anything
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} cannot be read as joints ({text})") from None
    for name, joints in arrays.items():
        if joints.ndim != 3 or joints.shape[1:] != (len(KEYPOINTS), 3):
            raise UserError(
                f"{path}: {name} has the shape {joints.shape}; (frames, 18, 3) is needed"
            )
    return Poses(arrays, size, fps)
