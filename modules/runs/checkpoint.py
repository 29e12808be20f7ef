"""Checkpoints: one dict of plain data, written atomically; what is read is validated."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from ..errors import UserError, is_short_of_memory
from ..files import write_atomically
from ..text import visible
from . import published, validate
from .reader import Reader, Refused, reading

VERSION = 2  # 1 had no random states and no place within an epoch


def save(path: Path, checkpoint: dict) -> None:
    write_atomically(path, lambda file: torch.save(checkpoint, file))


def load(path: str | Path) -> dict:
    """-> the contents of a checkpoint file, validated; a bare state_dict is wrapped.

    It never runs code, and checks all that it returns; see reader and validate.
    """
    with opened(Path(path)) as file:
        return contents(file)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Reader]:
    """A checkpoint file; an error says what is wrong with it."""
    if not path.is_file():
        raise UserError(f"{path} is not a checkpoint file")
    try:
        with reading(path) as file:
            yield file
    except Refused as error:
        raise UserError(f"{path} is refused: {error}") from None
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    except Exception as error:  # a damaged file can make the reader raise anything
        if is_short_of_memory(error):
            raise
        detail = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{path} is damaged or not a checkpoint ({visible(detail)})") from None


def contents(file: Reader) -> dict:
    """-> the parts of a file of ours; of published code, the weights and the names of the rest."""
    content, rest = file.content, []
    if isinstance(content, dict) and "version" in content and "args" in content:
        version = content["version"]
        if type(version) is not int or not 1 <= version <= VERSION:
            shown = repr(version)[:20] if isinstance(version, (str, int, float)) else "of no number"
            raise UserError(f"has a version {shown}, which this package does not know; update it")
        content = {name: content[name] for name in validate.PARTS if name in content}
        return validate.parts({name: file.plain(x, name) for name, x in content.items()})
    if isinstance(content, dict) and "frame_transformation.0.conv1.weight" in content:
        weights = file.plain(content, "state_dict")
    elif nets := published.robot_nets(content):
        weights = robot_weights(file, nets)
    elif isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        rest = [visible(str(name)[:40]) for name in content if name != "state_dict"]
        content = content["state_dict"]
        nets = published.robot_nets(content)
        weights = robot_weights(file, nets) if nets else file.plain(content, "state_dict")
    else:
        raise UserError("is not a checkpoint of this package: it has no state_dict")
    return {"state_dict": validate.weights(weights), "ignored": rest}


def robot_weights(file: Reader, nets: dict[str, dict]) -> dict[str, torch.Tensor]:
    """A state dict per net of the robot lab's published code -> ours."""
    return published.convert({net: file.plain(x, net) for net, x in nets.items()})


def newest(folder: Path) -> tuple[Path, dict] | None:
    """-> (path, checkpoint) to resume, or None. Without a whole last.ckpt: the newest whole one."""
    last, best = (Path(folder) / name for name in ("last.ckpt", "best_score.ckpt"))
    others = [*epoch_files(folder), *[best] * best.exists()]
    if not (last.exists() or others):
        return None
    try:
        if not last.exists():
            raise UserError(f"{last} is missing")
        return last, load(last)
    except UserError as error:
        found = next(readable(others), None)
        if not found:
            raise UserError(
                f"{error}; {folder} has no other checkpoint: start a new run with "
                "--resume never, or name a checkpoint with --resume PATH"
            ) from None
        print(f"{error}; resuming from the newest complete checkpoint: {found[0].name}")
        return found


def readable(paths: Iterable[Path]) -> Iterator[tuple[Path, dict]]:
    """Those checkpoints of a run that are whole, the newest first; one is read at a time."""
    ages = {}
    for path in paths:
        with contextlib.suppress(UserError), opened(path) as file:
            ages[path] = [validate.PARTS[x](file.content[x]) for x in ("last_epoch", "step")]
    for path in sorted(ages, key=lambda path: (ages[path], path), reverse=True):
        with contextlib.suppress(UserError):
            checkpoint = load(path)
            check_run(checkpoint, path)
            yield path, checkpoint


def epoch_files(folder: Path) -> list[Path]:
    """The epoch=N.ckpt of a run, oldest first."""
    files = [p for p in Path(folder).glob("epoch=*.ckpt") if p.stem[6:].isdecimal()]
    return sorted(files, key=lambda path: int(path.stem[6:]))


def prune(folder: Path, keep: int, every: int, newest: int) -> None:
    """Delete all but the newest `keep` epoch=N.ckpt that this run wrote, 0 keeps all.

    It wrote those of every `every`-th epoch up to `newest`.
    """
    mine = [p for p in epoch_files(folder) if (n := int(p.stem[6:])) <= newest and n % every == 0]
    for path in mine[:-keep] if keep else ():
        path.unlink(missing_ok=True)


PARTS = ("optimizer", "last_epoch", "step", "history", "best_score")  # of a run
MORE_PARTS = ("steps_done", "skipped", "total", "rng")  # since version 2


def check_run(checkpoint: dict, path: Path) -> None:
    """Refuse a checkpoint that no run can resume from."""
    if not is_ours(checkpoint):
        raise UserError(
            f"{path} is not from this package, so no run can resume from it; "
            "start from its weights with --ckpt_path and another --save_root"
        )
    if "optimizer" not in checkpoint and "history" not in checkpoint:
        raise UserError(f"{path} holds weights only: start from them with --ckpt_path")
    for part in PARTS + (MORE_PARTS if checkpoint["version"] > 1 else ()):
        if part not in checkpoint:
            raise UserError(f"{path} is damaged: it has no {part}")
    rows, epochs = checkpoint["history"], checkpoint["last_epoch"]
    if [row.get("epoch") for row in rows] != [*range(epochs)]:
        raise UserError(f"{path} is damaged: its history does not have {epochs} epochs")


@contextlib.contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Report what does not fit while a run is restored as damage of the checkpoint."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        if is_short_of_memory(error):
            raise
        detail = (str(error).splitlines() or [""])[0][:120]
        raise UserError(f"{path} is damaged: {type(error).__name__} {detail}") from None


def is_ours(checkpoint: dict) -> bool:
    """Whether this package wrote it: the template's files have no version."""
    return "version" in checkpoint and "args" in checkpoint


def describe_template(path: str | Path, checkpoint: dict) -> str:
    """One line about which parts of a template file are used."""
    ignored = checkpoint.get("ignored")
    note = f"; ignored: {', '.join(ignored[:20])}" if ignored else ""
    return f"{path}: a checkpoint of published code; its weights are used{note}"


def lab_of(checkpoint: dict) -> str | None:
    """Stored in ours (runs from before there were two labs: pose); else told by the weights, and
    None where they are of neither lab."""
    if is_ours(checkpoint):
        return checkpoint["args"].get("lab", "pose")
    nets = {name.partition(".")[0] for name in checkpoint["state_dict"]}
    return next((lab for lab, net in published.MARKS.items() if net in nets), None)


def kind_of(checkpoint: dict) -> str:
    """What a file is, for an error: a run of ours, published weights of a lab, or neither."""
    lab = lab_of(checkpoint)
    if is_ours(checkpoint):
        return f"a checkpoint of --lab {lab}"
    if lab:
        return f"weights of published code of --lab {lab}"
    names = [visible(name[:60]) for name in checkpoint["state_dict"]]
    more = ", ..." * (len(names) > 3)
    return f"weights of another model: {', '.join(names[:3])}{more}" if names else "no weights"


def load_if_readable(path: str | None) -> dict | None:
    with contextlib.suppress(UserError):
        return load(path) if path else None
    return None
