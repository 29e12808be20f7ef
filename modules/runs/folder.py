"""The run folder: one training process at a time, and what a run writes into it."""

import contextlib
import itertools
import os
from pathlib import Path

from ..errors import UserError
from ..files import UNFINISHED, fcntl

PICTURES = ["plots", "visualization"]
WRITTEN = ["*.ckpt", "args.json", "metrics.csv", "report.html", *PICTURES]
WRITTEN += ["val.gif", "val_strip.png", "val_frames.csv", "events.out.tfevents.*", "wandb"]
TESTED = "scores.json submission.csv psnr_per_frame.png strip*.png pred_seq*.gif seq*".split()


def run_folder(path, flag="--save_root"):
    """Make the folder that a run, or a page, goes to, or say why it cannot be written to."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)  # another run may be at it too
    except OSError as error:
        raise UserError(f"{flag} {folder} cannot be written to: {error.strerror}") from None
    return folder


@contextlib.contextmanager
def occupied(folder):
    """Within, no other run trains into the folder. What a killed one left unfinished is cleared."""
    handle = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        if fcntl:
            lock(handle, folder)
        for left in unfinished(folder):
            left.unlink(missing_ok=True)
        yield
    finally:
        if fcntl:
            os.close(handle)


def unfinished(folder):
    """Temporary files of a run in this folder: not of runs in folders below, nor of a Tester."""
    yield from itertools.chain(*(folder.glob(f".{name}.*{UNFINISHED}") for name in WRITTEN))
    yield from itertools.chain(*((folder / p).glob(f".*{UNFINISHED}") for p in PICTURES))


def lock(handle, folder):
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"another run is training in --save_root {folder}; wait for its end, stop it, or "
            "give this one a folder of its own"
        ) from None
    except OSError:  # a file system without locks
        return


def move_aside(folder):
    """Put what an earlier run wrote into before-N/ -> that folder, or None if there was no run."""
    if not any(folder.glob("*.ckpt")):
        return None
    aside = next(p for i in itertools.count(1) if not (p := folder / f"before-{i}").exists())
    aside.mkdir()
    for pattern in [*WRITTEN, *TESTED]:
        for path in folder.glob(pattern):
            path.rename(aside / path.name)
    return aside
