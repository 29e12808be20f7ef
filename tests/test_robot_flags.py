"""The robot lab's flags: names, defaults, refusals, and the schedules that they give."""

import shlex

import pytest

from modules.cli.parser import foreign_flags, parse

REQUIRED = {"Trainer": (), "Tester": ("--ckpt_path", "c")}  # what a script needs besides


def parsed(line, script="Trainer"):
    """The settings of a whole command line, after its checks."""
    flags = ["--DR", "d", "--save_root", "s", *REQUIRED[script], "--lab", "robot"]
    return parse(script, [*flags, *shlex.split(line)])[0]


PUBLISHED = """--lr .002 --beta1 .9 --batch_size 12 --niter 300 --epoch_size 600 --tfr 1.0
    --tfr_start_decay_epoch 0 --tfr_decay_step 0 --tfr_lower_bound 0 --kl_anneal_ratio .5
    --kl_anneal_cycle 3 --n_past 2 --n_future 10 --n_eval 30 --rnn_size 256
    --posterior_rnn_layers 1 --predictor_rnn_layers 2 --z_dim 64 --g_dim 128 --seed 1
    --optimizer adam --data_root d"""


def test_defaults_are_those_of_the_lab():
    """A line of all published defaults changes nothing, and nothing else is switched on."""
    found = parsed("")
    assert parsed(PUBLISHED) == found
    assert (found.kl_anneal_type, found.last_frame_skip) == ("Monotonic", False)
    more = {"optim": "Adam", "lr_schedule": "constant", "grad_clip": 0.0, "tfr_coin": "batch"}
    assert {name: getattr(found, name) for name in more} == more


def test_switches_of_the_lab():
    both = parsed("--kl_anneal_cyclical --last_frame_skip")
    assert both == parsed("").replace(kl_anneal_type="Cyclical", last_frame_skip=True)


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


MUST_BE_FOREIGN = {
    "pose": "n_past n_future n_eval epoch_size g_dim z_dim rnn_size last_frame_skip niter beta1",
    "robot": "F_dim posterior train_vi_len val_vi_len frame_H partial fast_train shuffle sigmoid",
}


@pytest.mark.parametrize(("lab", "owner"), [("pose", "robot"), ("robot", "pose")])
@pytest.mark.parametrize("script", REQUIRED)
def test_a_flag_of_the_other_lab_is_refused_by_name(call, script, lab, owner):
    flags = foreign_flags(script, lab).keys()
    assert {f"--{flag}" for flag in MUST_BE_FOREIGN[lab].split()} <= flags
    for flag in flags:
        places = "--DR", "d", "--save_root", "s", *REQUIRED[script], "--lab", lab
        done = call(script, *places, f"{flag}=1")
        assert done.code == 2
        assert f"{flag} is a flag of --lab {owner}; this is --lab {lab}" in done.err


@pytest.mark.parametrize("script", REQUIRED)
def test_help_shows_the_flags_of_its_lab_and_no_other(call, script):
    robot, pose = call(script, "--lab", "robot", "--help"), call(script, "--help")
    assert (robot.code, pose.code) == (0, 0)
    assert "--n_past" in robot.out
    assert "--F_dim" not in robot.out
    assert "--F_dim" in pose.out
    assert "--n_past" not in pose.out


def test_what_is_refused_in_training_is_allowed_at_test_or_at_its_limit():
    assert parsed("--n_eval 12").n_eval == 12
    assert parsed("--batch_size 1", script="Tester").batch_size == 1
    assert parsed("--batch_size 1 --test --ckpt_path c").batch_size == 1


def test_a_prefix_of_two_names_of_one_setting_is_unique():
    assert parsed("--posterior_rnn 2").posterior_rnn_layers == 2
    assert parsed("--tfr_start 3").tfr_sde == 3
    assert parsed("--tfr_d 0.1").tfr_d_step == 0.1
