"""Where a run was made: for args.json."""

import datetime
import platform
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


def take_over(folder: Path, settings: Training, console: Console, resumed: bool) -> None:
    """Make the folder that of this run."""
    if not resumed and (aside := move_aside(folder)):
        print(f"the previous run in {folder} is now in {aside}")
    console.keep(folder)
    write_json(folder / "args.json", settings.as_dict() | {"environment": environment()})


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
