"""Files that are complete or absent: written to a temporary file, synced, then renamed."""

import json
import math
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

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
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    except RuntimeError as error:  # torch.save raises it on a full disk
        raise UserError(f"{path} cannot be written: {str(error).splitlines()[0]}") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, values: dict) -> None:
    """Numbers that are not finite become null: JSON has none."""
    text = json.dumps(finite(values), indent=1, allow_nan=False).encode()
    write_atomically(path, lambda file: file.write(text))


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
