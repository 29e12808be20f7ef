"""Images: gifs and film strips of clips."""

from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageSequence

from ..errors import UserError
from ..files import write_atomically
from .boundary import drawing
from .figures import DPI, save_figure

GREEN, RED, GREY = (40, 170, 70), (215, 50, 45), (150, 150, 150)
INK = "#757e89"  # of a film strip's text: legible on white and on the page's dark ground
LINE, GAP = 12, 2  # a film strip: images per line, pixels between them
STRIP, COLUMN = 1650, 210  # the largest width of its images, and of one image, in pixels
MP4_WIDTH = 512  # of a video, about
HEADING, CHARACTER = 36, 8  # the height of a heading, the width of a character of a label
LABEL = 16  # the height of a label of a moving clip


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


def find_mp4_writer() -> None:
    """An error where imageio cannot write mp4 files."""
    try:
        import imageio_ffmpeg  # noqa: F401
    except ImportError:
        raise UserError("--mp4 needs a package: pip install imageio-ffmpeg") from None


def write_mp4(path: Path, frames: np.ndarray, frame_ms: int) -> None:
    """uint8 (T, H, W, 3) -> an mp4 file, H.264. Pixels are enlarged, and their number is even."""
    scale = 2 * max(round(MP4_WIDTH / 2 / frames.shape[2]), 1)
    large = frames.repeat(scale, 1).repeat(scale, 2)
    more = {"codec": "libx264", "quality": 8, "macro_block_size": 2}
    data = iio.imwrite(
        "<bytes>", large, extension=".mp4", plugin="FFMPEG", fps=1000 / frame_ms, **more
    )
    write_atomically(path, lambda file: file.write(data))


def mp4_length(path: Path) -> int:
    """The number of frames of an mp4 file."""
    return sum(1 for _ in iio.imiter(path, plugin="FFMPEG"))


def gif_time(path: Path) -> int:
    """The duration of a gif, in milliseconds."""
    with Image.open(path) as gif:
        return sum(frame.info["duration"] for frame in ImageSequence.Iterator(gif))


def side_by_side(*clips: np.ndarray, scale: int = 3) -> np.ndarray:
    """uint8 clips (T, H, W, 3) -> one clip with all of them in a row, enlarged."""
    gap = np.full((*clips[0].shape[:2], GAP, 3), 255, np.uint8)
    row = [part for clip in clips for part in (clip, gap)][:-1]
    return np.concatenate(row, axis=2).repeat(scale, 1).repeat(scale, 2)


def labelled(clips: dict[str, np.ndarray], width: int = 128) -> np.ndarray:
    """{label: uint8 clip (T, H, W, 3)} -> one clip: all in a row, labels above.

    Each is enlarged to about this width.
    """
    parts = [*clips.values()]
    scale = max(round(width / parts[0].shape[2]), 1)
    row = side_by_side(*parts, scale=scale)
    head = Image.new("RGB", (row.shape[2], LABEL), "white")
    draw = ImageDraw.Draw(head)
    for i, label in enumerate(clips):
        middle = scale * (i * (parts[0].shape[2] + GAP) + parts[0].shape[2] / 2)
        draw.text((middle, LABEL / 2), label, fill="black", anchor="mm")
    heads = np.asarray(head)[None].repeat(len(row), 0)
    return np.concatenate([heads, row], axis=1)


def spread(length: int, columns: int) -> np.ndarray:
    """Evenly spaced times, with the first and last frame."""
    return np.unique(np.linspace(0, length - 1, columns).round().astype(int))


def tiled(clips: Sequence[np.ndarray], times: Sequence[int], columns: int) -> np.ndarray:
    """uint8 clips (T, H, W, 3) -> one RGBA image: a row a clip, a column a time, clear gaps."""
    height, width = (size + GAP for size in clips[0].shape[1:3])
    image = np.full((len(clips) * height, columns * width, 4), (255, 255, 255, 0), np.uint8)
    for i, clip in enumerate(clips):
        for j, t in enumerate(times):
            y, x = i * height, j * width
            image[y : y + height - GAP, x : x + width - GAP, :3] = clip[t]
            image[y : y + height - GAP, x : x + width - GAP, 3] = 255
    return image


@drawing
def draw_strip(
    path: Path,
    rows: dict[str, np.ndarray],
    times: Sequence[int],
    headings: Sequence[str] | None = None,
) -> None:
    """{label: uint8 clip} -> a film strip: a row a clip, a column a time, lines of up to LINE.

    The column of time t has the heading "frame t", or headings[t].
    """
    lines = [times[i : i + LINE] for i in range(0, len(times), LINE)]
    columns, clips = len(lines[0]), [*rows.values()]
    height, width, _ = tiled(clips, lines[0], columns).shape
    scale = min(COLUMN, STRIP / columns) / (width / columns)
    scale = round(scale) if scale > 1 else scale  # whole numbers: all pixels have the same size
    left = 20 + CHARACTER * max(len(part) for label in rows for part in label.split("\n"))
    whole = left + scale * width, len(lines) * (HEADING + scale * height)  # pixels of the figure
    figure = Figure(figsize=(whole[0] / DPI, whole[1] / DPI), facecolor=(1, 1, 1, 0))
    size = scale * width / whole[0], scale * height / whole[1]
    for number, line in enumerate(lines, start=1):
        cell = figure.add_axes((left / whole[0], 1 - number / len(lines), *size), facecolor="none")
        cell.imshow(tiled(clips, line, columns), interpolation="nearest", aspect="auto")
        middles = (np.arange(len(line)) + 0.5) * width / columns
        names = [headings[t] if headings else f"frame {t}" for t in line]
        cell.set_xticks(middles, names, fontsize=9)
        cell.set_yticks((np.arange(len(rows)) + 0.5) * height / len(rows), rows, fontsize=9)
        cell.xaxis.tick_top()
        cell.tick_params(length=0, labelcolor=INK)
        cell.spines[:].set_visible(False)
    save_figure(figure, path)
