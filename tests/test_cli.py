"""The command line: what existing users type keeps its meaning, and every flag has an effect."""

import contextlib
import re
import shlex
import sys

import pytest
import torch
from helpers import SHORT, make_dataset, settings_of
from PIL import Image

from modules.cli import parser
from modules.cli.parser import Parser
from modules.training.optimizer import make_optimizer

pytestmark = pytest.mark.usefixtures("no_plots")

# ---------------------------------------------------------------- the contract's table, in literals

COMMON = {
    "batch_size": 2, "lr": 0.001, "optim": "Adam", "test": False, "DR": None,
    "save_root": None, "num_workers": 4, "num_epoch": 70, "per_save": 3, "partial": 1.0,
    "ckpt_path": None, "train_vi_len": 16, "val_vi_len": 630, "frame_H": 32, "frame_W": 64,
    "F_dim": 128, "L_dim": 32, "N_dim": 12, "D_out_dim": 192, "tfr": 1.0, "tfr_sde": 10,
    "tfr_d_step": 0.1, "fast_train": False, "fast_partial": 0.4, "fast_train_epoch": 5,
    "kl_anneal_type": "Cyclical", "kl_anneal_cycle": 10, "kl_anneal_ratio": 1.0,
    "device": None,  # the contract's cuda is what None finds, where there is one
}  # fmt: skip
OWN = {
    "Trainer": {"store_visualization": False},
    # The template's Tester rolled clips out one by one, whatever its --batch_size.
    "Tester": {"no_sanity": False, "make_gif": False, "batch_size": 64},
}
REQUIRED = {"Trainer": "", "Tester": "--ckpt_path c "}
SCRIPT_NAMES = ("Trainer", "Tester")


def parse(script, line):
    return parser.parse(script, shlex.split(f"--DR d --save_root s {REQUIRED[script]}{line}"))[0]


def fields(script):
    """The fields behind the flags that a script's help lists."""
    return [item for _, fields in parser.groups(script, "pose") for item in fields]


@pytest.mark.parametrize("script", SCRIPT_NAMES)
def test_defaults_are_those_of_the_contract(script):
    found = {item.name: item.default for item in parser.accepted(script, "pose")}
    found |= settings_of("", script).as_dict()
    expected = COMMON | OWN[script]
    assert {name: found[name] for name in expected} == expected
    assert {name: type(found[name]) for name in expected} == {
        name: type(value) for name, value in expected.items()
    }


def test_store_visualization_is_no_flag_of_the_tester(call):
    done = call("Tester", *"--DR d --save_root s --ckpt_path c --store_visualization".split())
    assert done.code == 2


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_optim_builds_the_optimizer_of_that_name(name):
    optimizer = make_optimizer(
        [torch.nn.Parameter(torch.ones(1))], parse("Trainer", f"--optim {name}")
    )
    assert type(optimizer) is getattr(torch.optim, name)
    assert optimizer.param_groups[0]["lr"] == 0.001


# ---------------------------------------------------------------- prefixes


def unique_prefixes(script):
    """(prefix, flag) for every prefix that meant one flag of the template's script."""
    flags = sorted({*COMMON, *OWN[script]})
    for flag in flags:
        for end in range(1, len(flag)):
            prefix = flag[:end]
            if [f for f in flags if f.startswith(prefix)] == [flag]:
                yield prefix, flag


@pytest.mark.parametrize("script", SCRIPT_NAMES)
def test_prefixes_unique_in_the_template_still_name_their_flag(script):
    known, wrong = Parser(script, "pose"), []
    for prefix, flag in unique_prefixes(script):
        with contextlib.suppress(SystemExit):  # ambiguous
            if known.complete(f"--{prefix}=1") == f"--{flag}=1":
                continue
        wrong.append((prefix, flag))
    assert not wrong


@pytest.mark.parametrize("lab", ["pose", "robot"])
@pytest.mark.parametrize("script", SCRIPT_NAMES)
def test_only_prefixes_of_the_templates_flags_are_taken(script, lab):
    """No prefix names a flag that only this package has, whatever it is next to."""
    known = Parser(script, lab)
    own = {flag for flag, setting in known.names.items() if setting not in known.template}
    assert {"--tfr_coin", "--ema", "--wandb"} & known.names.keys() <= own
    for flag in own:
        for end in range(3, len(flag)):
            with contextlib.suppress(SystemExit):  # ambiguous
                assert known.complete(flag[:end]) not in own - {flag[:end]}


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ("--kl_annealing_type None", "did you mean --kl_anneal_type?"),
        ("--comp", "--comp is no flag: did you mean --compile?"),
        ("--kl_anneal_sto=1", "--kl_anneal_sto is no flag: did you mean --kl_anneal_stop?"),
        ("--lr_mile 0", "--lr_mile is no flag: did you mean --lr_milestones?"),
        ("--no-sig", "--no-sig is no flag: did you mean --no-sigmoid?"),
        ("--cuda", "--cuda is a flag of --lab robot"),
        ("--beta 0.0001", "--beta of published code: the weight of the KL is --kl_anneal_stop"),
        ("--learning_rate 1", "unrecognized arguments: --learning_rate 1"),
    ],
)
def test_a_flag_that_is_not_written_out_is_refused_by_name(call, tmp_path, typed, named):
    done = call("Trainer", "--DR", "d", "--save_root", tmp_path / "run", *typed.split())
    assert done.code == 2 and named in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- values


def test_a_flag_typed_twice_counts_as_the_last():
    assert parse("Trainer", "--num_epoch 100 --num_epoch 1").num_epoch == 1


def test_typed_holds_what_was_typed_and_not_the_defaults():
    line = "--DR d --save_root s --lr 0.001 --shuffle --no-sigmoid".split()
    typed = {"DR", "save_root", "lr", "shuffle", "output_activation"}
    assert parser.parse("Trainer", line)[1] == typed


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("script", SCRIPT_NAMES)
def test_help_has_every_flag_with_its_text_and_default(call, script):
    done = call(script, "--help")
    out = "".join(done.out.split())  # without line breaks
    hidden = {item.name for item in parser.accepted(script, "pose")}
    for flag, name in Parser(script, "pose").names.items():
        assert bool(re.search(rf"^  .*{flag}\b", done.out, re.M)) == (name not in hidden), flag
    for item in fields(script):
        text = item.metadata["help"]
        if isinstance(item.default, tuple):
            text += f"({' '.join(map(str, item.default))})"
        elif item.default is not None and item.default is not False:
            text += f"({item.default})"
        assert item.metadata["help"] and "".join(text.split()) in out, item.name
    assert done.code == 0


@pytest.mark.parametrize("script", SCRIPT_NAMES)
def test_missing_flags_are_named_in_one_line(call, script):
    done = call(script)
    assert done.code == 2
    assert "--DR and --save_root are required" in done.err and done.err.count("\n") == 1
    assert "error: --save_root is required" in call(script, "--DR", "d").err


# ---------------------------------------------------------------- published command lines

PUBLISHED = {
    "python Trainer.py --DR ../dataset --save_root ../saved_models/Without/tfr05 --lr 0.0001 "
    "--num_epoch 100 --tfr 0.5 --tfr_d_step 0.05 --kl_anneal_type None --kl_anneal_ratio 0.5": {
        "DR": "../dataset", "save_root": "../saved_models/Without/tfr05", "lr": 0.0001,
        "num_epoch": 100, "tfr": 0.5, "tfr_d_step": 0.05, "kl_anneal_type": "None",
        "kl_anneal_ratio": 0.5,
    },
    "python Trainer.py --DR ../dataset --save_root ../saved_models/Cyclical --lr 0.0001 "
    "--num_epoch 200 --tfr 0 --kl_anneal_type Cyclical --kl_anneal_ratio 0.5": {
        "DR": "../dataset", "save_root": "../saved_models/Cyclical", "lr": 0.0001,
        "num_epoch": 200, "tfr": 0.0, "kl_anneal_type": "Cyclical", "kl_anneal_ratio": 0.5,
    },
    "python Trainer.py --DR ../dataset --save_root ./save_path": {
        "DR": "../dataset", "save_root": "./save_path",
    },
    "python Tester.py --DR ../dataset --save_root ./save_path "
    "--ckpt_path ./save_path/best_score.ckpt": {
        "DR": "../dataset", "save_root": "./save_path",
        "ckpt_path": "./save_path/best_score.ckpt",
    },
}  # fmt: skip


def words(line):
    """python Trainer.py --flag ... -> "Trainer", ["--flag", ...]"""
    _, script, *flags = shlex.split(line)
    return script.removesuffix(".py"), flags


@pytest.mark.parametrize("line", PUBLISHED)
def test_published_lines_mean_what_they_say_and_defaults_for_the_rest(line):
    script, flags = words(line)
    settings, typed = parser.parse(script, flags)
    assert typed == set(PUBLISHED[line])
    expected = COMMON | OWN[script] | PUBLISHED[line]
    own = expected.keys() & settings.names()  # Tester accepts more flags than it uses
    assert script == "Tester" or own == expected.keys()
    assert {name: getattr(settings, name) for name in own} == {n: expected[n] for n in own}


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """The working directory of published lines: next to ../dataset."""
    make_dataset(tmp_path / "dataset")
    (tmp_path / "repository").mkdir()
    monkeypatch.chdir(tmp_path / "repository")
    return tmp_path


def test_published_training_then_testing_runs(call, lab):
    (script, train), (tester, test) = map(words, [*PUBLISHED][2:])
    done = call(script, *train, *SHORT, "--num_epoch", 1)
    assert done.code == 0, done.err
    done = call(tester, *test)
    assert done.code == 0, done.err
    assert (lab / "repository/save_path/submission.csv").exists()


# ---------------------------------------------------------------- preview and device


def preview(call, run, line):
    """-> the printed epochs, and beta, tfr and lr of each printed line."""
    done = call("Trainer", "--preview", "--save_root", run, *line.split())
    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines() if re.match(r"\s*\d+[- ]", line)]
    return [row[0] for row in rows], [tuple(map(float, row[1:])) for row in rows]


def test_preview_prints_the_epochs_plots_them_and_trains_nothing(call, tmp_path):
    run = tmp_path / "run"
    line = "--num_epoch 7 --tfr_sde 3 --kl_anneal_type Monotonic --lr_milestones 5"
    epochs, values = preview(call, run, line)
    beta, tfr, lr = zip(*values)
    assert epochs == [*"0123456"]
    assert beta == pytest.approx([e / 7 for e in range(7)], rel=1e-4)
    assert tfr == pytest.approx([1, 1, 1, 0.9, 0.8, 0.7, 0.6])
    assert lr == pytest.approx([1e-3] * 5 + [1e-4] * 2)
    assert sorted(p.name for p in run.iterdir()) == ["schedule.csv", "schedules.png"]
    with Image.open(run / "schedules.png") as image:
        assert len(image.convert("RGB").getcolors(2**24)) > 10


def test_cuda_where_there_is_none_is_an_error_and_not_the_cpu(call, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    flags = "--DR", dataset, "--save_root", tmp_path / "run", *SHORT, "--device", "cuda:3"
    done = call("Trainer", *flags)
    assert done.code == 1 and "--device cuda:3" in done.err


def test_gpu_0_means_the_cpu_and_the_device_is_printed_once(call, dataset, tmp_path):
    sizes = [flag for flag in SHORT if flag not in ("--device", "cpu")]
    places = "--DR", dataset, "--save_root", tmp_path / "run", "--num_epoch", 1
    done = call("Trainer", *places, *sizes, "--gpu", 0)
    (line,) = [line for line in done.out.splitlines() if line.startswith("device:")]
    assert line.startswith("device: cpu")


# ---------------------------------------------------------------- trackers, contradictions


@pytest.mark.parametrize(
    ("flag", "module"), [("--tensorboard", "torch.utils.tensorboard"), ("--wandb", "wandb")]
)
def test_a_tracker_that_is_not_installed_is_named_before_training(
    call, dataset, tmp_path, monkeypatch, flag, module
):
    monkeypatch.setitem(sys.modules, module, None)
    run = tmp_path / "run"
    done = call("Trainer", "--DR", dataset, "--save_root", run, "--num_epoch", 1, *SHORT, flag)
    assert done.code == 1
    assert f"{flag} needs a package: pip install {flag[2:]}" in done.err
    assert not (run / "last.ckpt").exists()


def test_a_prefix_of_lr_does_not_choose_a_lab():
    settings, _ = parser.parse("Trainer", "--DR d --save_root s --l 0.1".split())
    assert (settings.lab, settings.lr) == ("pose", 0.1)


def test_the_help_of_tester_begins_with_its_own_flags(call):
    out = " ".join(call("Tester", "--help").out.split())
    assert (
        out.index("--n_samples") < out.index("--DR DIR dataset root") < out.index(parser.ACCEPTED)
    )
    assert parser.ACCEPTED not in call("Trainer", "--help").out
