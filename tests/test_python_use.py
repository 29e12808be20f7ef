"""Use from Python: the README's code and the notebook are executed as they stand."""

import os
import re
import subprocess
import sys

import pytest
import torch
from helpers import ROOT, SHORT, make_dataset, settings_of

from modules.config import PoseTraining
from modules.errors import UserError
from modules.models import load_model
from Trainer import train

README = (ROOT / "README.md").read_text()


def python_blocks():
    section = README.split("## Use from Python")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def run(code, folder, **more):
    env = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"} | more
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readmes_code_trains_loads_and_rolls_out(tmp_path):
    """In any working directory, on data of its own with the names that the README has."""
    make_dataset(tmp_path / "data" / "toy", train=32, val=12)
    code = "\n".join(python_blocks()).replace("num_epoch=10", "num_epoch=1, plots=False")
    assert all(f" {name}(" in code for name in ("load_model", "roll_out", "sample_futures"))
    small = f"{', '.join(f'{k[2:]}={v}' for k, v in zip(SHORT[0:12:2], SHORT[1:12:2]))}"
    code = code.replace("num_epoch=1,", f"num_epoch=1, {small}, device='cpu',")
    code = code.replace("video_len=630", "video_len=12, size=(12, 16)")
    run(f"{code}\nassert futures.shape == (20, *frames.shape) == (20, 1, 12, 3, 12, 16)", tmp_path)
    assert (tmp_path / "runs" / "mine" / "report.html").exists()


@pytest.fixture
def notebook():
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    return nbformat.read(ROOT / "scripts" / "quickstart.ipynb", 4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(notebook):
    """The number of pictures in the outputs of every cell."""
    cells = code_cells(notebook)
    return [sum("image/png" in x.get("data", ()) for x in cell.outputs) for cell in cells]


def test_the_notebook_is_committed_with_the_outputs_of_one_run(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    assert (ROOT / "scripts" / "quickstart.ipynb").stat().st_size < 1.5e6
    text = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    scores = re.findall(r"^(prediction|copy-first-frame baseline): PSNR ([\d.]+) dB", text, re.M)
    assert float(dict(scores)["prediction"]) > 10 + float(dict(scores)["copy-first-frame baseline"])


def test_the_notebook_shows_its_pictures_wherever_it_runs(notebook, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    committed, place = pictures(notebook), tmp_path / "elsewhere"
    place.mkdir()
    data = make_dataset(tmp_path / "data", train=16, val=12)
    (sizes,) = [x for x in notebook.cells if "parameters" in x.metadata.get("tags", ())]
    names = "data, run, epochs, length"
    assert sizes.source.startswith("data, run = ")
    sizes.source = f"{names} = Path({str(data)!r}), Path({str(tmp_path / 'run')!r}), 2, 12"
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own: inline
    path = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    monkeypatch.setenv("PYTHONPATH", path)
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    where = {"metadata": {"path": str(place)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=where).execute()
    assert pictures(notebook) == committed and sum(committed) >= 4
    assert not [*place.iterdir()]


def test_an_import_leaves_matplotlibs_backend_alone(tmp_path):
    code = "import sys, Trainer, Tester, modules.report.charts"
    run(f"{code}\nassert 'matplotlib.pyplot' not in sys.modules", tmp_path)


def test_training_from_settings_is_that_of_the_command_line(dataset, tmp_path, call, no_plots):
    flags = ["--num_epoch", "1", *SHORT]
    assert call("Trainer", "--DR", dataset, "--save_root", tmp_path / "a", *flags).code == 0
    train(settings_of(["--DR", dataset, "--save_root", tmp_path / "b", "--no-plots", *flags]))
    a, b = (load_model(tmp_path / name / "last.ckpt", "cpu").state_dict() for name in "ab")
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_settings_that_contradict_each_other_are_refused(tmp_path):
    with pytest.raises(UserError, match="--lr_min 0.5 is above --lr 0.2"):
        train(PoseTraining(DR=tmp_path, save_root=tmp_path, lr=0.2, lr_min=0.5))
    with pytest.raises(UserError, match="required: DR and save_root"):
        train(PoseTraining())
