"""Images decoded once: files -> one memory-mapped array, stored beside the data set.

A cache is named by a hash of its source files, and is complete or absent.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from ..errors import UserError
from ..files import UNFINISHED, fcntl, temporary_path, write_atomically

CACHE_VERSION = 1
UNREADABLE = (
    UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError,
)  # fmt: skip


def decode(path: Path, size: tuple[int, int]) -> np.ndarray:
    """An image file -> uint8 (H, W, 3), resized."""
    try:
        with Image.open(path) as image:
            return resize(image, size)
    except UNREADABLE as error:
        raise UserError(
            f"{path} cannot be read as an image ({error}); replace it, or leave its clip out "
            "with Trainer.py --skip_bad_frames"
        ) from None


def resize(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """An image -> uint8 (H, W, 3), by PIL with bilinear interpolation."""
    return np.asarray(image.convert("RGB").resize((size[1], size[0]), Image.BILINEAR))


def decode_all(
    files: Sequence[Path],
    size: tuple[int, int],
    workers: int,
    out: np.ndarray,
    name: str,
    skip: bool,
) -> list[int]:
    """Fill out (N, H, W, 3), several threads at a time (PIL decodes outside Python's lock).

    -> the rows of unreadable images: with `skip` they repeat the previous row.
    """
    bad = []
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        images = pool.map(decode_or_none if skip else decode, files, [size] * len(files))
        try:
            for i, image in enumerate(tqdm(images, f"reading {name}", len(files), disable=None)):
                bad += [i] if image is None else []
                out[i] = out[i - 1] if image is None else image
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return bad


def decode_or_none(path: Path, size: tuple[int, int]) -> np.ndarray | None:
    with contextlib.suppress(UserError):
        return decode(path, size)


def fingerprint(files: Sequence[Path], shape: tuple[int, ...], more: str) -> str:
    """A hash that changes when a file is added, removed or rewritten, or the arguments change."""
    digest = hashlib.sha256(f"{CACHE_VERSION} {shape} {more}".encode())
    for path in files:
        stat = path.stat()
        digest.update(
            f"{path.parent.name}/{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode()
        )
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time. This saves work; safety comes from the rename at the end."""
    with open(path, "w") as file:
        if fcntl:  # without it two runs may both decode; the second replaces the first's cache
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cached_images(
    files: Sequence[Path],
    size: tuple[int, int],
    cache_dir: Path,
    name: str,
    workers: int,
    skip: bool = False,
) -> np.ndarray:
    """uint8 (N, H, W, 3) of these files; with `skip` some rows may be unreadable()."""

    def fill(array):
        return decode_all(files, size, workers, array, name, skip)

    array = cached(files, (len(files), *size, 3), np.uint8, cache_dir, name, fill)
    for row in () if skip else unreadable(array):
        decode(files[row], size)  # raises the error
    return array


def unreadable(array: np.ndarray) -> np.ndarray:
    """The rows of a cached array whose images could not be decoded."""
    path = bad_rows_path(array.filename)
    return np.array(json.loads(path.read_text()) if path.exists() else [], dtype=int)


def bad_rows_path(target: Path) -> Path:
    return Path(target).with_suffix(".bad.json")


def cached(
    files: Sequence[Path],
    shape: tuple[int, ...],
    dtype: type,
    cache_dir: Path,
    name: str,
    fill: Callable[[np.ndarray], list[int] | None],
    more: str = "",
) -> np.ndarray:
    """The array that fill(array) writes, memory-mapped; filled only if the cache is stale."""
    home = hashlib.sha256(str(files[0].parent.resolve()).encode()).hexdigest()[:8]
    stem = f"{name}_{'x'.join(map(str, shape[1:-1])) or 'rows'}_{home}_"
    target = cache_dir / f"{stem}{fingerprint(files, shape, more)}.npy"
    try:
        if not target.exists():
            cache_dir.mkdir(parents=True, exist_ok=True)
            with locked(cache_dir / f"{stem}lock"):
                if not target.exists():
                    build_cache(target, shape, dtype, stem, fill)
        return np.load(target, mmap_mode="c")  # "c": torch warns about read-only arrays
    except ValueError as error:
        raise UserError(
            f"{target} is damaged ({error}); delete it and it will be rebuilt"
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot write the image cache to {cache_dir} ({error.strerror or error}); "
            "name another folder with --cache_dir"
        ) from None


def reserve(path: Path) -> None:
    """Reserve all of a file's bytes, where possible: other processes may fill the disk."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise


def build_cache(
    target: Path,
    shape: tuple[int, ...],
    dtype: type,
    stem: str,
    fill: Callable[[np.ndarray], list[int] | None],
) -> None:
    """Fill a temporary file, then rename: a cache is complete or absent."""
    for left in target.parent.glob(f"{stem}*{UNFINISHED}") if fcntl else ():
        left.unlink(missing_ok=True)  # left by a killed run: locked() excludes others
    temporary = temporary_path(target.parent, stem)
    try:
        size, free = np.prod(shape) * dtype().nbytes, shutil.disk_usage(target.parent).free
        if size > free:  # writing to a memory-mapped file on a full disk raises SIGBUS
            raise OSError(None, f"{size / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free")
        array = np.lib.format.open_memmap(temporary, "w+", dtype, shape)
        reserve(temporary)
        bad_rows = fill(array)
        array.flush()
        if bad_rows:
            text = json.dumps(bad_rows).encode()
            write_atomically(bad_rows_path(target), lambda file: file.write(text))
        else:
            bad_rows_path(target).unlink(missing_ok=True)
        os.replace(temporary, target)
        for old in set(target.parent.glob(f"{stem}*.npy")) - {target}:
            old.unlink(missing_ok=True)
            bad_rows_path(old).unlink(missing_ok=True)
    finally:
        temporary.unlink(missing_ok=True)


def to_float(values: torch.Tensor) -> torch.Tensor:
    """uint8 images (..., H, W, 3) -> float (..., 3, H, W) in 0..1; floats are returned as is."""
    return values if values.is_floating_point() else values.movedim(-1, -3).float().div_(255)
