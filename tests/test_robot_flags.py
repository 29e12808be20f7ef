"""The robot lab's flags: names, defaults, refusals, and the schedules that they give."""

import shlex

import pytest

from modules.cli.parser import foreign_flags, parse
from modules.config import LABS

REQUIRED = {"Trainer": (), "Tester": ("--ckpt_path", "c")}  # what a script needs besides


def parse_line(line, script="Trainer"):
    """A whole command line, with its checks -> settings, and the names of what was typed."""
    flags = ["--DR", "d", "--save_root", "s", *REQUIRED[script], "--lab", "robot"]
    return parse(script, [*flags, *shlex.split(line)])


def parsed(line, script="Trainer"):
    return parse_line(line, script)[0]


# The lab's published flags: flag -> the setting it sets, its default, another value.
NUMBERS = {
    "lr": ("lr", 0.002, 0.01),
    "beta1": ("beta1", 0.9, 0.5),
    "batch_size": ("batch_size", 12, 24),
    "niter": ("num_epoch", 300, 100),
    "epoch_size": ("epoch_size", 600, 500),
    "tfr": ("tfr", 1.0, 0.5),
    "tfr_start_decay_epoch": ("tfr_sde", 0, 25),
    "tfr_decay_step": ("tfr_d_step", 0.0, 0.01),
    "tfr_lower_bound": ("tfr_lower_bound", 0.0, 0.2),
    "kl_anneal_ratio": ("kl_anneal_ratio", 0.5, 0.25),
    "kl_anneal_cycle": ("kl_anneal_cycle", 3, 2),
    "n_past": ("n_past", 2, 3),
    "n_future": ("n_future", 10, 12),
    "n_eval": ("n_eval", 30, 12),
    "rnn_size": ("rnn_size", 256, 128),
    "posterior_rnn_layers": ("posterior_rnn_layers", 1, 2),
    "predictor_rnn_layers": ("predictor_rnn_layers", 2, 1),
    "z_dim": ("z_dim", 64, 32),
    "g_dim": ("g_dim", 128, 64),
    "seed": ("seed", 1, 5),
}
SWITCHES = {
    "kl_anneal_cyclical": ("kl_anneal_type", "Monotonic", "Cyclical"),
    "last_frame_skip": ("last_frame_skip", False, True),
}
TYPED = {f"--{flag} {x}": (dest, x) for flag, (dest, _, x) in NUMBERS.items()}
TYPED |= {f"--{flag}": (dest, x) for flag, (dest, _, x) in SWITCHES.items()}


def test_defaults_are_those_of_the_lab():
    found = parsed("").as_dict()
    assert {dest: found[dest] for dest, _, _ in (NUMBERS | SWITCHES).values()} == {
        dest: default for dest, default, _ in (NUMBERS | SWITCHES).values()
    }
    more = {"optim": "Adam", "lr_schedule": "constant", "grad_clip": 0.0, "tfr_coin": "batch"}
    assert {flag: found[flag] for flag in more} == more  # nothing that the lab does not have


def test_a_line_of_all_flags_is_parsed():
    line = " ".join(f"--{flag} {default}" for flag, (_, default, _) in NUMBERS.items())
    both = parsed(f"{line} --kl_anneal_cyclical --last_frame_skip")
    assert both == parsed("").replace(kl_anneal_type="Cyclical", last_frame_skip=True)


@pytest.mark.parametrize("typed", TYPED)
@pytest.mark.parametrize("script", REQUIRED)
def test_a_flag_sets_one_setting(script, typed):
    name, value = TYPED[typed]
    default, _ = parse_line("", script)
    found, names = parse_line(typed, script)
    assert names - {"DR", "save_root", "lab", "ckpt_path"} == {name}
    if name in found.names():  # Tester accepts flags of training, without effect
        assert found == default.replace(**{name: value})
        assert type(getattr(found, name)) is type(value)
    else:
        assert script == "Tester" and found == default


@pytest.mark.parametrize("both", ["--niter 7", "--num_epoch 7", "--num_ep 7", "--nit 7"])
def test_both_names_and_their_prefixes_set_the_number_of_epochs(both):
    assert parsed(both).num_epoch == 7


# ---------------------------------------------------------------- names of published code

TAKEN = {  # an old name -> the same in today's
    "--data_root x": "--DR x",
    "--optimizer adam": "--optim Adam",
    "--optimizer rmsprop": "--optim RMSprop",
    "--optimizer sgd": "--optim SGD",
    "--cuda": "--device cuda",
    "--niter 9 --tfr_start_decay_epoch 3 --tfr_decay_step 0.1": "--num_epoch 9 --tfr_sde 3 "
    "--tfr_d_step 0.1",
}
REFUSED = {
    "--beta 0.0001": "--kl_anneal_type None",
    "--beta=0.0001": "--kl_anneal_stop",
    "--log_dir ./logs/fp": "--save_root is the run folder",
    "--model_dir ./logs/fp/run": "--ckpt_path FILE",
}


@pytest.mark.parametrize("old", TAKEN)
def test_an_old_name_has_its_old_meaning(old):
    assert parsed(old) == parsed(TAKEN[old])


@pytest.mark.parametrize("old", REFUSED)
@pytest.mark.parametrize("script", REQUIRED)
def test_an_old_name_with_another_meaning_is_refused_with_the_flag_to_use(call, script, old):
    places = ["--DR", "d", "--save_root", "s", *REQUIRED[script], "--lab", "robot"]
    done = call(script, *places, *old.split())
    assert done.code == 2 and done.err.count("\n") == 1
    assert f"{old.replace('=', ' ').split()[0]} of published code" in done.err
    assert REFUSED[old] in done.err


def test_the_line_of_all_published_flags_means_what_it_did():
    line = """--lr .002 --beta1 .9 --batch_size 12 --niter 300 --epoch_size 600 --tfr 1.0
        --tfr_start_decay_epoch 0 --tfr_decay_step 0 --tfr_lower_bound 0 --kl_anneal_cyclical
        --kl_anneal_ratio .5 --kl_anneal_cycle 3 --n_past 2 --n_future 10 --n_eval 30 --rnn_size 256
        --posterior_rnn_layers 1 --predictor_rnn_layers 2 --z_dim 64 --g_dim 128 --last_frame_skip
        --seed 1 --optimizer adam --data_root d"""
    expected = parsed("").replace(kl_anneal_type="Cyclical", last_frame_skip=True)
    assert parsed(line) == expected


def test_a_decay_that_published_code_starts_an_epoch_later_is_printed(capsys):
    old = "--tfr_start_decay_epoch 150 --tfr_decay_step 0.01"
    parsed(old)
    assert "--tfr_start_decay_epoch 151 gives its numbers" in capsys.readouterr().out
    for quiet in (
        "--tfr_sde 150 --tfr_d_step 0.01",
        "--tfr_start_decay_epoch 150",
        f"{old} --tfr 0",
    ):
        parsed(quiet)
        assert "gives its numbers" not in capsys.readouterr().out


FOREIGN = [
    (script, lab, flag)
    for script in REQUIRED
    for lab in LABS
    for flag in sorted(foreign_flags(script, lab))
]
MUST_BE_FOREIGN = {
    "pose": "n_past n_future n_eval epoch_size g_dim z_dim rnn_size last_frame_skip niter",
    "robot": "F_dim posterior train_vi_len val_vi_len frame_H partial fast_train shuffle sigmoid",
}


@pytest.mark.parametrize("lab", MUST_BE_FOREIGN)
@pytest.mark.parametrize("script", REQUIRED)
def test_flags_of_the_other_lab(script, lab):
    words = {f"--{flag}" for flag in MUST_BE_FOREIGN[lab].split()}
    assert words <= foreign_flags(script, lab).keys()


@pytest.mark.parametrize(("script", "lab", "flag"), FOREIGN)
def test_a_flag_of_the_other_lab_is_refused_by_name(call, script, lab, flag):
    asked = () if lab == "pose" else ("--lab", "robot")  # without --lab it is the pose lab
    owner = "robot" if lab == "pose" else "pose"
    for typed in ([flag], [flag, "1"], [f"{flag}=1"]):
        done = call(script, "--DR", "d", "--save_root", "s", *REQUIRED[script], *asked, *typed)
        assert done.code == 2
        assert f"{flag} is a flag of --lab {owner}; this is --lab {lab}" in done.err


def test_posterior_is_no_prefix_of_posterior_rnn_layers(call):
    done = call("Trainer", *"--DR d --save_root s --lab robot --posterior current".split())
    assert done.code == 2
    assert "--posterior is a flag of --lab pose" in done.err
    assert parsed("--posterior_rnn 2").posterior_rnn_layers == 2


@pytest.mark.parametrize("script", REQUIRED)
def test_help_shows_the_flags_of_its_lab_and_no_other(call, script):
    robot, pose = call(script, "--lab", "robot", "--help"), call(script, "--help")
    assert (robot.code, pose.code) == (0, 0)
    assert "--n_past" in robot.out
    assert "--F_dim" not in robot.out
    assert "--F_dim" in pose.out
    assert "--n_past" not in pose.out


def test_an_unknown_lab_is_refused(call):
    done = call("Trainer", *"--DR d --save_root s --lab car".split())
    assert done.code == 2
    assert "robot" in done.err


@pytest.mark.parametrize("line", ["--n_eval 11", "--n_past 21", "--n_past 4 --n_future 9 --n_e 12"])
def test_n_eval_below_the_scored_frames_is_refused(call, line):
    done = call("Trainer", *"--DR d --save_root s --lab robot".split(), *line.split())
    assert done.code == 2
    assert "--n_eval" in done.err
    assert "--n_future" in done.err


def test_n_eval_may_equal_the_scored_frames():
    assert parsed("--n_eval 12").n_eval == 12


def test_one_clip_per_batch_is_refused_in_training_only(call):
    done = call("Trainer", *"--DR d --save_root s --lab robot --batch_size 1".split())
    assert done.code == 2
    assert "--batch_size" in done.err
    assert parsed("--batch_size 1", script="Tester").batch_size == 1
    assert parsed("--batch_size 1 --test --ckpt_path c").batch_size == 1


# ---------------------------------------------------------------- schedules of the lab's two runs

RUN = "--niter 100 --tfr_start_decay_epoch 25 --tfr_mode linear"
BETAS = {  # flags -> beta of an epoch: it rises in the first half of a cycle, then it is 1
    "": lambda e: min(e / 50, 1),
    "--kl_anneal_cyclical --kl_anneal_cycle 2": lambda e: min((e % 50) / 25, 1),
}


@pytest.mark.parametrize("flags", BETAS)
def test_preview_of_the_labs_runs(call, tmp_path, flags):
    places = ["--save_root", tmp_path / "run", "--lab", "robot", "--preview"]
    done = call("Trainer", *places, *RUN.split(), *flags.split())
    assert done.code == 0, done.err
    note, _, *lines = done.out.splitlines()
    assert "--tfr_start_decay_epoch 26 --tfr_end 101 gives its numbers" in note
    rows = [[float(x) for x in line.split()] for line in lines[:100]]
    assert [row[0] for row in rows] == [*range(100)]
    assert [row[1] for row in rows] == pytest.approx([BETAS[flags](e) for e in range(100)])
    tfr = [1] * 25 + [1 - (e - 25) / 74 for e in range(25, 100)]
    assert [row[2] for row in rows] == pytest.approx(tfr, abs=1e-5)
    assert (tfr[25], tfr[-1]) == (1, 0)
    assert {row[3] for row in rows} == {0.002}
    assert (tmp_path / "run/schedules.png").stat().st_size > 1000


def test_a_prefix_of_two_names_of_one_setting_is_unique():
    assert parsed("--tfr_start 3").tfr_sde == 3
    assert parsed("--tfr_d 0.1").tfr_d_step == 0.1
