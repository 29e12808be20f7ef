"""The nets wired into a model that predicts video: one protocol for every family.

Sequences are (B, T, C, H, W) floats in 0..1.
    forward(frames, poses, teacher_forcing) -> predictions, mu, logvar       training
    predict_frame(state, condition, noise)  -> frame, state                  one step
    rollout(given, poses, draw_noise)       -> yields every frame            validation and test
A rollout is handed no true future frame, so it cannot leak one.
"""

import functools
import itertools
from contextlib import nullcontext

import torch
import torch.nn as nn
from torch.utils.checkpoint import checkpoint

from . import modules, unet

NETS = {"course": modules, "unet": unet}
MASK_BIAS = -1.0  # a new net shows more of the still scene than of what it draws before it
MASK_FLOOR = 0.05  # a mask that closed in the first steps would never open: nothing would be drawn
STEPS_AT_ONCE = 64  # a rollout prepares so many steps at a time: memory stays level at any length
CPU_STEPS = 8  # of a rollout for which a CPU casts its weights once
# In training a CPU computes so many frames at a time, to stay in its caches (measured: bench.py).
CPU_FRAMES = {"float32": 4, "bf16": 16}


class VAE_Model(nn.Module):
    """The pose lab's conditional VAE: p(frame | previous frame, pose, z), q(z | frame, pose)."""

    LARGE_NETS = ("frame_transformation", "Gaussian_Predictor", "Decoder_Fusion", "Generator")

    def __init__(self, args):
        super().__init__()
        self.args = args
        nets = NETS[args.nets]
        self.frame_transformation = nets.RGB_Encoder(3, args.F_dim)
        self.label_transformation = nets.Label_Encoder(3, args.L_dim)
        known = args.F_dim + args.L_dim + args.F_dim * args.first_frame
        self.Gaussian_Predictor = nets.Gaussian_Predictor(known, args.N_dim)
        if args.learned_prior:
            self.prior = nets.Gaussian_Predictor(known, args.N_dim)
        fused = known + args.N_dim + args.position_map
        self.Decoder_Fusion = nets.Decoder_Fusion(fused, args.D_out_dim)
        self.Generator = nets.Generator(args.D_out_dim, 3 + args.scene)
        self.feature_size = args.frame_H // nets.SCALE, args.frame_W // nets.SCALE
        if args.position_map:  # what convolutions cannot know: where in the picture they are
            self.position_map = nn.Parameter(torch.randn(args.position_map, *self.feature_size))
        if args.scene:
            self.scene = nn.Parameter(torch.full((3, args.frame_H, args.frame_W), 0.5))
        self.to(memory_format=torch.channels_last)  # the same numbers, about twice as fast on a CPU

    # ------------------------------------------------------------ training

    def forward(self, frames, poses, teacher_forcing, prior=False):
        """frames, poses (B, T, 3, H, W) -> predictions of frames 1..T-1, and mu, logvar of their z.

        With `prior`, z comes from N(0, I) instead of the posterior, and mu and logvar are None.
        """
        with self.autocast():
            conditions = self.encode_conditions(poses[:, 1:], frames[:, 0])  # (B, T-1, C, h, w)
            inputs = frames, conditions, *self.draw_noise(frames)
            if not teacher_forcing:
                return self.free_running(prior, *inputs)
            if frames.device.type != "cpu":
                return self.teacher_forced(prior, *inputs)
            # a CPU takes clip by clip: it has nothing to gain from a whole batch, and would copy it
            clips = [self.teacher_forced(prior, *clip) for clip in one_by_one(0, *inputs)]
            return join(clips, dim=0)

    def autocast(self):
        """Convolutions in bf16 where --precision says so; z, frames and losses stay float32."""
        return torch.autocast(
            next(self.parameters()).device.type,
            torch.bfloat16,
            enabled=self.args.precision == "bf16",
            # weights cast once serve all steps, but not when some of them are without gradients
            cache_enabled=not self.args.push_forward,
        )

    def encode_conditions(self, poses, given):
        """What is known of every frame ahead: its pose, and with --first_frame the given frame."""
        features = over_time(self.label_transformation, poses)
        if self.args.first_frame:
            seen = self.frame_transformation(given)[:, None].expand(-1, poses.shape[1], -1, -1, -1)
            features = over_time(lambda *maps: torch.cat(maps, dim=1), features, seen)
        return features

    def draw_noise(self, frames):
        """Standard normal draws for every z, and where asked for for every frame to go on from."""
        b, t, *_ = frames.shape
        size = b, t - 1, self.args.N_dim, *self.feature_size
        z = torch.randn(size, device=frames.device)
        shaken = self.training and self.args.feedback_noise
        return z, torch.randn_like(frames[:, 1:]) if shaken else None

    def teacher_forced(self, prior, frames, conditions, noise, shake):
        """Predict every frame from the true one before it: nothing waits for a prediction."""
        truth = self.encode_truth(frames, prior)
        if truth is None or shake is not None:
            previous = self.per_frame(self.encode_previous, self.shaken(frames[:, :-1], shake))
        else:  # the same features serve twice
            previous = self.cut(truth[:, :-1])
        seen = previous if truth is None else truth[:, 1:]
        z, *posterior = self.draw_z(seen, conditions, noise, prior)
        pred = self.per_frame(self.decode, previous, conditions, z)
        return pred, *self.beside_prior(posterior, previous, conditions, noise)

    def free_running(self, prior, frames, conditions, noise, shake):
        """Predict step by step, each frame from the last prediction."""
        truth = self.encode_truth(frames[:, 1:], prior)
        waits = truth is None and not prior  # z is of the prediction before
        latents = (None,) * 3 if waits else self.draw_z(truth, conditions, noise, prior)
        frame, results, steps = frames[:, :1], [], conditions.shape[1]
        untrained = min(self.args.push_forward, steps - 1)
        inputs = one_by_one(1, conditions, noise, shake, *latents)
        for t, (condition, draw, shock, z, *posterior) in enumerate(inputs):
            with torch.set_grad_enabled(torch.is_grad_enabled() and t >= untrained):
                previous = self.per_frame(self.encode_previous, self.shaken(frame, shock))
                if waits:
                    z, *posterior = self.draw_z(previous, condition, draw, prior)
                frame = self.per_frame(self.decode, previous, condition, z)
                posterior = self.beside_prior(posterior, previous, condition, draw)
            results.append((frame, *posterior))
            if self.args.feedback == "frame":
                frame = frame.detach()
        return join(results, dim=1)

    def encode_truth(self, frames, prior):
        """Features of true frames for the posterior, where it looks at them."""
        if prior or self.args.posterior == "previous":
            return None
        return self.per_frame(self.frame_transformation, frames)

    def draw_z(self, features, conditions, noise, prior):
        """z, mu and logvar of q(z | features, conditions); with `prior`, z of N(0, I) and Nones."""
        if prior:
            return noise, None, None
        return self.per_frame(self.Gaussian_Predictor, features, conditions, noise)

    def beside_prior(self, posterior, *known):
        """mu and logvar of the posterior, as seen from a --learned_prior if there is one."""
        if posterior[0] is None or not self.args.learned_prior:
            return posterior
        _, *prior = self.per_frame(self.prior, *known)
        return standardise(*posterior, *prior)

    def per_frame(self, net, *inputs):
        """net on (B, T, ...); a CPU takes so few frames at a time that they stay in its caches."""
        if self.args.recompute and torch.is_grad_enabled():
            net = functools.partial(checkpoint, net, use_reentrant=False, preserve_rng_state=False)
        on_cpu = inputs[0].device.type == "cpu"
        return over_time(net, *inputs, at_once=on_cpu and CPU_FRAMES.get(self.args.precision))

    # ------------------------------------------------------------ one step

    def shaken(self, frame, shake):
        return frame if shake is None else frame + self.args.feedback_noise * shake

    def encode_previous(self, frame):
        """Features of the frame to go on from."""
        if self.args.feedback_clamp:  # the gated blocks square what they are fed, again and again
            frame = frame.clamp(0, 1)
        return self.cut(self.frame_transformation(frame))

    def cut(self, features):
        return features.detach() if self.args.feedback == "features" else features

    def decode(self, features, condition, z):
        inputs = [features, condition, z]
        if self.args.position_map:
            inputs.append(self.position_map.expand(len(z), -1, -1, -1))
        # one map in float32, or laid out otherwise, would make all that it is joined to like itself
        inputs = [x.to(features.dtype, memory_format=torch.channels_last) for x in inputs]
        frame = self.Generator(self.Decoder_Fusion(*inputs)).float()
        if self.args.scene:
            drawn, mask = frame.split([3, 1], dim=1)
            mask = MASK_FLOOR + (1 - MASK_FLOOR) * torch.sigmoid(mask + MASK_BIAS)
            return torch.lerp(self.scene, drawn, mask)
        return torch.sigmoid(frame) if self.args.sigmoid else frame

    @property
    def net_of_z(self):
        """What says at test where z is; None: it is drawn from N(0, I)."""
        if self.args.posterior == "previous":
            return self.Gaussian_Predictor
        return self.prior if self.args.learned_prior else None

    def predict_frame(self, state, condition, noise):
        """Previous frame, pose features, normal noise (or zeros) -> next frame and state."""
        with self.autocast():
            features, z = self.encode_previous(state), noise
            if net := self.net_of_z:
                z, *_ = net(features, condition, noise)
            frame = self.decode(features, condition, z)
        return frame, frame

    # ------------------------------------------------------------ many steps

    @torch.no_grad()
    def rollout(self, given, poses, draw_noise):
        """given (B, P, 3, H, W), poses (B, T, 3, H, W) -> yields T frames (B, 3, H, W)."""
        yield from given.unbind(1)
        state = given[:, -1]
        for chunk in poses[:, given.shape[1] :].split(STEPS_AT_ONCE, dim=1):
            with self.autocast():
                conditions = self.encode_conditions(chunk.to(given.device), given[:, -1])
            noise = draw_noise((chunk.shape[1], self.args.N_dim, *self.feature_size))
            steps = zip(conditions.unbind(1), noise.to(given.device).unbind(1))
            while some := list(itertools.islice(steps, CPU_STEPS)):
                frames = []
                with self.weights_cast_once(given.device):
                    for condition, z in some:
                        frame, state = self.predict_frame(state, condition, z)
                        frames.append(frame)
                yield from frames

    def weights_cast_once(self, device):
        """For several steps. Not on a GPU: a recording would know the weights of one step only."""
        return nullcontext() if device.type == "cuda" else self.autocast()


def standardise(mu, logvar, mu_p, logvar_p):
    """The posterior after the shift and scale that make the prior N(0, I); KL does not change."""
    return (mu - mu_p) * torch.exp(-0.5 * logvar_p), logvar - logvar_p


def noise_source(kind, seed, clips, sample=0):
    """draw(shape) -> (clips, *shape): each clip's own stream, so that batching changes nothing."""
    if kind == "mean":
        return lambda shape: torch.zeros(len(clips), *shape)
    seeds = [seed * 1_000_003 + clip + sample * 500_009 for clip in clips]
    streams = [torch.Generator().manual_seed(s) for s in seeds]
    return lambda shape: torch.stack([torch.randn(shape, generator=s) for s in streams])


def roll_out(model, given, conditions, noise, progress=iter):
    """All frames (B, T, 3, H, W) of a rollout, on the CPU."""
    model.eval()
    out, waiting = torch.empty(*conditions.shape[:2], *given.shape[2:]), []
    for t, frame in enumerate(progress(model.rollout(given, conditions, noise)), start=1):
        waiting.append(frame)
        if (
            len(waiting) == STEPS_AT_ONCE or t == out.shape[1]
        ):  # the device waits for no single copy
            out[:, t - len(waiting) : t] = torch.stack(waiting, 1)
            waiting.clear()
    return out


@torch.no_grad()
def one_step(model, frames, poses, noise):
    """Frames 1..T-1 of a clip (T, 3, H, W), each predicted from the true one before it, on the CPU.

    No legal prediction: it says what a rollout loses by going on from its own.
    """
    model.eval()
    device = next(model.parameters()).device
    pieces = []
    for before, pose in zip(frames[:-1].split(STEPS_AT_ONCE), poses[1:].split(STEPS_AT_ONCE)):
        with model.autocast():
            conditions = model.encode_conditions(pose[None].to(device), frames[:1].to(device))[0]
        z = noise((len(before), model.args.N_dim, *model.feature_size))[0].to(device)
        pieces.append(model.predict_frame(before.to(device), conditions, z)[0].cpu())
    return torch.cat(pieces)


def one_by_one(dim, *inputs):
    """Tensors (or Nones) -> tuples of their pieces of length one. Its gradient is one join."""
    count = next(x.shape[dim] for x in inputs if x is not None)
    return zip(*([None] * count if x is None else x.split(1, dim) for x in inputs))


def join(results, dim):
    """Tuples of pieces (or Nones) -> one tuple."""
    return tuple(None if parts[0] is None else joined(parts, dim) for parts in zip(*results))


def joined(parts, dim):
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def over_time(net, *inputs, at_once=None):
    """Apply a net to (B, T, ...) as to one batch of B*T, or to pieces `at_once` long of it."""
    pieces = zip(*(flat(x).split(at_once or len(x) * x.shape[1]) for x in inputs))
    results, batch = [net(*piece) for piece in pieces], len(inputs[0])
    if isinstance(results[0], tuple):
        return tuple(unflat(x, batch) for x in join(results, dim=0))
    return unflat(joined(results, dim=0), batch)


def flat(x):
    """(B, T, ...) -> (B*T, ...), maps laid out as the nets are: else each net would copy them."""
    x = x.flatten(0, 1)
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def unflat(x, batch):
    return x.unflatten(0, (batch, -1))
