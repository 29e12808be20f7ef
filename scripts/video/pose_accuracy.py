#!/usr/bin/env python
"""How well make_dataset.py finds poses: drawn dancers, whose keypoints are known, as mp4 files.

    python scripts/video/pose_accuracy.py
    python scripts/video/pose_accuracy.py --seeds 1 --heights 360 --fps 30 --frames 300

Prints, for every video, the share of frames with a pose and the mean distance of the keypoints to
the true ones in heights of the dancer (head to ankle, standing): as found, with --smooth 1, and
where left and right may be exchanged.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":  # before slow imports; PYTHONSAFEPATH leaves the folders out
    sys.path[:0] = map(str, Path(__file__).resolve().parents[1:3])
    from modules.cli.start import start

    start()

import numpy as np
from toy import dance
from tqdm import tqdm

from modules.cli.entry import run
from video.build import MAX_GAP, follow
from video.estimator import BlazePose
from video.joints import has_pose, smooth, standing_height
from video.skeleton import KEYPOINTS, SEEN
from video.source import Part, open_video

OTHER_SIDE = {"_r": "_l", "_l": "_r"}


def film_dancer(path, seed, height, fps, frames):
    """Write a drawn dancer as a video; -> the true keypoints (T, 18, 3) in pixels."""
    from imageio_ffmpeg import write_frames

    every = dance.FPS // fps
    joints, stature = dance.dance(np.random.default_rng([seed, 1]), frames * every)
    scene = dance.make_scene(np.random.default_rng([seed, 0]), height)
    video = write_frames(str(path), (2 * height, height), fps=fps, macro_block_size=2, quality=7)
    video.send(None)
    for body, size in zip(joints[::every], stature[::every]):
        frame = dance.draw_frame(body, size, scene)
        video.send(np.ascontiguousarray((frame * 255 + 0.5).astype(np.uint8)))
    video.close()
    return np.array([dance.keypoints(body, height) for body in joints[::every]])


def distances(found, true):
    """(T,) mean distance of the keypoints that are seen in both, in standing heights."""
    both = (found[..., 2] >= SEEN) & (true[..., 2] >= SEEN)
    away = np.linalg.norm(found[..., :2] - true[..., :2], axis=-1) / standing_height(true)
    mean = np.where(both, away, 0).sum(1) / np.maximum(both.sum(1), 1)
    return np.where(both.any(1), mean, np.nan)


def either_side(found, true):
    """The same where left and right may be exchanged: a drawn head has no face to tell them by."""
    mirrored = (name[:-2] + OTHER_SIDE.get(name[-2:], name[-2:]) for name in KEYPOINTS)
    sides = [KEYPOINTS.index(name) for name in mirrored]
    return np.minimum(distances(found, true), distances(found[:, sides], true))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--heights", type=int, nargs="+", default=[180, 360, 720])
    parser.add_argument("--fps", type=int, nargs="+", choices=(10, 15, 30), default=[30, 15])
    parser.add_argument("--frames", type=int, default=240, help="of every video (240)")
    args = parser.parse_args()
    print(
        "seed  size      fps   found   distance   smoothed   either side   ms a frame", flush=True
    )
    rows = [(s, h, f) for s in args.seeds for h in args.heights for f in args.fps]
    with tempfile.TemporaryDirectory() as folder:
        means = [measure_video(Path(folder) / "dancer.mp4", *row, args.frames) for row in rows]
    found, *away, _ = np.mean(means, axis=0)
    print(f"mean              {found:10.1%} {away[0]:10.2%} {away[1]:10.2%} {away[2]:13.2%}")


def measure_video(path, seed, height, fps, frames):
    true = film_dancer(path, seed, height, fps, frames)
    video, start = open_video(path, Part()), time.perf_counter()
    track = follow(video, BlazePose(), MAX_GAP, 0.0, lambda x: tqdm(x, total=frames, disable=None))
    ms = 1000 * (time.perf_counter() - start) / len(track.kept)
    true = true[: len(track.kept)] * (*[video.size[0] / height] * 2, 1)
    measures = distances, lambda *x: distances(smooth(x[0], 1.0), x[1]), either_side
    row = [has_pose(track.found).mean(), *(np.nanmean(f(track.joints, true)) for f in measures), ms]
    size = f"{2 * height}x{height}"
    print(
        f"{seed:4}  {size:9} {fps:3} {row[0]:7.1%} {row[1]:10.2%} {row[2]:10.2%} {row[3]:13.2%} "
        f"{ms:12.0f}",
        flush=True,
    )
    return row


if __name__ == "__main__":
    run(main)
