"""A checkpoint -> the settings of its model, and the model itself."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..checkpoints import checkpoint as ckpt
from ..checkpoints import published
from ..config import MODELS, TESTS, TRAINING
from ..config.fields import FIXED, STORED, Settings, settings_from
from ..errors import UserError, shorten
from ..training import schedules
from ..training.device import choose_precision, default_device
from .pose import VAE_Model
from .robot import RecurrentVAE
from .rollout import noise_source, roll_out

T = TypeVar("T", bound=Settings)
FEW = 8  # clips that decide which settings fit
CLEARLY, PLAUSIBLE = 1.0, 13.0  # dB: a gain; below the second, weights predict nothing
NORMS = {True: "image", False: "learned"}  # per_image: its --pose_norm
FAMILIES = {  # lab: its model, and how to read the model's settings off published weights
    "pose": (VAE_Model, published.template_sizes),
    "robot": (RecurrentVAE, published.robot_sizes),
}


def load_model(
    path: str | Path, device: str | torch.device | None = None, precision: str = "auto"
) -> VAE_Model | RecurrentVAE:
    """The model of a checkpoint, ready for rollouts: of this package or the course's template.

    `device` defaults to a GPU, if available; `precision` is auto, float32 or bf16.
    """
    checkpoint, device = ckpt.load(path), torch.device(device or default_device())
    values, lab = model_settings(checkpoint, path), ckpt.lab_of(checkpoint)
    try:
        settings = settings_from(MODELS[lab], values)
    except UserError as error:
        raise UserError(f"{path} has no model of this package: {error}") from None
    model = FAMILIES[lab][0](settings.replace(precision=choose_precision(precision, device)))
    load_weights(model, checkpoint["state_dict"], path)
    if isinstance(model, VAE_Model):
        choose_pose_norm(model, checkpoint)
    return model.to(device).eval()


def model_settings(checkpoint: dict, path: str | Path) -> dict[str, Any]:
    """The model's settings: stored in our checkpoints, read off the shapes in others."""
    lab = ckpt.lab_of(checkpoint)
    if ckpt.is_ours(checkpoint):
        stored = TESTS[lab].names(STORED, FIXED)
        return {k: value for k, value in checkpoint["args"].items() if k in stored}
    if lab is None:
        raise UserError(f"{path} holds {ckpt.contents_of(checkpoint)}")
    try:
        return FAMILIES[lab][1](checkpoint["state_dict"])
    except (KeyError, IndexError) as error:
        raise UserError(f"{path} lacks the weights of {error}: not a model of this lab") from None


def trained_posterior(checkpoint: dict) -> bool:
    """Whether the weights' posterior was trained: not by prior samples alone."""
    if not ckpt.is_ours(checkpoint):
        return True
    settings = settings_from(TRAINING[ckpt.lab_of(checkpoint)], checkpoint["args"])
    return schedules.has_posterior(checkpoint["last_epoch"] - 1, settings)


def load_twin(path: str, model: torch.nn.Module) -> torch.nn.Module:
    """The deterministic twin that is scored beside a model."""
    settings, device = model.settings, next(model.parameters()).device
    twin = load_model(path, device, settings.precision)
    if twin.settings.latent or type(twin) is not type(model):
        raise UserError(f"--twin {path} is not a deterministic twin (--no-latent) of this lab")
    for name in sorted({"frame_H", "frame_W", "n_past"} & settings.names()):
        of_twin, of_model = (getattr(x, name) for x in (twin.settings, settings))
        if of_twin != of_model:
            raise UserError(f"--twin {path} has --{name} {of_twin}, the model {of_model}")
    return twin


def adopt_settings(settings: T, typed: set[str], checkpoint: dict, device: torch.device | str) -> T:
    """-> settings with the checkpoint's values of all that was not typed; sizes cannot differ.

    --precision auto is that of the device.
    """
    path, changes = settings.ckpt_path, {}
    changes["precision"] = choose_precision(settings.precision, torch.device(device))
    same_lab(settings, checkpoint)
    for name, value in model_settings(checkpoint, path).items():
        if name in typed & settings.names(FIXED) and getattr(settings, name) != value:
            raise UserError(
                f"--{name} {getattr(settings, name)}, but {path} was trained with {value}"
            )
        if name not in typed and name in settings.names():
            changes[name] = value
    settings = settings.replace(**changes)
    if problem := settings.contradiction():
        raise UserError(f"{problem} (with the settings of {path})")
    return settings


def same_lab(settings: Any, checkpoint: dict) -> None:
    if ckpt.lab_of(checkpoint) != settings.lab:
        kind = ckpt.contents_of(checkpoint)
        raise UserError(f"{settings.ckpt_path} holds {kind}; this is --lab {settings.lab}")


def load_weights(model: torch.nn.Module, weights: dict, path: str | Path) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reasons = "; ".join(line.strip() for line in str(error).splitlines()[1:])
        raise UserError(f"{path} does not fit the model: {shorten(reasons, 300)}") from None


# ---------------------------------------------------------------- what a file does not record


def choose_pose_norm(model: VAE_Model, checkpoint: dict) -> bool:
    """Whether pose images are normalised one by one, as the template does at test."""
    template = model.settings.pose_norm == "auto" and not ckpt.is_ours(checkpoint)
    model.label_transformation.per_image |= template
    return model.label_transformation.per_image


def report_fit(
    model: torch.nn.Module,
    checkpoint: dict,
    given: Sequence[torch.Tensor],
    poses: Sequence[torch.Tensor],
) -> None:
    """Print how well each --output_activation and --pose_norm fits published weights.

    A file records neither. The first predicted frames of clips resemble the given ones most under
    those that its author trained and tested with.
    """
    if ckpt.is_ours(checkpoint) or not isinstance(model, VAE_Model):
        return
    given = torch.stack([*given[:FEW]]).cpu()  # (B, 1, 3, H, W)
    poses = torch.stack([clip[:2] for clip in poses[:FEW]])
    psnr = first_frame_psnr(model, given, poses)
    now = model.settings.output_activation, NORMS[model.label_transformation.per_image]
    best, *_ = order = sorted(psnr, key=psnr.get, reverse=True)
    verdict = ""
    if psnr[best] < PLAUSIBLE:
        verdict = "; none fits: its code may apply something that this package does not have"
    elif psnr[best] > psnr[now] + CLEARLY:
        verdict = f"; try {flags(best)}"
    values = [f"{psnr[x]:.1f} dB with {flags(x)}{' (used)' * (x == now)}" for x in order]
    print(
        "warning: " * bool(verdict) + "the file does not record what was applied to the "
        "Generator's output, nor the pose statistics; PSNR of the first predicted frames beside "
        f"the given ones: {', '.join(values)}{verdict}"
    )


def flags(choice: tuple[str, str]) -> str:
    return "--output_activation {} --pose_norm {}".format(*choice)


def first_frame_psnr(
    model: VAE_Model, given: torch.Tensor, poses: torch.Tensor
) -> dict[tuple[str, str], float]:
    """{(activation, pose_norm): PSNR of the first predicted frames beside the given ones}."""
    noise, psnr = noise_source("mean", 0, range(len(given))), {}
    encoder = model.label_transformation
    before = model.settings, encoder.per_image
    model.settings = model.settings.replace(output_activation="none")
    for per_image, norm in NORMS.items():
        encoder.per_image = per_image
        raw = roll_out(model, given, poses, noise)[:, 1:]
        for name, frames in {"none": raw, "sigmoid": torch.sigmoid(raw)}.items():
            mse = torch.nn.functional.mse_loss(frames, given)
            psnr[name, norm] = (-10 * mse.log10()).nan_to_num(nan=-math.inf).item()
    model.settings, encoder.per_image = before
    return psnr
