"""The command line: flags are made from the fields of the settings, prefixes completed by hand.

Both labs share most flags. A flag that only the other lab has is refused.
"""

import argparse
import dataclasses
import difflib
import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..config import LAB_NAMES, TESTS, TRAINING, Loop
from ..config.fields import (
    TEMPLATE,
    TRAIN_ONLY,
    AnyCase,
    Choice,
    Settings,
    Several,
    natural,
    settings_from,
    switch,
)
from ..errors import UserError, one_line, require_folder
from .checks import check

ABOUT = {
    "Trainer": "Train a conditional VAE that predicts video.",
    "Tester": "Roll a checkpoint out over every test clip: gifs, film strips, scores.",
}
USAGE = {
    "Trainer": "[--lab robot] --DR DIR --save_root DIR",
    "Tester": "--DR DIR --save_root DIR --ckpt_path FILE",
}
STORED_TITLES = {"model": "model (default: as stored in the checkpoint)"}  # of Tester
METAVARS = {int: "N", float: "X", None: "NAME"}
SIMILAR = 0.85  # names that are as similar are taken for a misspelling
ACCEPTED = "The training flags of published command lines are accepted, without effect here."
TITLES = (  # the groups of --help, in order
    "test",
    "run",
    "training loop",
    "data",
    "model",
    "loss, optimizer and learning rate",
    "teacher forcing",
    "KL annealing",
    "device",
)
OLD = {  # flags of published code that are not taken over, and what to type instead
    "--beta": "the weight of the KL is --kl_anneal_stop: with --kl_anneal_type None throughout (as "
    "in SVG), else at the end of a ramp; the momentum of Adam is --beta1 (--lab robot)",
    "--log_dir": "there it is the parent of run folders; here --save_root is the run folder itself",
    "--model_dir": "there it holds a pickled model.pth; here --ckpt_path FILE names the weights, "
    "saved as in docs/robot.md, and a run is resumed by its own command",
}


def parse(
    script: str, argv: Sequence[str] | None = None, lab: str | None = None
) -> tuple[Any, set[str]]:
    """-> (settings, the names of the flags that were typed). Wrong usage exits with code 2.

    `lab` is for command lines that do not name one.
    """
    typed_lab = peek("lab", argv)
    parser = Parser(script, typed_lab if typed_lab in LAB_NAMES else lab or "pose")
    values = parser.read(argv)
    try:
        settings = settings_from(parser.settings, values)
    except UserError as error:
        parser.error(str(error))
    check(parser, settings, set(values))
    return settings, set(values)


def read_command(script: str) -> tuple[Any, set[str]] | None:
    """parse(), with an error for a missing file or folder. It needs no torch.

    None: a command of Tester.py, whose checkpoint must be read to know the lab and so the flags.
    """
    path = peek("ckpt_path")
    if script == "Tester" and path and not {"-h", "--help"} & set(sys.argv):
        if not Path(path).is_file():
            raise UserError(f"{path} is not a checkpoint file")
        return None
    settings, typed = parse(script)
    if settings.DR:
        require_folder(settings.DR)
    return settings, typed


def peek(flag: str, argv: Sequence[str] | None = None) -> str | None:
    """The value typed for this flag, or None: the lab decides which flags there are to parse."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=flag != "lab")  # --l is --lr
    parser.add_argument(f"--{flag}", nargs="?", dest="value")
    return parser.parse_known_args(argv)[0].value


class Gpus(argparse.Action):
    """--gpu N of the template: 0 is --device cpu, 1 is the default."""

    def __call__(self, parser: Any, values: Any, count: int, flag: str | None = None) -> None:
        if count > 1:
            parser.error(f"--gpu {count}: a run uses one GPU; start more, with --device cuda:N")
        if count == 0:
            values.device = "cpu"


class Parser(argparse.ArgumentParser):
    """The flags of one script and lab; unique prefixes of the template's flags are accepted."""

    def __init__(self, script: str, lab: str):
        super().__init__(
            prog=f"{script}.py",
            usage=f"python {script}.py {USAGE[script]} [flags]",
            description=ABOUT[script],
            epilog=ACCEPTED if script == "Tester" else None,
            formatter_class=functools.partial(argparse.HelpFormatter, max_help_position=30),
            allow_abbrev=False,
        )
        self.script, self.lab = script, lab
        self.settings = (TRAINING if script == "Trainer" else TESTS)[lab]
        self.names = dict(flag_names(script, lab))  # {"--flag": the setting's name}
        for title, fields in groups(script, lab):
            group = self.add_argument_group(title)
            for item in fields:
                add_flag(group, item)
        for item in accepted(script, lab):
            add_flag(self, item, hidden=True)
        gpu = {"metavar": "N", "action": Gpus, "default": argparse.SUPPRESS}
        help = "0: the same as --device cpu; 1: the default"
        self.add_argument("--gpu", type=argparse_type(natural), help=help, **gpu)
        self.names["--gpu"] = "device"
        self.template = TRAINING[lab].names(TEMPLATE) | TESTS[lab].names(TEMPLATE)

    def read(self, argv: Sequence[str] | None = None) -> dict[str, Any]:
        """-> {setting: value} of what was typed."""
        words = [self.complete(word) for word in (sys.argv[1:] if argv is None else argv)]
        values, unknown = self.parse_known_args(words)
        if unknown:
            self.refuse(unknown)
        return vars(values)

    def complete(self, word: str) -> str:
        """A prefix of one of the template's flags -> the flag."""
        name, equals, value = word.partition("=")
        known = self.names.keys() | OLD.keys() | foreign_flags(self.script, self.lab).keys()
        if not name.startswith("--") or name in known | {"--", "--help"}:
            return word
        matches_of = {  # two names of one setting are one match
            setting: flag
            for flag, setting in self.names.items()
            if flag.startswith(name) and setting in self.template and not flag.startswith("--no-")
        }
        matches_of |= {"help": "--help"} if "--help".startswith(name) else {}
        matches = sorted(matches_of.values())
        if len(matches) > 1:
            self.error(f"ambiguous option: {name} could match {', '.join(matches)}")
        return f"{matches[0]}{equals}{value}" if matches else word

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {one_line(message)} (--help lists the flags)\n")

    def refuse(self, unknown: list[str]) -> NoReturn:
        """Say what is wrong with arguments that no flag of this lab takes."""
        for word in unknown:
            name = word.split("=")[0]
            if name in OLD:
                self.error(f"{name} of published code: {OLD[name]}")
            if owner := foreign_flags(self.script, self.lab).get(name):
                self.error(f"{name} is a flag of --lab {owner}; this is --lab {self.lab}")
            longer = sorted(flag for flag in self.names if flag.startswith(name) and len(name) > 2)
            if meant := longer or difflib.get_close_matches(name, self.names, 1, SIMILAR):
                self.error(f"{name} is no flag: did you mean {' or '.join(meant)}?")
        self.error(f"unrecognized arguments: {' '.join(unknown)}")


@functools.cache
def foreign_flags(script: str, lab: str) -> dict[str, str]:
    """{flag: lab} of the flags that only other labs have."""
    own, others = dict(flag_names(script, lab)), [x for x in LAB_NAMES if x != lab]
    return {f: x for x in others for f in dict(flag_names(script, x)) if f not in own}


# ---------------------------------------------------------------- flags from fields


def groups(script: str, lab: str) -> Iterator[tuple[str, list[dataclasses.Field]]]:
    """Titles and fields of --help's groups: a group is what one settings class adds."""
    own = (TRAINING if script == "Trainer" else TESTS)[lab]
    shared, seen = {title: [] for title in TITLES}, set()
    for cls in own.__mro__[::-1]:
        if issubclass(cls, Settings) and cls is not Settings:
            names = {item.name for item in dataclasses.fields(cls)} - seen
            shared[cls.title] += [f for f in dataclasses.fields(own) if f.name in names]
            seen |= names
    hidden = own.names(TRAIN_ONLY) if script == "Tester" else set()
    shown = {title: [f for f in fields if f.name not in hidden] for title, fields in shared.items()}
    if script == "Tester":
        shown = {STORED_TITLES.get(title, title): fields for title, fields in shown.items()}
    yield from ((title, fields) for title, fields in shown.items() if fields)


def accepted(script: str, lab: str) -> list[dataclasses.Field]:
    """Tester's flags without effect. The template's Tester had none of the training loop."""
    if script == "Trainer":
        return []
    hidden = [f for f in dataclasses.fields(TESTS[lab]) if TRAIN_ONLY in f.metadata["marks"]]
    others = TESTS[lab].names() | Loop.names()
    return hidden + [f for f in dataclasses.fields(TRAINING[lab]) if f.name not in others]


def flag_names(script: str, lab: str) -> Iterator[tuple[str, str]]:
    """("--flag", the setting's name) for every name of every flag."""
    shown = [item for _, fields in groups(script, lab) for item in fields]
    for item in shown + accepted(script, lab):
        for name in names_of(item):
            yield f"--{name}", item.name
        if item.metadata["check"] is switch and not item.name.startswith("no_"):
            yield f"--no-{item.name}", item.name
        for name in item.metadata["shortcuts"]:
            yield f"--{name}", item.name


def names_of(item: dataclasses.Field) -> list[str]:
    return [item.name] + [item.metadata["alias"]] * bool(item.metadata["alias"])


def add_flag(group: Any, item: dataclasses.Field, hidden: bool = False) -> None:
    """One field as a flag. Nothing is set that was not typed: the settings know the defaults."""
    check, flags = item.metadata["check"], [f"--{name}" for name in names_of(item)]
    options = {
        "default": argparse.SUPPRESS,
        "help": argparse.SUPPRESS if hidden else help_text(item),
    }
    if check is switch:
        negatable = not item.name.startswith("no_")
        options["action"] = argparse.BooleanOptionalAction if negatable else "store_true"
    elif isinstance(check, Choice) and not isinstance(check, AnyCase):
        options["choices"] = check.words
    elif isinstance(check, Several):
        options |= {"type": argparse_type(check.each), "nargs": "*"}
        options["metavar"] = item.metadata["metavar"] or "E"
    else:
        metavar = item.metadata["metavar"] or METAVARS[getattr(check, "kind", None)]
        options |= {"type": argparse_type(check), "metavar": metavar}
    group.add_argument(*flags, **options)
    for name, value in item.metadata["shortcuts"].items():
        text = argparse.SUPPRESS if hidden else f"the same as --{item.name} {value}"
        same = {"action": "store_const", "const": value, "dest": item.name}
        group.add_argument(f"--{name}", default=argparse.SUPPRESS, help=text, **same)


def help_text(item: dataclasses.Field) -> str:
    default = item.default
    if isinstance(default, tuple):
        default = " ".join(map(str, default))
    shown = default is not None and (item.metadata["check"] is not switch or default is True)
    return item.metadata["help"] + (f" ({default})" if shown else "")


def argparse_type(check: Any) -> Any:
    """A check as argparse calls it: what is wrong with a value is shown as it is."""

    def convert(word: str) -> Any:
        if not word:  # such as a variable of a shell that is not set
            raise argparse.ArgumentTypeError("is empty")
        try:
            return check(word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    convert.__name__ = getattr(getattr(check, "kind", check), "__name__", "value")
    return convert
