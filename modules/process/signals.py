"""Signals stop a run at once, or at the end of the current training step.

They are SIGINT, SIGTERM, SIGUSR1 and SIGHUP: its terminal was closed.
"""

import contextlib
import signal
from collections.abc import Iterator

STOPPING = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
    if hasattr(signal, name)
]


class Stopped(BaseException):
    """A signal asked the run to stop. Like KeyboardInterrupt it passes every `except Exception`."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class Listener:
    """Turns signals into Stopped: at once, or while `patient` when check() is called."""

    def __init__(self):
        self.patient, self.all_wait, self.asked = False, False, None

    def __enter__(self) -> "Listener":
        self.asked, self.before = None, {}
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or & in a shell script
                self.before[number] = signal.signal(number, self.hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        self.asked = None

    def hear(self, number: int, _: object) -> None:
        at_once = not self.patient or (self.asked and not self.all_wait)
        self.asked = number
        if at_once:
            raise Stopped(number)

    @contextlib.contextmanager
    def patiently(self, all_wait: bool = False) -> Iterator[None]:
        """Within, the first signal waits for check(); a second one only if `all_wait`."""
        self.patient, self.all_wait = True, all_wait
        try:
            yield
        finally:
            self.patient = self.all_wait = False
        self.check()

    def check(self) -> None:
        if self.asked:
            raise Stopped(self.asked)


listener = Listener()
