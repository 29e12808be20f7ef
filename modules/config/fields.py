"""Fields of settings: their ranges, and what every settings class can do."""

import contextlib
import csv
import dataclasses
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from ..errors import UserError

LARGEST = 1_000_000_000  # of any number, unless its own limit is lower
WORDS = {int: "an integer", float: "a finite number"}
T = TypeVar("T", bound="Settings")
KL_TYPES = {  # the spellings in use, in lower case
    "Cyclical": "cyclical",
    "Monotonic": "monotonic linear",
    "None": "none no without w/o nokl_annealing constant noannealing full_kl withoutklannealing "
    "without_anneal",
}
KL_TYPES = {word: kind for kind, words in KL_TYPES.items() for word in words.split()}


# ---------------------------------------------------------------- ranges


@dataclass(frozen=True)
class Number:
    """A finite number in low..high, from text or as it is; `above` excludes low itself."""

    kind: type
    low: float
    high: float = LARGEST
    above: bool = False

    def __call__(self, value: Any) -> Any:
        number = self.parse(value)
        in_range = number > self.low if self.above else number >= self.low
        if not (in_range and number <= self.high):
            word = "above" if self.above else "at least"
            limits = f"{word} {self.low} and at most {self.high}"
            raise ValueError(f"must be {limits}, got {value}")
        return number

    def parse(self, value: Any) -> Any:
        with contextlib.suppress(ValueError, OverflowError):
            number = self.kind(value)
            if isinstance(value, str) or number == value:
                return number
        raise ValueError(f"must be {WORDS[self.kind]}, got {value!r}")


@dataclass(frozen=True)
class Several:
    """A list of values."""

    each: Callable

    def __call__(self, values: Any) -> tuple:
        return tuple(map(self.each, values))


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def __call__(self, value: str) -> str:
        if value not in self.words:
            raise ValueError(f"must be one of {', '.join(self.words)}, got {value!r}")
        return value


@dataclass(frozen=True)
class AnyCase(Choice):
    """One of a few words, in capitals or not."""

    def __call__(self, value: str) -> str:
        same = (word for word in self.words if word.lower() == str(value).lower())
        return super().__call__(next(same, value))


def kl_type(value: str) -> str:
    """Any spelling of an annealing type that is in use -> Cyclical, Monotonic or None."""
    if str(value).lower() == "cyclical_descent":
        raise ValueError("beta falls from 1 to 0 in its cycles: write them into a --schedule file")
    if str(value).lower() not in KL_TYPES:
        raise ValueError(f"{value!r} is none of Cyclical, Monotonic, None")
    return KL_TYPES[str(value).lower()]


def device_name(value: str) -> str:
    if not re.fullmatch(r"cpu|mps|cuda(:\d{1,3})?", value):
        raise ValueError(f"{value!r} is none of cpu, cuda, cuda:N, mps")
    return value


def text(value: Any) -> str:
    return os.fspath(value)


def switch(value: bool) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be True or False, got {value!r}")
    return value


# The table of upper limits; a setting whose own is lower names it in __init__.py.
count, natural = Number(int, 1), Number(int, 0)
epochs = Number(int, 1, 1_000_000)  # of what a list has an entry for: epochs, batches, cycles
clips = Number(int, 1, 65_536)  # in a batch
samples, workers = Number(int, 1, 10_000), Number(int, 0, 256)
frames = Number(int, 2, 1_000_000)  # of a clip
positive, non_negative = Number(float, 0, above=True), Number(float, 0)
share, portion = Number(float, 0, 1), Number(float, 0, 1, above=True)
SCHEDULED = {"beta": non_negative, "tfr": share, "lr": non_negative}  # columns of a --schedule file


def schedule(value: Any) -> tuple[tuple, ...]:
    """A CSV file, or its rows -> (epoch, beta, tfr, lr) of each row; None: not in the file."""
    rows = value
    if isinstance(value, (str, os.PathLike)):
        try:
            rows = [*scheduled_rows(Path(value).read_text(encoding="utf-8-sig").splitlines())]
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise ValueError(f"{value}: {getattr(error, 'strerror', None) or error}") from None
    return tuple(map(tuple, rows))


def scheduled_rows(lines: Iterable[str]) -> Iterable[tuple]:
    reader, last = csv.DictReader(lines), -1
    columns = {name.strip(): name for name in reader.fieldnames or ()}
    if "epoch" not in columns or not SCHEDULED.keys() & columns.keys():
        raise ValueError("the first line must name epoch and any of beta, tfr, lr")
    if unknown := columns.keys() - SCHEDULED.keys() - {"epoch"}:
        raise ValueError(f"column {', '.join(sorted(unknown))} is none of epoch, beta, tfr, lr")
    for row in reader:
        try:
            epoch = natural(row[columns["epoch"]] or "")
            values = [
                columns.get(x) and check(row[columns[x]] or "") for x, check in SCHEDULED.items()
            ]
        except (TypeError, ValueError) as error:
            raise ValueError(f"line {reader.line_num}: {error}") from None
        if epoch <= last or (last < 0 < epoch):
            raise ValueError(f"line {reader.line_num}: epochs start at 0 and rise")
        yield epoch, *values
        last = epoch
    if last < 0:
        raise ValueError("has no epochs")


# ---------------------------------------------------------------- fields


class Need(NamedTuple):
    """What a flag needs to have an effect."""

    missing: str  # said after "has no effect" if it does not hold
    holds: Callable[[Any], bool]


def needs(name: str, value: Any) -> Need:
    typed = f"--{name}" if value is True else f"--{name} {value}"
    return Need(f"without {typed}", lambda settings: getattr(settings, name) == value)


# Marks of a setting:
TEMPLATE = "template"  # a flag of the lab's template: its unique prefixes are accepted
STORED = "stored"  # at test the checkpoint's value is used
FIXED = "fixed"  # stored, and the weights fit no other value
MAY_CHANGE = "may change"  # when a run is resumed; any other makes it another experiment
TRAIN_ONLY = "training only"  # without effect in Tester.py
ONCE = "once"  # what a command does, not what the run is


def setting(
    default: Any,
    check: Callable,
    help: str,
    *marks: str,
    metavar: str | None = None,
    shortcuts: dict[str, Any] | None = None,
    needs: tuple[Need, ...] = (),
) -> Any:
    """A field; `check` parses text and refuses bad values.

    `shortcuts` are flags without value, and the values that they set. Without `needs` it has no
    effect.
    """
    about = {"check": check, "help": help, "metavar": metavar, "marks": marks, "needs": needs}
    return field(default=default, metadata=about | {"alias": "", "shortcuts": shortcuts or {}})


def redefault(
    base: type,
    name: str,
    default: Any,
    *marks: str,
    alias: str = "",
    shortcuts: dict[str, Any] | None = None,
) -> Any:
    """The field of a base class with another default, and more marks.

    `alias` is a second name of the flag.
    """
    inherited = base.__dataclass_fields__[name].metadata
    changes = {"alias": alias, "shortcuts": shortcuts or {}, "marks": inherited["marks"] + marks}
    return field(default=default, metadata={**inherited, **changes})


@dataclass(frozen=True)
class Settings:
    """Every value is checked when it is set; copies with changes are made by `replace`."""

    title: ClassVar[str] = ""

    def __post_init__(self):
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value is None and item.default is None:
                continue
            try:
                object.__setattr__(self, item.name, item.metadata["check"](value))
            except (TypeError, ValueError) as error:
                raise UserError(f"--{item.name}: {error}") from None

    def contradiction(self) -> str | None:
        """What in these settings contradicts itself; None: nothing."""
        return None

    def replace(self: T, **changes: Any) -> T:
        return dataclasses.replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as a checkpoint and args.json hold it."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def changed(self) -> set[str]:
        """The names of all settings that are not at their defaults."""
        return {f.name for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}

    @classmethod
    def names(cls, *marks: str) -> set[str]:
        """The names of all settings, or of those with one of these marks."""
        own = dataclasses.fields(cls)
        return {f.name for f in own if not marks or {*marks} & {*f.metadata["marks"]}}

    @classmethod
    def default(cls, name: str) -> Any:
        value = cls.__dataclass_fields__[name].default
        return list(value) if isinstance(value, tuple) else value


def above(settings: Settings, low: str, high: str) -> str | None:
    """The problem that one setting is above another, if it is."""
    values = getattr(settings, low), getattr(settings, high)
    return f"--{low} {values[0]} is above --{high} {values[1]}" if values[0] > values[1] else None


def settings_from(cls: type[T], values: dict[str, Any]) -> T:
    """The class with those of the values that are its own."""
    return cls(**{name: value for name, value in values.items() if name in cls.names()})
