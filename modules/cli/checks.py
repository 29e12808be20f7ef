"""What is wrong with a command line as a whole, and which of its flags have no effect."""

from collections.abc import Callable, Iterator
from typing import Any

from ..config import TEMPLATE, Compute
from ..fields import kl_type

Rule = tuple[str, Callable[[Any], bool]]  # what a flag needs, as it is typed, and whether it is so


def needs(name: str, value: Any) -> Rule:
    text = f"--{name}" if value is True else f"--{name} {value}"
    return text, lambda settings: getattr(settings, name) == value


CYCLES = needs("kl_anneal_type", "Cyclical")
RAMP = "--kl_anneal_type Cyclical or Monotonic", lambda s: s.kl_anneal_type != "None"
FORCED = "--tfr above 0", lambda s: s.tfr > 0 or "tfr" in s.scheduled
DECAY = "--tfr_d_step above 0", lambda s: s.tfr_mode == "linear" or s.tfr_d_step > 0
POSTERIOR = "--pretrain_epochs below --num_epoch", lambda s: s.pretrain_epochs < s.num_epoch
SHARE = "--posterior_share above 0", lambda s: s.posterior_share > 0
LATENT = needs("latent", True)
FREE_RUNNING = (
    "--tfr below 1, or a decay",
    lambda s: s.tfr < 1 or s.tfr_sde < s.num_epoch or "tfr" in s.scheduled,
)
REFUSED = {  # a flag that has no effect without the other: refused, unless the template has it
    "lr_milestones": needs("lr_schedule", "multistep"),
    "lr_gamma": needs("lr_schedule", "multistep"),
    "lr_min": needs("lr_schedule", "cosine"),
    "tfr_d_step": needs("tfr_mode", "step"),
    "fast_partial": needs("fast_train", True),
    "fast_train_epoch": needs("fast_train", True),
}
NOTED = {  # a flag that has no effect without all of these: noted
    "kl_anneal_cycle": (CYCLES, POSTERIOR, SHARE, LATENT),
    "kl_anneal_ratio": (RAMP, POSTERIOR, SHARE, LATENT),
    "kl_anneal_start": (RAMP, POSTERIOR, SHARE, LATENT),
    "kl_anneal_shape": (RAMP, POSTERIOR, SHARE, LATENT),
    "kl_anneal_stop": (POSTERIOR, SHARE, LATENT),
    "kl_anneal_type": (POSTERIOR, SHARE, LATENT),
    "free_bits": (POSTERIOR, SHARE, LATENT),
    "posterior_share": (POSTERIOR, LATENT),
    "pretrain_epochs": (LATENT,),
    "posterior": (LATENT,),
    "z_grid": (LATENT,),
    "z_source": (LATENT,),
    "tfr_sde": (FORCED, DECAY),
    "tfr_d_step": (FORCED,),
    "tfr_mode": (FORCED,),
    "tfr_lower_bound": (FORCED, DECAY),
    "tfr_coin": (FORCED,),
    "feedback": (FREE_RUNNING,),
}


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
    # at test the checkpoint's own settings count, so the model's are checked when it is read
    if problem := settings.contradiction() if training else Compute.contradiction(settings):
        parser.error(problem)
    if training:
        for flag, (what, holds) in REFUSED.items():
            if flag in typed - TEMPLATE and not holds(settings):
                parser.error(f"--{flag} has no effect without {what}")
        for note in (*taken_for(settings, parser.words), *without_effect(settings, typed)):
            print(note)


MEANINGS = {
    "Cyclical": "beta rises at the start of every cycle, and never falls within one",
    "Monotonic": "beta rises once",
    "None": "beta is --kl_anneal_stop throughout; for a run without KL, --kl_anneal_stop 0",
}
COLUMN_OF = {"kl": "beta", "tfr": "tfr", "lr": "lr", "warmup": "lr"}  # by a flag's first word
SHIFTED = {"--tfr_start_decay_epoch", "--tfr_decay_step"}


def taken_for(settings: Any, words: list[str]) -> Iterator[str]:
    """A note for what published code spells or counts in another way."""
    kind, spelling = settings.kl_anneal_type, typed_value("--kl_anneal_type", words)
    if spelling and kl_type(spelling) == kind and spelling.lower() != kind.lower():
        yield f"note: --kl_anneal_type {spelling} is taken for {kind}: {MEANINGS[kind]}"
    old = sorted(SHIFTED & {word.partition("=")[0] for word in words})
    if old and FORCED[1](settings) and DECAY[1](settings):
        first = settings.tfr_sde
        yield (
            f"note: {old[-1]}: tfr falls from epoch {first} on; published code lowers it after "
            f"that epoch: --tfr_start_decay_epoch {first + 1} gives its numbers"
        )


def typed_value(flag: str, words: list[str]) -> str | None:
    """The word that was typed for a flag; the last one counts."""
    found = None
    for word, following in zip(words, [*words[1:], None]):
        name, equals, value = word.partition("=")
        found = (value if equals else following) if name == flag else found
    return found


def without_effect(settings: Any, typed: set[str]) -> Iterator[str]:
    """A note for every typed flag that has no effect beside the others."""
    for flag in sorted(typed - {"tfr_coin"}):
        if (column := COLUMN_OF.get(flag.split("_")[0])) in settings.scheduled:
            yield f"note: --{flag} has no effect: the --schedule file has {column}"
    rules = {flag: (rule,) for flag, rule in REFUSED.items() if flag in TEMPLATE}
    for flag in sorted(typed & (rules.keys() | NOTED.keys())):
        for what, holds in (*rules.get(flag, ()), *NOTED.get(flag, ())):
            if not holds(settings):
                yield f"note: --{flag} has no effect without {what}"
                break
