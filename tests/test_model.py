"""The wired model, its training step and its rollouts, against loops written frame by frame."""

import argparse
import copy
import itertools
import math

import pytest
import torch
from helpers import TINY, draw
from torch.distributions import Normal, kl_divergence

import Tester
from dataloader import Dataset_Dance
from modules.models.pose import VAE_Model
from modules.models.rollout import noise_source, roll_out
from modules.nets.course import Gaussian_Predictor
from modules.runs import checkpoint as ckpt
from Trainer import Trainer

torch.set_num_threads(1)  # tiny nets: on busy cores, threads only wait for one another

CPU = torch.device("cpu")


def clips(batch=2, length=5, seed=0):
    """Random frames and poses (B, T, 3, 12, 16)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, batch, length, 3, 12, 16, generator=generator).unbind(0)


def changed(args, changes):
    return argparse.Namespace(**vars(args) | changes)


@pytest.fixture
def make_model(args):
    """make_model(flag=value, ...) -> a model in eval mode, with pose statistics."""

    def make(**changes):
        torch.manual_seed(0)
        model = VAE_Model(changed(args, changes))
        with torch.no_grad():
            model(*clips(seed=9), True)
        return model.eval()

    return make


@pytest.fixture
def make_trainer(args, dataset, tmp_path):
    def make(**changes):
        own = changed(args, {"save_root": tmp_path / "run"} | changes)
        val_set = Dataset_Dance(dataset, "val", 6, size=(own.frame_H, own.frame_W))
        return Trainer(own, CPU, val_set=val_set)

    return make


@pytest.fixture
def z_is_mu(monkeypatch):
    monkeypatch.setattr(Gaussian_Predictor, "reparameterize", staticmethod(lambda mu, *_: mu))


def assert_close(found, wanted, tolerance=1e-5):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


# ---------------------------------------------------------------- references, one frame at a time


def encode(model, frame):
    seen = frame.clamp(0, 1) if model.settings.feedback_clamp else frame
    features = model.frame_transformation(seen)
    return features.detach() if model.settings.feedback == "features" else features


def known(model, pose, given):
    """What is known of a frame ahead."""
    pose = model.label_transformation(pose)
    return (
        torch.cat([pose, model.frame_transformation(given)], 1)
        if model.settings.first_frame
        else pose
    )


def paint(model, features, pose, z):
    """The next frame from the features of the previous one, a pose and z."""
    if model.settings.position_map:
        z = torch.cat([z, model.position_map[None].repeat(len(z), 1, 1, 1)], 1)
    out = model.Generator(model.Decoder_Fusion(features, pose, z))
    if model.settings.scene:
        mask = 0.05 + 0.95 / (1 + torch.exp(1 - out[:, 3:]))
        return (1 - mask) * model.scene + mask * out[:, :3]
    return 1 / (1 + torch.exp(-out)) if model.settings.sigmoid else out


def clip_by_hand(model, frames, poses, forced):
    """What forward(frames, poses, forced) must return where z is mu."""
    last, results = frames[:, 0], []
    for t in range(1, frames.shape[1]):
        previous = frames[:, t - 1] if forced else last
        features, pose = encode(model, previous), known(model, poses[:, t], frames[:, 0])
        looked_at = features
        if model.settings.posterior == "current":
            looked_at = model.frame_transformation(frames[:, t])
        _, mu, logvar = model.Gaussian_Predictor(looked_at, pose)
        frame = paint(model, features, pose, mu)
        if model.settings.learned_prior:
            _, mu_p, logvar_p = model.prior(features, pose)
            mu, logvar = (mu - mu_p) / (logvar_p / 2).exp(), logvar - logvar_p
        results.append((frame, mu, logvar))
        last = frame.detach() if model.settings.feedback == "frame" else frame
    return [torch.stack(parts, 1) for parts in zip(*results)]


@torch.no_grad()
def rollout_by_hand(model, first, poses, noises):
    frames = [first]
    for t, noise in enumerate(noises, start=1):
        features, pose = encode(model, frames[-1]), known(model, poses[:, t], first)
        z = noise
        if model.settings.posterior == "previous" or model.settings.learned_prior:
            net = model.prior if model.settings.posterior == "current" else model.Gaussian_Predictor
            _, mu, logvar = net(features, pose)
            z = mu + noise * torch.exp(logvar / 2)
        frames.append(paint(model, features, pose, z))
    return torch.stack(frames, 1)


def gradients(model, results, frames):
    """Of a loss that looks at all of predictions, mu and logvar."""
    pred, mu, logvar = results
    loss = (pred - frames[:, 1:]).pow(2).mean() + 0.1 * mu.pow(2).mean() + 0.1 * logvar.exp().mean()
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return dict(zip(dict(model.named_parameters()), grads))


# ---------------------------------------------------------------- training: forward

EXTRAS = {
    "plain": {},
    "sigmoid": {"sigmoid": True},
    "unclamped": {"feedback_clamp": False},
    "map": {"position_map": 3},
    "scene": {"scene": True},
    "given frame": {"first_frame": True},
    "prior": {"learned_prior": True},
    "unet": {"nets": "unet", "position_map": 3, "scene": True, "first_frame": True},
}
STRATEGIES = [
    pytest.param(forced, posterior, feedback, EXTRAS[extra], id=f"{mode}-{posterior}-{rest}")
    for mode, posterior, feedback, extra in itertools.product(
        ("forced", "free"), ("current", "previous"), ("full", "frame", "features"), EXTRAS
    )
    for forced, rest in [(mode == "forced", f"{feedback}-{extra}")]
]


@pytest.mark.parametrize(("forced", "posterior", "feedback", "extra"), STRATEGIES)
def test_forward_and_its_gradients_are_those_of_a_loop_over_frames(
    make_model, z_is_mu, forced, posterior, feedback, extra
):
    model = make_model(posterior=posterior, feedback=feedback, **extra)
    frames, poses = clips()
    found, wanted = model(frames, poses, forced), clip_by_hand(model, frames, poses, forced)
    for a, b in zip(found, wanted):
        assert_close(a, b)
    found, wanted = (gradients(model, results, frames) for results in (found, wanted))
    for name, grad in wanted.items():
        assert (found[name] is None) == (grad is None), name
        if grad is not None:
            assert_close(found[name], grad)


def test_gradient_reaches_the_first_frame_only_through_full_feedback(make_model, z_is_mu):
    reached = {}
    for feedback in ("full", "frame", "features"):
        model, (frames, poses) = make_model(feedback=feedback), clips()
        frames.requires_grad_(True)
        pred = model(frames, poses, False)[0]
        reached[feedback] = torch.autograd.grad(pred[:, -1].sum(), frames)[0][:, 0].abs().max()
    assert reached["full"] > 0
    assert reached["frame"] == 0 and reached["features"] == 0


@pytest.mark.parametrize(("given", "trained_from"), [(0, 0), (2, 2), (99, 3)])
def test_pushed_forward_predictions_carry_no_gradient(make_model, z_is_mu, given, trained_from):
    model, (frames, poses) = make_model(push_forward=given), clips()
    poses.requires_grad_(True)
    pred = model(frames, poses, False)[0]
    with torch.no_grad():
        assert_close(pred, make_model()(frames, poses, False)[0])
    reached = [
        pred[:, t].requires_grad
        and torch.autograd.grad(pred[:, t].sum(), poses, retain_graph=True)[0][:, t + 1].any()
        for t in range(4)
    ]
    assert reached == [t >= trained_from for t in range(4)]
    (grad,) = torch.autograd.grad(pred[:, -1].sum(), poses)
    assert [bool(grad[:, t + 1].any()) for t in range(4)] == reached


def is_refused(*flags):
    try:
        parse("Trainer", ["--DR", "data", "--save_root", "run", *flags])
    except SystemExit:
        return True
    return False


@pytest.mark.parametrize("feedback", ["full", "frame", "features"])
@pytest.mark.parametrize("posterior", ["current", "previous"])
@pytest.mark.parametrize("forced", [True, False])
def test_every_net_learns_under_every_strategy(make_model, feedback, posterior, forced):
    if is_refused("--feedback", feedback, "--posterior", posterior):
        pytest.skip("options.parse refuses to combine them")
    model, (frames, poses) = make_model(feedback=feedback, posterior=posterior), clips()
    grads = gradients(model, model(frames, poses, forced), frames)
    for net in (name for name, _ in model.named_children()):
        assert any(g is not None and g.any() for k, g in grads.items() if k.startswith(net)), net


def test_free_running_is_not_teacher_forcing(make_model, z_is_mu):
    model, (frames, poses) = make_model(), clips()
    forced, free = model(frames, poses, True)[0], model(frames, poses, False)[0]
    assert_close(forced[:, 0], free[:, 0])
    assert not torch.allclose(forced[:, 1:], free[:, 1:], atol=1e-4)


@pytest.mark.parametrize("forced", [True, False])
def test_sigmoid_is_applied_to_what_the_generator_draws(make_model, z_is_mu, forced):
    plain, bent = make_model(), make_model(sigmoid=True)
    bent.load_state_dict(plain.state_dict())
    frames, poses = clips(length=2)
    pred = bent(frames, poses, forced)[0]
    assert_close(pred, torch.sigmoid(plain(frames, poses, forced)[0]))
    assert 0 < pred.min() and pred.max() < 1


@pytest.mark.parametrize("forced", [True, False])
@pytest.mark.parametrize("posterior", ["current", "previous"])
def test_prior_draws_z_from_a_standard_normal_and_has_no_posterior(make_model, forced, posterior):
    model, (frames, poses) = make_model(posterior=posterior), clips()
    seen = []
    model.Decoder_Fusion.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[2]))
    torch.manual_seed(1)
    pred, mu, logvar = model(frames, poses, forced, prior=True)
    z = torch.cat(seen)
    assert mu is None and logvar is None and pred.shape == frames[:, 1:].shape
    assert z.numel() == 2 * 4 * 4 * 12 * 16
    assert abs(z.mean()) < 0.05 and abs(z.std() - 1) < 0.05
    torch.manual_seed(1)
    assert torch.equal(model(frames, poses, forced, prior=True)[0], pred)
    assert not torch.equal(model(frames, poses, forced, prior=True)[0], pred)


@pytest.mark.parametrize("forced", [True, False])
@pytest.mark.parametrize("posterior", ["current", "previous"])
def test_training_draws_a_new_z_every_time(make_model, forced, posterior):
    model, (frames, poses) = make_model(posterior=posterior), clips()
    first, second = (model(frames, poses, forced) for _ in range(2))
    assert not torch.equal(first[0], second[0])


@pytest.mark.parametrize("forced", [True, False])
@pytest.mark.parametrize("t", [1, 3, 4])
def test_forward_uses_the_pose_of_the_frame_that_it_predicts(make_model, z_is_mu, forced, t):
    model, (frames, poses) = make_model(), clips()
    other = poses.clone()
    other[:, t] = 1 - poses[:, t]
    moved = model(frames, other, forced)[0] - model(frames, poses, forced)[0]
    moved = moved.abs().amax(dim=(0, 2, 3, 4)).tolist()  # of frames 1, 2, 3, 4
    assert moved[t - 1] > 1e-6
    unmoved = moved[: t - 1] + (moved[t:] if forced else [])
    assert all(distance < 1e-7 for distance in unmoved)


def test_the_given_frames_own_pose_is_not_used(make_model, z_is_mu):
    model, (frames, poses) = make_model(), clips()
    other = poses.clone()
    other[:, 0] = float("nan")
    assert torch.equal(model(frames, other, False)[0], model(frames, poses, False)[0])


@pytest.mark.parametrize("changes", [{"prior": True}, {"posterior": "previous"}])
def test_free_running_without_the_true_posterior_sees_no_true_future(make_model, changes):
    prior = changes.pop("prior", False)
    model, (frames, poses) = make_model(**changes), clips()
    blind, found = frames.clone(), []
    blind[:, 1:] = float("nan")
    for seen in (frames, blind):
        torch.manual_seed(0)
        found.append(model(seen, poses, False, prior=prior)[0])
    assert torch.equal(*found)


def test_noise_on_the_fed_back_frame_is_for_training_only(make_model, z_is_mu):
    model, (frames, poses) = make_model(feedback_noise=0.5), clips()
    quiet = model(frames, poses, False)[0]
    assert torch.equal(model(frames, poses, False)[0], quiet)
    model.train()
    assert not torch.allclose(model(frames, poses, False)[0], model(frames, poses, False)[0])


def test_bf16_keeps_frames_and_posteriors_in_float32_and_near(make_model, z_is_mu):
    exact, (frames, poses) = make_model(), clips()
    rough = make_model(precision="bf16")
    rough.load_state_dict(exact.state_dict())
    for found, wanted in zip(rough(frames, poses, False), exact(frames, poses, False)):
        assert found.dtype == torch.float32
        assert_close(found, wanted, 0.05)


# ---------------------------------------------------------------- rollouts


def rolled(model, frames, poses, **changes):
    """Clips 0, 1, ... rolled out from their first frames."""
    own = changed(model.settings, changes)
    noise = noise_source(own.z_source, own.seed, range(len(frames)))
    return roll_out(model, frames[:, :1], poses, noise)


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("posterior", ["current", "previous"])
@pytest.mark.parametrize("z_source", ["sample", "mean"])
def test_rollout_is_a_plain_loop_over_frames(make_model, extra, posterior, z_source):
    model = make_model(posterior=posterior, **EXTRAS[extra])
    frames, poses = clips()
    noise = noise_source(z_source, 0, range(2))
    noises = [noise((4, *model.feature_size)) for _ in range(4)]
    assert any(n.any() for n in noises) == (z_source == "sample")
    wanted = rollout_by_hand(model, frames[:, 0], poses, noises)
    assert_close(rolled(model, frames, poses, z_source=z_source), wanted)


@pytest.mark.parametrize("length", [2, 64, 65, 66, 129, 150])
def test_long_rollouts_are_the_same_loop(make_model, length):
    model, (frames, poses) = make_model(), clips(1, length)
    noises = torch.zeros(length - 1, 1, 4, 12, 16)
    found = rolled(model, frames, poses, z_source="mean")
    assert_close(found, rollout_by_hand(model, frames[:, 0], poses, noises))


def test_rollout_yields_the_given_frame_first_and_a_frame_for_every_pose(make_model):
    model, (frames, poses) = make_model(), clips(2, 7)
    found = rolled(model, frames, poses)
    assert found.shape == poses.shape and torch.isfinite(found).all()
    assert torch.equal(found[:, 0], frames[:, 0])


def test_rollout_from_several_given_frames_goes_on_from_the_last(make_model):
    model, (frames, poses) = make_model(z_source="mean"), clips(2, 7)
    found = roll_out(model, frames[:, :3], poses, noise_source("mean", 0, range(2)))
    assert torch.equal(found[:, :3], frames[:, :3])
    assert_close(found[:, 2:], rolled(model, frames[:, 2:], poses[:, 2:]))


@pytest.mark.parametrize("t", [1, 3, 4])
def test_a_pose_changes_its_own_frame_and_none_before(make_model, t):
    model, (frames, poses) = make_model(), clips()
    other = poses.clone()
    other[:, t] = 1 - poses[:, t]
    before, after = rolled(model, frames, poses), rolled(model, frames, other)
    assert torch.equal(before[:, :t], after[:, :t])
    assert (before[:, t] - after[:, t]).abs().max() > 1e-6


def test_noise_of_a_clip_is_bit_identical_however_clips_are_batched():
    together, alone = noise_source("sample", 3, [0, 1, 4]), noise_source("sample", 3, [4])
    for _ in range(3):
        noise = together((4, 2, 3))
        assert torch.equal(noise[2:], alone((4, 2, 3)))
        assert len(noise.unique()) == noise.numel()


def test_rollouts_do_not_depend_on_how_clips_are_batched(make_model):
    model, (frames, poses) = make_model(), clips(3, 6)
    together = rolled(model, frames, poses)
    for numbers in ([0], [1], [2, 1]):
        noise = noise_source("sample", 0, numbers)
        alone = roll_out(model, frames[numbers, :1], poses[numbers], noise)
        assert_close(alone, together[numbers])


def test_a_seed_repeats_its_samples_and_another_seed_does_not(make_model):
    model, (frames, poses) = make_model(), clips()
    first = rolled(model, frames, poses, seed=1)
    torch.manual_seed(1234)
    assert torch.equal(rolled(model, frames, poses, seed=1), first)
    assert not torch.allclose(rolled(model, frames, poses, seed=2)[:, 1:], first[:, 1:], atol=1e-5)


def test_the_mean_does_not_depend_on_the_seed(make_model):
    model, (frames, poses) = make_model(), clips()
    found = [rolled(model, frames, poses, z_source="mean", seed=s) for s in (1, 2)]
    assert torch.equal(*found)


def test_rollout_leaves_weights_and_pose_statistics_alone(make_model):
    model, (frames, poses) = make_model(), clips()
    before = copy.deepcopy(model.state_dict())
    found = rolled(model.train(), frames, poses)
    assert not found.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# ---------------------------------------------------------------- no leak of the true future


@pytest.mark.parametrize(
    "changes",
    [{}, {"posterior": "previous"}, {"position_map": 2}, {"z_source": "mean"}, {"ema": 0.9}],
    ids=str,
)
def test_validation_rolls_out_the_same_when_the_true_future_is_nan(
    make_trainer, monkeypatch, changes
):
    trainer, rollouts = make_trainer(**changes), []

    def recorded(*inputs, real=trainer.val_one_step):
        rollouts.append(real(*inputs))
        return rollouts[-1]

    monkeypatch.setattr(trainer, "val_one_step", recorded)
    scores = trainer.validate()
    trainer.val_frames[:, 1:] = float("nan")
    trainer.validate()
    seen, blind = rollouts
    assert torch.isfinite(blind).all() and torch.equal(seen, blind)
    assert math.isfinite(scores["psnr"])


def test_validation_scores_its_rollout_against_the_truth(make_trainer):
    trainer = make_trainer()
    pred = trainer.val_one_step(trainer.val_frames[:, :1], trainer.val_conditions)[0].clamp(0, 1)
    mse = (pred - trainer.val_frames[0]).double().pow(2).flatten(1).mean(1)[1:]
    psnr = (-10 * mse.log10()).tolist()
    scores = trainer.validate()
    assert scores["psnr"] == pytest.approx(sum(psnr) / len(psnr), abs=1e-3)
    assert scores["psnr_min"] == pytest.approx(min(psnr), abs=1e-3)


@pytest.fixture
def make_tester(make_model, dataset, tmp_path):
    """make_tester(flag, ...) -> a Tester of one template file, whatever the flags."""
    path = tmp_path / "epoch=0.ckpt"
    torch.save({"state_dict": make_model().state_dict(), "lr": 0.001}, path)
    fixed = ["--DR", dataset, "--save_root", tmp_path / "test", "--ckpt_path", path, *TINY]
    fixed += ["--device", "cpu", "--precision", "float32"]

    def make(*flags):
        args, typed = parse("Tester", [str(f) for f in (*fixed, *flags)])
        return Tester.Tester(args, typed, CPU, ckpt.load(path))

    return make


def test_tester_rolls_out_the_same_when_the_truth_is_another(make_tester, dataset):
    before = make_tester().rollout()
    for i, path in enumerate(sorted(dataset.glob("test/test_truth/*/*.png"))):
        draw(7 * i, pose=True).save(path)
    tester = make_tester()
    after = tester.rollout()
    assert all(torch.equal(a, b) for a, b in zip(before, after))
    assert [len(clip) for clip in after] == [6, 5]
    assert all(torch.equal(clip[:1], given) for clip, given in zip(after, tester.given))


def test_tester_pads_short_clips_without_changing_them(make_tester):
    together, alone = make_tester().rollout(), make_tester("--batch_size", 1).rollout()
    for a, b in zip(together, alone):
        assert_close(a, b)


# ---------------------------------------------------------------- one training step


def sgd_by_hand(model, frames, poses, forced, steps, lr, clip):
    """Steps of SGD with momentum 0.9 at beta 1 -> losses, norms of the gradients; in place."""
    weights = list(model.train().parameters())
    speed, log = [torch.zeros_like(w) for w in weights], []
    for _ in range(steps):
        pred, mu, logvar = model(frames, poses, forced)
        mse = (pred - frames[:, 1:]).pow(2).mean()
        posterior = Normal(mu, torch.exp(0.5 * logvar))
        frames_predicted = pred.shape[0] * pred.shape[1]
        kl = kl_divergence(posterior, Normal(0.0, 1.0)).sum() / frames_predicted
        grads = torch.autograd.grad(mse + kl, weights)
        norm = math.sqrt(sum(g.double().pow(2).sum().item() for g in grads))
        scale = min(1.0, clip / norm)
        speed = [0.9 * v + scale * g for v, g in zip(speed, grads)]
        with torch.no_grad():
            for w, v in zip(weights, speed):
                w -= lr * v
        log.append(((mse + kl).item(), mse.item(), kl.item(), norm))
    return log


@pytest.mark.parametrize("forced", [True, False])
@pytest.mark.parametrize("clip", [0.05, 1e6])
def test_steps_are_those_of_clipped_sgd_by_hand(make_trainer, z_is_mu, forced, clip):
    trainer = make_trainer(optim="SGD", lr=1e-3, grad_clip=clip, kl_anneal_type="None")
    reference, (frames, poses) = copy.deepcopy(trainer.model), clips()
    log = sgd_by_hand(reference, frames, poses, forced, 3, 1e-3, clip)
    assert all((norm > clip) == (clip < 1) for *_, norm in log)
    for wanted in log:
        found = trainer.training_one_step(frames, poses, adapt_TeacherForcing=forced)
        assert found[:3].tolist() == pytest.approx(wanted[:3], rel=1e-4)
    for name, value in reference.state_dict().items():
        assert_close(trainer.model.state_dict()[name], value)


def values(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def gradient_norm(trainer):
    return math.sqrt(sum(p.grad.pow(2).sum().item() for p in trainer.model.parameters()))


def test_gradients_are_clipped_to_the_norm_asked_for(make_trainer):
    norms = {}
    for clip in (0.0, 1e-3, 1e6):
        trainer = make_trainer(grad_clip=clip)
        trainer.training_one_step(*clips(), adapt_TeacherForcing=False)
        norms[clip] = gradient_norm(trainer)
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-2)
    assert norms[0.0] == pytest.approx(norms[1e6]) and norms[0.0] > 1e-2


def test_gradients_do_not_accumulate(make_trainer, z_is_mu):
    trainer = make_trainer(grad_clip=0.0)
    for group in trainer.optim.param_groups:
        group["lr"] = 0.0
    norms = []
    for _ in range(3):
        trainer.training_one_step(*clips(), adapt_TeacherForcing=False)
        norms.append(gradient_norm(trainer))
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-4)


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_one_step_changes_every_net_and_lowers_the_loss(make_trainer, z_is_mu, optim):
    trainer = make_trainer(optim=optim, lr=1e-3)
    before = copy.deepcopy(trainer.model)
    losses = [trainer.training_one_step(*clips(), adapt_TeacherForcing=True)[0].item()]
    for (name, old), new in zip(before.named_children(), trainer.model.children()):
        assert any(not torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters())), name
    for _ in range(10):
        losses.append(trainer.training_one_step(*clips(), adapt_TeacherForcing=True)[0].item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("epoch", [0, 3, 5])
def test_the_loss_weighs_kl_by_the_beta_of_the_epoch(make_trainer, epoch):
    trainer = make_trainer()
    for _ in range(epoch):
        trainer.step_schedules()
    loss, mse, kl, *_ = trainer.training_one_step(*clips(), adapt_TeacherForcing=True).tolist()
    assert kl > 0
    assert loss == pytest.approx(mse + epoch / 7 * kl, rel=1e-5)


def test_pretraining_leaves_the_posterior_alone_and_counts_no_kl(make_trainer):
    trainer = make_trainer(pretrain_epochs=1, kl_anneal_type="None")
    before = copy.deepcopy(trainer.model)
    loss, mse, kl, *_ = trainer.training_one_step(*clips(), adapt_TeacherForcing=False).tolist()
    assert kl == 0 and loss == mse > 0
    assert torch.equal(values(before.Gaussian_Predictor), values(trainer.model.Gaussian_Predictor))
    assert not torch.equal(values(before.Generator), values(trainer.model.Generator))
    trainer.step_schedules()
    assert trainer.training_one_step(*clips(), adapt_TeacherForcing=False)[2] > 0


def everything_learned(trainer):
    """Copies of weights, averaged weights and optimizer moments."""
    moments = [v for s in trainer.optim.state.values() for v in s.values()]
    tensors = [*trainer.model.parameters(), *trainer.ema.parameters(), *moments]
    return [torch.as_tensor(t).detach().clone() for t in tensors]


def test_a_step_that_is_not_finite_changes_nothing(make_trainer):
    trainer, (frames, poses) = make_trainer(ema=0.9), clips()
    trainer.training_one_step(frames, poses, adapt_TeacherForcing=True)
    before, broken = everything_learned(trainer), frames.clone()
    broken[0, 2] = float("nan")
    assert torch.isfinite(trainer.training_one_step(broken, poses, adapt_TeacherForcing=True)).all()
    after = everything_learned(trainer)
    assert len(after) == len(before) and all(torch.equal(a, b) for a, b in zip(after, before))
    trainer.training_one_step(frames, poses, adapt_TeacherForcing=True)
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_an_epoch_trains_with_batch_statistics_even_after_validation(make_trainer):
    trainer = make_trainer()
    trainer.validate()
    assert not trainer.model.training
    trainer.start_epoch()
    assert all(module.training for module in trainer.model.modules())


@pytest.mark.parametrize("coin", ["epoch", "batch"])
def test_coins_are_fair_and_repeat_one_for_an_epoch_or_one_for_a_batch(make_trainer, coin):
    trainer, epochs = make_trainer(tfr_coin=coin), []
    trainer.tfr = 0.3
    for trainer.current_epoch in range(400):
        epochs.append(trainer.coins(20).tolist())
        assert trainer.coins(20).tolist() == epochs[-1]
    assert all(len(coins) == 20 for coins in epochs)
    assert any(len(set(coins)) == 2 for coins in epochs) == (coin == "batch")
    assert sum(map(sum, epochs)) / (400 * 20) == pytest.approx(0.3, abs=0.08)


@pytest.mark.parametrize(("tfr", "forced"), [(0.0, False), (1.0, True)])
def test_a_ratio_of_0_never_forces_and_of_1_always(make_trainer, tfr, forced):
    trainer = make_trainer(tfr_coin="batch")
    trainer.tfr = tfr
    assert set(trainer.coins(1000).tolist()) == {forced}


# ---------------------------------------------------------------- averaged weights


def test_ema_moves_by_its_decay_once_it_is_under_way(make_trainer):
    trainer = make_trainer(ema=0.9, lr=0.01)
    trainer.step = 100_000
    for seed in range(3):
        before = values(trainer.ema)
        trainer.training_one_step(*clips(seed=seed), adapt_TeacherForcing=True)
        assert_close(values(trainer.ema), 0.9 * before + 0.1 * values(trainer.model), 1e-6)
    assert not torch.allclose(values(trainer.ema), values(trainer.model))


def test_ema_soon_forgets_the_first_weights(make_trainer):
    trainer = make_trainer(ema=0.999, lr=0.01)
    start = values(trainer.model)
    for _ in range(20):
        trainer.training_one_step(*clips(), adapt_TeacherForcing=True)
    to_start = (values(trainer.ema) - start).norm()
    assert (values(trainer.ema) - values(trainer.model)).norm() < to_start


def test_ema_keeps_the_pose_statistics_of_the_model(make_trainer):
    trainer = make_trainer(ema=0.999)
    trainer.training_one_step(*clips(), adapt_TeacherForcing=True)
    for mean, value in zip(trainer.ema.buffers(), trainer.model.buffers()):
        assert torch.equal(mean, value)
    assert trainer.model.label_transformation[2].running_mean.any()


def test_validation_uses_the_averaged_weights(make_trainer):
    trainer = make_trainer(ema=0.9)
    first, poses = trainer.val_frames[:, :1], trainer.val_conditions
    with torch.no_grad():
        for weight in trainer.ema.Generator[-1].parameters():
            weight.fill_(0.25 if weight.ndim == 1 else 0.0)
    pred = trainer.val_one_step(first, poses)
    assert_close(pred[:, 1:], torch.full_like(pred[:, 1:], 0.25))


def test_what_is_drawn_behind_a_closed_mask_still_learns(make_model):
    model = make_model(scene=True)
    last = model.Generator[-1]
    with torch.no_grad():
        last.bias[3] = -100
    frames, poses = clips()
    pred, *_ = model(frames, poses, False)
    (pred - frames[:, 1:]).square().mean().backward()
    assert (last.weight.grad[:3].abs().amax(1) > 0).all()
