"""The training steps of the template and of the reports' own programs, written plainly.

Settings are those of the scripts, with narrow nets. Everything is float64: with the same weights,
clips and noise, the weights after a step differ by rounding alone.
"""

import sys

import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT, SHORT, SIZE, make_dataset, random_clips, settings_of

sys.path.insert(0, str(ROOT / "scripts"))
import sweep
from benchmark.plain_reference import PlainDataset, PlainModel, Residual, plain_rollout

from dataloader import Dataset_Dance
from modules.labs import LABS
from modules.models.rollout import noise_source, roll_out
from Trainer import Trainer, train

SIZES = {"F_dim": 8, "L_dim": 2, "N_dim": 4, "D_out_dim": 8}  # those of TINY
STEPS = 5
EXACT = 1e-8  # of the distance that the weights move: float64 has 1e-16


class Plain(PlainModel):
    """`seen` is what the posterior sees; `sigmoid` is applied to the Generator's output."""

    def __init__(self, seen="current", sigmoid=False):
        super().__init__(**SIZES)
        self.seen, self.sigmoid = seen, sigmoid
        if seen == "previous_image":
            self.Gaussian_Predictor[0] = Residual(3 + SIZES["L_dim"], SIZES["N_dim"] // 4)

    def forward(self, image, pose, noise, true=None, detach=False):
        """The next frame, mu and logvar; without a true frame z is the noise."""
        pose, z, mu, logvar = self.label_transformation(pose), noise, None, None
        features = self.frame_transformation(image)
        if true is not None:
            seen = image if self.seen == "previous_image" else self.frame_transformation(true)
            z, mu, logvar = self.posterior(seen, pose, noise)
        frame = self.generate(features.detach() if detach else features, pose, z)
        return (torch.sigmoid(frame) if self.sigmoid else frame), mu, logvar


def kl(mu, logvar, batch):
    return -0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp()) / batch


def unrolled(net, clips, noise, forced, beta, batch, feed=lambda frame: frame, detach=False):
    """The loss of a clip of frames: the sum over the predicted ones."""
    frames, poses = clips
    loss, last = 0, frames[:, 0]
    for t in range(1, frames.shape[1]):
        image = frames[:, t - 1] if forced else feed(last)
        last, mu, logvar = net(image, poses[:, t], noise[:, t - 1], frames[:, t], detach)
        loss = loss + F.mse_loss(last, frames[:, t]) + beta * kl(mu, logvar, batch)
    return loss


def optimise(net, optim, loss, clip=1.0):
    optim.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
    optim.step()


def template(net, optim, clips, noise, forced, beta):
    optimise(net, optim, unrolled(net, clips, noise, forced, beta, len(noise)))


def report_b(net, optim, clips, noise, forced, beta):
    """Features of the previous frame are detached, and the loss is divided by the batch size."""
    loss = unrolled(net, clips, noise, forced, beta, len(noise), detach=True)
    optimise(net, optim, loss / len(noise))


def report_c(net, optim, clips, noise, forced, beta):
    """A step after each clip; the KL of one clip is divided by the size of the batch."""
    for clip in range(len(noise)):
        one = [x[clip : clip + 1] for x in clips]
        rows = noise[clip : clip + 1]
        optimise(net, optim, unrolled(net, one, rows, forced, beta, len(noise)))


def report_d(net, optim, clips, noise, forced, beta):
    """The fed-back frame is detached."""
    loss = unrolled(net, clips, noise, forced, beta, len(noise), torch.Tensor.detach)
    optimise(net, optim, loss, clip=0.1)


def pretraining_of_d(net, optim, clips, noise, forced, beta):
    """Of the decoder: teacher-forced, with z ~ N(0, I)."""
    (frames, poses), loss = clips, 0
    for t in range(1, frames.shape[1]):
        frame, *_ = net(frames[:, t - 1], poses[:, t], noise[:, t - 1])
        loss = loss + F.mse_loss(frame, frames[:, t])
    optimise(net, optim, loss, clip=0.1)


PROGRAMS = {  # script, run -> the step of its program, its net, the epoch
    ("report_b", "Cyclical/tfr0"): (report_b, {"sigmoid": True}, 3),
    ("report_b", "no_sigmoid"): (report_b, {}, 3),
    ("report_c", "Cyclical/tfr0.5"): (report_c, {}, 3),
    ("report_d", "Cyclical/tfr1"): (report_d, {"sigmoid": True, "seen": "previous_image"}, 7),
    ("report_d", "Monotonic/tfr0"): (
        pretraining_of_d, {"sigmoid": True, "seen": "previous_image"}, 2),
    ("report_e", "Cyclical"): (template, {}, 3),
}  # fmt: skip


@pytest.fixture
def settings_of_run(shell, tmp_path):
    def found(script, name):
        ((_, *words),) = shell(script, tmp_path / "runs", DR="data", ONLY=name)
        (job,) = sweep.jobs_of(sweep.parse_arguments(words))
        return job.settings.replace(**SIZES, frame_H=12, frame_W=16, precision="float32")

    return found


def make_pair(folder, settings, net):
    """A Trainer of these settings, and the plain net with the same weights and its optimizer."""
    image = torch.zeros(2, 3, *SIZE)
    settings = settings.replace(DR=None, save_root=folder)
    trainer = Trainer(settings, torch.device("cpu"), None, [(image, image)])
    plain = Plain(**net)
    plain.load_state_dict(trainer.model.state_dict())
    optim = type(trainer.optim)(plain.parameters(), lr=trainer.optim.param_groups[0]["lr"])
    trainer.model.train()
    return trainer, plain.train(), optim


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def distance(trainer, plain, start):
    """Of the weights, as a share of the distance that they have moved."""
    found, expected = weights(trainer.model), weights(plain)
    return ((found - expected).norm() / (expected - start).norm()).item()


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("run", PROGRAMS, ids=" ".join)
@pytest.mark.usefixtures("float64")
def test_a_scripts_steps_are_those_of_its_program(settings_of_run, tmp_path, run, forced):
    program, net, epoch = PROGRAMS[run]
    if program is pretraining_of_d and not forced:
        pytest.skip("decoder pre-training is teacher-forced")
    settings = settings_of_run(*run)
    trainer, plain, optim = make_pair(tmp_path / "run", settings, net)
    for _ in range(epoch):
        trainer.step_schedules()
    beta = trainer.kl_annealing.get_beta() * (2 if program is report_c else 1)
    start, shares = weights(plain), []
    for step in range(STEPS):
        clips, noise = random_clips(2, seed=step), []
        for i in range(0, 2, settings.batch_size):
            batch = [x[i : i + settings.batch_size] for x in clips]
            torch.manual_seed(i)
            noise.append(trainer.model.draw_noise(batch[0])[0])
            torch.manual_seed(i)
            trainer.training_one_step(*batch, forced)
        program(plain, optim, clips, torch.cat(noise), forced, beta)
        shares.append(distance(trainer, plain, start))
    assert max(shares) < EXACT, shares


# ---------------------------------------------------------------- rollouts and clips


@pytest.mark.usefixtures("float64")
def test_a_rollout_matches_the_plain_loop(settings_of_run, tmp_path):
    trainer, plain, _ = make_pair(tmp_path / "run", settings_of_run("report_e", "Cyclical"), {})
    trainer.model.label_transformation.per_image = False
    given, poses = torch.rand(1, 3, *SIZE), torch.rand(1, 50, 3, *SIZE)
    found = roll_out(trainer.model, given[:, None], poses, noise_source("sample", 0, [0]))
    torch.manual_seed(0)
    expected = plain_rollout(plain.eval(), given, poses, SIZES["N_dim"])
    torch.testing.assert_close(found, expected, rtol=EXACT, atol=EXACT)


def test_clips_and_batches_are_the_templates(tmp_path):
    """Consecutive clips in order, images resized by PIL; no last, incomplete batch."""
    root = make_dataset(tmp_path / "data", train=23)
    ours, plain = Dataset_Dance(root, "train", 4, size=SIZE), PlainDataset(root, 4, SIZE)
    assert len(ours) == len(plain) == 5
    settings = settings_of([*SHORT, "--DR", root, "--save_root", "s", "--batch_size", 2])
    lab = LABS["pose"](settings)
    clips = lab.TrainClips(lab.open_train(), settings, torch.device("cpu"))
    loader = torch.utils.data.DataLoader(plain, batch_size=2, shuffle=False, drop_last=True)
    found = list(clips.fetch(clips.batches(0)))
    assert len(found) == len(loader) == 2
    for batch, expected in zip(found, loader):
        for a, b in zip(batch, expected):
            assert torch.equal(a, b)
    assert len(ours[4][0]) == 4  # the dataset itself has the last clip


def test_a_single_incomplete_batch_is_one_step_and_noted(tmp_path, capsys):
    root = make_dataset(tmp_path / "data", train=12)
    flags = ["--DR", root, "--save_root", tmp_path / "run", "--num_epoch", 1, "--batch_size", 8]
    trainer = train(settings_of([*flags, "--no-plots", *SHORT]))
    assert trainer.step == 1
    assert "note: an epoch has 3 clips, fewer than a batch" in capsys.readouterr().out
