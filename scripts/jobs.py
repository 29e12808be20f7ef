"""Runs to train and to test, several at once: what sweeps and ablation studies share.

Complete runs are skipped, interrupted ones resumed. A run that fails does not stop the others.
What a run prints is in its folder, in sweep.log.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from modules.cli.parser import Parser
from modules.config import Compute, Training
from modules.config.fields import settings_from
from modules.data.pose import truth_folder
from modules.errors import UserError
from modules.labs import LABS
from modules.process.signals import listener
from modules.report.groups import cell
from modules.report.pages import PLACE
from modules.report.reading import files_of_test, read_json, read_run

PAUSE = 0.2  # seconds between two looks at the running jobs
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

    def commands(self) -> list[list[str]]:
        """What is left to do: nothing, or training (which resumes) and testing."""
        if self.is_complete():
            self.check_same_run()
            return []
        settings = self.settings
        test = ["--DR", settings.DR, "--save_root", settings.save_root]
        test += ["--ckpt_path", str(self.folder / self.weights), *self.test]
        for name in sorted(settings.changed() & SHARED):
            test += [f"--{name}", str(getattr(settings, name))]
        test += ["--no-plots"] * (not settings.plots)
        return [["Trainer.py", *self.train], ["Tester.py", *test]]

    def is_complete(self) -> bool:
        """Whether the last weights were tested after the last epoch. Without true frames there are
        no scores.
        """
        scored = not LABS[self.settings.lab].submits or truth_folder(self.settings.DR)
        tested = ("scores.json" if scored else "submission.csv") in files_of_test(self.folder)[0]
        has_epochs = (self.folder / "metrics.csv").exists()
        return tested and not (has_epochs and self.epochs_done() < self.settings.num_epoch)

    def epochs_done(self) -> int:
        """Rows of metrics.csv, at most --num_epoch."""
        try:
            rows = (self.folder / "metrics.csv").read_bytes().count(b"\n") - 1
        except FileNotFoundError:
            return 0
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

    def why_failed(self, code: int) -> str:
        """What to print about a command that ended with this exit code."""
        if code < 0:
            return f"killed by {signal.Signals(-code).name} ({self.log})"
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else f'exit code {code}'} ({self.log})"


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
        done, total = self.epochs_done(), sum(job.settings.num_epoch for job in self.jobs)
        bar = tqdm(total=total, initial=done, unit="epoch", disable=None, leave=False, smoothing=0)
        told = False
        with bar, hangups_heard(), listener.patiently():
            try:
                while self.running or (self.waiting and not listener.asked):
                    self.fill_slots()
                    if listener.asked and not told:
                        told = True
                        say("stopping: every run saves first; the same command resumes it")
                        self.signal(listener.asked)
                    self.poll()
                    self.show(bar)
            finally:  # a second signal, or an error: the runs must not be left alone
                self.signal(signal.SIGINT)
                for one in self.running:
                    one.process.wait()

    def fill_slots(self) -> None:
        while self.waiting and self.slots and not listener.asked:
            job = self.waiting.pop(0)
            try:
                commands = job.commands()
            except UserError as error:
                self.fail(job, str(error))
                continue
            if commands:
                job.folder.mkdir(parents=True, exist_ok=True)
                environment = self.environment(slot := self.slots.pop(0))
                self.running.append(Running(job, commands, slot, environment))
            else:
                self.ended(job, 0)

    def environment(self, slot: str | None) -> dict[str, str]:
        """Of a job in this slot: its GPU, and its share of the CPU's cores."""
        found = dict(os.environ) | {"PYTHONUNBUFFERED": "1"}
        if slot is not None:
            found["CUDA_VISIBLE_DEVICES"] = slot
        if self.size > 1:
            found.setdefault("OMP_NUM_THREADS", str(max(os.cpu_count() // self.size, 1)))
        return found

    def poll(self) -> None:
        """Start the next command of the jobs whose last one has ended."""
        time.sleep(PAUSE)
        for one in list(self.running):
            code = one.process.poll()
            if code is None:
                continue
            if code == 0 and one.commands and not listener.asked:
                one.start()
                continue
            self.running.remove(one)
            self.slots.append(one.slot)
            if code and not listener.asked:
                self.fail(one.job, one.job.why_failed(code))
            elif code == 0 and not one.commands:
                self.ended(one.job, time.perf_counter() - one.began)

    def fail(self, job: Job, why: str) -> None:
        self.failed[job.name] = why
        say(f"{job.name} failed: {why}")

    def signal(self, number: int) -> None:
        for one in self.running:
            one.process.send_signal(number)

    def epochs_done(self) -> int:
        return sum(job.epochs_done() for job in self.jobs)

    def show(self, bar: tqdm) -> None:
        if not bar.disable:
            names = [one.job.name for one in self.running]
            left = len(names) + len(self.waiting)
            bar.set_description(f"{len(self.jobs) - left}/{len(self.jobs)} runs", refresh=False)
            many = f"{len(names)} running"  # their names would not fit on a line
            bar.set_postfix_str(many if len(names) > 3 else ", ".join(names), refresh=False)
            bar.update(self.epochs_done() - bar.n)
            bar.refresh()


class Running:
    """A job whose commands are carried out in a process of its own."""

    def __init__(
        self, job: Job, commands: list[list[str]], slot: str | None, environment: dict[str, str]
    ):
        self.job, self.commands, self.slot = job, commands, slot
        self.environment, self.began = environment, time.perf_counter()
        self.start()

    def start(self) -> None:
        self.process = start(self.commands.pop(0), self.job.log, self.environment)


def start(command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen:
    """Start a script of ours. It has a session of its own, so Ctrl-C reaches it through us only."""
    words = [sys.executable, str(ROOT / command[0]), *command[1:]]
    with open(log, "ab") as file:
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment,
            start_new_session=True, preexec_fn=stop_with_parent if LIBC else None,
        )  # fmt: skip


def stop_with_parent() -> None:
    """In a new process: if its parent is killed, it receives SIGTERM; a training then saves."""
    pr_set_pdeathsig = 1
    LIBC.prctl(pr_set_pdeathsig, signal.SIGTERM)


@contextlib.contextmanager
def hangups_heard() -> Iterator[None]:
    """Closing the terminal stops the runs as Ctrl-C does, unless nohup was asked to prevent it."""
    number = getattr(signal, "SIGHUP", None)
    heard = number and signal.getsignal(number) is signal.SIG_DFL
    if heard:
        signal.signal(number, listener.hear)
    try:
        yield
    finally:
        if heard:
            signal.signal(number, signal.SIG_DFL)


def say(text: str) -> None:
    """Print beside the progress bar."""
    tqdm.write(text, file=sys.stderr)


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
