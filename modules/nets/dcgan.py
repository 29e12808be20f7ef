"""The robot lab's lighter frame nets, as in DCGAN (Radford et al., 2016). Frames are 64x64.

Strided 4x4 convolutions: no layer works at full resolution. Same interface as vgg_lstm's nets.
"""

import torch
import torch.nn as nn

from .vgg_lstm import conv_block, from_vector, to_vector


def down(in_chans: int, out_chans: int) -> conv_block:
    return conv_block(nn.Conv2d(in_chans, out_chans, 4, 2, 1))


def up(in_chans: int, out_chans: int) -> conv_block:
    return conv_block(nn.ConvTranspose2d(in_chans, out_chans, 4, 2, 1))


class dcgan_encoder(nn.Module):
    """A frame -> its vector (g) and the four maps on the way: w at 32x32 .. 8w at 4x4."""

    def __init__(self, g_dim, width=64):
        super().__init__()
        widths = (3, width, 2 * width, 4 * width, 8 * width)
        self.stages = nn.ModuleList(down(a, b) for a, b in zip(widths, widths[1:]))
        self.head = to_vector(8 * width, g_dim)

    def forward(self, x):
        skips = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        return self.head(x).flatten(1), *skips  # (N, g), then (N, C, H, W) each


class dcgan_decoder(nn.Module):
    """A vector (g) and the encoder's four maps -> a frame (3 channels, 0..1)."""

    def __init__(self, g_dim, width=64):
        super().__init__()
        w = width
        self.head = from_vector(g_dim, 8 * w)
        self.stages = nn.ModuleList(  # the input of each is its own half and the skip's
            [
                up(2 * 8 * w, 4 * w),
                up(2 * 4 * w, 2 * w),
                up(2 * 2 * w, w),
                nn.ConvTranspose2d(2 * w, 3, 4, 2, 1),
            ]
        )

    def forward(self, vector, *skips):
        x = self.head(vector[:, :, None, None])  # (N, 8w, 4, 4)
        for stage, skip in zip(self.stages, reversed(skips)):
            x = stage(torch.cat([x, skip], dim=1))
        return torch.sigmoid(x.float())
