"""Images: gifs and film strips of clips."""

from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from PIL import Image, ImageSequence

from ..files import write_atomically
from .figures import plt, save_figure

GREEN, RED, GREY = (40, 170, 70), (215, 50, 45), (150, 150, 150)
LINE, GAP = 12, 2  # a film strip: images per line, pixels between them


def to_uint8(frames: torch.Tensor | np.ndarray) -> np.ndarray:
    """Float (..., 3, H, W) -> uint8 (..., H, W, 3), rounded and clipped to 0..255."""
    frames = np.nan_to_num(np.moveaxis(np.asarray(frames), -3, -1))
    return np.rint(frames.clip(0, 1) * 255).astype(np.uint8)


def framed(
    clip: np.ndarray, given: int, colour: tuple[int, ...] = RED, width: int = 2
) -> np.ndarray:
    """uint8 (T, H, W, 3) with a border: green around the given frames, `colour` on the others."""
    from torchvision.transforms.v2.functional import pad  # slow to import

    clip = torch.from_numpy(clip).movedim(-1, -3)
    parts = pad(clip[:given], [width], list(GREEN)), pad(clip[given:], [width], list(colour))
    return torch.cat(parts).movedim(-3, -1).numpy()


def write_gif(path: Path, frames: np.ndarray, frame_ms: int) -> None:
    """uint8 (T, H, W, 3) -> a looping gif; merged identical frames keep their time."""
    data = iio.imwrite("<bytes>", frames, extension=".gif", duration=frame_ms, loop=0)
    write_atomically(path, lambda file: file.write(data))


def gif_time(path: Path) -> int:
    """The duration of a gif, in milliseconds."""
    with Image.open(path) as gif:
        return sum(frame.info["duration"] for frame in ImageSequence.Iterator(gif))


def side_by_side(*clips: np.ndarray, scale: int = 3) -> np.ndarray:
    """uint8 clips (T, H, W, 3) -> one clip with all of them in a row, enlarged."""
    gap = np.full((*clips[0].shape[:2], 2, 3), 255, np.uint8)
    row = [part for clip in clips for part in (clip, gap)][:-1]
    return np.concatenate(row, axis=2).repeat(scale, 1).repeat(scale, 2)


def spread(length: int, columns: int) -> np.ndarray:
    """Evenly spaced times, with the first and last frame."""
    return np.unique(np.linspace(0, length - 1, columns).round().astype(int))


def draw_strip(path: Path, rows: dict[str, np.ndarray], times: Sequence[int]) -> None:
    """{label: uint8 clip} -> a film strip: a row a clip, a column a time, lines of up to LINE."""
    lines = [times[i : i + LINE] for i in range(0, len(times), LINE)]
    height, width = (size + GAP for size in next(iter(rows.values())).shape[1:3])
    columns = len(lines[0])
    inches = min(1.9, 15 / columns) / width
    size = (columns * width * inches + 0.9, len(lines) * (len(rows) * height * inches + 0.4))
    figure, axes = plt.subplots(len(lines), figsize=size, layout="constrained", squeeze=False)
    for line, cell in zip(lines, axes.flat):
        picture = np.full((len(rows) * height, columns * width, 3), 255, np.uint8)
        for i, clip in enumerate(rows.values()):
            for j, t in enumerate(line):
                y, x = i * height, j * width
                picture[y : y + height - GAP, x : x + width - GAP] = clip[t]
        cell.imshow(picture, interpolation="nearest")
        middles = (np.arange(columns) + 0.5) * width
        cell.set_xticks(middles[: len(line)], [f"frame {t}" for t in line], fontsize=9)
        cell.set_yticks((np.arange(len(rows)) + 0.5) * height, rows, fontsize=9)
        cell.xaxis.tick_top()
        cell.tick_params(length=0)
        cell.spines[:].set_visible(False)
    save_figure(figure, path)
