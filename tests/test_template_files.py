"""Checkpoints of the course's template: sizes, statistics, activations, what is ignored."""

import copy
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import SHORT, SIZE, TINY, read_submission, to_rows

import dataloader
import Tester
import Trainer
from modules.models import VAE_Model, loading

pytestmark = pytest.mark.usefixtures("no_plots")


@pytest.fixture
def template(args, tmp_path):
    """A published file: weights, "optimizer" = the same weights, and three numbers."""
    torch.manual_seed(0)
    model = VAE_Model(args)
    model.label_transformation[2].running_mean.fill_(3.0)  # unlike the mean of any image
    model.Generator[-1].weight.data *= 30  # feedback has an effect
    model.Generator[-1].bias.data = torch.tensor([8.0, 0.5, 0.5])  # red leaves 0..1
    weights = model.state_dict()
    path = tmp_path / "Best.ckpt"
    file = {"state_dict": weights, "optimizer": weights, "lr": 1e-5, "tfr": 0.3, "last_epoch": 42}
    torch.save(file, path)
    return SimpleNamespace(path=path, model=model, weights=weights)


@pytest.fixture
def spied(monkeypatch):
    """The models that Tester.py rolls out."""
    models, roll_out = [], Tester.roll_out

    def spy(model, *more):
        models.append(model)
        return roll_out(model, *more)

    monkeypatch.setattr(Tester, "roll_out", spy)
    return models


SIZE_FLAGS = ("--frame_H", 12, "--frame_W", 16)


def test_a_template_file_determines_sizes_and_per_image_statistics(run_test, template, spied):
    printed = run_test(*TINY, ckpt=template.path)[1]  # its sizes may be typed
    learned = run_test(*SIZE_FLAGS, "--pose_norm", "learned", ckpt=template.path, name="b")[1]
    assert [model.label_transformation.per_image for model in spied] == [True, False]
    assert "published code" in printed and "per image" in printed and "as learned" in learned
    for name, value in spied[0].state_dict().items():
        assert torch.equal(value, template.weights[name])


def template_rollout(model, given, poses, highest=100.0):
    """The template's loop: BatchNorm in training mode, one frame at a time, no clamp, z = 0."""
    frames, model = [given[None]], copy.deepcopy(model).train()
    with torch.no_grad():
        for pose in poses[1:, None]:
            previous = model.frame_transformation(frames[-1].clamp(max=highest))
            z = torch.zeros(1, model.settings.N_dim, *SIZE)
            fused = model.Decoder_Fusion(previous, model.label_transformation(pose), z)
            frames.append(model.Generator(fused))
    return torch.cat(frames).numpy()


def test_a_template_file_predicts_as_in_the_template(run_test, template, trained):
    _, rows = read_submission(run_test(*SIZE_FLAGS, "--z_source", "mean", ckpt=template.path)[0])
    given, poses = dataloader.load_test_clips(trained.data, SIZE)[0]
    expected = template_rollout(template.model, given, poses)
    clamped = template_rollout(template.model, given, poses, highest=1.0)
    assert np.abs(to_rows([expected]) - to_rows([clamped])).max() > 5  # a clamp would be visible
    assert np.abs(rows[:6, 1:] - to_rows([expected])).max() <= 1


def test_our_files_use_learned_statistics_by_default(run_test, spied):
    run_test(name="a")
    run_test("--pose_norm", "image", name="b")
    assert [model.label_transformation.per_image for model in spied] == [False, True]


@pytest.mark.parametrize(
    ("nets", "flags"),
    [("--nets unet", "--pose_norm image"), ("--scene", "--output_activation sigmoid")],
)
def test_flags_that_contradict_the_checkpoint_are_refused(call, trained, tmp_path, nets, flags):
    places = "--DR", trained.data, "--save_root", tmp_path / "run"
    done = call("Trainer", *places, *SHORT, "--num_epoch", 1, *nets.split())
    assert done.code == 0, done.err
    done = call("Tester", *places, "--ckpt_path", tmp_path / "run/last.ckpt", *flags.split())
    assert done.code == 1 and flags in done.err


FITS = {  # PSNR of first predicted frames -> the end of what is printed
    "the template's": ({("none", "image"): 30.0, ("sigmoid", "image"): 5.0}, "--pose_norm image"),
    "a little more": ({("none", "image"): 30.0, ("none", "learned"): 30.5}, "image (used)"),
    "a sigmoid": (
        {("none", "image"): 5.0, ("sigmoid", "image"): 30.0},
        "try --output_activation sigmoid --pose_norm image",
    ),
    "a real eval()": (
        {("none", "image"): 20.0, ("none", "learned"): 30.0},
        "try --output_activation none --pose_norm learned",
    ),
    "two sigmoids": (
        {("none", "image"): 4.0, ("sigmoid", "image"): 9.0}, "this package does not have"
    ),
    "nan": ({("none", "image"): -math.inf}, "this package does not have"),
}  # fmt: skip


@pytest.mark.parametrize("name", FITS)
def test_other_flags_are_suggested_only_if_they_clearly_fit(args, monkeypatch, capsys, name):
    psnr, end = FITS[name]
    model = VAE_Model(args)
    model.label_transformation.per_image = True
    monkeypatch.setattr(loading, "first_frame_psnr", lambda *_: psnr)
    loading.report_fit(model, {"state_dict": {}}, *torch.zeros(2, 1, 2, 3, *SIZE))
    out = capsys.readouterr().out
    assert out.endswith(f"{end}\n") and out.count("\n") == 1
    assert out.count(" dB with") == len(psnr) and out.count("(used)") == 1
    assert out.startswith("warning") == ("try" in end or "not have" in end)


def test_an_activation_that_fits_better_is_suggested(run_test, template, tmp_path):
    """The model shows one grey, that of the given frames with a sigmoid only."""
    state = {name: value.clone() for name, value in template.weights.items()}
    state["Generator.7.weight"].zero_()
    state["Generator.7.bias"].fill_(-0.2)
    torch.save({"state_dict": state}, tmp_path / "grey.ckpt")
    for name in ("none", "sigmoid"):
        flags = *SIZE_FLAGS, "--output_activation", name
        printed = run_test(*flags, ckpt=tmp_path / "grey.ckpt", name=name)[1]
        assert ("try --output_activation sigmoid" in printed) == (name == "none")


def test_trainer_validates_a_template_file_by_the_statistics_of_each_image(
    call, template, trained, tmp_path
):
    """As the template does; --pose_norm learned scores otherwise."""
    places = "--DR", trained.data, "--save_root", tmp_path / "val", "--ckpt_path", template.path
    line = "Trainer", *places, "--test", *SHORT, "--no-plots", "--published_step"
    default, image, learned = (
        re.findall(r"PSNR .*", call(*line, *flags).out)[-1]
        for flags in ((), ("--pose_norm", "image"), ("--pose_norm", "learned"))
    )
    assert default == image != learned


def test_a_typed_sigmoid_overrides_the_checkpoint(run_test):
    folder, plain = run_test("--no-sigmoid", name="a")
    sigmoid_folder, squashed = run_test("--sigmoid", name="b")
    assert "output activation none" in plain
    assert "output activation sigmoid" in squashed
    frames = [read_submission(f)[1][1:6, 1:] for f in (folder, sigmoid_folder)]
    assert frames[1].min() > 0
    assert not np.array_equal(*frames)


def test_trainer_starts_from_template_weights_and_lists_what_it_ignores(
    call, dataset, tmp_path, monkeypatch, template
):
    trainers = []
    monkeypatch.setattr(Trainer.Trainer, "training_stage", lambda self: trainers.append(self))
    places = ["--DR", dataset, "--save_root", tmp_path / "run", "--ckpt_path", template.path]
    done = call("Trainer", *places, *SHORT, "--ema", 0.9)
    assert done.code == 0, done.err
    lines = [line for line in done.out.splitlines() if str(template.path) in line]
    assert len(lines) == 1
    for key in ("optimizer", "lr", "tfr", "last_epoch"):
        assert key in lines[0]
    (trainer,) = trainers
    assert trainer.current_epoch == 0
    for model in (trainer.model, trainer.ema):
        for name, value in model.state_dict().items():
            assert torch.equal(value, template.weights[name])
