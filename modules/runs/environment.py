"""Where a run was made: for args.json."""

import datetime
import hashlib
import platform
import re
import subprocess
from pathlib import Path

import numpy
import torch

from ..config import Training
from ..files import write_json
from .console import Console
from .folder import move_aside


def environment() -> dict[str, str]:
    """Time, commit, machine and versions."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": commit(Path(__file__).resolve().parents[2]),
        "machine": f"{platform.node()}, {platform.system()} {platform.machine()}",
        "processor": f"{processor()}, {torch.get_num_threads()} threads",
        "gpus": ", ".join(gpus),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }


def write_settings(folder: Path, settings: Training) -> None:
    """args.json: every setting, and where it runs."""
    values = settings.as_dict() | {"environment": environment()}
    write_json(folder / "args.json", values)


def other_threads(folder: Path) -> str:
    """A note for a run that is resumed on another number of threads; empty where it is not."""
    args = folder / "args.json"
    before = re.search(
        r'(\d+) threads"', args.read_text(errors="replace") if args.is_file() else ""
    )
    now = str(torch.get_num_threads())
    if not before or before[1] == now:
        return ""
    return (
        f"note: the run had {before[1]} threads, it has {now} now: its results are not "
        f"bit-identical to those of an uninterrupted run; OMP_NUM_THREADS={before[1]} keeps them"
    )


def take_over(folder: Path, settings: Training, console: Console, resumed: bool) -> None:
    """Make the folder that of this run."""
    if not resumed and (aside := move_aside(folder)):
        print(f"the previous run in {folder} is now in {aside}")
    console.keep(folder)
    if resumed and (note := other_threads(folder)):
        print(note)
    write_settings(folder, settings)


def code() -> str:
    """What identifies the source files of this package."""
    root = Path(__file__).resolve().parents[2]
    files = sorted([*root.glob("*.py"), *(root / "modules").rglob("*.py")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def commit(folder: Path) -> str:
    """The checkout's commit, "+" where files differ from it; empty outside a repository."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            [*command, "--dirty=+"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def processor() -> str:
    """The CPU's name, where the system gives one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
