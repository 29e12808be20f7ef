"""Checkpoints that lie: refused with one line before they are used, or used as they should be."""

import copy
import dataclasses
import json

import hostile
import hostile_files
import pytest
import torch
from helpers import ALL, differences, load

from modules.config import TRAINING
from modules.errors import UserError
from modules.models import load_model, loading
from modules.runs import checkpoint as ckpt
from modules.runs import reader, validate
from modules.stored import MAY_CHANGE, SIZES

pytestmark = pytest.mark.usefixtures("no_plots")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a data set and a run of one epoch of each lab, and their checkpoints."""
    folder = tmp_path_factory.mktemp("base")
    return folder, dict(hostile.bases(folder))


def test_a_few_hostile_files_of_every_kind(base, fault):
    """`python tests/hostile.py --files 2000` tries more."""
    count = 30 if ALL else 10
    done = hostile.spread(base[0], count)
    assert [one for one in done if "FAILED" in one["end"]] == []
    what = "hostile checkpoints: kinds, layouts, sizes, keys, settings, pickles"
    fault(what, "used or refused", count)


@pytest.mark.parametrize("name", hostile_files.OPERATIONS)
def test_a_pickle_of_hostile_operations_is_refused(tmp_path, name):
    state = {"version": 2, "args": {"lab": "pose"}, "state_dict": {"a": torch.ones(10)}}
    state |= {"history": [], "optimizer": {}}
    path = tmp_path / "x.ckpt"
    with pytest.raises(UserError) as error:
        for number in range(4):  # the place is drawn at random: the weights are read in any case
            hostile_files.write(
                path, copy.deepcopy(state), NoDraw(number), hostile_files.OPERATIONS[name]()
            )
            ckpt.load(path)
    hostile.assert_one_line(str(error.value), path)


LITTLE = {"version": 2, "args": {"lab": "pose"}, "state_dict": {"a": torch.ones(10)}}
REPEATED = {  # little in the file, much in memory: 1000 times
    "lists": b"](" + b"]" * 1000 + b"e",
    "dicts": b"](" + b"}" * 1000 + b"e",
    "marks": b"(" * 1000,
    "a dict": b"](}K\x01K\x01sq\xff" + b"h\xff" * 1000 + b"e",
    "a tensor": b"](" + hostile_files.lying_tensor(key="z") + b"q\xff" + b"h\xff" * 1000 + b"e",
    "a long text": b"X\xe8\x03\0\0" + b"a" * 1000,
}


@pytest.mark.parametrize("name", REPEATED)
def test_what_would_take_much_memory_is_refused(tmp_path, monkeypatch, fault, name):
    """With limits so small that a thousand values are beyond them."""
    limits = {"MOST_VALUES": 500, "MOST_BYTES": 900, "LONGEST_TEXT": 900, "TENSOR": 40}
    if name == "a tensor":  # may be named by the index, but not built so often
        limits |= {"MOST_VALUES": 20_000, "MOST_BYTES": 20_000}
    path = tmp_path / "x.ckpt"
    for code, refused in ((b"N", False), (REPEATED[name], True)):
        hostile_files.write(path, copy.deepcopy(LITTLE), NoDraw(1), code)
        with monkeypatch.context() as patch:
            for limit, value in limits.items():
                patch.setattr(reader, limit, value)
            with pytest.raises(UserError) as error:
                ckpt.load(path)
        assert ("nested" in str(error.value) or "large" in str(error.value)) == refused, error
    fault("an index that is small in the file and large in memory", "refused")


def test_a_large_file_that_is_no_checkpoint_is_not_read(tmp_path):
    for start in (b"", b"PK\x03\x04", b"\x80\x02X\0\0\0\xff"):
        with open(tmp_path / "x.ckpt", "wb") as file:
            file.write(start)
            file.truncate(2**36)  # takes no space on the disk
        with pytest.raises(UserError, match="not a checkpoint"):
            ckpt.load(tmp_path / "x.ckpt")


class NoDraw:
    """Draws the n-th of all."""

    def __init__(self, number):
        self.number = number

    def choice(self, values):
        return values[min(self.number, len(values) - 1)]

    def random(self):
        return 1.0


@pytest.fixture
def resumed(call, base, tmp_path):
    """resumed(state) -> how the run ended, and its last checkpoint."""
    folder, _ = base

    def run(state, name="run"):
        place = tmp_path / name
        place.mkdir()
        torch.save(state, place / "last.ckpt")
        done = call("Trainer", *hostile.flags(folder, "pose", place), "--num_epoch", 2)
        return done, load(place)

    return run


SAME_VALUES = ["transposed", "sliced", "a parameter"]
REFUSED = [
    "expanded", "overlapping", "huge", "sparse", "quantised", "complex", "double", "half",
    "integer", "nan", "one inf", "flat", "more dimensions",
]  # fmt: skip


def of_all_moments(state, way):
    state = copy.deepcopy(state)
    for moments in state["optimizer"]["state"].values():
        for name in ("exp_avg", "exp_avg_sq"):
            moments[name] = hostile.TENSORS[way](moments[name])
    return state


@pytest.mark.parametrize("way", SAME_VALUES)
def test_moments_in_another_layout_resume_the_same_run(base, resumed, way):
    state = base[1]["pose"]
    runs = [resumed(s, n) for s, n in ((state, "a"), (of_all_moments(state, way), "b"))]
    assert [done.code for done, _ in runs] == [0, 0], runs[1][0].err
    parts = [{k: last[k] for k in ("state_dict", "trained_weights", "rng")} for _, last in runs]
    assert differences(*parts) == []


@pytest.mark.parametrize("way", REFUSED)
def test_moments_that_do_not_fit_are_refused(base, resumed, way, fault):
    done, _ = resumed(of_all_moments(base[1]["pose"], way))
    assert done.code == 1 and len(done.err.splitlines()) == 1 and "last.ckpt" in done.err, done.err
    fault("optimizer moments of another kind, layout or range", "exit code 1, one line")


ODD = [*hostile.NUMBERS, "", "text", "8", [], {}, [None], [1, "a"], (1, 2)]


@pytest.mark.parametrize("lab", TRAINING)
def test_a_setting_of_a_checkpoint_is_one_that_a_flag_could_set_or_is_refused(lab):
    for item in dataclasses.fields(TRAINING[lab]):
        for value in ODD if item.name not in MAY_CHANGE - {"keep"} else ():
            try:
                found = validate.settings({"lab": lab, item.name: value})[item.name]
            except ValueError as error:
                assert item.name in str(error) or item.name == "lab"
            else:
                kept = TRAINING[lab](**{item.name: found}).as_dict()[item.name]
                assert kept == found and type(kept) is type(found), (item.name, value)


@pytest.mark.parametrize("lab", TRAINING)
def test_sizes_that_contradict_the_weights_are_refused_before_they_are_allocated(
    base, tmp_path, monkeypatch, lab
):
    def built(*_):
        raise AssertionError("the model was built")

    monkeypatch.setattr(loading, "load_weights", built)
    for name in sorted(SIZES & base[1][lab]["args"].keys()):
        stored = base[1][lab]["args"][name]
        if type(stored) is not int:
            continue
        for value in (stored + 1, 2 * stored, 32, 4096, 10**9):
            state = copy.deepcopy(base[1][lab])
            state["args"][name] = value
            torch.save(state, tmp_path / "x.ckpt")
            with pytest.raises(UserError, match="x.ckpt"):
                load_model(tmp_path / "x.ckpt", "cpu")


@pytest.mark.parametrize("version", [0, -1, 3, 99, True, "2", 2.0, None, 10**400])
@pytest.mark.parametrize("script", ["Trainer", "Tester"])
def test_an_unknown_version_is_refused_by_all(call, base, tmp_path, version, script):
    folder, states = base
    run = tmp_path / "run"
    run.mkdir()
    torch.save(states["pose"] | {"version": version}, run / "last.ckpt")
    flags = hostile.flags(folder, "pose", run)
    if script == "Tester":
        flags = [*flags[:4], "--ckpt_path", run / "last.ckpt", "--device", "cpu"]
    done = call(script, *flags)
    assert done.code == 1 and "version" in done.err and len(done.err.splitlines()) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("ours", [True, False])
def test_weights_that_are_not_finite_are_named_and_not_tested(call, base, tmp_path, value, ours):
    folder, states = base
    state = copy.deepcopy(states["pose"]) if ours else {"state_dict": states["pose"]["state_dict"]}
    state = copy.deepcopy(state)
    name = next(k for k, w in state["state_dict"].items() if k.startswith("Generator") and w.dim())
    state["state_dict"][name].view(-1)[0] = value
    path = tmp_path / "x.ckpt"
    torch.save(state, path)
    flags = ["--DR", folder / "pose/data", "--save_root", tmp_path / "test", "--ckpt_path", path]
    done = call("Tester", *flags, "--device", "cpu")
    assert done.code == 1 and name in done.err and "finite" in done.err


@pytest.mark.parametrize("lab", TRAINING)
def test_predictions_that_are_not_finite_are_one_line_and_the_scores_are_json(
    call, base, tmp_path, lab, fault
):
    folder, states = base
    state = copy.deepcopy(states[lab])
    for weight in state["state_dict"].values():
        if weight.is_floating_point():
            weight.mul_(1e30)
    torch.save(state, tmp_path / "x.ckpt")
    flags = ["--DR", folder / lab / "data", "--ckpt_path", tmp_path / "x.ckpt", "--device", "cpu"]
    done = call("Tester", *flags, "--save_root", tmp_path / "test")
    assert done.code == 0, done.err
    assert len([line for line in done.out.splitlines() if "not finite" in line]) == 1
    text = (tmp_path / "test/scores.json").read_text()
    scores = json.loads(text, parse_constant=hostile.refuse_constant)
    assert scores["mean"]["psnr"] is None
    fault("weights whose predictions are not finite", "tested; one line, scores are null")


def test_a_checkpoint_is_read_once_at_test_and_one_of_many_when_the_last_is_lost(
    call, base, tmp_path, monkeypatch
):
    folder, states = base
    read, validated = [], validate.parts
    monkeypatch.setattr(validate, "parts", lambda x: read.append(0) or validated(x))
    flags = ["--DR", folder / "pose/data", "--ckpt_path", folder / "pose/run/last.ckpt"]
    assert call("Tester", *flags, "--save_root", tmp_path / "test", "--device", "cpu").code == 0
    assert len(read) == 1
    for epoch in range(5):
        torch.save(states["pose"] | {"step": epoch}, tmp_path / f"epoch={epoch}.ckpt")
    read.clear()
    assert ckpt.newest(tmp_path)[0].name == "epoch=4.ckpt" and len(read) == 1


def test_a_file_in_the_format_before_torch_1_6_is_read_the_same(base, tmp_path):
    for state in base[1].values():
        for new in (True, False):
            torch.save(state, tmp_path / f"{new}.ckpt", _use_new_zipfile_serialization=new)
        files = [ckpt.load(tmp_path / f"{new}.ckpt") for new in (True, False)]
        assert differences(*files) == [] == differences(files[0], state)
