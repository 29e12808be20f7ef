"""The robot lab's four nets. Frames are 64x64; a vector's sequence is (B, T, ...).

No net stores a hidden state: the caller passes it in and gets the next one back.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

from .gaussian import LOGVAR_MAX, LOGVAR_MIN, bound


class conv_block(nn.Sequential):
    """A convolution, BatchNorm, LeakyReLU."""

    def __init__(self, conv):
        super().__init__(conv, nn.BatchNorm2d(conv.out_channels), nn.LeakyReLU(0.2, inplace=True))


def vgg_block(in_chans: int, out_chans: int) -> conv_block:
    """V(a, b): a 3x3 convolution that keeps height and width."""
    return conv_block(nn.Conv2d(in_chans, out_chans, 3, padding=1))


def to_vector(in_chans: int, g_dim: int) -> nn.Sequential:
    """Maps (N, C, 4, 4) -> (N, g, 1, 1) in -1..1."""
    return nn.Sequential(nn.Conv2d(in_chans, g_dim, 4), nn.BatchNorm2d(g_dim), nn.Tanh())


def from_vector(g_dim: int, out_chans: int) -> conv_block:
    """(N, g, 1, 1) -> maps (N, C, 4, 4)."""
    return conv_block(nn.ConvTranspose2d(g_dim, out_chans, 4))


def vgg_stage(*chans: int) -> nn.Sequential:
    """Blocks from each number of channels to the next."""
    return nn.Sequential(*(vgg_block(a, b) for a, b in zip(chans, chans[1:])))


class vgg_encoder(nn.Module):
    """A frame -> its vector (g) and the four maps before each pool: w at 64x64 .. 8w at 8x8."""

    def __init__(self, g_dim, width=64):
        super().__init__()
        w = width
        self.stages = nn.ModuleList(
            [
                vgg_stage(3, w, w),
                vgg_stage(w, 2 * w, 2 * w),
                vgg_stage(2 * w, 4 * w, 4 * w, 4 * w),
                vgg_stage(4 * w, 8 * w, 8 * w, 8 * w),
            ]
        )
        self.head = to_vector(8 * w, g_dim)

    def forward(self, x):
        skips = []
        for stage in self.stages:
            skips.append(stage(x))
            x = F.max_pool2d(skips[-1], 2)
        return self.head(x).flatten(1), *skips  # (N, g), then (N, C, H, W) each


class vgg_decoder(nn.Module):
    """A vector (g) and the encoder's four maps -> a frame (3 channels, 0..1)."""

    def __init__(self, g_dim, width=64):
        super().__init__()
        w = width
        self.head = from_vector(g_dim, 8 * w)
        self.stages = nn.ModuleList(  # the input of each is its own half and the skip's
            [
                vgg_stage(8 * w * 2, 8 * w, 8 * w, 4 * w),
                vgg_stage(4 * w * 2, 4 * w, 4 * w, 2 * w),
                vgg_stage(2 * w * 2, 2 * w, w),
                nn.Sequential(vgg_block(w * 2, w), nn.ConvTranspose2d(w, 3, 3, padding=1)),
            ]
        )

    def forward(self, vector, *skips):
        x = self.head(vector[:, :, None, None])  # (N, 8w, 4, 4)
        for stage, skip in zip(self.stages, reversed(skips)):
            x = stage(torch.cat([F.interpolate(x, scale_factor=2), skip], dim=1))
        return torch.sigmoid(x.float())


class lstm(nn.Module):
    """The frame predictor: (B, T, inputs) -> (B, T, outputs) in -1..1, and the hidden state."""

    def __init__(self, input_size, output_size, hidden_size, n_layers):
        super().__init__()
        self.embed = nn.Linear(input_size, hidden_size)
        self.lstm = nn.LSTM(hidden_size, hidden_size, n_layers, batch_first=True)
        self.output = nn.Sequential(
            nn.Linear(hidden_size, output_size), nn.BatchNorm1d(output_size), nn.Tanh()
        )

    def forward(self, x, hidden=None):
        x, hidden = self.lstm(self.embed(x), hidden)
        return self.output(x.flatten(0, 1)).unflatten(0, x.shape[:2]), hidden


class gaussian_lstm(nn.Module):
    """Posterior or prior: (B, T, inputs) -> mu and logvar (B, T, outputs), and the hidden state."""

    def __init__(self, input_size, output_size, hidden_size, n_layers):
        super().__init__()
        self.embed = nn.Linear(input_size, hidden_size)
        self.lstm = nn.LSTM(hidden_size, hidden_size, n_layers, batch_first=True)
        self.mu_net = nn.Linear(hidden_size, output_size)
        self.logvar_net = nn.Linear(hidden_size, output_size)

    def forward(self, x, hidden=None):
        x, hidden = self.lstm(self.embed(x), hidden)
        return self.mu_net(x), bound(self.logvar_net(x), LOGVAR_MIN, LOGVAR_MAX), hidden


def init_weights(layer: nn.Module) -> None:
    """Convolutions and linear layers N(0, .02), BatchNorm N(1, .02), biases 0; not the LSTMs."""
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(layer.weight, 0, 0.02)
        nn.init.zeros_(layer.bias)
    elif isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
        nn.init.normal_(layer.weight, 1, 0.02)
        nn.init.zeros_(layer.bias)
