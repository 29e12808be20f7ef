"""Typed settings and the command line agree: every field is a flag, with the same default.

Also the flags without effect: each is refused or noted.
"""

import dataclasses
import math
import typing

import pytest
from helpers import settings_of

from modules.cli.parser import Parser, parse
from modules.config import LAB_NAMES, TESTS, TRAINING, Loop, PoseTraining
from modules.config.fields import (
    Choice,
    Number,
    Several,
    device_name,
    kl_type,
    settings_from,
    switch,
    text,
)

CLASSES = {"Trainer": TRAINING, "Tester": TESTS}
KINDS = [(script, lab) for script in CLASSES for lab in LAB_NAMES]


# ---------------------------------------------------------------- fields and flags


@pytest.mark.parametrize(("script", "lab"), KINDS)
def test_every_field_is_a_flag_and_every_flag_is_a_field(script, lab):
    accepted = TRAINING[lab].names() - Loop.names() if script == "Tester" else set()
    names = Parser(script, lab).names
    assert set(names.values()) == CLASSES[script][lab].names() | accepted
    assert {f"--{name}" for name in CLASSES[script][lab].names()} <= names.keys()


@pytest.mark.parametrize(("script", "lab"), KINDS)
def test_no_flag_typed_gives_the_defaults_of_the_settings(script, lab):
    parser = Parser(script, lab)
    assert parser.read([]) == {}
    assert settings_of("", script, lab) == CLASSES[script][lab]()
    assert settings_of("", script, lab).changed() == set()


@pytest.mark.parametrize(("script", "lab"), KINDS)
def test_every_default_has_the_type_of_its_field(script, lab):
    cls = CLASSES[script][lab]
    hints = typing.get_type_hints(cls)
    wrong = [f.name for f in dataclasses.fields(cls) if not isinstance(f.default, hints[f.name])]
    assert wrong == []


def another_value(item):
    """A valid value that is not the field's default."""
    check = item.metadata["check"]
    if isinstance(check, Number):
        values = [check.kind(x) for x in (0, 0.25, 0.5, 1, 2, 13) if in_range(check, x)]
    elif isinstance(check, Several):
        values = [("some/path", "other")] if check.each is text else [(3, 4)]
    elif isinstance(check, Choice):
        values = check.words
    else:
        values = {switch: (True, False), kl_type: ("Monotonic", "None"), device_name: ("cpu",)}
        values = values.get(check, ("some/path",) if check is text else ())
    return next(value for value in values if value != item.default)


def in_range(check, value):
    try:
        return check(check.kind(value)) == value
    except ValueError:
        return False


def words(name, value):
    """A setting as it is typed."""
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", *map(str, value if isinstance(value, tuple) else [value])]


@pytest.mark.parametrize(("script", "lab"), KINDS)
def test_a_typed_flag_is_the_setting_given_in_python(script, lab):
    parser, default = Parser(script, lab), CLASSES[script][lab]()
    for item in dataclasses.fields(default):
        if item.name == "schedule":  # its file is tested with the schedules
            continue
        value = another_value(item)
        values = parser.read(words(item.name, value))
        changed = settings_from(parser.settings, values)
        assert changed == default.replace(**{item.name: value}) != default, item.name
        assert changed.changed() == {item.name}
        stored = changed.as_dict()[item.name]
        assert stored == (list(value) if isinstance(value, tuple) else value)
        assert type(stored) in (str, int, float, bool, list)  # plain data, for checkpoints


@pytest.mark.parametrize(("script", "lab"), KINDS)
def test_every_switch_can_be_negated(script, lab):
    parser = Parser(script, lab)
    for item in dataclasses.fields(CLASSES[script][lab]):
        # the template's --no_sanity is a negation itself
        if item.metadata["check"] is switch and not item.name.startswith("no_"):
            yes, no = f"--{item.name}", f"--no-{item.name}"
            for line in ([yes], [no], [yes, no], [no, yes]):
                assert parser.read(line) == {item.name: line[-1] == yes}


NUMBERS = {
    item.name: getattr(check, "each", check)
    for cls in (*TRAINING.values(), *TESTS.values())
    for item in dataclasses.fields(cls)
    if isinstance(check := item.metadata["check"], Several | Number)
    and isinstance(getattr(check, "each", check), Number)
}


def test_every_number_has_an_upper_limit_and_the_error_states_it():
    for name, number in NUMBERS.items():
        assert number(str(number.high)) == number.high <= 2**32, name
        for value in (10**20, "1e308", math.nan, "x", ""):
            with pytest.raises(ValueError, match=f"at most {number.high}|must be a"):
                number(value)


# ---------------------------------------------------------------- from Python


def test_settings_do_not_change_and_unknown_ones_are_refused():
    settings = PoseTraining()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.tfr = 0.5
    with pytest.raises(TypeError, match="n_past"):
        PoseTraining(n_past=2)
    assert settings == PoseTraining()


def test_every_spelling_of_a_value_is_stored_as_one():
    for word in "None NONE No Without W/O NoKL_Annealing Constant".split():
        assert PoseTraining(kl_anneal_type=word).kl_anneal_type == "None"
    assert PoseTraining(kl_anneal_type="CYCLICAL").kl_anneal_type == "Cyclical"
    assert PoseTraining(tfr=1).tfr == 1.0 and type(PoseTraining(tfr=1).tfr) is float
    assert PoseTraining(lr_milestones=[3, 4]).lr_milestones == (3, 4)


# ---------------------------------------------------------------- flags without effect

PRETRAINED = ("--pretrain_epochs 70", "--pretrain_epochs below --num_epoch")
NO_LATENT = ("--no-latent", "--latent")
NO_KL = [PRETRAINED, ("--posterior_share 0", "--posterior_share above 0"), NO_LATENT]
NO_RAMP = [("--kl_anneal_type None", "--kl_anneal_type Cyclical or Monotonic"), *NO_KL]
NOT_FORCED = ("--tfr 0", "--tfr above 0")
NO_DECAY = [NOT_FORCED, ("--tfr_d_step 0", "--tfr_d_step above 0")]
IGNORED = {  # flag -> a value, [(flags beside which it has no effect, what it needs)]
    "kl_anneal_cycle": (3, [("--kl_anneal_type Monotonic", "--kl_anneal_type Cyclical"), *NO_KL]),
    "kl_anneal_ratio": (0.5, NO_RAMP),
    "kl_anneal_stop": (0.5, NO_KL),
    "kl_anneal_type": ("None", NO_KL),
    "free_bits": (0.5, NO_KL),
    "posterior_share": (0.5, [PRETRAINED, NO_LATENT]),
    "pretrain_epochs": (3, [NO_LATENT]),
    "posterior": ("previous", [NO_LATENT]),
    "z_grid": ("vector", [NO_LATENT]),
    "z_source": ("mean", [NO_LATENT]),
    "tfr_sde": (3, NO_DECAY),
    "tfr_d_step": (0.2, [NOT_FORCED]),
    "tfr_coin": ("batch", [NOT_FORCED]),
    "feedback": ("frame", [("--tfr_sde 70", "--tfr below 1, or a decay")]),
    "fast_partial": (0.5, [("--no-fast_train", "--fast_train")]),
    "fast_train_epoch": (2, [("--no-fast_train", "--fast_train")]),
    "lr_milestones": (3, [("--lr_schedule constant", "--lr_schedule multistep")]),
    "lr_gamma": (0.5, [("--lr_schedule cosine", "--lr_schedule multistep")]),
    "lr_min": (1e-5, [("--lr_schedule multistep", "--lr_schedule cosine")]),
}
CASES = [(flag, *case) for flag, (_, cases) in IGNORED.items() for case in cases]


def print_notes(line, script="Trainer"):
    """Parse a command line; its notes are printed."""
    more = "--ckpt_path c" if script == "Tester" else ""
    parse(script, f"--DR d --save_root s {more} {line}".split())


@pytest.mark.parametrize(("flag", "beside", "needed"), CASES)
def test_a_flag_without_effect_is_noted(capsys, flag, beside, needed):
    typed = f"--{flag} {IGNORED[flag][0]}"
    print_notes(f"{typed} {beside}")
    found = capsys.readouterr().out.splitlines()
    assert f"note: --{flag} has no effect without {needed}" in found
    print_notes(beside)  # a default is not typed, so nothing is noted about it
    assert f"--{flag} " not in capsys.readouterr().out


@pytest.mark.parametrize("flag", IGNORED)
def test_nothing_is_noted_about_a_flag_with_effect(capsys, flag):
    beside = {"fast_partial": "--fast_train", "fast_train_epoch": "--fast_train"}
    beside["lr_min"] = "--lr_schedule cosine"
    print_notes(f"--{flag} {IGNORED[flag][0]} {beside.get(flag, '')}")
    assert capsys.readouterr().out == ""


def test_every_rule_has_a_test():
    of_schedule = {"tfr", "lr", "lr_schedule", "warmup_epochs"}  # a --schedule file replaces them
    needy = {item.name for item in dataclasses.fields(PoseTraining) if item.metadata["needs"]}
    assert needy == IGNORED.keys() | of_schedule


def test_validation_notes_nothing_about_training(capsys):
    print_notes("--fast_partial 0.5 --tfr 0 --tfr_d_step 0.1 --test --ckpt_path c")
    assert capsys.readouterr().out == ""
