"""Files that are complete or absent: written to a temporary file, synced, then renamed."""

import contextlib
import glob
import json
import math
import os
import secrets
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .errors import UserError

try:
    import fcntl
except ImportError:  # Windows: no advisory locks
    fcntl = None

UNFINISHED = ".partial"


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Call write(file) on a temporary file beside path, sync it and rename it to path."""
    path = Path(path)
    temporary = temporary_path(path.parent, f".{path.name}.")
    try:
        file = open(temporary, "xb")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    try:
        with file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        cause = error.__context__ or error  # torch.save raises a RuntimeError on a full disk
        reason = getattr(cause, "strerror", None) or str(error).partition("\n")[0]
        raise UserError(f"{path} cannot be written: {reason}") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, values: dict) -> None:
    """Numbers that are not finite become null: JSON has none."""
    text = json.dumps(finite(values), indent=1, allow_nan=False).encode()
    write_atomically(path, lambda file: file.write(text))


def write_csv(path: Path, rows: list[dict]) -> None:
    """Rows of dicts; floats are written with all their digits."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = [",".join(columns)] if rows else []
    text += [",".join("" if row.get(c) is None else repr(row[c]) for c in columns) for row in rows]
    write_atomically(path, lambda file: file.write(("\n".join(text) + "\n").encode()))


def write_npz(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays for np.load; unlike np.savez this stores no time of day: same arrays, same bytes."""

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                entry = zipfile.ZipInfo(f"{name}.npy")  # of 1980
                entry.compress_type = zipfile.ZIP_DEFLATED
                with archive.open(entry, "w", force_zip64=True) as part:
                    np.lib.format.write_array(part, array, allow_pickle=False)

    write_atomically(path, write)


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to fill, renamed to it at the end: `out` is complete or absent.

    What killed processes left of the same `out` is removed.
    """
    out = out.absolute()
    remove_partial_folders(out)
    partial = out.with_name(f"{out.name}{UNFINISHED}-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        with locked_folder(partial):
            yield partial
            partial.rename(out)
    finally:
        remove_folder(partial)


def is_new(out: Path) -> bool:
    """Whether there is nothing at `out`, or an empty folder."""
    return not out.exists() or (out.is_dir() and not any(out.iterdir()))


def remove_folder(folder: Path) -> None:
    """Unlike shutil.rmtree it opens one folder at a time: open files may have run out."""
    for place, folders, files in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            for name in files:
                os.remove(os.path.join(place, name))
            for name in folders:
                os.rmdir(os.path.join(place, name))
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def remove_partial_folders(out: Path) -> None:
    for left in out.parent.glob(f"{glob.escape(out.name)}{UNFINISHED}-*"):
        if left.name.rpartition("-")[2].isdecimal() and left.is_dir():
            with locked_folder(left) as free:
                if free:
                    remove_folder(left)


def finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: finite(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def temporary_path(folder: Path, prefix: str) -> Path:
    """A new name in the folder. Unlike tempfile's, a file opened there follows the umask."""
    return folder / f"{prefix}{secrets.token_hex(8)}{UNFINISHED}"


def sync_folder(folder: Path) -> None:
    """Make a rename durable, where folders can be synced."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def take_lock(handle: int) -> bool | None:
    """Lock an open file or folder: -> whether it was free; None where there are no locks.

    It is free again when the process has ended, however that was.
    """
    if not fcntl:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[bool | None]:
    """Hold the folder's lock: see take_lock."""
    handle = os.open(folder, os.O_RDONLY) if fcntl else -1
    try:
        yield take_lock(handle)
    finally:
        if fcntl:
            os.close(handle)
