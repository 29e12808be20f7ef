"""A checkpoint -> the settings of its model, and the model itself."""

from pathlib import Path
from typing import Any

import torch

from ..config import BEFORE, MODELS, SIZES, STORED
from ..errors import UserError
from ..fields import settings_from
from ..runs import checkpoint as ckpt
from ..runs import published, validate
from ..training import schedules
from ..training.device import choose_precision, default_device
from .pose import VAE_Model
from .robot import RecurrentVAE

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
    lab = ckpt.lab_of(checkpoint)
    values = model_settings(checkpoint, path)
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
        stored = BEFORE | checkpoint["args"]
        return {name: stored[name] for name in STORED if name in stored}
    try:
        return FAMILIES[ckpt.lab_of(checkpoint)][1](checkpoint["state_dict"])
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
        raise UserError(
            f"{settings.ckpt_path} is of --lab {ckpt.lab_of(checkpoint)}, "
            f"this is --lab {settings.lab}"
        )


def choose_pose_norm(model: VAE_Model, checkpoint: dict, wanted: str = "auto") -> bool:
    """Whether pose images are normalised one by one, as the template does at test."""
    if wanted == "image" and model.settings.nets == "unet":
        raise UserError("--pose_norm image: a U-Net's pose encoder has no normalisation")
    per_image = wanted == "image" or (wanted == "auto" and not ckpt.is_ours(checkpoint))
    model.label_transformation.per_image = per_image
    return per_image


def load_weights(model: torch.nn.Module, weights: dict, path: str | Path) -> None:
    if problem := validate.misfit(model.state_dict(), weights):
        raise UserError(f"{path} does not fit the model: {problem}")
    model.load_state_dict(weights)
