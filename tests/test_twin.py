"""The deterministic twin (--no-latent): training, what is reported of it, and Tester --twin."""

import contextlib
import io
import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from helpers import (
    ROBOT,
    SHORT,
    TINY,
    assert_close,
    load,
    make_dataset,
    make_model,
    make_robot_data,
    make_trainer,
    random_clips,
    settings_of,
)
from robot_helpers import make_robot, random_robot_clips

from modules.evaluation import Latents, sample_futures
from modules.report.pages import FUTURES, LATENTS
from Trainer import Trainer, train

LABS = ["pose", "robot"]
CLIPS = {"pose": random_clips, "robot": random_robot_clips}
FLAGS = {"pose": SHORT, "robot": ROBOT}
GIVEN = {"pose": 1, "robot": 2}
OF_Z = {"pose": ("Gaussian_Predictor",), "robot": ("posterior",)}


def make_twin(lab, **changes):
    return (make_model if lab == "pose" else make_robot)(latent=False, **changes)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{lab: data, and runs of one epoch: the model and its twin}, with what the twin printed."""
    base, runs = tmp_path_factory.mktemp("twins"), {}
    for lab in LABS:
        make = make_dataset if lab == "pose" else make_robot_data
        run = SimpleNamespace(data=make(base / lab / "data"), lab=lab)
        for name, more in (("model", ["--latent"]), ("twin", ["--no-latent"])):
            folder, printed = base / lab / name, io.StringIO()
            places = ["--DR", run.data, "--save_root", folder, "--num_epoch", 1, "--no-plots"]
            with contextlib.redirect_stdout(printed):
                trainer = train(settings_of([*places, *FLAGS[lab], *more], lab=lab))
            kept = SimpleNamespace(folder=folder, ckpt=folder / "best_score.ckpt")
            kept.printed, kept.trainer = printed.getvalue(), trainer
            setattr(run, name, kept)
        runs[lab] = run
    return runs


@pytest.fixture(params=LABS)
def run(runs, request):
    return runs[request.param]


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("forced", [True, False])
@pytest.mark.parametrize("lab", LABS)
def test_nothing_of_the_posterior_is_trained(tmp_path, lab, forced):
    sizes = TINY if lab == "pose" else ROBOT
    clips, more = CLIPS[lab](2), {"latent": False, "lr": 0.01}
    trainer = make_trainer(tmp_path, sizes=sizes, lab=lab, val_set=[*zip(*clips)], **more)
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    trainer.model.train()
    trainer.training_one_step(*clips, forced)
    for name, p in trainer.model.named_parameters():
        of_z = name.startswith(OF_Z[lab])
        assert (p.grad is None) == of_z
        assert not of_z or torch.equal(p, before[name])
    changed = [n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])]
    assert len(changed) > 10


@pytest.mark.parametrize("lab", LABS)
def test_it_has_the_nets_of_the_model(lab):
    model = (make_model if lab == "pose" else make_robot)()
    shapes = [{k: v.shape for k, v in x.state_dict().items()} for x in (model, make_twin(lab))]
    assert shapes[0] == shapes[1]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("posterior", ["current", "previous", None])
@torch.no_grad()
def test_no_noise_reaches_its_predictions(posterior):
    lab = "pose" if posterior else "robot"
    twin = make_twin(lab, **({"posterior": posterior} if posterior else {}))
    frames, conditions = CLIPS[lab](2)
    zeros = torch.zeros(2, frames.shape[1] - 1, *twin.z_shape)
    for forced in (True, False):
        plain, mu, logvar = twin(frames, conditions, forced, noise=zeros)
        assert mu is None and logvar is None
        assert torch.equal(plain, twin(frames, conditions, forced, noise=zeros + 9)[0])
        assert torch.equal(plain, twin(frames, conditions, forced)[0])
    given = GIVEN[lab]
    futures = sample_futures(twin, frames[:, :given], conditions, 0, range(3))
    assert torch.isfinite(futures).all()
    assert_close(futures[1:], futures[:1].expand(2, *futures.shape[1:]))
    forced = twin(frames, conditions, True)[0][:, given - 1]  # z is 0 in a rollout, too
    assert_close(futures[0, :, given], forced)


@pytest.mark.parametrize("lab", LABS)
def test_it_sees_the_batches_that_the_model_sees(runs, tmp_path, monkeypatch, lab):
    seen, one_step = [], Trainer.training_one_step

    def record(self, frames, conditions, *more):
        seen.append((frames.clone(), conditions.clone(), *more))
        return one_step(self, frames, conditions, *more)

    monkeypatch.setattr(Trainer, "training_one_step", record)
    line = "--tfr 0.5 --ema 0.5 "
    if lab == "pose":
        line += "--tfr_coin batch --batch_size 1 --shuffle --warp 0.5"
    else:
        line += "--random_offset --standardise"
    starts, batches = [], []
    for name in ("--latent", "--no-latent"):
        places = ["--DR", runs[lab].data, "--save_root", tmp_path / name, "--num_epoch", 1]
        settings = settings_of([*places, "--no-plots", *FLAGS[lab], *line.split(), name], lab=lab)
        train(settings)
        batches.append([*seen])
        seen.clear()
        trainer = make_trainer(tmp_path, name, sizes=FLAGS[lab], lab=lab)
        starts.append(trainer.model.state_dict())
    assert len(batches[0]) == len(batches[1]) > 1
    for (a, b, *forced), (c, d, *forced_too) in zip(*batches):
        assert torch.equal(a, c) and torch.equal(b, d) and forced == forced_too
    assert all(torch.equal(value, starts[1][name]) for name, value in starts[0].items())


# ---------------------------------------------------------------- what is reported of it


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("lab", LABS)
def test_its_bound_is_its_log_likelihood(lab):
    twin, (frames, conditions) = make_twin(lab), CLIPS[lab](3)
    with torch.no_grad():
        pred, *_ = twin(frames, conditions, True)
    given = GIVEN[lab]
    errors = (pred[:, given - 1 :] - frames[:, given:]).double() ** 2
    variance, values = errors.mean().item(), errors[0, 0].numel()
    likelihood = -values / 2 * (math.log(2 * math.pi * variance) + 1)
    found = Latents(twin, frames, conditions, given).scores({0: [3]})
    assert found["elbo"] == pytest.approx(likelihood)
    assert found["importance_bound"] == pytest.approx(likelihood)
    assert found["sigma"] == pytest.approx(variance**0.5)
    assert found["draws"] == 1 and found["kl"] == 0
    assert not {"units", "kl_per_dimension", "kl_per_step", "events"} & found.keys()


def test_no_kl_is_reported(run):
    assert run.twin.trainer.history[-1]["val/kl"] is None
    assert run.model.trainer.history[-1]["val/kl"] is not None
    scores = json.loads((run.twin.folder / "distribution.json").read_text())
    assert scores["z"]["kl"] == 0 and "units" not in scores["z"]
    assert scores["futures"]["n_samples"] == 1 and "diversity" not in scores["futures"]
    assert "\nELBO" in run.twin.printed and "\nKL " not in run.twin.printed
    assert "\nKL " in run.model.printed


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("lab", LABS)
def test_its_elbo_in_metrics_is_the_likelihood_of_validation_frames(tmp_path, lab):
    frames, conditions = CLIPS[lab](2)
    more = {"sizes": FLAGS[lab], "lab": lab, "latent": False}
    trainer = make_trainer(tmp_path, val_set=[*zip(frames, conditions)], **more)
    with torch.no_grad():
        pred, *_ = trainer.model.eval()(frames, conditions, True)
    error, values = (pred - frames[:, 1:]).pow(2).mean().item(), frames[0, 0].numel()
    likelihood = -values / 2 * (math.log(2 * math.pi * error) + 1)
    assert trainer.validation_losses()["elbo"] == pytest.approx(likelihood)


def test_no_figure_of_z_is_drawn(tmp_path):
    more = {"latent": False, "DR": tmp_path}
    trainer = make_trainer(tmp_path, val_set=[*zip(*random_clips(2))], **more)
    trainer.report_distribution(posterior=False)
    assert not {path.name for path in (tmp_path / "plots").iterdir()} & {*FUTURES, *LATENTS}


# ---------------------------------------------------------------- Tester --twin


@pytest.fixture
def run_test(call, tmp_path, no_plots):
    """run_test(run, which, flag, ...) -> code, out, err and folder of a test."""

    def test(run, which, *flags, name="test"):
        places = ["--DR", run.data, "--save_root", tmp_path / name]
        places += ["--ckpt_path", getattr(run, which).ckpt]
        done = call("Tester", *places, "--device", "cpu", "--precision", "float32", *flags)
        done.folder = tmp_path / name
        return done

    return test


def scores_of(done):
    assert done.code == 0, done.err
    return json.loads((done.folder / "scores.json").read_text())


def row_of(values):
    return "".join(f"<td>{value:.5g}</td>" for value in values)


def test_the_twins_scores_stand_beside_the_models(run, run_test):
    done = run_test(run, "model", "--n_samples", 3, "--twin", run.twin.ckpt)
    beside = scores_of(done)
    assert "note:" not in done.out  # --twin is no training flag
    twin, alone = beside.pop("twin"), scores_of(run_test(run, "twin", name="twin"))
    assert beside == scores_of(run_test(run, "model", "--n_samples", 3, name="model"))
    assert twin["z"] == pytest.approx(alone["z"])
    assert twin["futures"]["psnr_mean"] == pytest.approx(alone["mean"]["psnr"])
    assert twin["futures"]["n_samples"] == 1
    lines = done.out.splitlines()
    rows = [line for line in lines if line.startswith("deterministic twin")]
    assert f"ELBO {twin['z']['elbo']:.1f} nats" in rows[0]
    assert f"{twin['futures']['psnr_mean']:.3f}" in rows[1]
    page = (done.folder / "report.html").read_text()
    pair = [scores["z"]["importance_bound"] for scores in (beside, twin)]
    assert "<td>importance bound (nats per frame)</td>" + row_of(pair) in page
    pair = [scores["futures"]["coverage_50"] for scores in (beside, twin)]
    assert "<td>true values in the 50 % interval</td>" + row_of(pair) in page
    assert '<th scope="col">test</th><th scope="col">test, deterministic twin</th>' in page


def test_a_twin_needs_no_futures_of_the_model(run, run_test):
    found = scores_of(run_test(run, "model", "--twin", run.twin.ckpt))
    assert "futures" not in found and found["twin"]["futures"]["n_samples"] == 1


def assert_refused(done, *words):
    assert done.code == 1
    assert "Traceback" not in done.err and len(done.err.strip().splitlines()) == 1
    for word in words:
        assert str(word) in done.err
    assert not (done.folder / "scores.json").exists()


def test_what_is_no_twin_is_refused(runs, run, run_test, tmp_path):
    other = runs["robot" if run.lab == "pose" else "pose"].twin.ckpt
    no_file, text = tmp_path / "missing.ckpt", tmp_path / "text.ckpt"
    text.write_text("no checkpoint")
    for path in (run.model.ckpt, other, no_file, text):
        assert_refused(run_test(run, "model", "--twin", path), path)
    assert_refused(run_test(run, "model", "--twin", run.model.ckpt), "--no-latent")


def test_a_twin_of_other_frames_is_refused(run, run_test, tmp_path):
    state, name = load(run.twin.folder), "frame_H" if run.lab == "pose" else "n_past"
    state["args"][name] += 1
    torch.save(state, tmp_path / "other.ckpt")
    refused = run_test(run, "model", "--twin", tmp_path / "other.ckpt")
    assert_refused(refused, tmp_path / "other.ckpt", f"--{name}")


def test_several_futures_of_a_twin_are_refused(run, run_test):
    assert_refused(run_test(run, "twin", "--n_samples", 2), "--n_samples 2", "deterministic twin")


def test_a_twin_is_a_twin_wherever_its_file_goes(run, run_test, tmp_path):
    path = shutil.copy(run.twin.ckpt, tmp_path / "copy.ckpt")
    typed = run_test(run, "model", "--no-latent")
    assert_refused(typed, "was trained with True")
    done = run_test(SimpleNamespace(data=run.data, copy=SimpleNamespace(ckpt=path)), "copy")
    assert "units" not in scores_of(done)["z"]
