"""scripts/ablate.py: its arms are what their names say, and take the same number of steps."""

import importlib.util
import json
import subprocess
import sys

import pytest
from conftest import ROOT, TINY

from modules import options

spec = importlib.util.spec_from_file_location("ablate", ROOT / "scripts" / "ablate.py")
ablate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ablate)


def settings(flags, epochs=10):
    line = ["--DR", "data", "--save_root", "run", *flags.split(), "--num_epoch", str(epochs)]
    return vars(options.parse("Trainer", line)[0])


@pytest.mark.parametrize("name", ablate.ARMS)
def test_every_arm_is_a_command_that_trainer_takes(name):
    assert settings(ablate.ARMS[name])["DR"] == "data"


@pytest.mark.parametrize("name", ablate.LEFT_OUT)
def test_leaving_a_means_out_changes_what_it_sets_and_nothing_else(name):
    best, other = settings(ablate.ARMS["best"]), settings(ablate.ARMS[name])
    changed = {flag for flag in best if best[flag] != other[flag]}
    means = ablate.MEANS[name.removeprefix("best - ")].split()
    meant = {word[2:] for word in means if word.startswith("--")}
    assert changed
    assert changed <= meant | {"grad_clip", "tfr_d_step", "kl_anneal_type"}


def test_the_courses_nets_stay_as_they_are_where_only_training_is_better():
    plain, better = (settings(ablate.ARMS[name]) for name in list(ablate.COMPARED)[0::2])
    nets = options.SIZES | {"position_map", "sigmoid"}
    assert {plain[flag] == better[flag] for flag in nets if flag in plain} == {True}


@pytest.mark.parametrize(("name", "steps"), [("course's defaults", 79), ("best", 32)])
def test_epochs_make_about_the_asked_steps(name, steps):
    epochs = ablate.epochs_for(480, ablate.ARMS[name], frames=2520)
    assert epochs == round(480 / steps)
    assert ablate.epochs_for(1, ablate.ARMS[name], frames=2520) == 1


def test_an_arm_is_trained_tested_and_not_done_twice(dataset, tmp_path):
    short = " ".join([*TINY, "--train_vi_len 4 --val_vi_len 6 --device cpu"])
    code = (
        "import sys; sys.path.insert(0, 'scripts'); import ablate;"
        f"ablate.ARMS.update({{'best': {short!r}}}); ablate.main()"
    )
    flags = ["--DR", dataset, "--runs", tmp_path, "--steps", "1", "--seeds", "3", "--arms", "best"]
    command = [sys.executable, "-c", code, *map(str, flags)]
    tables, written = [], []
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        tables.append(done.stdout)
        written.append((tmp_path / "best/seed3/last.ckpt").stat().st_mtime_ns)
    scores = json.loads((tmp_path / "best/seed3/scores.json").read_text())["mean"]
    assert f"| best | {scores['psnr']:.2f} | {scores['psnr_pose_box']:.2f} |" in tables[0]
    assert tables[0] == tables[1] and written[0] == written[1]
