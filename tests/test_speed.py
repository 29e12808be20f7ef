"""What is done for speed changes no number: the package against the plain loop of scripts/."""

import itertools
import json
import platform
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT, SHORT, TINY, make_dataset, read_csv, train_once

sys.path.insert(0, str(ROOT / "scripts"))
import bench
from plain_reference import PlainDataset, PlainModel, plain_rollout, plain_step

from dataloader import DanceClips, Dataset_Dance
from modules import device, graphs, models, optimizer
from modules.errors import UserError
from modules.models.rollout import noise_source, roll_out
from modules.nets.course import Gaussian_Predictor
from Trainer import Trainer

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SIZES = {"F_dim": 8, "L_dim": 2, "N_dim": 4, "D_out_dim": 8}
BATCH, LENGTH, SIZE = 3, 5, (12, 16)


def make_trainer(tmp_path, *flags, device=CPU, sizes=TINY):
    line = ["--DR", ".", "--save_root", tmp_path, "--precision", "float32", *sizes, *flags]
    picture = torch.zeros(2, 3, *SIZE)
    args, _ = parse("Trainer", list(map(str, line)))
    return Trainer(args, device, None, [(picture, picture)])


def make_plain(trainer):
    plain = PlainModel(**SIZES)
    plain.load_state_dict(trainer.model.state_dict())
    return plain


def still(model):
    """The statistics of the poses as they are: the loop's are of a frame, ours of all frames."""
    model.train()
    model.label_transformation[2].eval()


STRATEGIES = list(itertools.product((False, True), ("full", "frame"), ("current", "previous")))


@pytest.mark.parametrize("forced, feedback, posterior", STRATEGIES)
def test_twenty_steps_are_those_of_the_plain_loop(
    tmp_path, monkeypatch, forced, feedback, posterior
):
    flags = ("--feedback", feedback, "--posterior", posterior, "--no-feedback_clamp")
    trainer = make_trainer(tmp_path, *flags, "--kl_anneal_type", "None", "--lr", "0.001")
    plain = make_plain(trainer)
    optim = torch.optim.Adam(plain.parameters(), lr=0.001)
    for model in (trainer.model, plain):
        still(model)
    for step in range(20):
        torch.manual_seed(step)
        clips = [torch.rand(BATCH, LENGTH, 3, *SIZE) for _ in range(2)]
        noise = torch.randn(BATCH, LENGTH - 1, SIZES["N_dim"], *SIZE)
        looks_back = {"detach": feedback == "frame", "previous": posterior == "previous"}
        with monkeypatch.context() as patch:
            patch.setattr(trainer.model, "draw_noise", lambda _, draws=(noise, None): draws)
            losses = [trainer.training_one_step(*clips, forced)[0].item()]
        losses.append(plain_step(plain, optim, *clips, forced, **looks_back, noise=noise))
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        grads = [[p.grad for p in m.parameters()] for m in (trainer.model, plain)]
        for found, wanted in zip(*grads):
            assert (found - wanted).abs().max() < 1e-5
    for (name, found), wanted in zip(trainer.model.named_parameters(), plain.parameters()):
        assert (found - wanted).abs().max() < 1e-5, name


def test_the_rollout_is_that_of_the_plain_loop(tmp_path):
    trainer = make_trainer(tmp_path, "--no-feedback_clamp")
    plain = make_plain(trainer).eval()
    given, poses = torch.rand(1, 3, *SIZE), torch.rand(1, 200, 3, *SIZE)
    seed = noise_source("sample", 0, [0])
    found = roll_out(trainer.model, given[:, None], poses, seed)
    torch.manual_seed(0)
    wanted = plain_rollout(plain, given, poses, SIZES["N_dim"])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_the_plain_loops_clips_are_ours(tmp_path):
    root = make_dataset(tmp_path / "data")
    ours, plain = Dataset_Dance(root, "train", 4, size=SIZE), PlainDataset(root, 4, SIZE)
    assert len(ours) == len(plain) == 4
    for a, b in zip(ours[2], plain[2]):
        assert torch.equal(a, b)


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("line", ["", "--position_map 2", "--first_frame", "--nets unet"])
@pytest.mark.parametrize("forced, prior", list(itertools.product((False, True), repeat=2)))
def test_no_convolution_is_handed_a_map_that_it_would_copy(tmp_path, forced, prior, line):
    model = make_trainer(tmp_path, *line.split()).model
    seen = []

    def look(net, inputs):
        (x,) = inputs
        seen.append(x.is_contiguous(memory_format=torch.channels_last) or x.shape[1] <= 3)

    for name in model.LARGE_NETS:
        for net in getattr(model, name).modules():
            if isinstance(net, torch.nn.Conv2d):
                net.register_forward_pre_hook(look)
    model(*(torch.rand(BATCH, LENGTH, 3, *SIZE) for _ in range(2)), forced, prior)
    assert seen and all(seen)


FREED_AND_TAKEN = """
import resource, sys, torch
from modules import device
args, _ = parse("Trainer", ["--DR", ".", "--save_root", ".", "--gpu", "0"])
if sys.argv[1] == "kept":
    device.choose_device(args)
for turn in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**26)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_on_a_cpu_freed_memory_is_kept_for_the_next_step():
    faults = {}
    for how in ("kept", "as it is"):
        command = [sys.executable, "-c", FREED_AND_TAKEN, how]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        faults[how] = int(done.stdout.split()[-1])
    assert faults["kept"] * 100 < faults["as it is"]  # none, or one for a huge page


# ---------------------------------------------------------------- pieces, recomputing, compiling


def results_of(trainer, forced, seed=0):
    """Loss and gradients of a step that sees the same clips and noise every time."""
    trainer.model.train()
    torch.manual_seed(seed)
    clips = [torch.rand(BATCH, LENGTH, 3, *SIZE) for _ in range(2)]
    loss = trainer.training_one_step(*clips, forced)[0]
    return loss, [p.grad.clone() for p in trainer.model.parameters()]


def assert_same_results(a, b, tolerance=1e-5):
    torch.testing.assert_close(a[0], b[0], rtol=tolerance, atol=tolerance)
    for x, y in zip(a[1], b[1]):
        assert (x - y).abs().max() < tolerance


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("pieces", [1, 5, 100])
def test_how_many_frames_a_cpu_takes_at_a_time_changes_nothing(
    tmp_path, monkeypatch, forced, pieces
):
    monkeypatch.setattr(Gaussian_Predictor, "reparameterize", staticmethod(lambda mu, *_: mu))
    wanted = results_of(make_trainer(tmp_path), forced)
    monkeypatch.setitem(models.CPU_FRAMES, "float32", pieces)
    assert_same_results(results_of(make_trainer(tmp_path), forced), wanted)


@pytest.mark.parametrize("line", ["", "--posterior previous", "--feedback_noise 0.1"])
@pytest.mark.parametrize("forced", [False, True])
def test_recomputing_activations_changes_nothing(tmp_path, forced, line):
    wanted = results_of(make_trainer(tmp_path, *line.split()), forced)
    found = results_of(make_trainer(tmp_path, "--recompute", *line.split()), forced)
    assert_same_results(found, wanted, 1e-6)


def kept(trainer, forced):
    """Bytes that autograd keeps between the forward and the backward pass."""
    seen = {}

    def pack(x):
        seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    clips = [torch.rand(BATCH, LENGTH, 3, *SIZE) for _ in range(2)]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        alive = trainer.model(*clips, forced)
    del alive
    return sum(seen.values())


@pytest.mark.parametrize("forced", [False, True])
def test_recomputing_keeps_far_less(tmp_path, forced):
    plain, frugal = (kept(make_trainer(tmp_path, *f), forced) for f in ((), ("--recompute",)))
    assert frugal < plain / 3


def test_compiled_and_eager_nets_agree(tmp_path, monkeypatch):
    monkeypatch.setattr(Gaussian_Predictor, "reparameterize", staticmethod(lambda mu, *_: mu))
    eager, compiled = make_trainer(tmp_path), make_trainer(tmp_path, "--compile", "default")
    for _ in range(2):
        assert_same_results(results_of(compiled, False), results_of(eager, False))
    assert list(compiled.model.state_dict()) == list(eager.model.state_dict())


def test_compile_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(device.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"C\+\+ compiler"):
        make_trainer(tmp_path, "--compile", "default")
    for triton, lacking in ((None, "triton"), ("there", "C compiler")):
        monkeypatch.setattr(device.importlib.util, "find_spec", lambda name, found=triton: found)
        with pytest.raises(UserError, match=lacking):
            device.compile_nets(None, "default", GPU)


# ---------------------------------------------------------------- CUDA graphs


class Playback(graphs.Recorded):
    """What a GPU does with a recording, on a CPU: it knows only the places in memory, and of all
    else what it was at the recording."""

    def __init__(self, function, owner):
        super().__init__(function)
        self.owner = owner

    def record(self, inputs, settings):
        places = [torch.full_like(x, float("nan")) for x in inputs]
        results, then = [], dict(vars(self.owner))

        def replay():
            now = dict(vars(self.owner))
            vars(self.owner).update({k: v for k, v in then.items() if isinstance(v, (int, float))})
            values = self.function(*places, **settings)
            vars(self.owner).update(now)
            values = values if isinstance(values, tuple) else (values,)
            results[:] = results or [torch.empty_like(value) for value in values]
            for place, value in zip(results, values):
                place.copy_(value)

        return replay, places, results


def test_recorded_steps_and_rollouts_are_those_that_are_not(tmp_path, monkeypatch):
    flags = (
        "--ema",
        0.9,
        "--num_epoch",
        6,
        "--kl_anneal_cycle",
        1,
        "--lr_schedule",
        "cosine",
        "--optim",
        "AdamW",
    )
    plain, recorded = (make_trainer(tmp_path, *flags) for _ in range(2))
    recorded.model.load_state_dict(plain.model.state_dict())
    recorded.ema.load_state_dict(plain.ema.state_dict())
    monkeypatch.setattr(graphs, "aside", lambda function, x, settings: function(*x, **settings))
    recorded.device_step = Playback(recorded.step_on_device, recorded)
    recorded.ema.predict_frame = Playback(recorded.ema.predict_frame, recorded.ema)
    rng = torch.Generator().manual_seed(0)
    for step in range(24):
        batch = BATCH if step % 5 else 1
        clips = [torch.rand(batch, LENGTH, 3, *SIZE, generator=rng) for _ in range(2)]
        found = []
        for trainer in (plain, recorded):
            torch.manual_seed(step)
            trainer.current_epoch = trainer.kl_annealing.current_epoch = step // 4
            found.append(trainer.training_one_step(*clips, bool(step % 3)))
        assert torch.equal(*found)
    assert len(recorded.device_step.recordings) >= 2
    assert_same_weights(plain.model, recorded.model)
    assert_same_weights(plain.ema, recorded.ema)
    poses, noise = torch.rand(1, 9, 3, *SIZE), models.noise_source("mean", 0, [0])
    rolled = [models.roll_out(t.ema, poses[:, :1], poses, noise) for t in (plain, recorded)]
    assert torch.equal(*rolled)
    assert recorded.ema.predict_frame.recordings


def assert_same_weights(a, b):
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name


@pytest.mark.parametrize("script", ["Trainer", "Tester"])
def test_cuda_graphs_are_refused_without_a_gpu(call, tmp_path, script):
    done = train_once(tmp_path)
    flags = ["--DR", done.data, "--save_root", tmp_path / "other", "--cuda_graphs"]
    flags += SHORT if script == "Trainer" else ["--ckpt_path", done.best, "--device", "cpu"]
    found = call(script, *flags)
    assert found.code == 1 and "--cuda_graphs" in found.err and "cpu" in found.err


@pytest.mark.parametrize("flags", ["--compile default", "--optim SGD", "--recompute"])
def test_cuda_graphs_say_what_they_do_not_go_with(tmp_path, flags):
    args, _ = parse("Trainer", ["--DR", ".", "--save_root", ".", *SHORT, *flags.split()])
    with pytest.raises(UserError, match=flags.split()[-1]):
        graphs.check_graphs(args, torch.device("cuda"), training=True)


def test_cuda_graphs_say_that_they_record_no_rollout_of_the_robot_lab():
    line = ["--lab", "robot", "--DR", ".", "--save_root", ".", "--ckpt_path", "."]
    args, _ = parse("Tester", line)
    with pytest.raises(UserError, match="robot lab"):
        graphs.check_graphs(args, torch.device("cuda"), training=False)


# ---------------------------------------------------------------- data that does not fit


def batches(dataset, *flags):
    args, _ = parse("Trainer", ["--DR", ".", "--save_root", ".", *SHORT, *flags])
    clips = DanceClips(dataset, args, CPU)
    return list(clips.fetch(clips.batches(3))), clips


def test_data_from_the_disk_are_the_same_batches_in_the_same_order(tmp_path):
    data = Dataset_Dance(make_dataset(tmp_path / "data", train=23), "train", 4, size=SIZE)
    there, _ = batches(data, "--shuffle", "--batch_size", "1")
    read, clips = batches(data, "--shuffle", "--batch_size", "1", "--data_on", "disk")
    assert not clips.resident and len(there) == len(read) == 5
    for a, b in zip(there, read):
        assert all(torch.equal(x, y) for x, y in zip(a, b))


def test_on_a_cpu_the_training_set_is_not_copied(tmp_path):
    data = Dataset_Dance(make_dataset(tmp_path / "data"), "train", 4, size=SIZE)
    for where in ("auto", "disk"):
        _, clips = batches(data, "--data_on", where)
        assert clips.frames.data_ptr() == data.frames.ctypes.data


def test_auto_leaves_data_on_the_disk_that_would_fill_half_a_gpu(monkeypatch):
    gpu, gib = torch.device("cuda"), 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * gib, 80 * gib))
    arrays = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (4 * gib,), (0,))
    assert device.fits([arrays], "auto", gpu)
    assert not device.fits([arrays, arrays], "auto", gpu)
    assert device.fits([arrays, arrays], "device", gpu)
    assert not device.fits([arrays], "disk", gpu)


# ---------------------------------------------------------------- long rollouts


class Still(models.VAE_Model):
    """Repeats its frame: steps that cost nothing."""

    def predict_frame(self, state, condition, noise):
        return state, state


def test_a_rollout_of_any_length_prepares_a_few_steps_at_a_time(tmp_path):
    trainer = make_trainer(tmp_path)
    asked = []

    def draw(shape):
        asked.append(shape[0])
        return torch.zeros(1, *shape)

    poses = torch.zeros(1, 1, 3, *SIZE).expand(1, 6300, 3, *SIZE)
    model = Still(trainer.settings).eval()
    frames = sum(1 for _ in model.rollout(torch.zeros(1, 1, 3, *SIZE), poses, draw))
    assert frames == 6300 and max(asked) == models.STEPS_AT_ONCE and sum(asked) == 6299


# ---------------------------------------------------------------- bf16


@pytest.mark.skipif(
    device.choose_precision("auto", CPU) != "bf16", reason="this CPU does not compute in bf16"
)
def test_bf16_trains_as_well_as_float32(call, tmp_path):
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


# ---------------------------------------------------------------- in place of a GPU

META = torch.device("meta")  # its tensors hold no numbers: to ask for one, or to mix, raises
WAYS = (
    "--ema 0.9",
    "--posterior previous",
    "--scene --warp 0.5 --loss calibrated --free_bits 0.1",
    "--learned_prior --first_frame",
    "--nets unet --position_map 2 --sigmoid",
    "--feedback_noise 0.1 --push_forward 2",
    "--recompute",
    "--lab robot --vgg_width 2 --g_dim 4 --z_dim 2 --rnn_size 4 --n_past 2 --n_future 3",
)


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("line", WAYS)
def test_steps_and_rollouts_stay_on_their_device_and_ask_it_for_no_number(
    tmp_path, monkeypatch, line, forced
):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # unknown there, as is
    monkeypatch.setattr(optimizer, "FUSED", ())  # a fused step; one that is not may ask
    monkeypatch.setattr("Trainer.step_if", lambda good, optim: None)
    robot = "robot" in line
    trainer = make_trainer(tmp_path, *line.split(), device=META, sizes=() if robot else TINY)
    size, condition = ((64, 64), (7,)) if robot else (SIZE, (3, *SIZE))
    frames = torch.rand(BATCH, LENGTH, 3, *size, device=META)
    conditions = torch.rand(BATCH, LENGTH, *condition, device=META)
    for _ in range(2):
        assert trainer.training_one_step(frames, conditions, forced).device == META
    model = (trainer.ema or trainer.model).eval()
    given, noise = frames[:, : trainer.lab.given], noise_source("sample", 0, range(BATCH))
    rolled = list(model.rollout(given, torch.rand(BATCH, LENGTH, *condition), noise))
    assert len(rolled) == LENGTH and all(frame.device == META for frame in rolled)


@pytest.mark.parametrize("mistake", [float, bool, lambda number: number + torch.zeros(3)])
def test_on_that_device_mistakes_are_noticed(mistake):
    with pytest.raises(RuntimeError):
        mistake(torch.ones(3, device=META)[0])


# ---------------------------------------------------------------- a GPU, where there is one

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@needs_gpu
@pytest.mark.parametrize("forced", [False, True])
def test_a_step_never_waits_for_the_gpu(tmp_path, forced):
    trainer = make_trainer(tmp_path, "--ema", 0.9, "--warp", 0.5, device=GPU)
    pictures = np.random.default_rng(0).integers(0, 256, (60, *SIZE, 3), dtype=np.uint8)
    dataset = SimpleNamespace(frames=pictures, conditions=pictures, bad=[])
    trainer.settings.train_vi_len, trainer.settings.batch_size = LENGTH, BATCH
    clips = DanceClips(dataset, trainer.settings, GPU)
    batches = clips.batches(0)
    for fetched in clips.fetch(batches[:1]):
        trainer.training_one_step(*fetched, forced)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for fetched in clips.fetch(batches):
            trainer.training_one_step(*fetched, forced)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.parametrize("posterior", ["current", "previous"])
def test_a_gpus_recorded_steps_are_those_that_are_not(tmp_path, posterior):
    flags = ("--ema", 0.9, "--posterior", posterior, "--lr_schedule", "cosine", "--grad_clip", 0.1)
    plain = make_trainer(tmp_path, *flags, device=GPU)
    recorded = make_trainer(tmp_path, *flags, "--cuda_graphs", device=GPU)
    recorded.model.load_state_dict(plain.model.state_dict())
    recorded.ema.load_state_dict(plain.ema.state_dict())
    for step in range(20):
        clips = [torch.rand(BATCH, LENGTH, 3, *SIZE, device="cuda") for _ in range(2)]
        found = []
        for trainer in (plain, recorded):
            trainer.current_epoch = trainer.kl_annealing.current_epoch = step // 4
            trainer.model.train()
            torch.manual_seed(step)
            found.append(trainer.training_one_step(*clips, bool(step % 2)))
        torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)
    poses, noise = torch.rand(1, 9, 3, *SIZE), models.noise_source("mean", 0, [0])
    rolled = [models.roll_out(t.ema, poses[:, :1].cuda(), poses, noise) for t in (plain, recorded)]
    torch.testing.assert_close(*rolled, rtol=1e-3, atol=1e-3)


@needs_gpu
@pytest.mark.parametrize("mode", ["off", "default"])
@pytest.mark.parametrize("forced", [False, True])
def test_a_gpu_computes_what_the_cpu_does(tmp_path, monkeypatch, mode, forced):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(Gaussian_Predictor, "reparameterize", staticmethod(lambda mu, *_: mu))
    here, there = make_trainer(tmp_path), make_trainer(tmp_path, "--compile", mode, device=GPU)
    there.model.load_state_dict(here.model.state_dict())
    clips = [torch.rand(BATCH, LENGTH, 3, *SIZE) for _ in range(2)]
    for _ in range(3):
        loss = here.training_one_step(*clips, forced)[0]
        found = there.training_one_step(*(x.cuda() for x in clips), forced)[0].cpu()
        torch.testing.assert_close(found, loss, rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------- the bench itself


@pytest.mark.parametrize("recompute", [False, True])
def test_the_bench_measures_the_memory_of_frames_of_other_sizes(recompute):
    opts = SimpleNamespace(compile="off", cuda_graphs=False)
    assert bench.memory_of_one(opts, (3, 1, 12, recompute), CPU) >= 0


def test_the_bench_says_what_does_not_fit_and_goes_on(capsys):
    tried = []

    def too_big():
        tried.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    spent = bench.take_turns({"reference": too_big, "ours": lambda: None}, 3, CPU)
    assert len(tried) == 1 and 0 < spent["ours"] < 1
    result = bench.say("a row", {name: 30 / value for name, value in spent.items()}, 1)
    assert result["reference"] == 0 and "ratio" not in result and result["share_of_matmul"] > 0
    said = capsys.readouterr()
    assert "no room" in said.out and "CUDA out of memory" in said.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_bench_does_not_wait_for_a_plain_loop_that_failed():
    with (
        pytest.raises(SystemExit, match="plain loop's process ended"),
        bench.Elsewhere(bench.reference_training, "no number", False, CPU),
    ):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_bench_says_that_there_is_no_gpu():
    command = [sys.executable, ROOT / "scripts/bench.py", "--device", "cuda"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "finds no CUDA GPU" in done.stderr


def test_the_bench_prints_a_table_and_keeps_it(tmp_path):
    """Its quickest run, on full-size nets: a batch of one, short rollouts, few pictures."""
    flags = "--device cpu --batches 1 --rounds 1 --frames 3 --pictures 16".split()
    command = [sys.executable, ROOT / "scripts/bench.py", *flags, "--out", tmp_path / "b.json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "b.json").read_text())
    result = numbers["train, float32, batch 1, tfr 0"]
    assert result["ratio"] == pytest.approx(result["ours"] / result["reference"])
    assert f"{result['ratio']:.2f}x" in done.stdout
    used = result["ours"] * 22e9  # operations a second: on a busy machine even more than the peak
    peak = numbers["peaks float32"]["tflops"] * 1e12
    assert result["share_of_matmul"] == pytest.approx(used / peak)
    assert 0 < numbers["epoch"]["our loading's share"] < 1
