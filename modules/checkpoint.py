"""Checkpoints: one dict of plain data, written whole or not at all, read without running code."""

import os
import pickle
import tempfile
from pathlib import Path

import torch

from .options import MODEL_FLAGS, SIZES, UserError, default_of, wrong_lengths

VERSION = 1
# Flags that may differ when a run is carried on; any other makes it a different experiment.
MAY_CHANGE = set(
    """DR save_root ckpt_path num_epoch device gpu precision num_workers per_save test resume
    val_every cache_dir store_visualization preview tensorboard wandb
    data_on compile recompute""".split()
)


def write_atomically(path, write):
    """Call write(file) on a temporary neighbour, sync it and rename it to path."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    except RuntimeError as error:  # what torch.save makes of a full disk
        raise UserError(f"{path} cannot be written: {str(error).splitlines()[0]}") from None
    finally:
        Path(temporary).unlink(missing_ok=True)


def save(path, checkpoint):
    write_atomically(path, lambda file: torch.save(checkpoint, file))


def load(path):
    """-> the dict of a checkpoint file; a bare state_dict is wrapped. Never unpickles code."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--ckpt_path {path} is not a file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = (
            "it holds objects that only running code could load"
            if "weights_only" in str(error)
            else "it is damaged, or no checkpoint"
        )
        raise UserError(f"{path} is refused: {reason}") from None
    except Exception as error:  # a damaged file can make torch raise anything
        detail = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"{path} is damaged, or no checkpoint ({detail})") from None
    if isinstance(checkpoint, dict) and "frame_transformation.0.conv1.weight" in checkpoint:
        checkpoint = {"state_dict": checkpoint}
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(
        isinstance(w, torch.Tensor) for w in weights.values()
    ):
        raise UserError(f"{path} is no checkpoint of this package: it holds no state_dict")
    return checkpoint


def is_ours(checkpoint):
    """Ours say so; the course's template files hold only weights and a few numbers."""
    return "version" in checkpoint and isinstance(checkpoint.get("args"), dict)


def describe_template(path, checkpoint):
    """One line on what of an old file is used, and what is not."""
    ignored = [k for k in checkpoint if k != "state_dict"]
    note = f"; ignored: {', '.join(ignored)}" if ignored else ""
    return f"{path}: a file of the course's template, its weights are used{note}"


def lab_of(checkpoint):
    """Runs before there were two labs, and the template's files, are of the pose lab."""
    return checkpoint["args"].get("lab", "pose") if is_ours(checkpoint) else "pose"


def lab_of_file(path):
    """Which lab's flags go with a checkpoint; what is wrong with the file is said later."""
    try:
        return lab_of(load(path)) if path else None
    except UserError:
        return None


def model_settings(checkpoint, path):
    """The model flags of a checkpoint: stored in ours, read off the shapes in the template's."""
    if is_ours(checkpoint):
        stored = checkpoint["args"]
        return {flag: stored[flag] for flag in MODEL_FLAGS if flag in stored}
    weights = checkpoint["state_dict"]
    try:
        return {
            "F_dim": weights["frame_transformation.6.weight"].shape[0],
            "L_dim": weights["label_transformation.4.conv1.weight"].shape[0],
            "N_dim": weights["Gaussian_Predictor.6.weight"].shape[0] // 2,
            "D_out_dim": weights["Decoder_Fusion.5.weight"].shape[0],
            "feedback_clamp": False,
        }
    except (KeyError, IndexError) as error:
        raise UserError(f"{path} lacks the weights of {error}: not a model of this lab") from None


def adopt_settings(args, typed, checkpoint):
    """Take the checkpoint's settings for all that was not typed; sizes cannot be typed away."""
    same_lab(args, checkpoint)
    for flag, value in model_settings(checkpoint, args.ckpt_path).items():
        if flag not in typed:
            setattr(args, flag, value)
        elif flag in SIZES and getattr(args, flag) != value:
            raise UserError(
                f"--{flag} {getattr(args, flag)}, but {args.ckpt_path} was trained with {value}"
            )
    if args.lab == "robot" and (problem := wrong_lengths(args)):
        raise UserError(problem)


def same_lab(args, checkpoint):
    if lab_of(checkpoint) != args.lab:
        raise UserError(
            f"{args.ckpt_path} is of --lab {lab_of(checkpoint)}, this is --lab {args.lab}"
        )


def same_standardise(args, checkpoint, path):
    """Weights go with the scale of the conditions that they were trained on."""
    theirs, ours = (x.get("standardise", False) for x in (checkpoint["args"], vars(args)))
    if theirs != ours:
        raise UserError(
            f"{path} was trained {'with' if theirs else 'without'} --standardise; its weights "
            "need the same here"
        )


def choose_pose_norm(model, checkpoint, wanted="auto"):
    """The template normalised every pose by itself, ours as learned -> True if by itself."""
    per_image = wanted == "image" or (wanted == "auto" and not is_ours(checkpoint))
    model.label_transformation.per_image = per_image
    return per_image


def load_weights(model, weights, path):
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reasons = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise UserError(f"{path} does not fit the model: {reasons[:300]}") from None


def same_experiment(args, stored, path):
    """Refuse to carry on a run with flags that would make it another one."""
    stored = {"lab": "pose"} | stored  # from before there were two
    later = {flag: default_of(flag, stored["lab"]) for flag in vars(args) if flag not in stored}
    for flag, old in (stored | later).items():
        new = getattr(args, flag, old)
        if new != old and flag not in MAY_CHANGE:
            raise UserError(
                f"{path} was trained with --{flag} {old}, now it is {new}: another experiment; "
                "give it its own --save_root, or start afresh with --resume never"
            )
