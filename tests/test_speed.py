"""What is done for speed or memory changes no numbers."""

import itertools
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from helpers import (
    BATCH,
    LENGTH,
    SHORT,
    SIZE,
    TINY,
    make_dataset,
    make_trainer,
    random_clips,
    settings_of,
)

from dataloader import DanceClips, Dataset_Dance
from modules.data import clips as clips_module
from modules.errors import UserError
from modules.models import pose as pose_model
from modules.models.rollout import noise_source, roll_out
from modules.training import device, optimizer

CPU, GPU = torch.device("cpu"), torch.device("cuda")

# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("line", ["", "--first_frame", "--nets unet"])
@pytest.mark.parametrize("forced, prior", list(itertools.product((False, True), repeat=2)))
def test_no_convolution_has_to_copy_its_input(tmp_path, forced, prior, line):
    model = make_trainer(tmp_path, *line.split()).model
    seen = []

    def look(net, inputs):
        (x,) = inputs
        seen.append(x.is_contiguous(memory_format=torch.channels_last) or x.shape[1] <= 3)

    for name in model.LARGE_NETS:
        for net in getattr(model, name).modules():
            if isinstance(net, torch.nn.Conv2d):
                net.register_forward_pre_hook(look)
    model(*random_clips(), forced, prior)
    assert seen and all(seen)


# ---------------------------------------------------------------- pieces, recomputing, compiling


def results_of(trainer, forced, batch=BATCH):
    """Loss and gradients of a step with fixed clips and noise."""
    trainer.model.train()
    clips = random_clips(batch)
    torch.manual_seed(0)
    loss = trainer.training_one_step(*clips, forced)[0]
    return loss, [p.grad.clone() for p in trainer.model.parameters()]


def assert_same_results(a, b, tolerance=1e-5):
    torch.testing.assert_close(a[0], b[0], rtol=tolerance, atol=tolerance)
    for x, y in zip(a[1], b[1]):
        assert (x - y).abs().max() < tolerance


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("frames", [1, 5, 100])
def test_the_number_of_frames_per_piece_on_a_cpu_changes_nothing(
    tmp_path, monkeypatch, forced, frames
):
    expected = results_of(make_trainer(tmp_path), forced)
    monkeypatch.setitem(pose_model.CPU_FRAMES, "float32", frames)
    assert_same_results(results_of(make_trainer(tmp_path), forced), expected)


@pytest.mark.parametrize(
    "line", ["", "--posterior previous", "--feedback_noise 0.1", "--published_step"]
)
@pytest.mark.parametrize("forced", [False, True])
def test_recomputing_activations_changes_nothing(tmp_path, forced, line):
    expected = results_of(make_trainer(tmp_path, *line.split()), forced)
    found = results_of(make_trainer(tmp_path, "--recompute", *line.split()), forced)
    assert_same_results(found, expected, 1e-6)


def saved_bytes(trainer, forced):
    """What autograd keeps between the forward and the backward pass."""
    seen = {}

    def pack(x):
        seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        alive = trainer.model(*random_clips(), forced)
    del alive
    return sum(seen.values())


@pytest.mark.parametrize("forced", [False, True])
def test_recomputing_keeps_less_than_a_third(tmp_path, forced):
    trainers = make_trainer(tmp_path), make_trainer(tmp_path, "--recompute")
    plain, frugal = (saved_bytes(trainer, forced) for trainer in trainers)
    assert frugal < plain / 3


def test_compiled_and_eager_nets_agree(tmp_path):
    eager, compiled = make_trainer(tmp_path), make_trainer(tmp_path, "--compile", "reduce-overhead")
    batch = pose_model.CPU_FRAMES["float32"]  # one shape to compile
    for _ in range(2):
        found, expected = (results_of(trainer, False, batch) for trainer in (compiled, eager))
        assert_same_results(found, expected)
    assert list(compiled.model.state_dict()) == list(eager.model.state_dict())


def test_an_unknown_mode_of_compile_is_refused_with_those_of_torch(tmp_path):
    with pytest.raises(UserError, match="default.* reduce-overhead.* got 'fast'"):
        make_trainer(tmp_path, "--compile", "fast")


def test_outputs_of_a_cuda_graph_outlive_its_next_replay(monkeypatch):
    """Without gradient; with gradient they last until the next training step."""
    memory, begun = torch.zeros(2), []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(1))

    def replay(x):
        memory.fill_(x)
        return memory, memory

    call = device.with_lasting_outputs(replay)
    with torch.no_grad():
        (first, _), _ = call(1), call(2)
    assert first.tolist() == [1, 1] and len(begun) == 2
    assert call(3)[0] is memory and len(begun) == 2


def test_a_training_step_is_one_step_of_its_cuda_graphs(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr("Trainer.compile_nets", lambda *_: None)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(1))
    make_trainer(tmp_path, "--compile", "reduce-overhead").training_one_step(
        *random_clips(2), False
    )
    assert len(begun) == 1


# ---------------------------------------------------------------- data that does not fit


def batches(dataset, *flags):
    clips = DanceClips(dataset, settings_of([*SHORT, *flags]), CPU)
    return list(clips.fetch(clips.batches(3))), clips


def test_batches_read_ahead_are_the_same(tmp_path):
    data = Dataset_Dance(make_dataset(tmp_path / "data", train=23), "train", 4, size=SIZE)
    resident, clips = batches(data, "--shuffle", "--batch_size", "1")
    clips.resident = False  # as on a GPU that is too small
    read = list(clips.fetch(clips.batches(3)))
    assert len(resident) == len(read) == 5
    for a, b in zip(resident, read):
        assert all(torch.equal(x, y) for x, y in zip(a, b))


def test_data_that_would_fill_more_than_half_of_a_gpu_stays_on_disk(monkeypatch):
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * gib, 80 * gib))
    array = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (4 * gib,), (0,))
    assert clips_module.fits([array], GPU)
    assert not clips_module.fits([array, array], GPU)


# ---------------------------------------------------------------- no host-device synchronisation

META = torch.device("meta")  # its tensors have no data: reading one, or mixing devices, raises
WAYS = (
    "--ema 0.9",
    "--posterior previous",
    "--scene --warp 0.5 --loss calibrated --free_bits 0.1",
    "--learned_prior --first_frame",
    "--nets unet --sigmoid",
    "--feedback_noise 0.1",
    "--recompute",
    "--lab robot --vgg_width 2 --g_dim 4 --z_dim 2 --rnn_size 4 --n_past 2 --n_future 3",
)


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("line", WAYS)
def test_steps_and_rollouts_stay_on_their_device_and_read_nothing_back(
    tmp_path, monkeypatch, line, forced
):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # unknown to meta
    monkeypatch.setattr(optimizer, "FUSED", ())  # meta has no fused step, and others may read back
    monkeypatch.setattr(optimizer, "step_if", lambda finite, optim: None)
    lab = "robot" if "robot" in line else "pose"
    sizes, size, condition = TINY, SIZE, (3, *SIZE)
    if lab == "robot":
        sizes, size, condition = (), (64, 64), (7,)
    trainer = make_trainer(tmp_path, *line.split(), device=META, sizes=sizes, lab=lab)
    frames = torch.rand(BATCH, LENGTH, 3, *size, device=META)
    conditions = torch.rand(BATCH, LENGTH, *condition, device=META)
    for _ in range(2):
        assert trainer.training_one_step(frames, conditions, forced).device == META
    model = (trainer.ema or trainer.model).eval()
    given, noise = frames[:, : trainer.lab.given], noise_source("sample", 0, range(BATCH))
    rolled = list(model.rollout(given, torch.rand(BATCH, LENGTH, *condition), noise))
    assert len(rolled) == LENGTH and all(frame.device == META for frame in rolled)


# ---------------------------------------------------------------- on a GPU

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@needs_gpu
@pytest.mark.parametrize("mode", ["off", "default", "reduce-overhead"])
@pytest.mark.parametrize("forced", [False, True])
def test_a_gpu_computes_the_same_as_the_cpu(tmp_path, monkeypatch, mode, forced):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    here, there = make_trainer(tmp_path), make_trainer(tmp_path, "--compile", mode, device=GPU)
    there.model.load_state_dict(here.model.state_dict())
    clips, noise = random_clips(), torch.randn(BATCH, LENGTH - 1, 4, *SIZE)
    for trainer, where in ((here, "cpu"), (there, "cuda")):  # their generators differ
        draws = noise.to(where), None
        monkeypatch.setattr(trainer.model, "draw_noise", lambda _, draws=draws: draws)
    for _ in range(5):
        loss = here.training_one_step(*clips, forced)[0]
        found = there.training_one_step(*(x.cuda() for x in clips), forced)[0].cpu()
        torch.testing.assert_close(found, loss, rtol=1e-3, atol=1e-4)
    poses, noise = torch.rand(1, 9, 3, *SIZE), noise_source("mean", 0, [0])
    rolled = [roll_out(x.model, poses[:, :1], poses, noise) for x in (there, here)]
    torch.testing.assert_close(*rolled, rtol=1e-3, atol=1e-3)
