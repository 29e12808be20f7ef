"""The convolutional blocks that the pose lab's nets are made of. All keep height and width.

Activations are in place, on outputs that nothing else needs: a fifth of the memory.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside an identity (or 1x1) path."""

    def __init__(self, in_ch, out_ch):
        super().__init__()
        self.conv1 = nn.Conv2d(in_ch, out_ch, 3, padding=1)
        self.leaky_relu = nn.LeakyReLU(0.01, inplace=True)
        self.conv2 = nn.Conv2d(out_ch, out_ch, 3, padding=1)
        self.skip = nn.Conv2d(in_ch, out_ch, 1) if in_ch != out_ch else None

    def forward(self, x):
        out = self.leaky_relu(self.conv2(self.leaky_relu(self.conv1(x))))
        return out + (x if self.skip is None else self.skip(x))


class DepthConv(nn.Module):
    """1x1, depthwise 3x3 and 1x1 convolution beside an identity (or 1x1) path."""

    def __init__(self, in_ch, out_ch):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(in_ch, in_ch, 1), nn.LeakyReLU(0.01, inplace=True))
        self.depth_conv = nn.Conv2d(in_ch, in_ch, 3, padding=1, groups=in_ch)
        self.conv2 = nn.Conv2d(in_ch, out_ch, 1)
        self.adaptor = nn.Conv2d(in_ch, out_ch, 1) if in_ch != out_ch else None

    def forward(self, x):
        out = self.conv2(self.depth_conv(self.conv1(x)))
        return out + (x if self.adaptor is None else self.adaptor(x))


class ConvFFN(nn.Module):
    """A gated feed-forward layer: one half of a 4x wide map gates the other."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 1)
        self.conv_out = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x):
        apart = x.device.type == "cpu" and torch.is_grad_enabled()
        if apart:  # on a CPU two convolutions are faster than joining the gradients of halves
            halves = zip(self.conv.weight.chunk(2), self.conv.bias.chunk(2))
            value, gate = (F.conv2d(x, *half) for half in halves)
        else:
            value, gate = self.conv(x).chunk(2, dim=1)
        return x + self.conv_out(value * F.leaky_relu(gate, 0.1, inplace=apart))


class DepthConvBlock(nn.Module):
    """DepthConv, then ConvFFN."""

    def __init__(self, in_ch, out_ch):
        super().__init__()
        self.block = nn.Sequential(DepthConv(in_ch, out_ch), ConvFFN(out_ch))

    def forward(self, x):
        return self.block(x)
