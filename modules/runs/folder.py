"""The run folder: one training process at a time, and what a run writes into it."""

import contextlib
import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import UserError
from ..files import UNFINISHED, locked_folder

FUTURES = ("futures.png", "best_of_n.png", "rank_histogram.png")
MOVING = "futures.gif"
LATENTS = ("kl_over_time.png", "kl_per_dimension.png", "traversal.png")
CONSOLE, TEST, SCHEDULE, FACTS = "console.txt", "test.json", "schedule.csv", "facts.json"
VAL_CLIP, VAL_FUTURES, TEST_FUTURES = "val_clip.json", "val_futures.json", "test_futures.json"

# Everything that a run writes, by its path in the run folder; # is a number, * any text. No other
# file is ever moved, replaced or removed.
CHECKPOINTS = ["last.ckpt", "best_score.ckpt", "epoch=#.ckpt"]
CURVE_NAMES = "loss mse mse_sum kl beta tfr lr psnr ssim elbo curves psnr_per_frame".split()
WRITTEN = [*CHECKPOINTS, "args.json", "metrics.csv", FACTS, "distribution.json", "report.html"]
WRITTEN += ["val.gif", "val_strip.png", "val_frames.csv", "schedules.png"]
WRITTEN += [VAL_CLIP, VAL_FUTURES, CONSOLE, SCHEDULE, "visualization/epoch=#.gif"]
WRITTEN += [f"plots/{name}.{kind}" for name in CURVE_NAMES for kind in ("png", "pdf")]
WRITTEN += [f"plots/{name}" for name in (*FUTURES, *LATENTS, MOVING)]
WRITTEN += ["events.out.tfevents.*", "wandb/*run*", "wandb/debug*.log"]
TESTED = ["scores.json", "submission.csv", "psnr_per_frame.png", "strip#.png"]
TESTED += ["pred_seq#.gif", "pred_seq#.mp4"]
TESTED += [f"seq#/{name}.gif" for name in ("pose", "pred_seq", "ground_truth")]
TESTED += [*FUTURES, *LATENTS, MOVING, "test_clip#.json", TEST_FUTURES, TEST]


def is_one_of(name: str, patterns: Iterable[str]) -> bool:
    """Whether patterns of the list above have this path."""
    texts = (re.escape(x).replace(r"\#", r"\d+").replace(r"\*", "[^/]*") for x in patterns)
    return any(re.fullmatch(text, name, re.ASCII) for text in texts)


def files_of_run(folder: Path, patterns: Iterable[str] = (*WRITTEN, *TESTED)) -> list[Path]:
    """What is in the folder of these, by default all that Trainer and Tester write."""
    paths = (path for x in patterns for path in folder.glob(x.replace("#", "[0-9]*")))
    return [p for p in paths if is_one_of(p.relative_to(folder).as_posix(), patterns)]


def has_run(folder: Path) -> bool:
    """Whether a run has finished an epoch here, or saved a checkpoint."""
    return bool(files_of_run(folder, [*CHECKPOINTS, "metrics.csv"]))


def page_folder(path: str | Path, flag: str) -> Path:
    """Create the folder of a page about runs: not that of a run, which has a page of its own."""
    if has_run(Path(path)):
        raise UserError(f"{flag} {path} is a run folder, its page would be lost; name another")
    return run_folder(path, flag)


def clip_file(i: int) -> str:
    """The file of a test clip's frames."""
    return f"test_clip{i}.json"


def run_folder(path: str | Path, flag: str = "--save_root") -> Path:
    """Create the folder of a run or a page; an error if it cannot be written to."""
    folder = Path(path)
    if not os.fspath(path):
        raise UserError(f"{flag} is empty")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)  # another run may do the same
    except OSError as error:
        raise UserError(f"{flag} {folder} cannot be written to: {error.strerror}") from None
    return folder


def trained(folder: Path) -> str:
    """What a run has done: a hash of its metrics.csv; a text without contents for no run."""
    path = folder / "metrics.csv"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


@contextlib.contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Keep other runs out of the folder, and delete unfinished files of killed ones."""
    with locked_folder(folder) as free:
        refuse_unless(free, "run is training in", folder)
        remove_unfinished(folder)
        yield


@contextlib.contextmanager
def folder_for_test(folder: Path) -> Iterator[Path]:
    """A folder within this one for the files of a test; what a killed test left is removed."""
    place = folder / f".test{UNFINISHED}"
    run_folder(place)
    with locked_folder(place) as free:
        refuse_unless(free, "test is writing into", folder)
        remove_unfinished(folder, TEST)
        try:
            for left in place.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def refuse_unless(free: bool | None, what: str, folder: Path) -> None:
    if free is False:
        raise UserError(
            f"another {what} --save_root {folder}; wait until it ends, stop it, or use another "
            "folder"
        )


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Remove the temporary files of killed processes: not those of runs in folders below."""
    temporary = f".{name}.{16 * '[0-9a-f]'}{UNFINISHED}"
    for place in ("", "plots/", "visualization/"):
        for path in folder.glob(place + temporary):
            path.unlink(missing_ok=True)


def move_aside(folder: Path) -> Path | None:
    """Move the files of an earlier run to before-N/ -> that folder, or None if there was no run."""
    if not has_run(folder):
        return None
    aside = next(p for i in itertools.count(1) if not (p := folder / f"before-{i}").exists())
    for path in files_of_run(folder):
        target = aside / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        if path.parent != folder:
            with contextlib.suppress(OSError):  # another file is in it
                path.parent.rmdir()
    return aside
