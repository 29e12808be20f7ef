"""Random command lines, checkpoints and data sets: the run succeeds, or one line gives the cause.

What is refused leaves no file behind.
"""

import copy
import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from helpers import ROBOT, SHORT, fewer, files_below, load, make_dataset, make_robot_data
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from modules.config import TRAINING
from modules.data import cache
from modules.errors import UserError
from modules.fields import Choice, Numbers, switch
from modules.stored import SIZES

pytestmark = pytest.mark.usefixtures("no_plots")
TINY = {"pose": SHORT, "robot": ROBOT}
MAKE = {"pose": make_dataset, "robot": make_robot_data}


def fuzz(examples):
    """The same examples in every run, without a time limit per example."""
    shared = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=fewer(examples), deadline=None, derandomize=True, database=None,
        suppress_health_check=shared, phases=[Phase.explicit, Phase.generate],
    )  # fmt: skip


@pytest.fixture
def tried(fault, request):
    """tried(code) counts the exit codes of runs, for the table."""
    what = request.node.originalname.removeprefix("test_fuzzed_").split("_are_")[0]
    what = f"fuzzed {what.replace('_', ' ')}"

    def count(code):
        refused = f"exit code {code}, one line with the cause, nothing left behind"
        fault(what, refused if code else "ran")

    return count


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of this file's data sets and runs."""
    return tmp_path_factory.mktemp("base")


def flags_of(lab, data, run, *more):
    return ["--DR", data, "--save_root", run, "--num_epoch", 2, *TINY[lab], *more]


def assert_refused(done, named=()):
    """The exit code of a user's mistake, and one message."""
    assert done.code in (1, 2), done.err
    assert "Traceback" not in done.out + done.err
    assert "error: " in done.err
    for name in named:
        assert str(name) in done.err, done.err


# ---------------------------------------------------------------- flags


def own_flags(lab):
    """{flag: its field} of all flags that may be set at random."""
    places = {"DR", "save_root", "ckpt_path", "cache_dir", "lab", "resume"}
    slow = {"compile", "tensorboard", "wandb", "preview", "test", "num_workers", "plots", "debug"}
    fields = {f.name: f for f in dataclasses.fields(TRAINING[lab]) if f.name not in places | slow}
    negated = {f"--no-{n}": f for n, f in fields.items() if f.metadata["check"] is switch}
    return {f"--{name}": field for name, field in fields.items()} | negated


LONG = "epoch_size batch_size n_eval frame_H frame_W train_vi_len val_vi_len num_epoch"
NUMBERS = ["0", "1", "2", "3", "4", "8", "0.5", "1e-3", "1.0", "-1", "nan", "inf", "1e30"]
WORDS = ["", "x", "None", "True", "--", "\u00e9\U0001f57a", "a" * 300, "%s%n", "../.."]


def value_of(field):
    """Text for a flag: a valid value three times out of four."""
    check = field.metadata["check"]
    right = sorted(check.words) if isinstance(check, Choice) else [str(field.default)]
    if field.name in SIZES | set(LONG.split()) or isinstance(check, Numbers):
        right = ["2", "3", "8"]
    right = st.sampled_from(right)
    return st.one_of(right, right, right, st.sampled_from(NUMBERS + WORDS))


@st.composite
def command_lines(draw, lab):
    flags, line = own_flags(lab), []
    for name in draw(st.lists(st.sampled_from(sorted(flags)), max_size=4, unique=True)):
        line.append(name)
        if flags[name].metadata["check"] is not switch:
            line.append(draw(value_of(flags[name])))
    return line


@pytest.mark.parametrize("lab", TINY)
def test_fuzzed_command_lines_are_run_or_refused(call, base, tried, tmp_path, lab):
    data = MAKE[lab](base / f"{lab}-flags")

    @fuzz(30)
    @given(line=command_lines(lab))
    def attempt(line):
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        done = call("Trainer", *flags_of(lab, data, run, *line))
        tried(done.code)
        if done.code:
            assert_refused(done)
            assert not run.exists() or files_below(run) == []
        else:
            assert load(run)["last_epoch"] >= 1

    attempt()


# ---------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def stopped(base):
    """stopped(call, lab) -> data set, folder and last.ckpt of a run of one epoch, trained once."""
    made = {}

    def run(call, lab):
        if lab not in made:
            data, folder = MAKE[lab](base / f"{lab}-data"), base / f"{lab}-run"
            done = call("Trainer", *flags_of(lab, data, folder, "--num_epoch", 1, "--ema", 0.5))
            assert done.code == 0, done.err
            made[lab] = data, folder, load(folder)
        return made[lab]

    return run


ODD = [
    None, True, -1, 0, 1, 10**9, 0.5, float("nan"), float("inf"), "", "text", [], {}, [None], [1],
    {"a": 1}, torch.zeros(()), torch.zeros(2), torch.full((4,), float("nan")), (1, 2), b"bytes",
]  # fmt: skip


def paths_of(value, path=(), depth=4):
    """The paths of all values in nested dicts and lists."""
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, part in items:
        yield (*path, key)
        if depth > 1:
            yield from paths_of(part, (*path, key), depth - 1)


def broken(state, path, odd, how):
    """A copy in which one value is missing, replaced by `odd`, or of another shape."""
    state = copy.deepcopy(state)
    inner = state
    for key in path[:-1]:
        inner = inner[key]
    if how == "gone":
        del inner[path[-1]]
    elif how == "reshaped" and isinstance(inner[path[-1]], torch.Tensor):
        inner[path[-1]] = inner[path[-1]].reshape(-1)[:-1]
    else:
        inner[path[-1]] = odd
    return state


def places_to_break(state):
    """A few of each kind: all of the hundreds of weights behave alike."""
    found = list(paths_of(state))
    inner = [p for p in found if p[0] in ("state_dict", "trained_weights", "optimizer", "args")]
    outer = [p for p in found if p not in inner]
    return outer * 3 + inner[:: max(1, len(inner) // 60)] + [("optimizer",), ("args",)]


@pytest.mark.parametrize("lab", TINY)
def test_fuzzed_checkpoint_dicts_are_resumed_or_refused(call, stopped, tried, tmp_path, lab):
    data, _, state = stopped(call, lab)
    ways = st.sampled_from(["gone", "odd", "odd", "reshaped"])

    @fuzz(30)
    @given(st.sampled_from(places_to_break(state)), st.integers(0, len(ODD) - 1), ways)
    def attempt(path, odd, how):
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()
        torch.save(broken(state, path, ODD[odd], how), run / "last.ckpt")
        before = (run / "last.ckpt").read_bytes()
        done = call("Trainer", *flags_of(lab, data, run, "--ema", 0.5))
        tried(done.code)
        if done.code:
            assert_refused(done)
            assert files_below(run) == ["last.ckpt"]
            assert (run / "last.ckpt").read_bytes() == before
        else:
            assert load(run)["last_epoch"] >= 2

    attempt()


# ---------------------------------------------------------------- data folders


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path):
    """Overwrite some bytes, as a bad block of the disk does."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 3
    data[middle : middle + 40] = bytes(range(40))
    path.write_bytes(data)


def rename(path):
    path.rename(path.with_name(f"{path.stem}x{path.suffix}"))


def as_folder(path):
    path.unlink()
    path.mkdir()


def dangling(path):
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def another_picture(path):
    Image.new("LA", (1, 90)).save(path, format="GIF" if path.suffix == ".gif" else "PNG")


WAYS = {
    "gone": Path.unlink, "cut": cut, "overwritten": overwrite, "renamed": rename,
    "a folder": as_folder, "empty": lambda path: path.write_bytes(b""), "dangling": dangling,
    "text": lambda path: path.write_text("1,2,nan\n"), "another picture": another_picture,
}  # fmt: skip


@pytest.mark.parametrize("lab", TINY)
def test_fuzzed_data_folders_are_trained_on_or_refused(call, base, tried, tmp_path, lab):
    """Up to three files are damaged, with and without --skip_bad_frames."""
    data = MAKE[lab](base / f"{lab}-folders")
    names = [name for name in files_below(data) if not name.startswith("test")]
    damage = st.lists(st.tuples(st.sampled_from(names), st.sampled_from(sorted(WAYS))), max_size=3)

    @fuzz(20)
    @given(damage, st.booleans())
    def attempt(damage, skip):
        copy_of, run = tmp_path / "data", tmp_path / "run"
        for folder in (copy_of, run):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(data, copy_of)
        for name, way in damage:
            if (copy_of / name).is_file():
                WAYS[way](copy_of / name)
        flags = flags_of(lab, copy_of, run, "--num_epoch", 1)
        done = call("Trainer", *flags, *(["--skip_bad_frames"] if skip else []))
        tried(done.code)
        assert not list(tmp_path.rglob("*.partial"))
        if done.code:
            assert_refused(done)
            assert files_below(run) == []
        else:
            assert load(run)["last_epoch"] == 1

    attempt()


PNG = st.binary(max_size=60).map(lambda end: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + end)


@fuzz(300)
@given(st.one_of(PNG, st.binary(max_size=60), PNG.map(lambda data: data + b"\0" * 300)))
def test_bytes_as_a_picture_are_decoded_or_refused(tmp_path, data):
    path = tmp_path / "frame000000.png"
    path.write_bytes(data)
    try:
        assert cache.decode(path, (12, 16)).shape == (12, 16, 3)
    except UserError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("shape", [(), (2,)])
def test_moments_of_another_shape_are_refused(call, stopped, tmp_path, shape):
    """Torch's fused step would write out of bounds."""
    data, _, state = stopped(call, "pose")
    state = copy.deepcopy(state)
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(shape)
    (tmp_path / "run").mkdir()
    torch.save(state, tmp_path / "run/last.ckpt")
    done = call("Trainer", *flags_of("pose", data, tmp_path / "run", "--ema", 0.5))
    assert_refused(done, [tmp_path / "run/last.ckpt", "exp_avg"])
