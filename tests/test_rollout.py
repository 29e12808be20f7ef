"""Rollouts of the pose lab against a loop over frames, in validation and test, too."""

import copy

import pytest
import torch
from helpers import TINY, assert_close, make_model, random_clips
from pose_reference import EXTRAS, reference_rollout

import Tester
from modules.checkpoints import checkpoint as ckpt
from modules.cli.parser import parse
from modules.models.rollout import noise_source, roll_out

pytestmark = pytest.mark.usefixtures("float64")


def rolled(model, frames, poses, z_source="sample", seed=0):
    """Clips 0, 1, ... rolled out from their first frames."""
    noise = noise_source(z_source, seed, range(len(frames)))
    return roll_out(model, frames[:, :1], poses, noise)


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("posterior", ["current", "previous"])
@pytest.mark.parametrize("z_source", ["sample", "mean"])
def test_a_rollout_matches_the_loop_over_frames(extra, posterior, z_source):
    model = make_model(posterior=posterior, **EXTRAS[extra])
    frames, poses = random_clips(2)
    noise = noise_source(z_source, 0, range(2))
    noises = [noise((4, *model.feature_size)) for _ in range(4)]
    assert any(n.any() for n in noises) == (z_source == "sample")
    expected = reference_rollout(model, frames[:, 0], poses, noises)
    assert_close(rolled(model, frames, poses, z_source), expected)


@pytest.mark.parametrize("length", [2, 64, 65, 66, 129, 150])
def test_a_long_rollout_matches_the_loop_over_frames(length):
    model, (frames, poses) = make_model(), random_clips(1, length)
    noises = torch.zeros(length - 1, 1, 4, 12, 16)
    found = rolled(model, frames, poses, "mean")
    assert_close(found, reference_rollout(model, frames[:, 0], poses, noises))


def test_a_rollout_of_several_given_frames_continues_from_the_last():
    model, (frames, poses) = make_model(), random_clips(2, 7)
    found = roll_out(model, frames[:, :3], poses, noise_source("mean", 0, range(2)))
    assert torch.equal(found[:, :3], frames[:, :3])
    assert_close(found[:, 2:], rolled(model, frames[:, 2:], poses[:, 2:], "mean"))


def test_a_rollout_changes_no_weights_and_no_statistics():
    model, (frames, poses) = make_model(), random_clips(2)
    before = copy.deepcopy(model.state_dict())
    found = rolled(model.train(), frames, poses)
    assert not found.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# ---------------------------------------------------------------- noise


def test_the_noise_of_a_clip_is_bit_identical_in_any_batch():
    together, alone = noise_source("sample", 3, [0, 1, 4]), noise_source("sample", 3, [4])
    for _ in range(3):
        noise = together((4, 2, 3))
        assert torch.equal(noise[2:], alone((4, 2, 3)))
        assert len(noise.unique()) == noise.numel()


def test_rollouts_do_not_depend_on_the_batch():
    model, (frames, poses) = make_model(), random_clips(3, 6)
    together = rolled(model, frames, poses)
    for numbers in ([0], [1], [2, 1]):
        noise = noise_source("sample", 0, numbers)
        alone = roll_out(model, frames[numbers, :1], poses[numbers], noise)
        assert_close(alone, together[numbers])


# ---------------------------------------------------------------- validation and test


@pytest.fixture
def make_tester(dataset, tmp_path):
    """make_tester(flag, ...) -> a Tester of one template file."""
    path = tmp_path / "epoch=0.ckpt"
    torch.save({"state_dict": make_model().state_dict(), "lr": 0.001}, path)
    fixed = ["--DR", dataset, "--save_root", tmp_path / "test", "--ckpt_path", path, *TINY]
    fixed += ["--device", "cpu", "--precision", "float32"]

    def make(*flags):
        settings, typed = parse("Tester", [str(f) for f in (*fixed, *flags)])
        return Tester.Tester(settings, typed, torch.device("cpu"), ckpt.load(path))

    return make


def test_padding_does_not_change_short_clips(make_tester):
    tester = make_tester()
    together, alone = tester.rollout(), make_tester("--batch_size", 1).rollout()
    assert [len(clip) for clip in together] == [6, 5]
    for a, b, given in zip(together, alone, tester.given):
        assert_close(a, b)
        assert torch.equal(a[:1], given)
