"""What is done for speed or memory changes no numbers."""

import itertools
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import (
    BATCH,
    ROOT,
    SHORT,
    SIZE,
    make_dataset,
    make_trainer,
    random_clips,
    read_csv,
    settings_of,
)

from dataloader import DanceClips, Dataset_Dance
from modules.data.cache import Rows
from modules.data.clips import fits
from modules.errors import UserError
from modules.models import pose as pose_model
from modules.training import device

CPU, GPU = torch.device("cpu"), torch.device("cuda")

# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("line", ["", "--position_map 2", "--first_frame", "--nets unet"])
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


FREE_AND_ALLOCATE = """
import resource, sys, torch
from modules.config import Compute
from modules.training.device import choose_device
if sys.argv[1] == "kept":
    choose_device(Compute(device="cpu"))
faults = []
for turn in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**26)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults[1:]))  # the system moves pages now and then
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to")
def test_a_cpu_run_keeps_freed_memory_for_the_next_step():
    faults = {}
    for how in ("kept", "by default"):
        command = [sys.executable, "-c", FREE_AND_ALLOCATE, how]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        faults[how] = int(done.stdout.split()[-1])
    # no page faults, or one huge page; small pages once where memory is fragmented
    assert faults["kept"] < 0.9 * faults["by default"]


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
    "line", ["", "--posterior previous", "--feedback_noise 0.1", "--norm_over step"]
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
    eager, compiled = make_trainer(tmp_path), make_trainer(tmp_path, "--compile", "default")
    batch = pose_model.CPU_FRAMES["float32"]  # one shape to compile
    for _ in range(2):
        found, expected = (results_of(trainer, False, batch) for trainer in (compiled, eager))
        assert_same_results(found, expected)
    assert list(compiled.model.state_dict()) == list(eager.model.state_dict())


def test_compile_names_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(device.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"C\+\+ compiler"):
        make_trainer(tmp_path, "--compile", "default")
    for triton, missing in ((None, "triton"), ("there", "C compiler")):
        monkeypatch.setattr(device.importlib.util, "find_spec", lambda name, found=triton: found)
        with pytest.raises(UserError, match=missing):
            device.compile_nets(None, "default", GPU)


# ---------------------------------------------------------------- data that does not fit


def batches(dataset, *flags):
    clips = DanceClips(dataset, settings_of([*SHORT, *flags]), CPU)
    return list(clips.fetch(clips.batches(3))), clips


def test_batches_read_from_disk_are_the_same(tmp_path):
    data = Dataset_Dance(make_dataset(tmp_path / "data", train=23), "train", 4, size=SIZE)
    resident, _ = batches(data, "--shuffle", "--batch_size", "1")
    read, clips = batches(data, "--shuffle", "--batch_size", "1", "--data_on", "disk")
    assert not clips.resident and len(resident) == len(read) == 5
    for a, b in zip(resident, read):
        assert all(torch.equal(x, y) for x, y in zip(a, b))


def test_on_disk_the_training_set_stays_in_its_file(tmp_path):
    data = Dataset_Dance(make_dataset(tmp_path / "data"), "train", 4, size=SIZE)
    frames = {where: batches(data, "--data_on", where)[1].frames for where in ("auto", "disk")}
    assert isinstance(frames["disk"], Rows) and isinstance(frames["auto"], torch.Tensor)
    rows = torch.tensor([[2, 0], [1, 2]])
    assert torch.equal(frames["disk"][rows], frames["auto"][rows])


def test_auto_keeps_data_on_disk_that_would_fill_half_of_a_gpu(monkeypatch):
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * gib, 80 * gib))
    array = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (4 * gib,), (0,))
    assert fits([array], "auto", GPU)
    assert not fits([array, array], "auto", GPU)
    assert fits([array, array], "device", GPU)
    assert not fits([array], "disk", GPU)


# ---------------------------------------------------------------- bf16


@pytest.mark.skipif(
    device.choose_precision("auto", CPU) != "bf16", reason="this CPU does not compute in bf16"
)
def test_bf16_trains_as_well_as_float32(call, tmp_path, no_plots):
    data = make_dataset(tmp_path / "data", train=24, val=12)
    scores = {}
    for precision in ("float32", "bf16"):
        run = tmp_path / precision
        flags = [*SHORT, "--precision", precision, "--num_epoch", 12, "--lr_schedule", "cosine"]
        flags += ["--tfr", 0, "--z_source", "mean", "--pretrain_epochs", 99, "--ema", 0.9]
        done = call("Trainer", "--DR", data, "--save_root", run, *flags, "--lr", 0.01)
        assert done.code == 0, done.err
        scores[precision] = read_csv(run / "metrics.csv")[-1]["val/psnr"]
    assert scores["bf16"] == pytest.approx(scores["float32"], abs=0.2)
