"""What is shown never stops what runs: a figure, a page or a table that fails is left out."""

import importlib
import inspect
import os
import pkgutil
import sys

import pytest
import torch
from helpers import SHORT, assert_ended, load, settings_of
from matplotlib.figure import Figure

import modules.report
import Tester
from modules.cli.parser import parse
from modules.report import charts, pages, pictures
from modules.report.boundary import part, warn
from Trainer import train

# what runs the parts; the text of an epoch's line; trackers, see test_trackers.py
WORK = {"boundary", "monitor", "progress", "trackers"}
DRAW = "charts", "figures", "pictures", "distribution"  # modules with figures


def functions():
    """{code: function} of all functions and methods that draw, write pages or read run folders."""
    found = {}
    for module in pkgutil.iter_modules(modules.report.__path__):
        if module.name in WORK:
            continue
        module = importlib.import_module(f"modules.report.{module.name}")
        owners = [module, *(x for x in vars(module).values() if inspect.isclass(x))]
        for value in [x for owner in owners for x in vars(owner).values()]:
            value = inspect.unwrap(getattr(value, "fget", value))
            if inspect.isfunction(value) and value.__code__.co_filename == module.__file__:
                found[value.__code__] = value
    return {code: x for code, x in found.items() if x.__name__ != "write_run_page"}  # a part itself


def broken(*_, **__):
    raise RuntimeError("broken on purpose")


def called_by(run):
    """The code objects that a call of run() calls."""
    called = set()
    sys.setprofile(lambda frame, event, _: called.add(frame.f_code))
    try:
        run()
    finally:
        sys.setprofile(None)
    return called


@pytest.fixture
def flags(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)  # drawing takes longest
    monkeypatch.setattr(Figure, "draw_without_rendering", lambda _: None)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr("modules.evaluation.distribution.SAMPLES", 2)
    place = "--DR", dataset, "--save_root", tmp_path / "run"
    return *place, "--num_epoch", 1, *SHORT, "--store_visualization"


@pytest.mark.parametrize("plots", ["--no-plots", "--plots"])
def test_whatever_shows_a_training_may_fail(flags, monkeypatch, capsys, plots):
    trainer = train(settings_of([*flags, plots]))

    def show():
        trainer.monitor.write_page("training")
        trainer.finish()

    called, names = called_by(show), functions()
    names = [names[code] for code in names.keys() & called]
    if plots == "--plots":
        names = [x for x in names if x.__module__.endswith(DRAW)]
    assert len(names) > 15
    capsys.readouterr()
    for function in names:
        warn.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(function, "__code__", broken.__code__)
            show()
        assert "broken on purpose" in capsys.readouterr().out, function


@pytest.mark.parametrize("function", [pages.table, charts.Chart.as_json, pictures.to_uint8])
def test_a_training_whose_page_or_figures_fail_succeeds(
    call, flags, tmp_path, monkeypatch, function
):
    monkeypatch.setattr(function, "__code__", broken.__code__)
    done = call("Trainer", *flags)
    assert_ended(done)
    assert "warning: " in done.out and "broken on purpose" in done.out
    best, last = (load(tmp_path / "run", f"{name}.ckpt") for name in ("best_score", "last"))
    assert best["last_epoch"] == last["last_epoch"] == 1
    assert "in broken" in (tmp_path / "run/console.txt").read_text()  # the traceback


# the files that a test is for, and what a user reads first of them
DELIVERED = {"write_gif", "to_uint8", "write_test", "listed", "read_test", "read_json", "named"}


def test_whatever_shows_a_test_may_fail(flags, tmp_path, monkeypatch, capsys):
    """Each function of report/ raises in turn: gifs, submission.csv and scores.json are written."""
    train(settings_of([*flags, "--no-plots"]))
    run = tmp_path / "run"
    place = ["--DR", flags[1], "--save_root", run, "--ckpt_path", run / "best_score.ckpt"]
    more = ["--n_samples", 2, "--no_sanity"]
    settings, typed = parse("Tester", [str(x) for x in [*place, *more]])
    checkpoint = load(run, "best_score.ckpt")
    with torch.inference_mode():
        tester = Tester.Tester(settings, typed, torch.device("cpu"), checkpoint)
        predictions = tester.rollout()
        monkeypatch.setattr(tester, "rollout", lambda *_, **__: predictions)
        made, measure = [], Tester.Distribution
        monkeypatch.setattr(  # once: it takes longest
            Tester, "Distribution",
            lambda *a, **k: made[0] if made else made.append(measure(*a, **k)) or made[0],
        )  # fmt: skip
        called, names = called_by(tester.test), functions()
        names = [names[code] for code in names.keys() & called]
        names = [x for x in names if "rollouts" not in x.__module__ and x.__name__ not in DELIVERED]
        assert len(names) > 40
        capsys.readouterr()
        for function in names:
            warn.cache_clear()
            (run / "scores.json").unlink()
            with monkeypatch.context() as patch:
                patch.setattr(function, "__code__", broken.__code__)
                tester.test()
            assert "broken on purpose" in capsys.readouterr().out, function
            for name in ("scores.json", "submission.csv", "pred_seq0.gif"):
                assert (run / name).is_file(), function


def test_a_part_that_fails_is_named_once_with_its_cause(capsys):
    for _ in range(2):
        with part("the\x1b figure"):
            raise ValueError("of a\nkind")
    assert capsys.readouterr().out == "warning: the\\x1b figure is left out: ValueError: of a\n"
