"""load_model and roll_out, as a notebook uses them, give the frames of Tester.py to the bit."""

import os

import pytest
import torch
from helpers import settings_of

import Tester
from modules.checkpoints import checkpoint as ckpt
from modules.cli.parser import parse
from modules.models import RecurrentVAE, VAE_Model, load_model, roll_out
from modules.models.rollout import noise_source


@pytest.fixture
def runs(trained, robot_trained):
    robot = robot_trained.data, robot_trained.scaled
    return {"pose": (trained.data, trained.best), "robot": robot}


def make_tester(data, path, folder, *flags):
    flags = ["--DR", data, "--save_root", folder, "--ckpt_path", path, "--device", "cpu", *flags]
    checkpoint = ckpt.load(path)
    settings, typed = parse("Tester", list(map(str, flags)), lab=ckpt.lab_of(checkpoint))
    return Tester.Tester(settings, typed, torch.device("cpu"), checkpoint)


FAMILIES = {"pose": VAE_Model, "robot": RecurrentVAE}


@pytest.mark.parametrize("z_source", ["sample", "mean"])
@pytest.mark.parametrize("lab", FAMILIES)
def test_a_rollout_of_a_loaded_model_is_the_testers(runs, tmp_path, monkeypatch, lab, z_source):
    data, path = runs[lab]
    flags = ["--precision", "float32", "--batch_size", 1, "--z_source", z_source]
    tester = make_tester(data, path, tmp_path / "test", *flags)
    monkeypatch.chdir(tmp_path)  # the path does not depend on where the package is
    model = load_model(os.path.relpath(path), "cpu", "float32")
    assert type(model) is FAMILIES[lab] and not model.training
    for clip, expected in enumerate(tester.rollout()):
        given, conditions = tester.given[clip][None], tester.conditions[clip][None]
        noise = noise_source(z_source, tester.settings.seed, [clip])
        assert torch.equal(roll_out(model, given, conditions, noise)[0], expected)
        assert not torch.equal(expected[-1], expected[-2])


def test_by_default_noise_is_that_of_seed_0_and_clips_counted_from_0(runs, tmp_path):
    data, path = runs["pose"]
    tester = make_tester(data, path, tmp_path / "test", "--seed", 0, "--batch_size", 1)
    model = load_model(path, "cpu")
    pred = roll_out(model, tester.given[0][None], tester.conditions[0][None])
    assert torch.equal(pred[0], tester.rollout()[0])


# ---------------------------------------------------------------- checkpoints of the template


def template_files(folder):
    """The two kinds of published files, of the same weights: bare, and with training state."""
    torch.manual_seed(0)
    sizes = "--F_dim 8 --L_dim 2 --N_dim 4 --D_out_dim 8"  # of frames: the template's 32x64
    model = VAE_Model(settings_of(f"{sizes} --precision float32"))
    model.label_transformation[2].running_mean.fill_(3.0)  # unlike the mean of any image
    weights = model.state_dict()
    whole = {"state_dict": weights, "optimizer": weights, "lr": 1e-5, "tfr": 0.3, "last_epoch": 42}
    for name, content in (("bare.ckpt", weights), ("whole.ckpt", whole)):
        torch.save(content, folder / name)
        yield folder / name


def test_template_files_load_and_normalise_poses_per_image(tmp_path):
    given, poses = torch.rand(2, 1, 3, 32, 64), torch.rand(2, 4, 3, 32, 64)
    rollouts = []
    for path in template_files(tmp_path):
        model = load_model(path, "cpu", "float32")
        settings = model.settings
        assert (settings.F_dim, settings.L_dim, settings.N_dim, settings.D_out_dim) == (8, 2, 4, 8)
        assert model.label_transformation.per_image and settings.published_step
        rollouts.append(roll_out(model, given, poses))
        model.label_transformation.per_image = False
        assert not torch.equal(roll_out(model, given, poses), rollouts[-1])
    assert torch.equal(*rollouts)
