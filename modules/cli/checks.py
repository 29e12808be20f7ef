"""What is wrong with a command line as a whole, and which of its flags have no effect."""

from collections.abc import Iterator
from typing import Any

from ..config import DECAY, FORCED
from ..config.fields import TRAIN_ONLY, kl_type


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
        for note in (*taken_for(settings, parser.words), *without_effect(settings, typed)):
            print(note)


MEANINGS = {
    "Cyclical": "beta rises at the start of every cycle, and never falls within one",
    "Monotonic": "beta rises once",
    "None": "beta is --kl_anneal_stop throughout; for a run without KL, --kl_anneal_stop 0",
}
SHIFTED = {"--tfr_start_decay_epoch", "--tfr_decay_step"}


def taken_for(settings: Any, words: list[str]) -> Iterator[str]:
    """A note for what published code spells or counts in another way."""
    kind, spelling = settings.kl_anneal_type, typed_value("--kl_anneal_type", words)
    if "beta" in settings.scheduled:
        spelling = None
    if spelling and kl_type(spelling) == kind and spelling.lower() != kind.lower():
        yield f"note: --kl_anneal_type {spelling} is taken for {kind}: {MEANINGS[kind]}"
    old = sorted(SHIFTED & {word.partition("=")[0] for word in words})
    decays = "tfr" not in settings.scheduled and DECAY.holds(settings)
    if old and decays and FORCED.holds(settings):
        first = settings.tfr_sde
        yield (
            f"note: {old[-1]}: tfr falls from epoch {first} on; published code lowers it after "
            f"that epoch: --tfr_start_decay_epoch {first + 1} gives its numbers"
        )


def typed_value(flag: str, words: list[str]) -> str | None:
    """The word that was typed for a flag; the last one counts."""
    typed = None
    for word, following in zip(words, [*words[1:], None]):
        name, equals, value = word.partition("=")
        typed = (value if equals else following) if name == flag else typed
    return typed


def without_effect(settings: Any, typed: set[str]) -> Iterator[str]:
    """A note for every typed flag that has no effect beside the others."""
    for flag in sorted(typed):
        needs = settings.__dataclass_fields__[flag].metadata["needs"]
        missing = next((need.missing for need in needs if not need.holds(settings)), None)
        if missing:
            yield f"note: --{flag} has no effect {missing}"
