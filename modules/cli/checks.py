"""What is wrong with a command line as a whole, and which of its flags have no effect."""

from collections.abc import Iterator
from typing import Any

from ..config.fields import TRAIN_ONLY


def check(parser: Any, settings: Any, typed: set[str]) -> None:
    """Refuse what is missing and what contradicts itself."""
    training = parser.script == "Trainer" and not settings.test
    required = ("save_root",) if getattr(settings, "preview", False) else ("DR", "save_root")
    if missing := [f"--{flag}" for flag in required if not getattr(settings, flag)]:
        parser.error(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} required")
    if parser.script == "Tester" and not settings.ckpt_path:
        parser.error("--ckpt_path is required: the checkpoint to test")
    if settings.test and not settings.ckpt_path:
        parser.error("--test validates a checkpoint: name it with --ckpt_path")
    # at test the checkpoint's own settings count: they are checked when it is read
    if training and (problem := settings.contradiction()):
        parser.error(problem)
    if parser.script == "Tester":
        own = type(settings)
        if names := sorted(typed - own.names() | typed & own.names(TRAIN_ONLY)):
            print("note: these training flags have no effect at test:", *(f"--{n}" for n in names))
    if training:
        for note in without_effect(settings, typed):
            print(note)


def without_effect(settings: Any, typed: set[str]) -> Iterator[str]:
    """A note for every typed flag that has no effect beside the others."""
    for flag in sorted(typed):
        needs = settings.__dataclass_fields__[flag].metadata["needs"]
        missing = next((need.missing for need in needs if not need.holds(settings)), None)
        if missing:
            yield f"note: --{flag} has no effect {missing}"
