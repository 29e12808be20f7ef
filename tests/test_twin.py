"""The deterministic twin (--no-latent): training, what is reported of it, and Tester --twin."""

import contextlib
import io
import json
import math
from types import SimpleNamespace

import pytest
import torch
from helpers import (
    ROBOT,
    SHORT,
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
from torch.distributions import Normal, kl_divergence

from modules.evaluation.latents import Latents
from modules.models import sample_futures
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
            kept.printed, kept.history = printed.getvalue(), trainer.history
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
    clips, more = CLIPS[lab](2), {"latent": False, "lr": 0.01}
    trainer = make_trainer(tmp_path, sizes=FLAGS[lab], lab=lab, val_set=[*zip(*clips)], **more)
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    trainer.model.train()
    trainer.training_one_step(*clips, forced)
    for name, p in trainer.model.named_parameters():
        assert (p.grad is None) == name.startswith(OF_Z[lab])
        assert p.grad is not None or torch.equal(p, before[name])
    changed = [n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])]
    assert len(changed) > 10


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
    futures = sample_futures(twin, frames[:, :given], conditions, 3)
    assert torch.isfinite(futures).all()
    assert_close(futures[1:], futures[:1].expand(2, *futures.shape[1:]))
    forced = twin(frames, conditions, True)[0][:, given - 1]  # z is 0 in a rollout, too
    assert_close(futures[0, :, given], forced)


@pytest.mark.parametrize("lab", LABS)
def test_it_starts_as_the_model_and_sees_its_batches(runs, tmp_path, monkeypatch, lab):
    batches, one_step = [], Trainer.training_one_step

    def record(self, frames, conditions, *more):
        batches[-1].append((frames.clone(), conditions.clone(), *more))
        return one_step(self, frames, conditions, *more)

    monkeypatch.setattr(Trainer, "training_one_step", record)
    line = "--tfr 0.5 --ema 0.5 --no-plots "
    if lab == "pose":
        line += "--tfr_coin batch --batch_size 1 --shuffle --warp 0.5"
    else:
        line += "--random_offset --standardise"
    starts = []
    for name in ("--latent", "--no-latent"):
        places = ["--DR", runs[lab].data, "--save_root", tmp_path / name, "--num_epoch", 1]
        batches.append([])
        train(settings_of([*places, *FLAGS[lab], *line.split(), name], lab=lab))
        trainer = make_trainer(tmp_path, name, sizes=FLAGS[lab], lab=lab)
        starts.append(trainer.model.state_dict())
    assert len(batches[0]) == len(batches[1]) > 1
    for (a, b, *forced), (c, d, *forced_too) in zip(*batches):
        assert torch.equal(a, c) and torch.equal(b, d) and forced == forced_too
    assert starts[0].keys() == starts[1].keys()
    assert all(torch.equal(value, starts[1][name]) for name, value in starts[0].items())


# ---------------------------------------------------------------- what is reported of it


def likelihood(pred, true):
    """The mean log likelihood of a frame, with the best variance."""
    variance, values = (pred - true).pow(2).mean().item(), true[0, 0].numel()
    return -values / 2 * (math.log(2 * math.pi * variance) + 1)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("lab", LABS)
def test_its_bound_is_its_log_likelihood(lab):
    twin, (frames, conditions), given = make_twin(lab), CLIPS[lab](3), GIVEN[lab]
    with torch.no_grad():
        pred, *_ = twin(frames, conditions, True)
    scores = Latents(twin, frames, conditions, given).scores({0: [3]})
    expected = likelihood(pred[:, given - 1 :], frames[:, given:])
    assert scores["elbo"] == pytest.approx(expected)
    assert scores["importance_bound"] == pytest.approx(expected)
    assert scores["draws"] == 1 and scores["kl"] == 0
    assert not {"units", "kl_per_dimension", "kl_per_step", "events"} & scores.keys()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("lab", LABS)
@pytest.mark.parametrize("latent", [False, True])
def test_the_elbo_in_metrics_is_the_likelihood_of_validation_frames_less_the_kl(
    tmp_path, lab, latent
):
    frames, conditions = CLIPS[lab](2)
    more = {"sizes": FLAGS[lab], "lab": lab, "latent": latent, "kl_anneal_type": "None"}
    trainer = make_trainer(tmp_path, val_set=[*zip(frames, conditions)], **more)
    torch.manual_seed(trainer.settings.seed)
    with torch.no_grad():
        pred, mu, logvar = trainer.model.eval()(frames, conditions, True)
    expected, scores = likelihood(pred, frames[:, 1:]), trainer.validation_losses()
    if latent:
        q = Normal(mu, (logvar / 2).exp())
        kl = kl_divergence(q, Normal(0.0, 1.0)).sum().item() / pred[:, :, 0, 0, 0].numel()
        assert scores["kl"] == pytest.approx(kl)
        expected -= kl
    assert scores["elbo"] == pytest.approx(expected)


def test_no_kl_is_reported(run):
    assert run.twin.history[-1]["val/kl"] is None
    assert run.model.history[-1]["val/kl"] is not None
    scores = json.loads((run.twin.folder / "distribution.json").read_text())
    assert scores["z"]["kl"] == 0 and "units" not in scores["z"]
    assert scores["futures"]["n_samples"] == 1 and "diversity" not in scores["futures"]
    assert "\nELBO" in run.twin.printed and "\nKL " not in run.twin.printed
    assert "\nKL " in run.model.printed


def test_no_figure_of_z_is_drawn(tmp_path):
    trainer = make_trainer(tmp_path, val_set=[*zip(*random_clips(2))], latent=False)
    trainer.report_distribution(posterior=False)
    assert not [*(tmp_path / "plots").iterdir()]


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
    model = scores_of(done)
    assert "note:" not in done.out  # --twin is no training flag
    twin, alone = model.pop("twin"), scores_of(run_test(run, "twin", name="twin"))
    minus = model.pop("minus_twin")
    without = scores_of(run_test(run, "model", "--n_samples", 3, name="model"))
    assert model == without and "units" not in alone["z"]
    assert twin["z"] == pytest.approx(alone["z"])
    assert twin["futures"]["psnr_mean"] == pytest.approx(alone["mean"]["psnr"])
    assert twin["futures"]["n_samples"] == 1
    rows = [x for x in done.out.splitlines() if x.startswith("deterministic twin")]
    assert f"ELBO {twin['z']['elbo']:.1f} nats" in rows[0]
    row = next(x for x in done.out.splitlines() if "PSNR of a future, mean" in x)
    assert row.split()[-2:] == [f"{twin['futures']['psnr_mean']:.5g}", "-"]
    page = (done.folder / "report.html").read_text()
    pair = [scores["z"]["importance_bound"] for scores in (model, twin)]
    assert minus["z"]["importance_bound"]["mean"] == pytest.approx(pair[0] - pair[1])
    assert "<td>importance bound</td>" + row_of(pair) in page.replace("<td>-</td>", "")
    assert f"<td>{pair[0] - pair[1]:+.3g}</td>" in page  # two clips: without an interval
    pair = [scores["futures"]["psnr_of_mean"] for scores in (model, twin)]
    assert minus["futures"]["psnr_of_mean"]["mean"] == pytest.approx(pair[0] - pair[1])
    assert '<th scope="col">test</th><th scope="col">test, deterministic twin</th>' in page
    single = scores_of(run_test(run, "model", "--twin", run.twin.ckpt, name="single"))
    assert "futures" not in single and single["twin"]["futures"]["n_samples"] == 1


def test_several_twins_are_an_ensemble(run, run_test):
    done = run_test(run, "model", "--n_samples", 2, "--twin", run.twin.ckpt, run.twin.ckpt)
    both = scores_of(done)["twin"]
    one = scores_of(run_test(run, "model", "--n_samples", 2, "--twin", run.twin.ckpt, name="one"))
    assert both["futures"]["n_samples"] == 2 and both["futures"]["diversity"] == 0
    for name in ("psnr_of_mean", "psnr_best", "crps"):  # an ensemble of equal nets
        assert both["futures"][name] == pytest.approx(one["twin"]["futures"][name])
    assert both["z"]["importance_bound"] == pytest.approx(one["twin"]["z"]["importance_bound"])


def assert_refused(done, *words):
    assert done.code == 1 and len(done.err.strip().splitlines()) == 1
    assert all(str(word) in done.err for word in words)
    assert not (done.folder / "scores.json").exists()


def test_what_is_no_twin_of_the_model_is_refused(runs, run, run_test, tmp_path):
    state, name = load(run.twin.folder), "frame_H" if run.lab == "pose" else "n_past"
    state["args"][name] += 1
    torch.save(state, tmp_path / "larger.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    of_lab = runs["robot" if run.lab == "pose" else "pose"].twin.ckpt
    refused = {tmp_path / "larger.ckpt": f"--{name}", run.model.ckpt: "--no-latent"}
    refused |= {tmp_path / "text.ckpt": "", of_lab: ""}
    for path, word in refused.items():
        assert_refused(run_test(run, "model", "--twin", path), path, word)
    assert_refused(run_test(run, "twin", "--n_samples", 2), "--n_samples 2", "deterministic twin")
    assert_refused(run_test(run, "model", "--no-latent"), "was trained with True")
