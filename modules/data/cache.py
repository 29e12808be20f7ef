"""Images decoded once: files -> one memory-mapped array, stored beside the data set.

A cache is named by a hash of the contents of its files. Beside the array lies its manifest: the
array's checksum, which is verified whenever it is opened, the rows that could not be decoded, and
for each data set that uses it the state of its files. Where that state has not changed the contents
have not either: the time of a file's last change (ctime) cannot be set, unlike mtime. Otherwise all
files are read and hashed again. A cache that is damaged is made again.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from ..errors import UserError, is_short_of_memory
from ..files import (
    UNFINISHED,
    fcntl,
    refuse_unless_plain,
    take_lock,
    temporary_path,
    write_atomically,
)

CACHE_VERSION = 2  # 1 knew files by size and mtime, and read 16-bit greyscale as white
CHUNK = 2**22
CLOCK = 2 * 10**9  # ns; a file changed so shortly before it was hashed may have changed again
TOO_MANY_OPEN = errno.EMFILE, errno.ENFILE
UNREADABLE = (
    UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError,
)  # fmt: skip


def decode(path: Path, size: tuple[int, int]) -> np.ndarray:
    """An image file -> uint8 (H, W, 3), resized."""
    try:
        refuse_unless_plain(path)
        with Image.open(path) as image:
            return resize(image, size)
    except UNREADABLE as error:
        if is_short_of_memory(error):  # the image may be whole
            raise MemoryError(str(error)) from None
        if getattr(error, "errno", None) in TOO_MANY_OPEN:
            raise
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path} cannot be read as an image ({reason}); replace it, or leave its clip out "
            "with Trainer.py --skip_bad_frames"
        ) from None


def resize(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """An image -> uint8 (H, W, 3), by PIL with bilinear interpolation."""
    if image.mode.startswith("I"):  # 16-bit greyscale: PIL would clip it to 255
        values = np.asarray(image).astype(np.float32) / 257
        image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
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


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """One process at a time. This saves work; safety comes from the rename at the end."""
    refuse_unless_plain(path)
    with open(path, "w") as file:
        # without locks two runs may both decode; the second replaces the first's cache
        if take_lock(file.fileno()) is False:
            print(f"another run is decoding {what} into {path.parent}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)  # free as soon as that process has ended
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

    def is_stale(bad):
        """Whether an image is readable that was not when the cache was made."""
        if not skip and bad:
            decode(files[bad[0]], size)  # raises the error, or it is readable now
        return any(decode_or_none(files[row], size) is not None for row in bad)

    shape = (len(files), *size, 3)
    return cached(files, shape, np.uint8, cache_dir, name, fill, "", workers, is_stale)


def unreadable(array: np.ndarray) -> np.ndarray:
    """The rows of a cached array whose images could not be decoded."""
    return np.array(manifest_of(array)["bad"], dtype=int)


def fingerprint(*arrays: np.ndarray) -> str:
    """A text that is equal for equal contents of the files that the arrays were made from."""
    digest = hashlib.sha256("".join(manifest_of(x)["contents"] for x in arrays).encode())
    return f"{len(arrays[0])} frames, {digest.hexdigest()[:16]}"


def fingerprints(**splits: Any) -> dict[str, str]:
    """What identifies the pictures of each split, where it is known."""
    known = {name: getattr(split, "fingerprint", None) for name, split in splits.items()}
    return {name: value for name, value in known.items() if value}


def manifest_of(array: np.ndarray) -> dict[str, Any]:
    found = read_manifest(Path(array.filename).with_suffix(".json"))
    if found is None:
        raise UserError(f"{array.filename} has lost its manifest; start again")
    return found


def cached(
    files: Sequence[Path],
    shape: tuple[int, ...],
    dtype: type,
    cache_dir: Path,
    name: str,
    fill: Callable[[np.ndarray], list[int] | None],
    more: str = "",
    workers: int = 4,
    is_stale: Callable[[list[int]], bool] = lambda bad: False,
) -> np.ndarray:
    """The array that fill(array) writes, memory-mapped; filled only if there is no valid cache."""
    cache = Cache(files, shape, dtype, Path(cache_dir), name, more, workers)
    try:
        if not cache.find(is_stale):
            cache.folder.mkdir(parents=True, exist_ok=True)
            with locked(cache.folder / f"{cache.stem}lock", name):
                if not cache.find(is_stale):
                    cache.build(fill)
        return np.load(cache.target, mmap_mode="c")  # "c": torch warns about read-only arrays
    except OSError as error:
        if is_short_of_memory(error) or error.errno in TOO_MANY_OPEN:
            raise
        raise UserError(
            f"cannot write the image cache to {cache_dir} ({error.strerror or error}); "
            "name another folder with --cache_dir"
        ) from None


# ---------------------------------------------------------------- one cache


class Cache:
    """The cache of some files: its array, and its manifest."""

    def __init__(
        self,
        files: Sequence[Path],
        shape: tuple[int, ...],
        dtype: type,
        folder: Path,
        name: str,
        more: str,
        workers: int,
    ):
        self.files, self.shape, self.dtype, self.folder = files, shape, np.dtype(dtype), folder
        self.name, self.workers = name, workers
        self.more = f"{CACHE_VERSION} {shape} {dtype} {more}"
        self.stem = f"{name}_{'x'.join(map(str, shape[1:-1])) or 'rows'}_"
        self.home = str(files[0].parent.resolve())
        self.state, self.newest = state_of(files)
        self.found = time.time_ns()

    @cached_property
    def contents(self) -> str:
        """A hash of all files' names and contents: all are read."""
        return hash_files(self.files, self.workers, self.name)

    @property
    def target(self) -> Path:
        key = hashlib.sha256(f"{self.more} {self.contents}".encode()).hexdigest()[:16]
        return self.folder / f"{self.stem}{key}.npy"

    def find(self, is_stale: Callable[[list[int]], bool]) -> bool:
        """Whether there is a valid cache; if files may have changed they are read to know it."""
        others = self.manifests()
        for manifest in others.values():
            if manifest["users"].get(self.home) == self.state and manifest["more"] == self.more:
                self.contents = manifest["contents"]
        manifest = others.get(self.target.with_suffix(".json")) if others else None
        if not manifest or not self.is_whole(manifest) or is_stale(manifest["bad"]):
            return False
        if manifest["users"].get(self.home) != self.state and self.is_settled():
            with contextlib.suppress(OSError, UserError):  # a read-only cache is used as it is
                self.register(manifest)
        return True

    def is_settled(self) -> bool:
        """Whether no file can have changed after it was hashed without a later time of change."""
        return bool(fcntl) and self.newest < self.found - CLOCK

    def is_whole(self, manifest: dict[str, Any]) -> bool:
        """Whether the array is as it was written: checksum, size and kind."""
        try:
            refuse_unless_plain(self.target)
            if checksum(self.target) != manifest["checksum"]:
                return False
            array = np.load(self.target, mmap_mode="r")
        except (OSError, ValueError):
            return False
        return array.shape == self.shape and array.dtype == self.dtype

    def build(self, fill: Callable[[np.ndarray], list[int] | None]) -> None:
        """Fill a temporary file, then rename: a cache is complete or absent."""
        if self.target.exists():
            print(f"{self.target} is damaged or out of date: it is made again")
        elif old := self.of_earlier_versions():
            print(f"{old[0]} is of an earlier version, without a checksum: it is made again")
        for left in self.folder.glob(f"{self.stem}*{UNFINISHED}") if fcntl else ():
            left.unlink(missing_ok=True)  # left by a killed run: locked() excludes others
        temporary = temporary_path(self.folder, self.stem)
        try:
            size = np.prod(self.shape) * self.dtype.itemsize
            free = shutil.disk_usage(self.folder).free
            if size > free:  # writing to a memory-mapped file on a full disk raises SIGBUS
                raise OSError(None, f"{size / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free")
            array = np.lib.format.open_memmap(temporary, "w+", self.dtype, self.shape)
            reserve(temporary)
            bad_rows = fill(array)
            array.flush()
            if state_of(self.files)[0] != self.state:
                raise UserError(f"files in {self.home} changed while they were read; start again")
            manifest = {"contents": self.contents, "more": self.more, "bad": bad_rows or []}
            self.register(manifest | {"checksum": checksum(temporary), "users": {}})
            os.replace(temporary, self.target)
        finally:
            temporary.unlink(missing_ok=True)
        for path in self.of_earlier_versions():
            path.unlink(missing_ok=True)
            path.with_suffix(".bad.json").unlink(missing_ok=True)

    # ------------------------------------------------------------ manifests

    def manifests(self) -> dict[Path, dict[str, Any]]:
        found = {path: read_manifest(path) for path in self.folder.glob(f"{self.stem}*.json")}
        return {path: manifest for path, manifest in found.items() if manifest}

    def register(self, manifest: dict[str, Any]) -> None:
        """Note that the data set uses this cache, and remove those that no data set uses."""
        mine = self.target.with_suffix(".json")
        for path, other in self.manifests().items():
            if path != mine and self.home in other["users"]:
                users = {k: v for k, v in other["users"].items() if k != self.home}
                if any(Path(folder).is_dir() for folder in users):
                    write_manifest(path, other | {"users": users})
                else:
                    path.with_suffix(".npy").unlink(missing_ok=True)
                    path.unlink(missing_ok=True)
        users = {k: v for k, v in manifest["users"].items() if Path(k).is_dir()}
        state = self.state if self.is_settled() else ""
        write_manifest(mine, manifest | {"users": users | {self.home: state}})

    def of_earlier_versions(self) -> list[Path]:
        """Arrays of version 1: their names had a hash of the folder's path."""
        home = hashlib.sha256(self.home.encode()).hexdigest()[:8]
        return sorted(self.folder.glob(f"{self.stem}{home}_*.npy"))


def state_of(files: Sequence[Path]) -> tuple[str, int]:
    """-> a hash of what the file system says about the files, and the newest time of change."""
    digest, newest = hashlib.sha256(), 0
    for path in files:
        try:
            found = path.stat()
        except OSError as error:
            digest.update(f"{path.name} {error.errno}\n".encode(errors="surrogateescape"))
            continue
        newest = max(newest, found.st_ctime_ns, found.st_mtime_ns)
        facts = found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
        digest.update(f"{path.parent.name}/{path.name} {facts}\n".encode(errors="surrogateescape"))
    return digest.hexdigest(), newest


def hash_files(files: Sequence[Path], workers: int, name: str) -> str:
    digest = hashlib.sha256()
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        hashes = pool.map(hash_file, files)
        try:
            for path, own in zip(files, tqdm(hashes, f"hashing {name}", len(files), disable=None)):
                place = f"{path.parent.name}/{path.name}".encode(errors="surrogateescape")
                digest.update(place + b"\n" + own)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return digest.hexdigest()


def hash_file(path: Path) -> bytes:
    """A hash of the contents; of what cannot be read, that."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to read a pipe would wait for ever
            return b"not a file"
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return b"unreadable"


def checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest, or None if it is not as it was written."""
    try:
        refuse_unless_plain(path)
        sealed = json.loads(path.read_bytes())
        text = json.dumps(sealed["manifest"], sort_keys=True)
        seal = hashlib.sha256(text.encode()).hexdigest()
        return sealed["manifest"] if seal == sealed["seal"] else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    text = json.dumps(manifest, sort_keys=True)
    sealed = {"manifest": manifest, "seal": hashlib.sha256(text.encode()).hexdigest()}
    write_atomically(path, lambda file: file.write(json.dumps(sealed).encode()))


def reserve(path: Path) -> None:
    """Reserve all of a file's bytes, where possible: other processes may fill the disk."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise


class Rows:
    """Rows of an array's file, read when they are asked for.

    A memory-mapped file that another process shortens ends this one by a signal; here it is an
    error. Only one thread at a time may read.
    """

    def __init__(self, array: np.ndarray):
        self.file, self.offset, self.name = open(array.filename, "rb"), array.offset, array.filename
        self.row, self.dtype, self.rows = array.shape[1:], array.dtype, len(array)
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, numbers: torch.Tensor) -> torch.Tensor:
        """The rows of these numbers, of any shape."""
        out = np.empty((numbers.numel(), *self.row), self.dtype)
        for row, number in zip(out, numbers.flatten().tolist()):
            self.file.seek(self.offset + number * row.nbytes)
            if self.file.readinto(memoryview(row).cast("B")) != row.nbytes:
                raise UserError(f"{self.name} was changed while it is in use; start again")
        return torch.from_numpy(out).unflatten(0, numbers.shape)


def to_float(values: torch.Tensor) -> torch.Tensor:
    """uint8 images (..., H, W, 3) -> float (..., 3, H, W) in 0..1; floats are returned as is."""
    return values if values.is_floating_point() else values.movedim(-1, -3).float().div_(255)
