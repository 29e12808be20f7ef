"""Runs to train and to test, several at once: what sweeps and ablation studies share.

Complete runs are skipped, interrupted ones resumed. All that is done for a run happens within one
boundary: a run that fails stops no other. What a run prints is in its folder, in sweep.log.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from modules.cli.parser import Parser
from modules.config import Compute, Training
from modules.config.fields import settings_from
from modules.data.pose import truth_folder
from modules.errors import UserError, one_line
from modules.labs import LABS
from modules.process.signals import listener
from modules.report.boundary import part
from modules.report.groups import cell
from modules.report.pages import PLACE
from modules.report.reading import files_of_test, read_json, read_run

PAUSE = 0.2  # seconds between two looks at the running jobs
LINES = 8  # of running jobs below the progress bar
TAIL = 4096  # bytes at the end of a log that hold its last line
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
SHARED = Compute.names() | {"cache_dir", "num_workers"}  # flags of a run that Tester gets as well


# ---------------------------------------------------------------- a run


class Job:
    """A run to train and to test."""

    def __init__(
        self,
        name: str,
        train: Sequence[str],  # flags of Trainer.py
        test: Sequence[str] = (),  # flags of Tester.py beside those that it shares with Trainer.py
        weights: str = "best_score.ckpt",  # what is tested
        data_counts: bool = False,  # scores on other data are refused
    ):
        self.name, self.train, self.test = name, train, test
        self.weights, self.data_counts = weights, data_counts
        self.settings = settings_of(train)
        if problem := self.settings.contradiction():
            raise UserError(f"{name}: {problem}")
        self.folder = Path(self.settings.save_root)
        self.log = self.folder / "sweep.log"
        self.process: subprocess.Popen | None = None  # while one is running

    def commands(self) -> list[list[str]]:
        """What is left to do: nothing, or training (which resumes) and testing."""
        if self.is_complete():
            self.check_same_run()
            return []
        settings = self.settings
        test = ["--DR", settings.DR, "--save_root", settings.save_root]
        test += ["--ckpt_path", str(self.folder / self.weights), *self.test]
        for name in sorted(settings.changed() & SHARED):
            value = getattr(settings, name)
            test += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        test += ["--no-plots"] * (not settings.plots)
        return [["Trainer.py", *self.train], ["Tester.py", *test]]

    def is_complete(self) -> bool:
        """Whether the last weights were tested after the last epoch. Without true frames there are
        no scores.
        """
        scored = not LABS[self.settings.lab].submits or truth_folder(self.settings.DR)
        tested = ("scores.json" if scored else "submission.csv") in files_of_test(self.folder)[0]
        has_epochs = (self.folder / "metrics.csv").is_file()
        return tested and not (has_epochs and self.epochs_done() < self.settings.num_epoch)

    def epochs_done(self) -> int:
        """Rows of metrics.csv, at most --num_epoch."""
        table = self.folder / "metrics.csv"
        rows = table.read_bytes().count(b"\n") - 1 if table.is_file() else 0
        return max(min(rows, self.settings.num_epoch), 0)

    def check_same_run(self) -> None:
        """Refuse the scores of other settings, and of other data where these count."""
        stored = read_json(self.folder / "args.json")
        wanted = json.loads(json.dumps(self.settings.as_dict()))  # lists for tuples, as stored
        flags = wanted.keys() - PLACE - {"precision"} | ({"DR"} if self.data_counts else set())
        for flag in sorted(flags):
            then, now = stored.get(flag, self.settings.default(flag)), wanted[flag]
            if then != now:
                raise UserError(
                    f"{self.folder} was trained with --{flag} {cell(then)}, now it is {cell(now)}: "
                    "remove it, or choose another folder for the runs"
                )

    def carry_out(self, commands: list[list[str]], environment: dict[str, str]) -> Iterator[bool]:
        """Train and test, step by step: yields as long as `process` is running."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for command in commands:
                self.process = start(command, self.log, environment)
                while (code := self.process.poll()) is None:
                    yield True
                if code:
                    raise UserError(self.why_failed(code))
        finally:
            stop([self.process])

    def why_failed(self, code: int) -> str:
        """What to print about a command that ended with this exit code."""
        if code < 0:
            return f"killed by {signal.Signals(-code).name} ({self.log})"
        return f"{self.last_line() or f'exit code {code}'} ({self.log})"

    def last_line(self) -> str:
        """Of the log."""
        with open(self.log, "rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - TAIL, 0))
            lines = file.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


def settings_of(flags: Sequence[str]) -> Training:
    """The settings of a command line of Trainer.py."""
    lab = [value for word, value in zip(flags, flags[1:]) if word == "--lab"] or ["pose"]
    parser = Parser("Trainer", lab[-1] if lab[-1] in LABS else "pose")
    return settings_from(parser.settings, parser.read(flags))


# ---------------------------------------------------------------- the queue


class Queue:
    """Trains and tests jobs; as many at once as there are slots, each a GPU's number or None."""

    def __init__(
        self,
        jobs: Sequence[Job],
        slots: Sequence[str | None] = (None,),
        ended: Callable[[Job, float], None] = lambda job, seconds: None,
    ):
        self.jobs, self.waiting, self.slots = jobs, list(jobs), list(slots)
        self.ended = ended  # called for each complete job with its seconds; 0: it was skipped
        self.size = len(self.slots)
        self.running: list[Running] = []
        self.failed: dict[str, str] = {}  # {name of the job: why}

    def carry_out(self) -> None:
        """Returns when all jobs have ended. A signal goes to the running ones, which save."""
        with listener.patiently(), Screen(self) as screen:
            try:
                while (self.running or self.waiting) and not listener.asked:
                    self.fill_slots()
                    for one in list(self.running):
                        self.advance(one)
                    screen.show()
                    time.sleep(PAUSE)
                if listener.asked:
                    say("stopping: every run saves first; the same command resumes it")
                    self.stop()
            finally:  # a second signal, or an error: the runs must not be left alone
                self.stop()

    def fill_slots(self) -> None:
        while self.waiting and self.slots:
            job = self.waiting.pop(0)
            with self.boundary(job):
                if commands := job.commands():
                    slot = self.slots.pop(0)
                    steps = job.carry_out(commands, self.environment(slot))
                    self.running.append(Running(job, slot, steps))
                else:
                    self.ended(job, 0)

    def advance(self, one: "Running") -> None:
        """Look whether the job's process has ended; then start its next one, or end the job."""
        with self.boundary(one.job):
            if next(one.steps, False):
                return  # it is running
            self.ended(one.job, time.perf_counter() - one.began)
        self.running.remove(one)
        self.slots.append(one.slot)

    @contextlib.contextmanager
    def boundary(self, job: Job) -> Iterator[None]:
        """All that is done for a job is done within: an error fails this job, and no other."""
        try:
            yield
        except Exception as error:
            self.failed[job.name] = why = reason(error)
            say(f"{job.name} failed: {why}")

    def environment(self, slot: str | None) -> dict[str, str]:
        """Of a job in this slot: its GPU, and its share of the CPU's cores."""
        found = dict(os.environ) | {"PYTHONUNBUFFERED": "1"}
        if slot is not None:
            found["CUDA_VISIBLE_DEVICES"] = slot
        if self.size > 1:
            found.setdefault("OMP_NUM_THREADS", str(max(os.cpu_count() // self.size, 1)))
        return found

    def stop(self) -> None:
        stop([one.job.process for one in self.running])
        self.running.clear()


@dataclass
class Running:
    """A job in its slot; `steps` is its carry_out()."""

    job: Job
    slot: str | None
    steps: Iterator[bool]
    began: float = field(default_factory=time.perf_counter)


class Screen:
    """On a terminal: the plan, then a bar over all epochs and the last line of each running job."""

    def __init__(self, queue: Queue):
        self.queue = queue
        self.done = {job: self.epochs_of(job) for job in queue.jobs}
        total = sum(job.settings.num_epoch for job in queue.jobs)
        initial = sum(self.done.values())
        options = {"disable": None, "leave": False, "dynamic_ncols": True}
        self.bar = tqdm(total=total, initial=initial, unit="epoch", smoothing=0, **options)
        count = 0 if self.bar.disable else min(queue.size, LINES)
        self.lines = [tqdm(bar_format="{desc}", **options) for _ in range(count)]

    def __enter__(self) -> "Screen":
        if not self.bar.disable:
            complete = sum(n == job.settings.num_epoch for job, n in self.done.items())
            begun = sum(n > 0 for n in self.done.values()) - complete
            left = self.bar.total - self.bar.n
            say(
                f"{len(self.done)} runs, {self.queue.size} at once: {complete} trained, {begun} "
                f"begun, {len(self.done) - complete - begun} new; {left} of {self.bar.total} "
                "epochs left, their time is known after the first"
            )
        return self

    def __exit__(self, *_: object) -> None:
        for bar in (*self.lines, self.bar):
            bar.close()

    def show(self) -> None:
        if self.bar.disable:
            return
        running = [one.job for one in self.queue.running]
        self.done |= {job: self.epochs_of(job) for job in self.done}
        ended = len(self.done) - len(running) - len(self.queue.waiting)
        failed = f", {len(self.queue.failed)} failed" if self.queue.failed else ""
        self.bar.set_description(f"{ended}/{len(self.done)} runs{failed}", refresh=False)
        self.bar.update(sum(self.done.values()) - self.bar.n)
        self.bar.refresh()
        texts = [f"  {job.name}: {self.line_of(job)}" for job in running]
        for line, text in zip_longest(self.lines, texts[: len(self.lines)], fillvalue=""):
            line.set_description_str(one_line(text))

    def epochs_of(self, job: Job) -> int:
        with part(f"the progress of {job.name}"):
            return job.epochs_done()
        return 0

    def line_of(self, job: Job) -> str:
        with part(f"the last line of {job.name}"):
            return job.last_line()
        return ""


def start(command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen:
    """Start a script of ours. It has a session of its own, so Ctrl-C reaches it through us only."""
    words = [sys.executable, str(ROOT / command[0]), *command[1:]]
    if log.exists() and not log.is_file():  # opening a pipe would wait for its reader
        raise UserError(f"{log} is not a file")
    with open(log, "ab") as file:
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment,
            start_new_session=True, preexec_fn=stop_with_parent if LIBC else None,
        )  # fmt: skip


def stop(processes: Iterable[subprocess.Popen | None]) -> None:
    """Stop what is running, all at once: a training saves first, which may take a while."""
    running = [process for process in processes if process and process.poll() is None]
    for process in running:
        process.send_signal(signal.SIGTERM)
    for process in running:
        process.wait()


def stop_with_parent() -> None:
    """In a new process: if its parent is killed, it receives SIGTERM; a training then saves."""
    pr_set_pdeathsig = 1
    LIBC.prctl(pr_set_pdeathsig, signal.SIGTERM)


def say(text: str) -> None:
    """Print beside the progress bar."""
    tqdm.write(one_line(text), file=sys.stderr)


def reason(error: Exception) -> str:
    """Why a job failed."""
    if isinstance(error, UserError):
        return str(error)
    place = f"{error.filename}: " if getattr(error, "filename", None) else ""
    return f"{place}{getattr(error, 'strerror', None) or f'{type(error).__name__}: {error}'}"


def raise_failures(queue: Queue) -> None:
    """An error that lists what failed, if anything did."""
    if queue.failed:
        lines = [f"  {name}: {why}" for name, why in queue.failed.items()]
        count = f"{len(queue.failed)} of {len(queue.jobs)} runs failed"
        raise UserError(f"{count}; the same command tries them again", *lines)


def print_score(job: Job, seconds: float) -> None:
    """A line for a job that was trained and tested now."""
    if seconds:
        psnr = read_run(job.folder).scores.get("psnr")
        score = "no true frames" if psnr is None else f"PSNR {psnr:.2f} dB"
        say(f"{job.name}: {score}, {seconds:.0f} s")
