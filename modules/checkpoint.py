"""Checkpoints: one dict of plain data, written whole or not at all, read without running code."""

import contextlib
import pickle
import zipfile
import zlib
from pathlib import Path

import torch

from .files import write_atomically
from .options import MODEL_FLAGS, SIZES, UserError, default_of, wrong_lengths

VERSION = 2  # 1 had no random states and no place within an epoch
# Flags that may differ when a run is carried on; any other makes it a different experiment.
MAY_CHANGE = set(
    """DR save_root ckpt_path num_epoch device gpu precision num_workers per_save test resume
    val_every cache_dir store_visualization preview tensorboard wandb
    data_on compile recompute save_every_steps keep max_skipped skip_bad_frames
    deterministic cuda_graphs""".split()
)


# Of these the user is told when they changed; where things are and who watches changes nothing.
SAID = MAY_CHANGE - set("save_root ckpt_path test resume preview".split())


def save(path, checkpoint):
    write_atomically(path, lambda file: torch.save(checkpoint, file))


def load(path):
    """-> the dict of a checkpoint file; a bare state_dict is wrapped. Never unpickles code."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--ckpt_path {path} is not a file")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                check_records(file)
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


def check_records(file):
    """Refuse a zip of which a bit is wrong: torch looks at no checksum, and reads nothing where a
    record claims to be a folder; zipfile's own test overlooks a record that its index cuts short.
    """
    for record in file.infolist():
        data = file.read(record)
        whole = len(data) == record.file_size == record.compress_size  # torch compresses nothing
        folder = record.external_attr & 0x10
        if folder or not whole or zlib.crc32(data) != record.CRC:
            raise ValueError(f"the checksum of {record.filename} is wrong")


def newest(folder):
    """-> (path, checkpoint) to carry on from, or None: last.ckpt, or if it is damaged, the newest
    that is not."""
    last = Path(folder) / "last.ckpt"
    if not last.exists():
        return None
    try:
        return last, load(last)
    except UserError as error:
        older = sorted(readable([*epoch_files(folder), last.with_name("best_score.ckpt")]))
        if not older:
            raise UserError(
                f"{error}; {folder} holds no other to carry on from: start afresh with "
                "--resume never, or name one with --resume PATH"
            ) from None
        *_, path = older[-1]
        print(f"{error}; the newest one that is not: {path.name}")
        return path, load(path)


def readable(paths):
    """-> (epochs, steps, path) of those checkpoints of a run that are whole."""
    for path in paths:
        with contextlib.suppress(UserError):
            checkpoint = load(path)
            check_run(checkpoint, path)
            yield checkpoint["last_epoch"], checkpoint["step"], path


def epoch_files(folder):
    """The epoch=N.ckpt of a run, oldest first."""
    files = [p for p in Path(folder).glob("epoch=*.ckpt") if p.stem[6:].isdecimal()]
    return sorted(files, key=lambda path: int(path.stem[6:]))


def prune(folder, keep):
    """Delete all but the newest `keep` epoch=N.ckpt; 0 keeps all."""
    for path in epoch_files(folder)[:-keep] if keep else ():
        path.unlink(missing_ok=True)


PARTS = {"optimizer": dict, "last_epoch": int, "step": int, "history": list}  # of a run
MORE_PARTS = {"steps_done": int, "skipped": list, "total": torch.Tensor, "rng": dict}  # version 2


def check_run(checkpoint, path):
    """Refuse what no run can carry on from."""
    if not is_ours(checkpoint):
        raise UserError(
            f"{path} is not from this package, so a run cannot carry on with it; "
            "start from its weights with --ckpt_path and another --save_root"
        )
    if not checkpoint["version"] <= VERSION:
        raise UserError(f"{path} is from a newer version of this package; update it")
    for part, kind in (PARTS | (MORE_PARTS if checkpoint["version"] > 1 else {})).items():
        value = checkpoint.get(part)
        if not isinstance(value, kind) or (kind is int and value < 0):
            raise UserError(f"{path} is damaged: it holds no {part}")
    rows, epochs = checkpoint["history"], checkpoint["last_epoch"]
    numbers = [row.get("epoch") for row in rows if is_row(row)]
    if len(rows) != epochs or numbers != [*range(epochs)]:
        raise UserError(f"{path} is damaged: its history is not that of {epochs} epochs")
    best = checkpoint.get("best_score")
    if best is not None and not isinstance(best, (int, float)):
        raise UserError(f"{path} is damaged: its best_score is no number")


def is_row(row):
    plain = (int, float, type(None))
    return isinstance(row, dict) and all(isinstance(x, plain) for x in row.values())


@contextlib.contextmanager
def restoring(path):
    """What does not fit while a run takes up a checkpoint is said of the checkpoint."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        detail = (str(error).splitlines() or [""])[0][:120]
        raise UserError(f"{path} is damaged: {type(error).__name__} {detail}") from None


def is_ours(checkpoint):
    """Ours say so; the course's template files hold only weights and a few numbers."""
    return isinstance(checkpoint.get("version"), int) and isinstance(checkpoint.get("args"), dict)


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
    if args.lab == "pose" and args.scene and args.sigmoid:
        raise UserError(f"{args.ckpt_path} was trained with --scene: leave out --sigmoid")


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
    if wanted == "image" and model.args.nets == "unet":
        raise UserError("--pose_norm image: a U-Net's pose encoder normalises nothing")
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
    """Refuse to carry on a run with flags that would make it another one -> what else changed."""
    stored = {"lab": "pose"} | stored  # from before there were two
    later = {flag: default_of(flag, stored["lab"]) for flag in vars(args) if flag not in stored}
    now = vars(args)
    changed = {k: old for k, old in (stored | later).items() if k in now and now[k] != old}
    for flag, old in changed.items():
        if flag not in MAY_CHANGE:
            raise UserError(
                f"{path} was trained with --{flag} {old}, now it is {now[flag]}: another "
                "experiment; give it its own --save_root, or start afresh with --resume never"
            )
    return [f"--{flag} {old} -> {now[flag]}" for flag, old in changed.items() if flag in SAID]
