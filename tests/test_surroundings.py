"""Names with odd characters, and synthetic data that is stopped half-way."""

import signal
import subprocess
import sys

import pytest
from helpers import ROOT
from matplotlib.figure import Figure

from modules.errors import on_plot, one_line


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mred", "\u202eabc", "\udcff", "x" * 10**5])
def test_a_name_is_one_printable_line(name):
    shown = one_line(name)
    assert shown.isprintable() and len(shown) < 3000 and shown.encode()
    assert one_line("a $x$ \\frac é 模型") == "a $x$ \\frac é 模型"


@pytest.mark.parametrize("name", ["$x$", "\\frac{a}", "_hidden", "a$b"])
def test_a_plot_shows_a_name_as_it_is(name):
    axes = Figure().subplots()
    axes.plot([0, 1], label=on_plot(name))
    (text,) = axes.legend().get_texts()
    plain, is_math = text._preprocess_math(text.get_text())
    assert not is_math and plain.strip() == name


# ---------------------------------------------------------------- half-done synthetic data


def hear_interrupts():
    """In a child process: the tests themselves may have been started in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


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


@pytest.mark.parametrize(("mode", "code"), [("worker", 1), ("SIGINT", 130), ("SIGKILL", -9)])
def test_toy_data_that_is_stopped_leaves_nothing_for_ever(draw_slowly, tmp_path, mode, code):
    (tmp_path / "out.partial-mine").mkdir()
    done = draw_slowly(mode)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    if mode == "SIGKILL":
        assert len(names_in(tmp_path)) == 2
        assert draw_slowly().returncode == 0
        assert sorted(names_in(tmp_path)) == ["out", "out.partial-mine"]
    else:
        assert names_in(tmp_path) == ["out.partial-mine"]
        assert len(done.stderr.strip().splitlines()) == 1
