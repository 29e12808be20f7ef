"""scripts/ablate.py: its arms are what their names say, and take the same number of steps."""

import importlib.util
import json
import subprocess
import sys

import pytest
from helpers import ROOT, TINY

spec = importlib.util.spec_from_file_location("ablate", ROOT / "scripts" / "ablate.py")
ablate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ablate)


def settings(flags, epochs=10):
    line = ["--DR", "data", "--save_root", "run", *flags.split(), "--num_epoch", str(epochs)]
    return vars(parse("Trainer", line)[0])


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
    nets = SIZES | {"position_map", "sigmoid"}
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


def ablate_with(*flags):
    command = [sys.executable, ROOT / "scripts/ablate.py", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_scores_of_another_run_are_refused(dataset, tmp_path):
    folder = tmp_path / "best" / "seed0"
    folder.mkdir(parents=True)
    flags = f"{ablate.ARMS['best']} --seed 0".split()
    line = ["--DR", str(dataset), "--save_root", str(folder), *flags, "--num_epoch", "5"]
    args = vars(parse("Trainer", line)[0])
    (folder / "args.json").write_text(json.dumps(args))
    scores = {"psnr": 30.0, "psnr_pose_box": 20.0, "drift": 1.0}
    (folder / "scores.json").write_text(json.dumps({"mean": scores}))
    same = ["--DR", dataset, "--runs", tmp_path, "--seeds", 0, "--arms", "best"]
    done = ablate_with(*same, "--steps", 5)  # 16 frames, a step an epoch
    assert "| best | 30.00 | 20.00 | 1.00 |" in done.stdout, done.stderr
    done = ablate_with(*same, "--steps", 7)
    assert done.returncode == 1 and "--num_epoch 5, now it is 7" in done.stderr
    (folder / "args.json").write_text(json.dumps(args | {"warp": 0.1}))
    done = ablate_with(*same, "--steps", 5)
    assert done.returncode == 1 and "--warp 0.1, now it is 0.5" in done.stderr


def test_no_data_no_ablation(tmp_path):
    done = ablate_with("--DR", tmp_path, "--runs", tmp_path / "runs")
    assert done.returncode == 1 and done.stderr.startswith(f"error: --DR {tmp_path}")
