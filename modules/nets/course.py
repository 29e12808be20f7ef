"""The pose lab's five nets. Names, layer order and keys are those of published checkpoints.

All work at full resolution: (B, C, H, W) -> (B, C', H, W).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

from .gaussian import LOGVAR_MAX, LOGVAR_MIN, bound, sample
from .layers import DepthConvBlock, ResidualBlock

SCALE = 1  # of a frame to its features


class RGB_Encoder(nn.Sequential):
    """A frame (3 channels) -> its features (F_dim)."""

    def __init__(self, in_chans, out_chans):
        eighth, quarter, half = out_chans // 8, out_chans // 4, out_chans // 2
        super().__init__(
            ResidualBlock(in_chans, eighth),
            DepthConvBlock(eighth, eighth),
            ResidualBlock(eighth, quarter),
            DepthConvBlock(quarter, quarter),
            ResidualBlock(quarter, half),
            DepthConvBlock(half, half),
            nn.Conv2d(half, out_chans, 3, padding=1),
        )


class Label_Encoder(nn.Sequential):
    """A pose image (3 channels) -> its features (L_dim).

    With `per_image` every image is normalised by its own statistics, as the course's template does
    at validation and test: it keeps BatchNorm in training mode and feeds one frame at a time.
    """

    per_image = False

    def __init__(self, in_chans, out_chans):
        half = out_chans // 2
        super().__init__(
            nn.ReflectionPad2d(3),
            nn.Conv2d(in_chans, half, 7),
            nn.BatchNorm2d(half),
            nn.Identity(),  # the template's LeakyReLU(True) has slope 1 (identity)
            ResidualBlock(half, out_chans),
        )

    def forward(self, pose):
        pad, conv, norm, _, block = self
        x = conv(pad(pose))
        if self.per_image and not self.training:
            x = F.instance_norm(x, weight=norm.weight, bias=norm.bias, eps=norm.eps)
        else:
            x = norm(x)
        return block(x)


class Gaussian_Predictor(nn.Sequential):
    """Frame and pose features -> z and its mean and log variance (N_dim each)."""

    def __init__(self, in_chans, out_chans):
        quarter, half = out_chans // 4, out_chans // 2
        super().__init__(
            ResidualBlock(in_chans, quarter),
            DepthConvBlock(quarter, quarter),
            ResidualBlock(quarter, half),
            DepthConvBlock(half, half),
            ResidualBlock(half, out_chans),
            nn.Identity(),  # LeakyReLU(True) again
            nn.Conv2d(out_chans, 2 * out_chans, 1),
        )

    def forward(self, frame_features, pose_features, noise=None, cell=None):
        """noise: standard normal, (B, N_dim, H, W); drawn here where it is not given.

        `cell` is the height and width of the features that share one z; None: each has its own.
        """
        maps = super().forward(torch.cat([frame_features, pose_features], dim=1))
        # not adaptive_avg_pool2d: its cells overlap, and --deterministic refuses it on a GPU
        maps = F.avg_pool2d(maps, cell, ceil_mode=True) if cell else maps
        mu, logvar = maps.chunk(2, 1)
        logvar = bound(logvar.float(), LOGVAR_MIN, LOGVAR_MAX)
        return self.reparameterize(mu.float(), logvar, noise), mu.float(), logvar

    @staticmethod
    def reparameterize(
        mu: torch.Tensor, logvar: torch.Tensor, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        return sample(mu, logvar, torch.randn_like(mu) if noise is None else noise)


class Decoder_Fusion(nn.Sequential):
    """Frame features, pose features and z -> the Generator's input (D_out_dim)."""

    def __init__(self, in_chans, out_chans):
        quarter, half = in_chans // 4, in_chans // 2
        super().__init__(
            DepthConvBlock(in_chans, in_chans),
            ResidualBlock(in_chans, quarter),
            DepthConvBlock(quarter, half),
            ResidualBlock(half, half),
            DepthConvBlock(half, out_chans // 2),
            nn.Conv2d(out_chans // 2, out_chans, 1),
        )

    def forward(self, *inputs):
        return super().forward(torch.cat(inputs, dim=1))


class Generator(nn.Sequential):
    """Fused features (D_out_dim) -> a frame (3 channels)."""

    def __init__(self, input_nc, output_nc):
        half, quarter, eighth = input_nc // 2, input_nc // 4, input_nc // 8
        super().__init__(
            DepthConvBlock(input_nc, input_nc),
            ResidualBlock(input_nc, half),
            DepthConvBlock(half, half),
            ResidualBlock(half, quarter),
            DepthConvBlock(quarter, quarter),
            ResidualBlock(quarter, eighth),
            DepthConvBlock(eighth, eighth),
            nn.Conv2d(eighth, output_nc, 1),
        )
