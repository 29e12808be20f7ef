"""Fixtures: the scripts called as a user calls them, and the table of faults that were tried."""

import sys
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from children import Children
from helpers import TINY, make_dataset, settings_of

import Tester
import Trainer
from modules.cli.entry import run as run_script

torch.set_num_threads(1)  # tiny nets: a second thread only waits for the first
SCRIPTS = {"Trainer": Trainer, "Tester": Tester}


@pytest.fixture
def no_plots():
    """`call` passes --no-plots: drawing takes longest, and few tests look at a plot."""


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "data")


@pytest.fixture
def args():
    """The template's default settings, on tiny nets."""
    return settings_of([*TINY, "--precision", "float32"])


@pytest.fixture
def call(monkeypatch, capsys, request):
    """call("Trainer", flag, ...) -> code, out, err: the script in this process, as from a shell."""

    def run(script, *flags):
        more = ["--no-plots"] if "no_plots" in request.fixturenames else []
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, flags), *more])
        code = 0
        try:
            run_script(SCRIPTS[script].main)
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        if isinstance(code, str):  # sys.exit(text) prints it and ends with 1
            code, err = 1, err + code
        return SimpleNamespace(code=code or 0, out=out, err=err)

    return run


@pytest.fixture(scope="session")
def children(tmp_path_factory):
    """children.run("Trainer", flag, ...): the script in a process of its own; see children.py."""
    family = Children(tmp_path_factory.mktemp("children"))
    yield family
    family.close()


# ---------------------------------------------------------------- faults tried


@pytest.fixture
def fault(request):
    """fault("what was done", "what happened", times): a row of the table at the end."""

    def tried(what, happened, times=1):
        request.node.user_properties.append(("fault", (what, happened, times)))

    return tried


def pytest_terminal_summary(terminalreporter):
    """The faults that were tried by tests that passed, as the table of docs/reliability.md."""
    rows = Counter()
    for done in terminalreporter.stats.get("passed", []):
        for what, happened, times in (row for name, row in done.user_properties if name == "fault"):
            rows[what, happened] += times
    if rows:
        lines = ["| fault | times | what happened |", "|---|---|---|"]
        lines += [f"| {what} | {times} | {happened} |" for (what, happened), times in rows.items()]
        terminalreporter.write_line("\n" + "\n".join(lines))
