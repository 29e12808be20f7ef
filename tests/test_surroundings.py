"""A script takes its process as it finds it: streams, signals, the encoding, names of folders."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from multiprocessing import active_children

import pytest
from helpers import ROOT, SHORT, files_below

sys.path.insert(0, str(ROOT / "scripts"))

from modules.cli.signals import STOPPING, Listener
from modules.cli.start import Steady
from modules.text import on_plot, one_line, without_escapes

SCRIPTS = ["Trainer.py", "Tester.py"]
SCRIPTS += [f"scripts/{x}.py" for x in ("compare", "make_toy_data", "sweep", "bench")]
SCRIPTS += ["scripts/make_dataset.py", "scripts/transfer.py"]
EARLY = """
import os, signal, sys
sys.argv = [sys.argv[1], "--help"]
import runpy, builtins
class Stop(BaseException): pass
real = builtins.__import__
def slow(name, *args, **more):
    if name.partition(".")[0] in ("torch", "numpy", "matplotlib"):
        os.write(9, f"{signal.getsignal(signal.SIGINT)!r} {os.environ['MPLBACKEND']}".encode())
        os._exit(0)
    return real(name, *args, **more)
builtins.__import__ = slow
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def hear_interrupts():
    """In a child process: the tests themselves may have been started in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_ready_before_its_slow_imports(script, fault):
    """Without its folder in sys.path, with a backend that is missing; Ctrl-C ends it at once."""
    env = os.environ | {"PYTHONSAFEPATH": "1", "MPLBACKEND": "module://missing"}
    done = subprocess.run(
        ["bash", "-c", 'exec 9>&1 >/dev/null; exec "$@"', "_", sys.executable, "-c", EARLY,
         str(ROOT / script)],
        env=env, capture_output=True, text=True, cwd="/", preexec_fn=hear_interrupts,
    )  # fmt: skip
    assert "SIG_DFL" in done.stdout and done.stdout.endswith("Agg"), done.stderr
    fault("a script without its folder in `sys.path`, with a missing `MPLBACKEND`", "starts")


@pytest.mark.parametrize("closing", ["2>&-", "1>&-", "0<&-", "0<&- 1>&- 2>&-", "| true"])
def test_a_script_goes_on_without_its_streams(tmp_path, closing, fault):
    code = (
        "from modules.cli.start import start; start(); import sys, time; time.sleep(0.3)\n"
        "for i in range(20000): print(i); print(i, file=sys.stderr)\n"
        f"open({str(tmp_path / 'end')!r}, 'w').close()"
    )
    text = f'set -o pipefail; {sys.executable} -c "$0" 2>{tmp_path / "err"} {closing}'
    done = subprocess.run(["bash", "-c", text, code], cwd=ROOT, stdout=subprocess.DEVNULL)
    assert done.returncode == 0 and files_below(tmp_path)[0] == "end"
    fault("standard input, output or error closed; the reader of a pipe leaves", "goes on")


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_that_the_parent_ignored_stays_ignored(number, fault):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with Listener():
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
    fault("SIGINT, SIGTERM or SIGUSR1 that the parent ignored", "stays ignored")


# ---------------------------------------------------------------- names

ODD = ["a\nb", "a\r\x1b[31mred", "\u202eabc", os.fsdecode(b"\xff\xfe"), "\x9b31m", "tab\there"]


@pytest.mark.parametrize("name", ODD)
def test_a_name_is_one_line_that_no_terminal_obeys(name):
    shown = one_line(f"<{name}>")
    assert shown.isprintable() and shown.startswith("<") and shown.endswith(">")
    assert len(shown.splitlines()) == 1 and shown.encode()
    assert one_line("a $x$ \\frac é 模型") == "a $x$ \\frac é 模型"


def test_a_long_text_is_cut():
    assert len(one_line("x" * 10**6)) < 3000


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_stream_of_any_encoding_takes_any_name(encoding):
    raw = io.BytesIO()
    stream = Steady(io.TextIOWrapper(raw, encoding), escapes=False)
    for name in ODD:
        stream.write(f"{name} ±é\n")
    stream.flush()
    assert b"\x1b" not in raw.getvalue() and raw.getvalue().count(b"\n") == len(ODD) + 1
    assert without_escapes("a\tb\n") == "a\tb\n"


MATHS = ["$x$", "\\frac{a}", "$\\frac{", "_hidden", "__", "a$b", "\\$"]


@pytest.mark.parametrize("name", [*MATHS, *ODD])
def test_a_plot_shows_a_name_as_it_is(name, fault):
    from modules.report.figures import plt

    figure, axes = plt.subplots()
    axes.plot([0, 1], label=on_plot(name))
    axes.set_title(on_plot(name))
    legend = axes.legend()
    figure.canvas.draw()
    (text,) = legend.get_texts()
    plain, is_math = text._preprocess_math(text.get_text())
    plt.close(figure)
    assert not is_math and plain.strip() == one_line(name).strip()
    fault("names with `$`, `\\frac`, a first `_` in a plot", "drawn as they are")


def test_a_folder_whose_name_is_no_text_is_trained_into(dataset, tmp_path, fault):
    """On a terminal that knows ASCII only."""
    run = tmp_path / os.fsdecode(b"r\xff $\\frac$ \x1b[31m\n_")
    words = sys.executable, ROOT / "Trainer.py", "--DR", dataset, "--save_root", run, *SHORT
    env = os.environ | {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    more = {"env": env, "capture_output": True, "text": True}
    done = subprocess.run([*words, "--num_epoch", "1", "--no-plots"], **more)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "\\udcff" in done.stdout and "\x1b" not in done.stdout
    assert {"report.html", "console.txt", "last.ckpt"} <= set(files_below(run))
    assert json.loads((run / "args.json").read_text())["save_root"] == str(run)
    fault(
        "a folder name with a line end, escape codes, no UTF-8; an ASCII terminal", "trained into"
    )


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("name", ODD)
def test_an_error_is_one_line_whatever_it_names(call, tmp_path, name, fault):
    done = call("Trainer", "--DR", tmp_path / name, "--save_root", tmp_path / "run")
    assert done.code == 1 and len(done.err.splitlines()) == 1 and done.err.isprintable()
    fault("an error that names such a folder", "one line")


# ---------------------------------------------------------------- half-done synthetic data


@pytest.fixture
def draw_slowly(tmp_path):
    """draw_slowly(mode) -> a process that draws a data set; it kills itself, or a worker."""

    def start(mode=""):
        code = (
            f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r})\n"
            "import os, signal, make_toy_data as toy\n"
            f"mode, sys.argv = {mode!r}, 'toy out --height 32 --workers 2'.split()\n"
            "sys.argv += ['--train_frames', '90']\n"
            "toy.CLIP, main = 8, os.getpid()\n"
            "draw = toy.draw_chunk\n"
            "def draw_chunk(chunk):\n"
            "    first = chunk[3] == 0 and chunk[2][0].name == 'train_img'\n"
            "    if first and mode == 'worker': os.kill(os.getpid(), signal.SIGKILL)\n"
            "    if first and mode: os.kill(main, getattr(signal, mode))\n"
            "    return draw(chunk)\n"
            "toy.draw_chunk = draw_chunk\n"
            "toy.run(toy.main)\n"
        )
        words = [sys.executable, "-c", code]
        more = {"cwd": tmp_path, "preexec_fn": hear_interrupts, "timeout": 100}
        return subprocess.run(words, capture_output=True, text=True, **more)

    return start


def names_in(folder):
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize(
    ("mode", "code"), [("worker", 1), ("SIGTERM", 143), ("SIGINT", 130), ("SIGKILL", -9)]
)
def test_toy_data_that_is_stopped_leaves_nothing_for_ever(draw_slowly, tmp_path, mode, code, fault):
    (tmp_path / "out.partial-mine").mkdir()
    done = draw_slowly(mode)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    if mode == "SIGKILL":
        assert len(names_in(tmp_path)) == 2
        assert draw_slowly().returncode == 0
        assert sorted(names_in(tmp_path)) == ["out", "out.partial-mine"]
        fault("`make_toy_data.py` killed", "the same command removes what it left")
    else:
        assert names_in(tmp_path) == ["out.partial-mine"]
        assert len(done.stderr.strip().splitlines()) == 1
        fault("`make_toy_data.py` stopped, or a worker of it killed", "nothing left behind")


STORM = """
import os, random, signal, sys, threading, time
import make_toy_data as toy
signal.signal(signal.SIGINT, signal.SIG_DFL)  # as a script of its own does
toy.CLIP, rng = 8, random.Random(int(sys.argv[1]))
def storm():
    time.sleep(rng.uniform(0, 0.4))
    for _ in range(40):
        children = [*toy.active_children()]
        victims = [(os.getpid(), signal.SIGINT), (os.getpid(), signal.SIGTERM)]
        victims += [(child.pid, signal.SIGKILL) for child in children[:1]]
        try:
            os.kill(*rng.choice(victims))
        except ProcessLookupError:
            pass
        time.sleep(rng.uniform(0, 0.02))
threading.Thread(target=storm, daemon=True).start()
sys.argv = ["toy", "out", "--height", "32", "--workers", "2", "--train_frames", "600"]
toy.run(toy.main)
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_signals_ends_the_synthetic_data_and_hangs_nothing(tmp_path, seed, fault):
    env = os.environ | {"PYTHONPATH": str(ROOT / "scripts"), "OMP_NUM_THREADS": "1"}
    more = {"cwd": tmp_path, "preexec_fn": hear_interrupts, "timeout": 60, "env": env}
    words = [sys.executable, "-c", STORM, str(seed)]
    done = subprocess.run(words, capture_output=True, text=True, **more)
    assert done.returncode in (0, 1, 130, 143, -2, -15), done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 1, done.stderr
    assert names_in(tmp_path) in ([], ["out"]) or done.returncode < 0
    fault("storms of SIGINT, SIGTERM, and SIGKILL of workers, on `make_toy_data.py`", "ended")


@pytest.mark.parametrize("possible", [0, 1])
def test_threads_that_cannot_be_started_end_the_synthetic_data(monkeypatch, possible, fault):
    """Those of the pool of workers: it would wait for ever."""
    import make_toy_data

    start, started = threading.Thread.start, []

    def start_some(thread):
        if len(started) == possible:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        make_toy_data.draw_all(abs, [1, 2], 3, 1)
    assert not active_children()
    fault("no thread for the workers of `make_toy_data.py`", "one line")
