"""The frames of a video, a gif or a folder of pictures, one after the other.

Nothing keeps more than a frame. A video is read by ffmpeg: it turns frames upright, repeats or
leaves out frames where the time between them varies, cuts, crops and scales.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from modules.data.cache import UNREADABLE
from modules.data.folders import natural_key
from modules.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
MAX_FPS = 30  # by default
DEFAULT_FPS = 25  # of a file that does not state its own
MIN_READ_SHARE = 0.95  # of the expected frames; with fewer a file is cut off


@dataclass(frozen=True)
class Part:
    """What is read of a video: seconds, a rectangle, a frame rate."""

    start: float = 0.0
    end: float | None = None
    fps: float | None = None
    crop: tuple[int, int, int, int] | None = None  # left, top, width, height in upright pixels
    height: int = 720  # larger frames are scaled down to it

    def fit(self, size: tuple[int, int], path: Path) -> tuple[tuple[int, ...], tuple[int, int]]:
        """Upright size (H, W) of the source -> the rectangle to read, and the size (H, W) of it."""
        left, top, width, height = self.crop or (0, 0, size[1], size[0])
        if left + width > size[1] or top + height > size[0]:
            raise UserError(
                f"--crop {left} {top} {width} {height} does not lie within the frames of {path}, "
                f"which are {size[1]} wide and {size[0]} high"
            )
        scale = min(1, self.height / height)
        return (left, top, width, height), (round(height * scale), max(1, round(width * scale)))


@dataclass(frozen=True)
class Video:
    """An opened source; `frames` can be called several times."""

    path: Path
    size: tuple[int, int]  # height and width of the frames
    fps: float
    expected: int  # frames, about; 0: not known
    read: Callable[[], Iterator[np.ndarray]]

    def frames(self) -> Iterator[np.ndarray]:
        """-> uint8 (H, W, 3), one after the other."""
        return self.read()


def open_video(path: Path, part: Part) -> Video:
    """A folder of pictures, or any file that ffmpeg reads."""
    if not path.exists():
        raise UserError(f"{path} does not exist: name a video, a gif or a folder of pictures")
    return open_folder(path, part) if path.is_dir() else open_file(path, part)


# ---------------------------------------------------------------- a folder


def open_folder(path: Path, part: Part) -> Video:
    """Pictures in the order of the numbers in their names, at `fps` pictures per second."""
    try:
        files = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != "."]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if not files:
        raise UserError(f"{path} has no picture ({', '.join(sorted(SUFFIXES))})")
    fps, files = part.fps or MAX_FPS, sorted(files, key=natural_key)
    upright, first = read_picture(files[0]).shape[:2], round(part.start * fps)
    box, size = part.fit(upright, path)
    files = files[first : None if part.end is None else round(part.end * fps)]

    def read() -> Iterator[np.ndarray]:
        for file in files:
            image = read_picture(file)
            if image.shape[:2] != upright:
                raise UserError(
                    f"{file} is {image.shape[1]} wide and {image.shape[0]} high, the first picture "
                    f"of its folder {upright[1]} and {upright[0]}: all must be of one size"
                )
            yield scaled(image, box, size)

    return Video(path, size, fps, len(files), read)


def read_picture(path: Path) -> np.ndarray:
    """An image file -> uint8 (H, W, 3), upright."""
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read as an image ({reason}); remove it") from None


def scaled(image: np.ndarray, box: tuple[int, ...], size: tuple[int, int]) -> np.ndarray:
    left, top, width, height = box
    image = image[top : top + height, left : left + width]
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.BILINEAR))


# ---------------------------------------------------------------- a file


def open_file(path: Path, part: Part) -> Video:
    span = ["-ss", f"{part.start:.6f}"] if part.start else []
    span += [] if part.end is None else ["-t", f"{part.end - part.start:.6f}"]
    upright = "scale=iw*sar:ih,setsar=1"  # pixels that are not square
    about = probe(path, upright)
    fps = part.fps or min(about["fps"] or DEFAULT_FPS, MAX_FPS)
    (left, top, width, height), size = part.fit(about["size"][::-1], path)
    steps = (
        upright,
        f"fps={fps}",
        f"crop={width}:{height}:{left}:{top}",
        f"scale={size[1]}:{size[0]}",
    )
    length = about["duration"] if part.end is None else min(part.end, about["duration"] or part.end)
    if about["duration"] and part.start >= about["duration"]:
        raise UserError(f"--start {part.start:g}: {path} lasts {about['duration']:g} seconds")

    def read() -> Iterator[np.ndarray]:
        for data in ffmpeg(path, span, ",".join(steps)):
            yield np.frombuffer(data, np.uint8).reshape(*size, 3)

    return Video(path, size, fps, round(max(length - part.start, 0) * fps), read)


def probe(path: Path, steps: str) -> dict[str, Any]:
    """Size, frames per second and duration of a file, from its first frame."""
    frames = ffmpeg(path, [], steps, header=True)
    try:
        return next(frames)
    finally:
        frames.close()


def ffmpeg(path: Path, span: list[str], steps: str, header: bool = False) -> Iterator[Any]:
    """The frames of a file as bytes; with `header`, its metadata first."""
    try:
        from imageio_ffmpeg import read_frames
    except ImportError:
        raise UserError("reading a video needs a package: pip install imageio-ffmpeg") from None
    logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)  # it warns of every new size
    place = f"file:{path.absolute()}"  # a name is not taken for an option or a protocol
    options = ["-nostdin", "-an", "-sn", "-vf", steps]
    frames = read_frames(place, input_params=span, output_params=options)
    try:
        about = next(frames)
        if header:
            yield about
        yield from frames
    except (OSError, RuntimeError, IndexError, AttributeError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a video ({ffmpeg_reason(str(error))})") from None
    finally:
        frames.close()


def ffmpeg_reason(text: str) -> str:
    """ffmpeg's message without its banner."""
    if "does not contain any stream" in text or "matches no streams" in text:
        return "it has no pictures"
    if "moov atom not found" in text:
        return "its index is missing: it is not complete"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line or "nvalid" in line or "not found" in line]
    return (errors or lines or ["no reason given"])[-1].partition("file:")[0].strip(
        " :"
    ) or "damaged"


def is_cut_off(video: Video, found: int) -> bool:
    """Whether a file ended long before its stated duration."""
    return found < MIN_READ_SHARE * video.expected - 2
