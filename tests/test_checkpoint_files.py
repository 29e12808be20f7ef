"""Checkpoint files: whole, damaged, of other code, or with code in them."""

import argparse
import os
import pickle
import random

import pytest
import torch
from helpers import differences, load

from modules.checkpoints import checkpoint as ckpt
from modules.errors import UserError
from modules.models import VAE_Model, load_model
from modules.models.loading import load_weights
from modules.runs import saving


def refused(path, *words):
    """Loading ends with one line that names the file."""
    with pytest.raises(UserError) as error:
        load_model(path, "cpu")
    text = str(error.value)
    assert len(text.splitlines()) == 1 and str(path) in text, text
    assert all(word in text for word in words), text


@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_saved_is_loaded_to_the_bit(trained, tmp_path, zipped):
    """Torch before 1.6 wrote no zip files."""
    state = load(trained.run)
    torch.save(state, tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
    assert differences(ckpt.load(tmp_path / "x.ckpt"), state) == []


# ---------------------------------------------------------------- damage


@pytest.fixture
def small(tmp_path):
    """A small checkpoint: its path, contents and bytes."""
    torch.manual_seed(0)
    state = {"version": ckpt.VERSION, "args": {"lab": "pose"}, "step": 3}
    state["state_dict"] = {"a.weight": torch.randn(40), "b.bias": torch.randn(3, 3)}
    ckpt.save(tmp_path / "small.ckpt", state)
    return tmp_path / "small.ckpt", state, (tmp_path / "small.ckpt").read_bytes()


def test_a_flipped_bit_is_refused_or_harmless(small):
    """Some bits, as those of padding, have no contents."""
    (path, state, data), rng, loaded = small, random.Random(7), 0
    weights = data.index(state["state_dict"]["a.weight"].numpy().tobytes())
    for spot in [*range(0, len(data), 3), *range(weights, weights + 160, 7)]:
        damaged = bytearray(data)
        damaged[spot] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            found = ckpt.load(path)
        except UserError as error:
            assert str(path) in str(error) and len(str(error).splitlines()) == 1
        else:
            assert differences(found, state) == [] and not 0 <= spot - weights < 160
            loaded += 1
    assert loaded < len(data) / 6


def test_a_cut_file_is_refused(small):
    path, _, data = small
    for size in [*(len(data) * i // 20 for i in range(20)), *(len(data) - i for i in (1, 21, 60))]:
        path.write_bytes(data[:size])
        refused(path)


# ---------------------------------------------------------------- other files, and code


class Touch:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


FOREIGN = {  # what a file holds -> a word of the message
    "text": (b"not a checkpoint\n", "not a checkpoint"),
    "empty": (b"", "not a checkpoint"),
    "zip garbage": (b"PK\x03\x04" + bytes(500), "not a checkpoint"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a checkpoint"),
    "list": ([torch.ones(2)], "no state_dict"),
    "no state_dict": ({"lr": 0.1}, "no state_dict"),
    "empty state_dict": ({"state_dict": {}}, "no weights"),
    "lists": ({"state_dict": {"a": [1.0]}}, "no state_dict of tensors"),
    "another net": ({"state_dict": dict.fromkeys("abcd", torch.ones(1))}, "model: a, b, c, ..."),
    "few names": (
        {"state_dict": {"frame_transformation.0.weight": torch.ones(1)}}, "lacks the weights of"
    ),
    "earlier version": ({"version": 3, "args": {}, "state_dict": {}}, "version 3"),
    "later version": ({"version": [9], "args": {}, "state_dict": {}}, "version [9]"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_something_else_is_one_line(tmp_path, name):
    content, word = FOREIGN[name]
    if isinstance(content, bytes):
        (tmp_path / "x.ckpt").write_bytes(content)
    else:
        torch.save(content, tmp_path / "x.ckpt")
    refused(tmp_path / "x.ckpt", word)


@pytest.mark.parametrize("place", ["none.ckpt", ""])
def test_a_missing_file_and_a_folder_are_one_line(tmp_path, place):
    refused(tmp_path / place, "is not a checkpoint file")


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_no_code_of_a_file_runs(tmp_path, kind):
    path, content = tmp_path / "x.ckpt", {"state_dict": Touch(tmp_path / "hit")}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    refused(path, "run code", "system", "docs/robot.md")
    assert not (tmp_path / "hit").exists()


# ---------------------------------------------------------------- weights that do not fit


def changed(weights, name, value):
    return {k: value if k == name else w for k, w in weights.items()}


BIAS = "Generator.7.bias"
MISFITS = {  # what is wrong -> the weights, and the message
    "lacks": (
        lambda w: {k: x for k, x in w.items() if k != BIAS},
        "Missing key(s) in state",
    ),
    "has": (
        lambda w: w | {f"x{i}": w[BIAS] for i in range(5)},
        "Unexpected key(s) in",
    ),
    "shape": (lambda w: changed(w, BIAS, torch.zeros(4)), f"size mismatch for {BIAS}: "),
}


@pytest.mark.parametrize("name", MISFITS)
@pytest.mark.parametrize("ours", [True, False])
def test_weights_that_do_not_fit_are_one_line(trained, tmp_path, name, ours):
    change, text = MISFITS[name]
    state = load(trained.run) if ours else {"state_dict": load(trained.run)["state_dict"]}
    torch.save(state | {"state_dict": change(state["state_dict"])}, tmp_path / "x.ckpt")
    refused(tmp_path / "x.ckpt", "does not fit the model", text)


def test_weights_of_half_precision_fit(args, tmp_path):
    models = VAE_Model(args), VAE_Model(args)
    half = {k: w.half() if w.is_floating_point() else w for k, w in models[0].state_dict().items()}
    load_weights(models[1], half, "x")
    stored = models[1].state_dict()
    assert all(torch.equal(stored[k], w.to(stored[k].dtype)) for k, w in half.items())


def test_a_setting_out_of_range_is_one_line(trained, tmp_path):
    state = load(trained.run)
    state["args"]["nets"] = "of a later version"
    torch.save(state, tmp_path / "x.ckpt")
    refused(tmp_path / "x.ckpt", "--nets", "of a later version")


# ---------------------------------------------------------------- files of forks


def test_flags_in_a_forks_file_are_named_as_ignored(trained, tmp_path):
    """An argparse.Namespace beside the weights, as report C's program writes it."""
    plain = {"state_dict": load(trained.run)["state_dict"], "lr": 1e-3, "last_epoch": 4}
    flags = argparse.Namespace(lr=1e-3, kl_anneal_type="Cyclical", lr_milestones=[2, 5], DR=None)
    torch.save(plain, tmp_path / "plain.ckpt")
    torch.save(plain | {"args": flags}, tmp_path / "c.ckpt")
    found, without = (ckpt.load(tmp_path / f"{name}.ckpt") for name in ("c", "plain"))
    assert differences(found["state_dict"], without["state_dict"]) == []
    assert ckpt.source_of(found) == "published code; ignored: lr, last_epoch, args"
    models = [load_model(tmp_path / f"{name}.ckpt", "cpu") for name in ("c", "plain")]
    assert models[0].settings == models[1].settings
    assert differences(*(model.state_dict() for model in models)) == []


# ---------------------------------------------------------------- what a run resumes from


def test_the_newest_complete_checkpoint_is_found(tmp_path, capsys):
    steps = {"last": 8, "epoch=10": 6, "best_score": 5, "epoch=9": 3}
    for name, step in steps.items():
        state = {"version": ckpt.VERSION, "args": {}, "state_dict": {}, "optimizer": {}}
        ckpt.save(tmp_path / f"{name}.ckpt", state | {"step": step})
    for i, (name, step) in enumerate(steps.items()):
        path, state = saving.newest(tmp_path)
        assert (path.name, state["step"]) == (f"{name}.ckpt", step)
        out = capsys.readouterr().out
        assert (f"newest complete checkpoint: {name}.ckpt" in out) == (i > 0), out
        path.write_bytes(path.read_bytes()[: 200 * i])
    with pytest.raises(UserError, match=r"last\.ckpt.*--resume never.*--resume PATH"):
        saving.newest(tmp_path)
