"""CUDA graphs, steps without host-device synchronisation, and what a GPU computes."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import (
    BATCH,
    LENGTH,
    SHORT,
    SIZE,
    TINY,
    make_trainer,
    random_clips,
    settings_of,
    train_once,
)

from dataloader import DanceClips
from modules.errors import UserError
from modules.models.robot import RecurrentVAE
from modules.models.rollout import noise_source, roll_out
from modules.training import graphs, optimizer

GPU = torch.device("cuda")


def assert_same_weights(a, b):
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name


# ---------------------------------------------------------------- CUDA graphs


class Playback(graphs.Recorded):
    """A CPU stand-in for a CUDA graph: a replay reads tensors where they are, and every number of
    its owner as it was when the graph was captured."""

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


def test_replayed_steps_and_rollouts_match_those_without_graphs(tmp_path, monkeypatch):
    flags = "--ema 0.9 --num_epoch 6 --kl_anneal_cycle 1 --lr_schedule cosine --optim AdamW".split()
    plain, recorded = (make_trainer(tmp_path, *flags) for _ in range(2))
    recorded.model.load_state_dict(plain.model.state_dict())
    recorded.ema.load_state_dict(plain.ema.state_dict())
    monkeypatch.setattr(  # a CPU has no streams
        graphs, "on_side_stream", lambda function, x, settings: function(*x, **settings)
    )
    recorded.device_step = Playback(recorded.step_on_device, recorded)
    recorded.ema.predict_frame = Playback(recorded.ema.predict_frame, recorded.ema)
    for step in range(24):
        clips = random_clips(BATCH if step % 5 else 1, seed=step)
        found = []
        for trainer in (plain, recorded):
            torch.manual_seed(step)
            trainer.current_epoch = trainer.kl_annealing.current_epoch = step // 4
            found.append(trainer.training_one_step(*clips, bool(step % 3)))
        assert torch.equal(*found)
    assert len(recorded.device_step.recordings) >= 2
    assert_same_weights(plain.model, recorded.model)
    assert_same_weights(plain.ema, recorded.ema)
    poses, noise = torch.rand(1, 9, 3, *SIZE), noise_source("mean", 0, [0])
    rolled = [roll_out(t.ema, poses[:, :1], poses, noise) for t in (plain, recorded)]
    assert torch.equal(*rolled)
    assert recorded.ema.predict_frame.recordings


@pytest.mark.parametrize("script", ["Trainer", "Tester"])
def test_cuda_graphs_are_refused_without_a_gpu(call, tmp_path, script):
    done = train_once(tmp_path)
    flags = ["--DR", done.data, "--save_root", tmp_path / "other", "--cuda_graphs"]
    flags += SHORT if script == "Trainer" else ["--ckpt_path", done.best, "--device", "cpu"]
    found = call(script, *flags)
    assert found.code == 1 and "--cuda_graphs" in found.err and "cpu" in found.err


@pytest.mark.parametrize("flags", ["--compile default", "--optim SGD", "--recompute"])
def test_cuda_graphs_are_refused_with_flags_that_cannot_be_captured(tmp_path, flags):
    model = make_trainer(tmp_path).model
    settings = settings_of([*SHORT, *flags.split()])
    with pytest.raises(UserError, match=flags.split()[-1]):
        graphs.check_graphs(settings, GPU, model, training=True)


def test_cuda_graphs_are_refused_for_rollouts_of_a_recurrent_model():
    settings = settings_of("--vgg_width 2 --g_dim 4 --z_dim 2 --rnn_size 4", "Tester", "robot")
    with pytest.raises(UserError, match="rollout of this model"):
        graphs.check_graphs(settings, GPU, RecurrentVAE(settings), training=False)


# ---------------------------------------------------------------- no host-device synchronisation

META = torch.device("meta")  # its tensors have no data: reading one, or mixing devices, raises
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
def test_steps_and_rollouts_stay_on_their_device_and_read_nothing_back(
    tmp_path, monkeypatch, line, forced
):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # unknown to meta
    monkeypatch.setattr(optimizer, "FUSED", ())  # meta has no fused step, and others may read back
    monkeypatch.setattr("Trainer.step_if", lambda finite, optim: None)
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


@pytest.mark.parametrize("mistake", [float, bool, lambda number: number + torch.zeros(3)])
def test_the_meta_device_raises_on_such_mistakes(mistake):
    with pytest.raises(RuntimeError):
        mistake(torch.ones(3, device=META)[0])


# ---------------------------------------------------------------- on a GPU

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@needs_gpu
@pytest.mark.parametrize("forced", [False, True])
def test_a_step_never_waits_for_the_gpu(tmp_path, forced):
    trainer = make_trainer(
        tmp_path, "--ema", 0.9, "--warp", 0.5, device=GPU, train_vi_len=LENGTH, batch_size=BATCH
    )
    images = np.random.default_rng(0).integers(0, 256, (60, *SIZE, 3), dtype=np.uint8)
    dataset = SimpleNamespace(frames=images, conditions=images, bad=[])
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
def test_captured_steps_on_a_gpu_match_those_without_graphs(tmp_path, posterior):
    flags = ("--ema", 0.9, "--posterior", posterior, "--lr_schedule", "cosine", "--grad_clip", 0.1)
    plain = make_trainer(tmp_path, *flags, device=GPU)
    recorded = make_trainer(tmp_path, *flags, "--cuda_graphs", device=GPU)
    recorded.model.load_state_dict(plain.model.state_dict())
    recorded.ema.load_state_dict(plain.ema.state_dict())
    for step in range(20):
        clips = [x.cuda() for x in random_clips(seed=step)]
        found = []
        for trainer in (plain, recorded):
            trainer.current_epoch = trainer.kl_annealing.current_epoch = step // 4
            trainer.model.train()
            torch.manual_seed(step)
            found.append(trainer.training_one_step(*clips, bool(step % 2)))
        torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)
    poses, noise = torch.rand(1, 9, 3, *SIZE), noise_source("mean", 0, [0])
    rolled = [roll_out(t.ema, poses[:, :1].cuda(), poses, noise) for t in (plain, recorded)]
    torch.testing.assert_close(*rolled, rtol=1e-3, atol=1e-3)


@needs_gpu
@pytest.mark.parametrize("mode", ["off", "default"])
@pytest.mark.parametrize("forced", [False, True])
def test_a_gpu_computes_the_same_as_the_cpu(tmp_path, monkeypatch, mode, forced):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    here, there = make_trainer(tmp_path), make_trainer(tmp_path, "--compile", mode, device=GPU)
    there.model.load_state_dict(here.model.state_dict())
    clips, noise = random_clips(), torch.randn(BATCH, LENGTH - 1, 4, *SIZE)
    for trainer, device in ((here, "cpu"), (there, "cuda")):  # their generators differ
        draws = noise.to(device), None
        monkeypatch.setattr(trainer.model, "draw_noise", lambda _, draws=draws: draws)
    for _ in range(3):
        loss = here.training_one_step(*clips, forced)[0]
        found = there.training_one_step(*(x.cuda() for x in clips), forced)[0].cpu()
        torch.testing.assert_close(found, loss, rtol=1e-3, atol=1e-4)
