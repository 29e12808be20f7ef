"""Flags, checkpoints and data sets made up by hypothesis: a result, or one line that says why not.

What cannot be used leaves nothing behind.
"""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from helpers import SHORT, make_dataset
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_checkpoint import load
from test_robot import TINY as ROBOT
from test_robot import make_robot_data

from modules import cache

pytestmark = pytest.mark.usefixtures("no_plots")
TINY = {"pose": SHORT, "robot": ROBOT}
MAKE = {"pose": make_dataset, "robot": make_robot_data}


def fuzz(examples):
    """The same examples every time, and no limit on how long one takes."""
    shared = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=shared, phases=[Phase.explicit, Phase.generate],
    )  # fmt: skip


@pytest.fixture
def tried(fault, request):
    """tried(code) counts how runs ended; the table says how many."""
    what = request.node.originalname.removeprefix("test_").replace("_", " ").split(" are ")[0]

    def count(code):
        said = f"exit {code}, one line says why, nothing left behind"
        fault(f"fuzzed: {what}", said if code else "ran")

    return count


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A data set of each lab, and a run of one epoch that was stopped in the second, of each."""
    return tmp_path_factory.mktemp("base")


def flags_of(lab, data, run, *more):
    return ["--DR", data, "--save_root", run, "--num_epoch", 2, *TINY[lab], *more]


def files_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def assert_said(done, named=()):
    """The exit code of a mistake that its user made, and one message."""
    assert done.code in (1, 2), done.err
    assert "Traceback" not in done.out + done.err
    assert "error: " in done.err
    for name in named:
        assert str(name) in done.err, done.err


# ---------------------------------------------------------------- flags


def own_flags(lab):
    """{flag: its action}, of what may be made up."""
    places = {"DR", "save_root", "ckpt_path", "cache_dir", "help", "lab", "resume"}
    slow = {"compile", "tensorboard", "wandb", "preview", "test", "num_workers"}
    actions = build_parser("Trainer", lab)._actions
    return {a.option_strings[0]: a for a in actions if a.dest not in places | slow}


LONG = "epoch_size batch_size n_eval frame_H frame_W train_vi_len val_vi_len num_epoch"
NUMBERS = ["0", "1", "2", "3", "4", "8", "0.5", "1e-3", "1.0", "-1", "nan", "inf", "1e30"]
WORDS = ["", "x", "None", "True", "--", "\u00e9\U0001f57a", "a" * 300, "%s%n", "../.."]


def value_of(action):
    """Text for a flag: what it asks for as often as not."""
    right = sorted(action.choices or [str(action.default)])
    if action.dest in SIZES | set(LONG.split()) or action.nargs:
        right = ["2", "3", "8"]
    right = st.sampled_from(right)
    return st.one_of(right, right, right, st.sampled_from(NUMBERS + WORDS))


@st.composite
def command_lines(draw, lab):
    flags, line = own_flags(lab), []
    for name in draw(st.lists(st.sampled_from(sorted(flags)), max_size=4, unique=True)):
        line.append(name)
        if flags[name].nargs != 0:
            line.append(draw(value_of(flags[name])))
    return line


@pytest.mark.parametrize("lab", TINY)
def test_command_lines_are_understood_or_refused(call, base, tried, tmp_path, lab):
    data = MAKE[lab](base / f"{lab}-flags")

    @fuzz(30)
    @given(line=command_lines(lab))
    def attempt(line):
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        done = call("Trainer", *flags_of(lab, data, run, *line))
        tried(done.code)
        if done.code:
            assert_said(done)
            assert not run.exists() or files_below(run) == []
        else:
            assert load(run)["last_epoch"] >= 1

    attempt()


# ---------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def stopped(base):
    """stopped(call, lab) -> data set and folder of a run of one epoch, trained once."""
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
    """All places within nested dicts and lists."""
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, part in items:
        yield (*path, key)
        if depth > 1:
            yield from paths_of(part, (*path, key), depth - 1)


def broken(state, path, odd, how):
    """A copy in which one thing is gone, another thing, or of another shape."""
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
    """A few of each kind: there are hundreds of weights, and what holds for one holds for all."""
    found = list(paths_of(state))
    inner = [p for p in found if p[0] in ("state_dict", "trained_weights", "optimizer", "args")]
    outer = [p for p in found if p not in inner]
    return outer * 3 + inner[:: max(1, len(inner) // 60)] + [("optimizer",), ("args",)]


@pytest.mark.parametrize("lab", TINY)
def test_checkpoint_dicts_are_carried_on_or_refused(call, stopped, tried, tmp_path, lab):
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
            assert_said(done)
            assert files_below(run) == ["last.ckpt"]
            assert (run / "last.ckpt").read_bytes() == before
        else:
            assert load(run)["last_epoch"] >= 2

    attempt()


# ---------------------------------------------------------------- folders of data


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path):
    """Bytes of its middle, as after a bad block of the disk."""
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
def test_folders_of_data_are_trained_on_or_refused(call, base, tried, tmp_path, lab):
    """Three of its files at most are damaged, with and without --skip_bad_frames."""
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
            assert_said(done)
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
    """Torch's fused step would write beyond them."""
    data, _, state = stopped(call, "pose")
    state = copy.deepcopy(state)
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(shape)
    (tmp_path / "run").mkdir()
    torch.save(state, tmp_path / "run/last.ckpt")
    done = call("Trainer", *flags_of("pose", data, tmp_path / "run", "--ema", 0.5))
    assert_said(done, [tmp_path / "run/last.ckpt", "exp_avg"])
