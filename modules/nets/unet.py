"""The pose lab's nets at half resolution (--nets unet): the same five names as in course.py.

Eight 3x3 convolutions at full resolution see a neighbourhood; a U-Net sees the whole image.
Frames and poses are (B, 3, H, W), features (B, C, H/2, W/2); H and W are even.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

from . import course

SCALE = 2  # of a frame to its features
RESIDUAL_GAIN = 0.3  # new blocks start near the identity, so that a deep net trains quickly


class Block(nn.Module):
    """Two 3x3 convolutions beside an identity (or 1x1) path; `norm` is applied between them.

    In the lower stages of a U-Net features drift without it, and then explode: docs/training.md.
    """

    def __init__(self, in_ch, out_ch, norm=False):
        super().__init__()
        self.conv1 = nn.Conv2d(in_ch, out_ch, 3, padding=1)
        self.norm = nn.GroupNorm(1, out_ch, affine=False) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(out_ch, out_ch, 3, padding=1)
        self.skip = nn.Conv2d(in_ch, out_ch, 1) if in_ch != out_ch else nn.Identity()
        with torch.no_grad():
            self.conv2.weight *= RESIDUAL_GAIN

    def forward(self, x):
        return F.silu(self.skip(x) + self.conv2(F.silu(self.norm(self.conv1(x)))))


class RGB_Encoder(nn.Module):
    """A frame (3 channels) -> its features (F_dim)."""

    def __init__(self, in_chans, out_chans):
        super().__init__()
        self.conv = nn.Conv2d(in_chans * SCALE**2, out_chans, 3, padding=1)

    def forward(self, frame):
        return self.conv(F.pixel_unshuffle(frame - 0.5, SCALE))


class Label_Encoder(RGB_Encoder):
    """A pose image (3 channels) on white -> its features (L_dim)."""

    def forward(self, pose):
        return self.conv(F.pixel_unshuffle(1 - pose, SCALE))


class Gaussian_Predictor(course.Gaussian_Predictor):
    """Frame and pose features -> z and its mean and log variance (N_dim each)."""

    def __init__(self, in_chans, out_chans):
        width = 4 * out_chans
        nn.Sequential.__init__(self, Block(in_chans, width), nn.Conv2d(width, 2 * out_chans, 1))


class Decoder_Fusion(nn.Module):
    """All features and z -> the Generator's input (D_out_dim): a U-Net of three stages."""

    def __init__(self, in_chans, out_chans):
        super().__init__()
        top, middle, low = out_chans, out_chans * 3 // 2, out_chans * 2
        down = Block(in_chans, top), Block(top, middle, norm=True), Block(middle, low, norm=True)
        self.down = nn.ModuleList(down)
        self.up = nn.ModuleList([Block(low + middle, middle, norm=True), Block(middle + top, top)])

    def forward(self, *inputs):
        x, skips = self.down[0](torch.cat(inputs, dim=1)), []
        for block in self.down[1:]:
            skips.append(x)
            x = block(F.avg_pool2d(x, 2, ceil_mode=True))
        for block, skip in zip(self.up, reversed(skips)):
            x = block(torch.cat([F.interpolate(x, skip.shape[-2:]), skip], dim=1))
        return x


class Generator(nn.Module):
    """Fused features (D_out_dim) -> a frame."""

    def __init__(self, input_nc, output_nc):
        super().__init__()
        self.conv = nn.Conv2d(input_nc, output_nc * SCALE**2, 1)

    def forward(self, fused):
        return F.pixel_shuffle(self.conv(fused), SCALE)
