"""SIGINT, SIGTERM and SIGUSR1: stop at once, or at the end of the current training step."""

import contextlib
import signal
import threading
from collections.abc import Iterator

STOPPING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
]


class Stopped(BaseException):
    """A signal asked the run to stop. Like KeyboardInterrupt it passes every `except Exception`."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class Listener:
    """Turns signals into Stopped: at once, or while `patient` when check() is called."""

    def __init__(self):
        self.patient, self.asked = False, None

    def __enter__(self) -> "Listener":
        self.patient, self.asked = False, None
        if threading.current_thread() is threading.main_thread():
            heard = [n for n in STOPPING if signal.getsignal(n) is not signal.SIG_IGN]  # nohup
            self.before = {number: signal.signal(number, self.hear) for number in heard}
        else:
            self.before = {}
        return self

    def __exit__(self, *_: object) -> None:
        self.patient, self.asked = False, None
        for number, handler in self.before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def hear(self, number: int, _: object) -> None:
        at_once = not self.patient or self.asked  # a second signal does not wait
        self.asked = number
        if at_once:
            raise Stopped(number)

    @contextlib.contextmanager
    def patiently(self) -> Iterator[None]:
        """Within, the first signal waits for check()."""
        self.patient = True
        try:
            yield
        finally:
            self.patient = False
        self.check()

    def check(self) -> None:
        if self.asked:
            raise Stopped(self.asked)


listener = Listener()
