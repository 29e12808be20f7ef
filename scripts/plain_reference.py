"""The course's training and test loops, written plainly and independently of the package's own.

One call per net and frame, float32, every picture decoded from its PNG every epoch. It shares the
nets' layers with the package and nothing else. `bench.py` measures against it, and the tests check
that both compute the same numbers.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image

from modules import modules as nets


class PlainModel(nn.Module):
    def __init__(self, F_dim=128, L_dim=32, N_dim=12, D_out_dim=192):
        super().__init__()
        self.frame_transformation = nets.RGB_Encoder(3, F_dim)
        self.label_transformation = nets.Label_Encoder(3, L_dim)
        self.Gaussian_Predictor = nets.Gaussian_Predictor(F_dim + L_dim, N_dim)
        self.Decoder_Fusion = nets.Decoder_Fusion(F_dim + L_dim + N_dim, D_out_dim)
        self.Generator = nets.Generator(D_out_dim, 3)


def plain_step(
    model, optim, frames, poses, forced, beta=1.0, clip=1.0, detach=False, previous=False
):
    """One optimizer step on frames, poses (B, T, 3, H, W) -> mean loss of a predicted frame."""
    loss, frame, steps = 0, frames[:, 0], frames.shape[1] - 1
    for t in range(1, steps + 1):
        if forced:
            frame = frames[:, t - 1]
        if detach:
            frame = frame.detach()
        features = model.frame_transformation(frame)
        pose = model.label_transformation(poses[:, t])
        seen = features if previous else model.frame_transformation(frames[:, t])
        z, mu, logvar = model.Gaussian_Predictor(seen, pose)
        frame = model.Generator(model.Decoder_Fusion(features, pose, z))
        kl = -0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp()) / len(frames)
        loss = loss + (F.mse_loss(frame, frames[:, t]) + beta * kl) / steps
    optim.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optim.step()
    return loss.item()


@torch.no_grad()
def plain_rollout(model, given, poses, z_dim):
    """given (B, 3, H, W), poses (B, T, 3, H, W) -> frames (B, T, 3, H, W)."""
    frames = [given]
    for t in range(1, poses.shape[1]):
        pose = model.label_transformation(poses[:, t])
        z = torch.randn(len(given), z_dim, *given.shape[-2:], device=given.device)
        features = model.frame_transformation(frames[-1])
        frames.append(model.Generator(model.Decoder_Fusion(features, pose, z)))
    return torch.stack(frames, 1)


class PlainDataset(torch.utils.data.Dataset):
    """Clips of consecutive frames; every picture is opened, decoded and resized when asked for."""

    def __init__(self, root, length, size):
        folder = Path(root) / "train"
        self.frames = sorted((folder / "train_img").glob("*.png"))
        self.poses = sorted((folder / "train_label").glob("*.png"))
        self.length, self.size = length, size

    def __len__(self):
        return len(self.frames) // self.length

    def read(self, path):
        picture = Image.open(path).convert("RGB").resize(self.size[::-1], Image.BILINEAR)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255

    def __getitem__(self, index):
        clip = slice(index * self.length, (index + 1) * self.length)
        lists = self.frames[clip], self.poses[clip]
        return tuple(torch.stack([self.read(path) for path in paths]) for paths in lists)
