"""quality.html: whether a data set made from a video is fit to train on, seen before training."""

import html
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modules.report import charts, page, pictures
from modules.report.boundary import drawing

from .skeleton import draw_skeleton

STRIPS, STRIP_LENGTH = 2, 5  # film strips, frames of each
CURVE_POINTS = 2000
MIN_FOUND, MAX_JUMPS = 0.9, 0.05  # of a good data set: shares of frames with a pose, with a jump
SMALL_HEIGHT = 0.35  # of the picture: a smaller person is a few pixels at 32x64


def overlaid(picture: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) with the skeleton of (18, 3) over it."""
    drawn = draw_skeleton(joints, picture.shape[:2])
    share = np.clip((1 - drawn.min(-1, keepdims=True)) * 2, 0, 1)  # 0 where it is white
    return (share * drawn * 255 + (1 - share) * picture + 0.5).astype(np.uint8)


def warnings_of(facts: Mapping[str, Any]) -> list[str]:
    """What the user should look at, a sentence each."""
    fps, height, left_out = facts["fps"], facts["size"][0], facts["left_out"]
    spans = ", ".join(f"{a / fps:.1f}-{(b + 1) / fps:.1f}" for a, b in left_out[:5])
    jumped, jump = facts["jumps"][0]
    warnings = [
        (
            facts["cut_off"],
            f"The file ends after {facts['frames'] / fps:.1f} s, before its stated duration: it "
            "may be damaged or cut off.",
        ),
        (
            left_out,
            f"{sum(b - a + 1 for a, b in left_out)} of {facts['frames']} frames show no whole pose "
            f"and are left out (seconds {spans}{', ...' * (len(left_out) > 5)}).",
        ),
        (
            facts["others"],
            f"A second person was seen in {facts['others']} of {facts['looked']} frames looked at; "
            "--crop LEFT TOP WIDTH HEIGHT leaves only one in the picture.",
        ),
        (
            facts["jumped"],
            f"The pose jumps in {facts['jumped']} frames, most in frame {jumped} "
            f"({jumped / fps:.1f} s, {jump:.0%} of the height): look at these poses.",
        ),
        (
            facts["camera_moves"],
            "The background is not the same in all frames: the camera moves, or the light changes. "
            "The command below leaves out --scene and --warp, which need a static background.",
        ),
        (
            facts["height"] < SMALL_HEIGHT * height,
            f"The person is {facts['height'] / height:.0%} as high as the pictures: film from "
            "nearer, or name a smaller part with --crop.",
        ),
        (
            facts["bars"] > 0.05,
            f"{facts['bars']:.0%} of every picture are black bars: the lab's pictures are twice as "
            "wide as high. --width makes them narrower, down to the height or less.",
        ),
    ]
    return [text for applies, text in warnings if applies]


def verdict_of(facts: Mapping[str, Any]) -> str:
    """Whether the data set is fit to train on, and by what."""
    jumps = facts["jumped"] / facts["frames"]
    good = facts["found"] >= MIN_FOUND and jumps < MAX_JUMPS
    few = f"under {MAX_JUMPS:.0%}" if jumps < MAX_JUMPS else f"in {jumps:.0%}"
    return f"{'good' if good else 'poor'}: a pose in {facts['found']:.0%} of frames, jumps {few}"


def train_command(facts: Mapping[str, Any], data: Path) -> str:
    """The command that trains the best recipe on the data set."""
    run = shlex.quote(f"runs/{data.name}")
    height, width = facts["scored_at"]
    flags = [f"--frame_H {height} --frame_W {width}"] * (width != 2 * height)
    flags += ["--no-scene --warp 0 --sigmoid"] * facts["camera_moves"]
    return " ".join([f"DR={shlex.quote(str(data))} bash scripts/train_best.sh", run, *flags])


def table_of(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    parts, fps = facts["parts"], facts["fps"]
    height, width = facts["size"]
    background = facts["background_psnr"]
    rows = [
        ("frames read", f"{facts['frames']}, {facts['frames'] / fps:.1f} s at {fps:g} per second"),
        ("pictures", f"{width} wide, {height} high"),
        ("frames with a pose", f"{facts['found']:.1%}"),
        ("filled by interpolation", str(facts["interpolated"])),
        ("train, val, test", ", ".join(str(parts[p]) for p in ("train", "val", "test0"))),
        ("height of the person", f"{facts['height'] / height:.0%} of the picture"),
    ]
    rows += [
        (f"jump into frame {number} ({number / fps:.1f} s)", f"{way:.1%} of the height")
        for number, way in facts["jumps"]
    ]
    if background is not None:
        rows.append(("background against its median", f"{background:.1f} dB"))
    still = "still" if background is not None else "not known, the person hides the background"
    rows.append(("camera", "moves" if facts["camera_moves"] else still))
    rows += [
        (
            f"copy-first-frame baseline, {part.removesuffix('0')}",
            f"{psnr:.2f} dB at {facts['scored_at'][0]}x{facts['scored_at'][1]}",
        )
        for part, psnr in facts["copy_first_frame"].items()
    ]
    return rows


@drawing
def write_quality_page(
    path: Path,
    facts: Mapping[str, Any],
    samples: Mapping[int, tuple[np.ndarray, np.ndarray]],
    curves: Mapping[str, Sequence[float]],
    data: Path,
) -> None:
    """samples: {number of a frame: its picture and keypoints}; curves: a value for every frame.

    `data` is where the data set will be.
    """
    shown = page.Page(f"Data set {data.name}")
    warnings = [f"<p>{html.escape(text)}</p>" for text in warnings_of(facts)]
    verdict = f"<p>{html.escape(verdict_of(facts))}</p>"
    shown.add("Verdict", "".join, [verdict, *warnings])
    shown.add("Poses over frames", pose_strips, samples, facts["fps"])
    shown.add("Numbers", page.table, table_of(facts), ("quantity", "value"))
    shown.add("Train", page.code, train_command(facts, data))
    lines = [
        charts.Chart(name, name, "frame", unit, [charts.Panel("", [thinned(name, values)])])
        for (name, unit), values in curves.items()
    ]
    shown.add("Curves", page.add_charts, shown, lines)
    shown.write(path)


def pose_strips(samples: Mapping[int, tuple[np.ndarray, np.ndarray]], fps: float) -> str:
    """Frames, spread over the video, with their skeletons, as part of a page."""
    chosen = np.array([*samples])[pictures.spread(len(samples), STRIPS * STRIP_LENGTH)]
    rows = {
        "frame": np.array([samples[n][0] for n in chosen]),
        "pose": np.array([overlaid(*samples[n]) for n in chosen]),
    }
    headings, labels = [f"{n / fps:.1f} s" for n in chosen], {}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(0, len(chosen), STRIP_LENGTH):
            path = Path(folder) / f"poses{i}.png"
            pictures.draw_strip(path, rows, range(len(chosen))[i : i + STRIP_LENGTH], headings)
            labels[path] = f"frames from {headings[i]} on, and the poses over them"
        return page.pictures(labels)


def thinned(name: str, values: Sequence[float]) -> charts.Series:
    """A line of no more than CURVE_POINTS, each the largest of its neighbours."""
    step = -(-len(values) // CURVE_POINTS)
    groups = [values[i : i + step] for i in range(0, len(values), step)]
    return charts.Series(name, [*range(0, len(values), step)], [float(max(g)) for g in groups])
