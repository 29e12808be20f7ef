"""Clips as the report page plays them: every frame at 8 bits, without loss, in one JSON file.

A track is frames (T, H, W, 3), stored as differences from one frame to the next (modulo 256), red
and blue less green, compressed with zlib, in base64. A real dance clip of 630 frames of 32x64 (3.9
MB) takes 1.0 MB before base64: as a sheet of lossless WebP pictures it takes 1.2 MB, of PNG
pictures 1.5 MB. No decoder of pictures is involved, so no browser changes a pixel. page.js reverses
`pack`.
"""

import base64
import html
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..evaluation.lab import Lab
from ..files import write_json
from .boundary import drawing, part
from .reading import named, read_json

FUTURE_FRAMES = 128  # of sampled futures
MOST = 2**25  # bytes of a track before it is packed; what is longer is cut
HEAD = "title", "size", "given", "length", "frame_ms", "fps"  # of a clip's file
TRUTH, PREDICTION = "truth", "prediction"  # labels of tracks


def pack(frames: np.ndarray) -> str:
    """uint8 (T, H, W, 3) -> text."""
    change = frames.copy()
    change[1:] -= frames[:-1]
    change[..., ::2] -= change[..., 1:2]
    packer = zlib.compressobj(9, strategy=zlib.Z_FILTERED)
    return base64.b64encode(packer.compress(change.tobytes()) + packer.flush()).decode()


def unpack(text: str, size: Iterable[int]) -> np.ndarray:
    """-> uint8 (T, H, W, 3), for the size (T, H, W)."""
    values = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    change = values.reshape(*size, 3).copy()
    change[..., ::2] += change[..., 1:2]
    return change.cumsum(0, dtype=np.uint8)


@drawing
def write_rollout(
    path: Path,
    title: str,
    lab: Lab,
    condition: torch.Tensor,
    pred: torch.Tensor,
    true: torch.Tensor | None,
) -> None:
    """A rollout (T, 3, H, W) with its condition, the truth and the PSNR of every frame."""
    psnr = {}
    if true is not None:
        copied = lab.frame_psnr(true[lab.given - 1 : lab.given], true)
        psnr = {PREDICTION: lab.frame_psnr(pred, true), lab.baseline: copied}
    write(path, title, lab, lab.tracks(condition, pred, true), psnr)


@drawing
def write_futures(path: Path, lab: Lab, truth: torch.Tensor, futures: torch.Tensor) -> None:
    """The truth (T, 3, H, W) in 0..1, and futures (N, T, 3, H, W) of it as uint8."""
    length = min(FUTURE_FRAMES, futures.shape[1])
    truth, futures = truth[:length], futures[:, :length]
    named = {f"future {i}": future for i, future in enumerate(futures, start=1)}
    psnr = {name: lab.frame_psnr(future.float() / 255, truth) for name, future in named.items()}
    tracks = {TRUTH: np.asarray((truth.clamp(0, 1) * 255).round().byte())} | named
    tracks = {name: np.moveaxis(np.asarray(clip), -3, -1) for name, clip in tracks.items()}
    write(path, f"sampled futures, first {length} frames", lab, tracks, psnr)


def write(
    path: Path,
    title: str,
    lab: Lab,
    tracks: Mapping[str, np.ndarray],
    psnr: Mapping[str, torch.Tensor],
) -> None:
    whole, height, width = next(iter(tracks.values())).shape[:3]
    length = max(1, min(whole, MOST // (3 * height * width)))
    if length < whole:
        title += f", first {length} of {whole} frames"
    fps = None
    with part("the frame rate of the data"):
        fps = lab.fps
    values = {
        "title": title,
        "size": [length, height, width],
        "given": lab.given,
        "length": whole,  # before it was cut
        "frame_ms": 1000 / fps if fps else lab.frame_ms,
        "fps": fps,
        "tracks": {label: pack(clip[:length]) for label, clip in tracks.items()},
        "psnr": {name: x[lab.given : length].tolist() for name, x in psnr.items()},
    }
    write_json(path, values)


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote, tracks still packed."""
    clip = read_json(path)
    with named(path):
        return {name: clip[name] for name in HEAD} | {
            "tracks": {label: html.escape(text) for label, text in clip["tracks"].items()},
            "psnr": clip["psnr"],
        }


def frames_of(path: Path) -> dict[str, np.ndarray]:
    """{label: uint8 (T, H, W, 3)} of a clip's file."""
    clip = read(path)
    return {label: unpack(text, clip["size"]) for label, text in clip["tracks"].items()}
