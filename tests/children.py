"""Runs of the scripts in child processes, which may be killed.

A server imports torch once and forks a child for every command. The server itself computes
nothing: a process that has trained cannot be forked safely.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from itertools import count
from pathlib import Path
from types import SimpleNamespace


class Children:
    """The client: start("Trainer", flag, ..., at=[...]) -> a Child; see Faults."""

    def __init__(self, folder):
        self.folder, self.numbers = Path(folder), count()
        command = [sys.executable, __file__]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.server = subprocess.Popen(command, **pipes)

    def ask(self, **order):
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(self, script, *flags, **more):
        out = str(self.folder / str(next(self.numbers)))
        order = {"script": script, "flags": [str(flag) for flag in flags], "out": out} | more
        return Child(self, self.ask(do="start", order=order), Path(out))

    def run(self, script, *flags, **more):
        return self.start(script, *flags, **more).wait()

    def close(self):
        self.server.stdin.close()
        self.server.wait()


class Child:
    def __init__(self, family, pid, out):
        self.family, self.pid, self.out = family, pid, out

    def kill(self, number):
        os.kill(self.pid, number)  # a zombie until wait(), so the id is not used again

    def wait(self):
        """-> code (negative: killed by that signal; None: stopped), out, err, places passed."""
        code = self.family.ask(do="wait", pid=self.pid)
        texts = (Path(f"{self.out}.{name}").read_text() for name in ("out", "err", "places"))
        out, err, places = texts
        return SimpleNamespace(code=code, out=out, err=err, places=places.splitlines())


# ---------------------------------------------------------------- the server


def serve():
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    import torch._dynamo  # noqa: F401  an optimizer imports it; slow
    from conftest import MAINS

    for line in sys.stdin:
        asked = json.loads(line)
        answer = start(MAINS, **asked["order"]) if asked["do"] == "start" else None
        print(json.dumps(answer or wait(asked["pid"])), flush=True)


def wait(pid):
    _, status = os.waitpid(pid, os.WUNTRACED)
    return None if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)


def start(mains, script, flags, out, plots=False, **faults):
    if pid := os.fork():
        return pid
    code = 99
    try:
        files = [os.open(f"{out}.{x}", os.O_CREAT | os.O_WRONLY) for x in ("out", "err", "places")]
        os.dup2(files[0], 1)
        os.dup2(files[1], 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        Faults(sys.modules["Trainer"], files[2], **faults)
        flags = flags if plots else ["--no-plots", *flags]
        code = call(mains[script], [f"{script}.py", *flags])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def call(main, argv):
    from modules.cli.entry import run

    sys.argv = argv
    try:
        run(main)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0
    return 0


class Faults:
    """Logs the places that a child passes, and sends it a signal at some of them.

    `at` is a list of (place, nth, signal's name). Places: save F (before a rename), half (of a
    checkpoint is written), saved F, step, stepped, frame (of a validation), picture F (decoded).
    `poison`: the steps whose batch is NaN. `most_skipped`: non-finite
    steps in a row that end a run.
    """

    def __init__(self, trainer, log, at=(), poison=(), most_skipped=None):
        self.log, self.at, self.poison, self.passed = log, at, poison, {}
        self.lock = threading.Lock()
        self.watch_saves()
        self.watch_training(trainer)
        if most_skipped:
            from modules.runs import stuck

            stuck.MOST_SKIPPED = most_skipped

    def pass_by(self, place, name=""):
        os.write(self.log, f"{place} {name}".strip().encode() + b"\n")
        with self.lock:  # pictures are decoded by threads
            nth = self.passed[place] = self.passed.get(place, 0) + 1
        for where, when, what in self.at:
            if (where, when) in ((place, nth), (f"{place} {name}", 1)):
                os.kill(os.getpid(), getattr(signal, what))

    def watch_saves(self):
        import torch

        replace, save = os.replace, torch.save

        def watched_replace(source, target):
            self.pass_by("save", Path(target).name)
            replace(source, target)
            self.pass_by("saved", Path(target).name)

        def watched_save(content, file):
            save(content, file)
            file.flush()
            size = file.tell()
            file.truncate(size // 2)
            self.pass_by("half")
            file.seek(0)
            file.truncate()
            save(content, file)

        os.replace, torch.save = watched_replace, watched_save

    def watch_training(self, trainer):
        from modules.data import cache

        one_step, roll_out, decode = (
            trainer.Trainer.training_one_step,
            trainer.roll_out,
            cache.decode,
        )

        def training_one_step(run, frames, *more):
            self.pass_by("step")
            poisoned = self.passed["step"] in self.poison
            result = one_step(run, frames * float("nan") if poisoned else frames, *more)
            self.pass_by("stepped")
            return result

        def watched_roll_out(*given):
            *given, progress = given

            def watched(frames):
                for frame in progress(frames):
                    self.pass_by("frame")
                    yield frame

            return roll_out(*given, watched)

        def watched_decode(path, size):
            self.pass_by("picture", Path(path).name)
            return decode(path, size)

        trainer.Trainer.training_one_step = training_one_step
        trainer.roll_out, cache.decode = watched_roll_out, watched_decode


if __name__ == "__main__":
    serve()
