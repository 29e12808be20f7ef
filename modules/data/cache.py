"""Images decoded once: files -> one memory-mapped array, stored beside the data set.

A cache is named after its files: the name, size, mtime and ctime of each. Beside the array lies a
json file with its checksum, which is verified when it is opened.
"""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from ..errors import UserError
from ..files import fcntl, take_lock, temporary_path, write_json

UNREADABLE = (
    UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError,
)  # fmt: skip


class Cached(NamedTuple):
    """Rows on disk."""

    array: np.ndarray  # memory-mapped
    checksum: str


# ---------------------------------------------------------------- images


def decode(path: Path, size: tuple[int, int]) -> np.ndarray:
    """An image file -> uint8 (H, W, 3), resized."""
    try:
        with Image.open(path) as image:
            return resize(image, size)
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read as an image ({reason})") from None


def resize(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """An image -> uint8 (H, W, 3), by PIL with bilinear interpolation."""
    if image.mode.startswith("I"):  # 16-bit greyscale: PIL would clip it to 255
        values = np.asarray(image).astype(np.float32) / 257
        image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    return np.asarray(image.convert("RGB").resize((size[1], size[0]), Image.BILINEAR))


def decode_all(
    files: Sequence[Path], size: tuple[int, int], workers: int, name: str
) -> Iterator[np.ndarray]:
    """Yield every image, decoded by several threads (PIL decodes outside Python's lock)."""
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        images = pool.map(decode, files, [size] * len(files))
        try:
            yield from tqdm(images, f"reading {name}", len(files), disable=None)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def cached_images(
    files: Sequence[Path], size: tuple[int, int], cache_dir: Path, name: str, workers: int
) -> Cached:
    """uint8 (N, H, W, 3) of these files; an unreadable one is an error."""
    shape = (len(files), *size, 3)
    images = functools.partial(decode_all, files, size, workers, name)
    return cached(files, shape, np.uint8, cache_dir, name, images)


# ---------------------------------------------------------------- one cache


def cached(
    files: Sequence[Path],
    shape: tuple[int, ...],
    dtype: type,
    cache_dir: Path,
    name: str,
    rows: Callable[[], Iterator[np.ndarray]],
    facts: str = "",
) -> Cached:
    """The array of these rows; they are made only if there is no valid cache.

    `facts` is what they depend on beside the files.
    """
    home = short_hash(files[0].parent.resolve())
    stem = f"{name}_{'x'.join(map(str, shape[1:-1])) or 'rows'}_{home}_"
    key = short_hash(shape, np.dtype(dtype), facts, *map(file_state, files))
    target, dtype = Path(cache_dir) / f"{stem}{key}.npy", np.dtype(dtype)
    try:
        if stored := load_cache(target, shape, dtype):
            return stored
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.with_name(f"{stem}lock"), name):
            return load_cache(target, shape, dtype) or build(target, stem, shape, dtype, rows())
    except OSError as error:
        raise UserError(
            f"cannot write the image cache to {cache_dir} ({error.strerror or error}); "
            "name another folder with --cache_dir"
        ) from None


def short_hash(*facts: Any) -> str:
    text = "\n".join(map(str, facts)).encode(errors="surrogateescape")
    return hashlib.sha256(text).hexdigest()[:16]


def file_state(path: Path) -> str:
    """What changes when the contents of a file do: unlike mtime, ctime cannot be set."""
    facts = path.stat() if path.exists() else None
    times = facts and (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    return f"{path.parent.name}/{path.name} {times}"


def load_cache(target: Path, shape: tuple[int, ...], dtype: np.dtype) -> Cached | None:
    """A cache that is complete and undamaged, else None."""
    try:
        facts = json.loads(target.with_suffix(".json").read_text())
        array = np.lib.format.open_memmap(target, "c")  # "c": torch warns of read-only arrays
        same = array.shape == shape and array.dtype == dtype
        if same and hashlib.sha256(array).hexdigest() == facts["checksum"]:
            return Cached(array, facts["checksum"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


@contextlib.contextmanager
def locked(path: Path, name: str) -> Iterator[None]:
    """One process at a time. This saves work; safety comes from the rename at the end."""
    with open(path, "w") as file:
        if take_lock(file.fileno()) is False:  # None: no locks, so two runs may both decode
            print(f"another run is decoding {name} into {path.parent}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)  # free as soon as that process has ended
        yield


def build(
    target: Path, stem: str, shape: tuple[int, ...], dtype: np.dtype, rows: Iterator
) -> Cached:
    """Write a temporary file, then rename it: a cache is complete or absent."""
    if target.exists():
        print(f"{target} is damaged: it is made again")
    temporary, facts = temporary_path(target.parent, stem), target.with_suffix(".json")
    try:
        with open(temporary, "wb") as file, contextlib.closing(rows):
            checksum = write_rows(file, rows, shape, dtype)
        write_json(facts, {"checksum": checksum})
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    for old in target.parent.glob(f"{stem}*.*"):  # of earlier contents, or left by a killed run
        if old not in (target, facts):
            with contextlib.suppress(OSError):
                old.unlink()
    return Cached(np.lib.format.open_memmap(target, "c"), checksum)


def write_rows(
    file: BinaryIO, rows: Iterator[np.ndarray], shape: tuple[int, ...], dtype: np.dtype
) -> str:
    """Write an npy file -> the checksum of its rows."""
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row)
        file.write(row)
    return digest.hexdigest()


# ---------------------------------------------------------------- what identifies the data


def fingerprint(*parts: Cached) -> str:
    """A text that is equal for equal arrays."""
    return f"{len(parts[0].array)} frames, {short_hash(*(x.checksum for x in parts))}"


def fingerprints(**splits: Any) -> dict[str, str]:
    """What identifies the pictures of each split, where it is known."""
    known = {name: getattr(split, "fingerprint", None) for name, split in splits.items()}
    return {name: value for name, value in known.items() if value}


def to_float(values: torch.Tensor) -> torch.Tensor:
    """uint8 images (..., H, W, 3) -> float (..., 3, H, W) in 0..1; floats are returned as is."""
    return values if values.is_floating_point() else values.movedim(-1, -3).float().div_(255)
