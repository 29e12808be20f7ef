"""The template's nets, training and test loops, written plainly and independently of the package.

One call per net and frame, float32, every image decoded from its PNG in every epoch. `bench.py`
measures against it, and the tests check that both compute the same numbers.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image


class Residual(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(a, b, 3, padding=1), nn.Conv2d(b, b, 3, padding=1)
        self.skip = nn.Identity() if a == b else nn.Conv2d(a, b, 1)

    def forward(self, x):
        y = F.leaky_relu(self.conv1(x), 0.01)
        return F.leaky_relu(self.conv2(y), 0.01) + self.skip(x)


class Depth(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(a, a, 1), nn.LeakyReLU(0.01))
        self.depth_conv = nn.Conv2d(a, a, 3, padding=1, groups=a)
        self.conv2 = nn.Conv2d(a, b, 1)
        self.adaptor = nn.Identity() if a == b else nn.Conv2d(a, b, 1)

    def forward(self, x):
        return self.conv2(self.depth_conv(self.conv1(x))) + self.adaptor(x)


class Gated(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv, self.conv_out = nn.Conv2d(c, 4 * c, 1), nn.Conv2d(2 * c, c, 1)

    def forward(self, x):
        a, b = self.conv(x).chunk(2, dim=1)
        return x + self.conv_out(a * F.leaky_relu(b, 0.1))


class DepthBlock(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.block = nn.Sequential(Depth(a, b), Gated(b))

    def forward(self, x):
        return self.block(x)


def pairs(a, *widths):
    """Alternating residual and depthwise blocks, to each of these widths."""
    layers = []
    for b in widths:
        layers += [Residual(a, b), DepthBlock(b, b)]
        a = b
    return layers


class PlainModel(nn.Module):
    """Its state_dict keys are those of published checkpoints."""

    def __init__(self, F_dim=128, L_dim=32, N_dim=12, D_out_dim=192):
        super().__init__()
        f, p, n, d = F_dim, L_dim, N_dim, D_out_dim
        known = f + p
        fused = known + n
        self.frame_transformation = nn.Sequential(
            *pairs(3, f // 8, f // 4, f // 2), nn.Conv2d(f // 2, f, 3, padding=1)
        )
        pad, identity = nn.ReflectionPad2d(3), nn.LeakyReLU(1.0)  # slope 1, as in the template
        self.label_transformation = nn.Sequential(
            pad, nn.Conv2d(3, p // 2, 7), nn.BatchNorm2d(p // 2), identity, Residual(p // 2, p)
        )
        self.Gaussian_Predictor = nn.Sequential(
            *pairs(known, n // 4, n // 2), Residual(n // 2, n), identity, nn.Conv2d(n, 2 * n, 1)
        )
        self.Decoder_Fusion = nn.Sequential(
            DepthBlock(fused, fused), Residual(fused, fused // 4),
            DepthBlock(fused // 4, fused // 2), Residual(fused // 2, fused // 2),
            DepthBlock(fused // 2, d // 2), nn.Conv2d(d // 2, d, 1),
        )  # fmt: skip
        self.Generator = nn.Sequential(
            DepthBlock(d, d), *pairs(d, d // 2, d // 4, d // 8), nn.Conv2d(d // 8, 3, 1)
        )

    def posterior(self, features, pose, noise=None):
        mu, logvar = self.Gaussian_Predictor(torch.cat([features, pose], dim=1)).chunk(2, dim=1)
        noise = torch.randn_like(mu) if noise is None else noise
        return mu + noise * torch.exp(0.5 * logvar), mu, logvar

    def generate(self, features, pose, z):
        return self.Generator(self.Decoder_Fusion(torch.cat([features, pose, z], dim=1)))


def plain_step(model, optim, frames, poses, forced, beta=1.0):
    """One optimizer step on frames, poses (B, T, 3, H, W) -> mean loss per predicted frame.

    As in the template, the loss is the sum over the predicted frames, and the norm of its gradient
    is clipped to 1.
    """
    loss, frame, steps = 0, frames[:, 0], frames.shape[1] - 1
    for t in range(1, steps + 1):
        if forced:
            frame = frames[:, t - 1]
        features = model.frame_transformation(frame)
        pose = model.label_transformation(poses[:, t])
        z, mu, logvar = model.posterior(model.frame_transformation(frames[:, t]), pose)
        frame = model.generate(features, pose, z)
        kl = -0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp()) / len(frames)
        loss = loss + F.mse_loss(frame, frames[:, t]) + beta * kl
    optim.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optim.step()
    return loss.item() / steps


@torch.no_grad()
def plain_rollout(model, given, poses, z_dim):
    """given (B, 3, H, W), poses (B, T, 3, H, W) -> frames (B, T, 3, H, W)."""
    frames = [given]
    for t in range(1, poses.shape[1]):
        pose = model.label_transformation(poses[:, t])
        z = torch.randn(len(given), z_dim, *given.shape[-2:], device=given.device)
        features = model.frame_transformation(frames[-1])
        frames.append(model.generate(features, pose, z))
    return torch.stack(frames, 1)


class PlainDataset(torch.utils.data.Dataset):
    """Clips of consecutive frames; every image is opened, decoded and resized on access."""

    def __init__(self, root, length, size):
        folder = Path(root) / "train"
        self.frames = sorted((folder / "train_img").glob("*.png"))
        self.poses = sorted((folder / "train_label").glob("*.png"))
        self.length, self.size = length, size

    def __len__(self):
        return len(self.frames) // self.length

    def read(self, path):
        image = Image.open(path).convert("RGB").resize(self.size[::-1], Image.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255

    def __getitem__(self, index):
        clip = slice(index * self.length, (index + 1) * self.length)
        lists = self.frames[clip], self.poses[clip]
        return tuple(torch.stack([self.read(path) for path in paths]) for paths in lists)
