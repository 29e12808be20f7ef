"""A checkpoint -> the settings of its model, and the model itself."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..config import MODELS
from ..errors import UserError
from ..fields import settings_from
from ..metrics import Generate_PSNR
from ..runs import checkpoint as ckpt
from ..runs import published, validate
from ..stored import SIZES, STORED, of_today
from ..training import schedules
from ..training.device import choose_precision, default_device
from .pose import SIGMOIDS, VAE_Model
from .robot import RecurrentVAE
from .rollout import noise_source, roll_out

FEW = 8  # clips that decide which activation fits
CLEARLY, PLAUSIBLE = 1.0, 13.0  # dB: a gain; below the second, weights predict nothing
FAMILIES = {  # lab: its model, and how to read the model's settings off published weights
    "pose": (VAE_Model, published.template_sizes),
    "robot": (RecurrentVAE, published.robot_sizes),
}


def load_model(
    path: str | Path, device: str | torch.device | None = None, precision: str = "auto"
) -> VAE_Model | RecurrentVAE:
    """The model of a checkpoint, ready for rollouts: of this package or the course's template.

    `device` defaults to a GPU where there is one; `precision` is auto, float32 or bf16.
    """
    checkpoint, device = ckpt.load(path), torch.device(device or default_device())
    values, lab = model_settings(checkpoint, path), ckpt.lab_of(checkpoint)
    settings = settings_from(MODELS[lab], values)
    fits_weights(settings, lab, checkpoint["state_dict"], path)
    model = FAMILIES[lab][0](settings.replace(precision=choose_precision(precision, device)))
    load_weights(model, checkpoint["state_dict"], path)
    if isinstance(model, VAE_Model):
        choose_pose_norm(model, checkpoint)
    return model.to(device).eval()


def model_settings(checkpoint: dict, path: str | Path) -> dict[str, Any]:
    """The model's settings: stored in our checkpoints, read off the shapes in others."""
    if ckpt.is_ours(checkpoint):
        stored = of_today(checkpoint["args"])
        return {name: stored[name] for name in STORED if name in stored}
    lab = ckpt.lab_of(checkpoint)
    if lab is None:
        raise UserError(f"{path} holds {ckpt.kind_of(checkpoint)}")
    try:
        return FAMILIES[lab][1](checkpoint["state_dict"])
    except (KeyError, IndexError) as error:
        raise UserError(f"{path} lacks the weights of {error}: not a model of this lab") from None


def has_posterior(checkpoint: dict) -> bool:
    """Whether the weights' posterior was trained: not by prior samples alone."""
    if not ckpt.is_ours(checkpoint):
        return True
    return schedules.has_posterior(checkpoint.get("last_epoch", 0) - 1, **checkpoint["args"])


def adopt_settings(settings: Any, typed: set[str], checkpoint: dict) -> Any:
    """-> settings with the checkpoint's values of all that was not typed; sizes cannot differ."""
    path, changes = settings.ckpt_path, {}
    same_lab(settings, checkpoint)
    for name, value in model_settings(checkpoint, path).items():
        if name in typed and name in SIZES and getattr(settings, name) != value:
            raise UserError(
                f"--{name} {getattr(settings, name)}, but {path} was trained with {value}"
            )
        if name not in typed and name in settings.names():
            changes[name] = value
    settings = settings.replace(**changes)
    fits_weights(settings, settings.lab, checkpoint["state_dict"], path)
    return settings


def fits_weights(settings: Any, lab: str, weights: dict, path: str | Path) -> None:
    """Refuse settings that contradict themselves or the weights, before anything is allocated."""
    if problem := settings.contradiction():
        raise UserError(f"{problem} (with the settings of {path})")
    if problem := validate.contradiction(FAMILIES[lab][0], settings, weights):
        raise UserError(f"{path} does not fit the model of its settings: {problem}")


def same_lab(settings: Any, checkpoint: dict) -> None:
    if ckpt.lab_of(checkpoint) != settings.lab:
        kind = ckpt.kind_of(checkpoint)
        raise UserError(f"{settings.ckpt_path} holds {kind}; this is --lab {settings.lab}")


def choose_pose_norm(model: VAE_Model, checkpoint: dict) -> bool:
    """Whether pose images are normalised one by one, as the template does at test."""
    template = model.settings.pose_norm == "auto" and not ckpt.is_ours(checkpoint)
    model.label_transformation.per_image |= template
    return model.label_transformation.per_image


def warn_of_activation(
    model: torch.nn.Module,
    checkpoint: dict,
    given: Sequence[torch.Tensor],
    poses: Sequence[torch.Tensor],
) -> None:
    """Print a warning where another --output_activation fits the weights of published code.

    An activation has no weights, so a file does not record it. The first predicted frames of clips
    resemble the given ones most under the activation that the model was trained with.
    """
    if ckpt.is_ours(checkpoint) or not isinstance(model, VAE_Model):
        return
    settings, given = model.settings, torch.stack([*given[:FEW]]).cpu()  # (B, 1, 3, H, W)
    poses = torch.stack([clip[:2] for clip in poses[:FEW]])
    model.settings = settings.replace(output_activation="none")
    first = roll_out(model, given, poses, noise_source("mean", 0, range(len(given))))[:, 1:]
    model.settings, psnr = settings, {}
    for name in SIGMOIDS:  # from none to two
        psnr[name] = Generate_PSNR(first, given).nan_to_num(nan=-math.inf).item()
        first = torch.sigmoid(first)
    now, best = settings.output_activation, max(psnr, key=psnr.get)
    if psnr[best] > max(psnr[now] + CLEARLY, PLAUSIBLE):
        print(
            "warning: the file does not record what was applied to the Generator's output. The "
            f"first predicted frames have a PSNR of {psnr[now]:.1f} dB beside the given ones with "
            f"--output_activation {now}, {psnr[best]:.1f} dB with {best}: try "
            f"--output_activation {best}"
        )


def load_weights(model: torch.nn.Module, weights: dict, path: str | Path) -> None:
    if problem := validate.misfit(model.state_dict(), weights):
        raise UserError(f"{path} does not fit the model: {problem}")
    model.load_state_dict(weights)
