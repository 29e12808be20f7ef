"""SIGINT, SIGTERM and SIGUSR1: stop at once, or patiently, where the step at hand is worth it."""

import contextlib
import signal
import threading

STOPPING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
]


class Stopped(BaseException):
    """A signal asked the run to stop. Like KeyboardInterrupt it passes every `except Exception`."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number
        self.name = signal.Signals(number).name


class Listener:
    """Turns signals into Stopped: at once, or while `patient` when check() is called."""

    def __init__(self):
        self.patient, self.asked = False, None

    def __enter__(self):
        self.patient, self.asked = False, None
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.hear) for number in STOPPING}
        else:
            self.before = {}
        return self

    def __exit__(self, *_):
        self.patient, self.asked = False, None
        for number, handler in self.before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def hear(self, number, _):
        at_once = not self.patient or self.asked  # a second one does not wait
        self.asked = number
        if at_once:
            raise Stopped(number)

    @contextlib.contextmanager
    def patiently(self):
        """Within, the first signal waits for check()."""
        self.patient = True
        try:
            yield
        finally:
            self.patient = False
        self.check()

    def check(self):
        if self.asked:
            raise Stopped(self.asked)


listener = Listener()
