"""The run folder: one training process at a time, and what a run writes into it."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError
from ..files import UNFINISHED, fcntl

PICTURES = ["plots", "visualization"]
FUTURES = ("futures.png", "best_of_n.png", "rank_histogram.png")
LATENTS = ("kl_over_time.png", "kl_per_dimension.png", "traversal.png")
CONSOLE = "console.txt"
VAL_CLIP, VAL_FUTURES, TEST_FUTURES = "val_clip.json", "val_futures.json", "test_futures.json"
WRITTEN = ["*.ckpt", "args.json", "metrics.csv", "distribution.json", "report.html", *PICTURES]
WRITTEN += ["val.gif", "val_strip.png", "val_frames.csv", "events.out.tfevents.*", "wandb"]
WRITTEN += [VAL_CLIP, VAL_FUTURES, CONSOLE]
TESTED = ["scores.json", "submission.csv", "psnr_per_frame.png"]
TESTED += ["strip[0-9]*.png", "pred_seq[0-9]*.gif", "pred_seq[0-9]*.mp4", "seq[0-9]*"]
TESTED += [*FUTURES, *LATENTS, "test_clip[0-9]*.json", TEST_FUTURES]


def clip_file(i: int) -> str:
    """The file of a test clip's frames."""
    return f"test_clip{i}.json"


def run_folder(path: str | Path, flag: str = "--save_root") -> Path:
    """Create the folder of a run or a page; an error says why it cannot be written to."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)  # another run may do the same
    except OSError as error:
        raise UserError(f"{flag} {folder} cannot be written to: {error.strerror}") from None
    return folder


@contextlib.contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Keep other runs out of the folder, and delete unfinished files of killed ones."""
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


def unfinished(folder: Path) -> Iterator[Path]:
    """Temporary files of a run in this folder: not of runs in folders below, nor of a Tester."""
    yield from itertools.chain(*(folder.glob(f".{name}.*{UNFINISHED}") for name in WRITTEN))
    yield from itertools.chain(*((folder / p).glob(f".*{UNFINISHED}") for p in PICTURES))


def lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"another run is training in --save_root {folder}; wait until it ends, stop it, or "
            "use another folder"
        ) from None
    except OSError:  # a file system without locks
        return


def move_aside(folder: Path) -> Path | None:
    """Move the files of an earlier run to before-N/ -> that folder, or None if there was no run."""
    if not any(folder.glob("*.ckpt")):
        return None
    aside = next(p for i in itertools.count(1) if not (p := folder / f"before-{i}").exists())
    aside.mkdir()
    for pattern in [*WRITTEN, *TESTED]:
        for path in folder.glob(pattern):
            path.rename(aside / path.name)
    return aside
