"""What each part of a checkpoint may be: kind, range, layout, finiteness. The one place for it.

`parts` is applied to every checkpoint when it is read, whoever reads it. What is not listed here is
not passed on.
"""

import dataclasses
import math
import re
from typing import Any

import torch

from ..config import LABS, TRAINING
from ..errors import UserError, is_short_of_memory
from ..fields import Choice, Number, Numbers, Settings, kl_type, switch
from ..stored import MAY_CHANGE, by_todays_names
from .reader import natural

MOST_STEPS = 10**12
COLUMN = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,30}(/[A-Za-z0-9_]{1,60})?")
KINDS = {Number: (int, float), Numbers: (list, tuple), Choice: (str,)}
USED = {"keep"}  # of the settings that may change: what a resumed run reads
SECOND_MOMENTS = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "exp_inf", "step")


def parts(stored: dict[str, Any]) -> dict[str, Any]:
    """The parts of a checkpoint of this package, each checked; ValueError says what is wrong."""
    if lacking := [name for name in ("args", "state_dict") if name not in stored]:
        raise ValueError(f"it has no {lacking[0]}")
    return {name: PARTS[name](value) for name, value in stored.items()}


def weights(stored: Any) -> dict[str, torch.Tensor]:
    """A state dict: text -> dense tensor, finite. Other precisions become float32."""
    if not isinstance(stored, dict) or not all(map(is_named_tensor, stored.items())):
        raise ValueError("it has no state_dict of tensors")
    found = {k: w.float() if w.is_floating_point() else w for k, w in stored.items()}
    for name, weight in found.items():
        if not is_finite(weight):
            count = int((~torch.isfinite(weight)).sum())
            raise ValueError(
                f"{count} of {weight.numel()} values of its weights {name[:100]} are not finite"
            )
        if name.endswith("running_var") and (weight < 0).any():
            raise ValueError(f"its variance {name[:100]} is negative")
    return found


def is_finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def is_named_tensor(item: tuple) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], torch.Tensor)


def settings(stored: Any) -> dict[str, Any]:
    """The settings of the lab, each in its range; names that are no settings are left out."""
    if not isinstance(stored, dict) or stored.get("lab", "pose") not in LABS:
        raise ValueError("its args are no settings of a lab")
    kind = TRAINING[stored.get("lab", "pose")]
    fields = {item.name: item for item in dataclasses.fields(kind)}
    if type(stored.get("sigmoid", False)) is not bool:
        raise ValueError("its setting sigmoid is of another kind than --sigmoid")
    stored = by_todays_names(stored)
    return {k: setting(fields[k], value) for k, value in stored.items() if k in fields}


def setting(item: dataclasses.Field, value: Any) -> Any:
    """One setting, as a run with it would store it."""
    if value is None and item.default is None:
        return None
    if item.name in MAY_CHANGE - USED:  # printed if it changes, and not used
        if not isinstance(value, (str, int, float, type(None))):
            raise ValueError(f"its setting {item.name} is of another kind")
        return value
    check = item.metadata["check"]
    kinds = (bool,) if check is switch else KINDS.get(type(check), (str,))
    is_none = check is kl_type and value is None
    if not is_none and (type(value) not in kinds or check is None):
        raise ValueError(f"its setting {item.name} is of another kind than --{item.name}")
    try:
        value = check(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"its setting {item.name} {error}"[:200]) from None
    return list(value) if isinstance(value, tuple) else value


def counter(name: str) -> Any:
    def check(value: Any) -> int:
        if not natural(value) or value > MOST_STEPS:
            raise ValueError(f"its {name} is no count")
        return value

    return check


def number(value: Any, name: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"its {name} is not a finite number")
    return value


def best_score(value: Any) -> float | None:
    return None if value is None else number(value, "best_score")


def history(rows: Any) -> list[dict]:
    """A row an epoch: names of columns -> numbers, or None."""
    if not isinstance(rows, list) or not all(map(is_row, rows)):
        raise ValueError("its history is not made of rows of numbers")
    return rows


def is_row(row: Any) -> bool:
    return isinstance(row, dict) and all(
        isinstance(name, str)
        and COLUMN.fullmatch(name)
        and (value is None or type(value) in (int, float))
        for name, value in row.items()
    )


def skipped(value: Any) -> list[int]:
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(map(natural, value)):
        raise ValueError("its skipped is not two counts")
    return list(value)


def total(value: Any) -> torch.Tensor:
    """Sums of loss, MSE and KL, the finite steps, and (not in version 0.1.0) those of them with a
    posterior."""
    tensor = dense(value, "total")
    if tensor.dtype != torch.float32 or tensor.shape not in ((4,), (5,)):
        raise ValueError("its total is not four or five numbers")
    if tensor.isnan().any() or not ((tensor[3:] >= 0) & (tensor[3:] < MOST_STEPS)).all():
        raise ValueError("its total is not sums and counts")
    return tensor


def rng(value: Any) -> dict[str, torch.Tensor]:
    """The states of random number generators."""
    if (
        not isinstance(value, dict)
        or "cpu" not in value
        or not all(map(is_named_tensor, value.items()))
    ):
        raise ValueError("its rng has no states of random numbers")
    states = {name: dense(state, "rng") for name, state in value.items()}
    if any(state.dtype != torch.uint8 or state.dim() != 1 for state in states.values()):
        raise ValueError("its rng is not bytes")
    return states


def dense(value: Any, name: str) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"its {name} is no tensor")
    return value.contiguous()


def optimizer(value: Any) -> dict[str, Any]:
    """Moments by the number of their weights, finite; what fits the weights is checked later."""
    if not isinstance(value, dict) or not isinstance(value.get("state", {}), dict):
        raise ValueError("its optimizer has no moments")
    for index, moments in value.get("state", {}).items():
        if not natural(index) or not isinstance(moments, dict):
            raise ValueError("its optimizer has moments of no weight")
        if not all(map(is_named_tensor, moments.items())):
            raise ValueError(f"its optimizer's moments of weight {index} are no tensors")
        for name, moment in moments.items():
            if not is_finite(moment) or (name in SECOND_MOMENTS and (moment < 0).any()):
                raise ValueError(f"a moment {name[:40]} is not finite, or negative")
    return value


def data(value: Any) -> dict[str, str]:
    """The fingerprint of the pictures of each split."""
    if not isinstance(value, dict) or not all(
        isinstance(x, str) for x in (*value, *value.values())
    ):
        raise ValueError("its data are no fingerprints")
    return value


def trackers(value: Any) -> dict[str, dict]:
    """What services know of the run: {flag: {"sent": rows, "id": the service's name for it}}."""
    if not isinstance(value, dict) or not all(
        isinstance(flag, str)
        and isinstance(state, dict)
        and natural(state.get("sent"))
        and isinstance(state.get("id", ""), str)
        for flag, state in value.items()
    ):
        raise ValueError("its trackers are not rows sent and names")
    return {
        flag: {k: state[k] for k in ("sent", "id") if k in state} for flag, state in value.items()
    }


PARTS = {
    "version": lambda value: value,  # known before the rest is read
    "args": settings,
    "last_epoch": counter("last_epoch"),
    "state_dict": weights,
    "optimizer": optimizer,
    "lr": lambda value: number(value, "lr"),
    "tfr": lambda value: number(value, "tfr"),
    "step": counter("step"),
    "steps_done": counter("steps_done"),
    "total": total,
    "skipped": skipped,
    "rng": rng,
    "best_score": best_score,
    "history": history,
    "data": data,
    "trackers": trackers,
    "ranks": counter("ranks"),
    "global_batch": counter("global_batch"),
    "trained_weights": weights,
}


# ---------------------------------------------------------------- a model of these weights


def misfit(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> str | None:
    """What of a state dict does not fit a model's own, None: nothing."""
    for names, what in (
        (expected.keys() - found.keys(), "lacks"),
        (found.keys() - expected.keys(), "has"),
    ):
        if names:
            some = ", ".join(name[:60] for name in sorted(names)[:3])
            return f"it {what} {some}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    for name, own in expected.items():
        if own.shape != found[name].shape:
            return f"{name} is {tuple(found[name].shape)}, not {tuple(own.shape)}"
        if own.is_floating_point() != found[name].is_floating_point():
            return f"{name} is {found[name].dtype}, not {own.dtype}"
    return None


def contradiction(model: type, settings: Settings, found: dict[str, torch.Tensor]) -> str | None:
    """Whether a model with these settings has such weights; none is allocated to see it."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return misfit(model(settings).state_dict(), found)
    except (RuntimeError, ValueError, UserError) as error:
        if is_short_of_memory(error):
            raise
        return str(error).partition("\n")[0][:200]
