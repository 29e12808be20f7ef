"""What TensorBoard and W&B receive, read back by their own readers where these are installed."""

import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import SHORT, load, read_csv

from modules.report import trackers
from modules.report.boundary import warn
from modules.report.progress import Clock

SMALL = [*SHORT, "--store_visualization"]
FILES = {"val", "val_strip", "psnr_per_frame", "kl_over_time", "kl_per_dimension", "traversal"}
FILES |= {"futures", "best_of_n", "rank_histogram"}


class Service:
    """Stands in for the module wandb; fails while `down`."""

    def __init__(self):
        self.begun, self.rows, self.shown, self.codes, self.down = [], {}, [], [], False
        self.axes = []

    def init(self, **settings):
        self.begun.append(settings)
        number = settings["id"] or f"id{len(self.begun)}"
        calls = {"log": self.log, "finish": self.finish, "define_metric": self.define_metric}
        return SimpleNamespace(id=number, **calls)

    def log(self, values):
        if self.down:
            raise ConnectionError("no route to host")
        if "train/loss" in values:
            assert values["epoch"] not in self.rows, "sent twice"
            self.rows[values["epoch"]] = values
        else:
            self.shown += values.items()

    def finish(self, exit_code):
        self.codes.append(exit_code)

    def define_metric(self, name, step_metric):
        self.axes.append((name, step_metric))

    def Image(self, path):
        return "image", path

    def Video(self, path, format):
        return format, path


@pytest.fixture
def service(monkeypatch):
    found = Service()
    for name in ("WANDB_PROJECT", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "wandb", found)
    return found


@pytest.fixture(autouse=True)
def every_warning():
    warn.cache_clear()


@pytest.fixture
def train(call, dataset, tmp_path):
    """train(flag, ...): a run, or its continuation -> its folder, what it printed."""
    run = tmp_path / "run"

    def trained(*flags):
        done = call("Trainer", "--DR", dataset, "--save_root", run, *SMALL, *flags)
        assert done.code == 0, done.out + done.err
        return run, done.out + done.err

    return trained


def without_empty(row):
    return {name: value for name, value in row.items() if value is not None}


def test_wandb_has_rows_settings_pictures_and_goes_on_in_the_same_run(service, train, monkeypatch):
    run, _ = train("--wandb", "--num_epoch", 2, "--val_every", 2)
    first = service.begun[0]
    assert (first["project"], first["name"], first["id"]) == ("video-cvae", str(run), None)
    assert first["config"]["num_epoch"] == 2 and first["dir"] == str(run)
    assert load(run)["trackers"] == {"wandb": {"sent": 2, "id": "id1"}}
    assert service.axes == [("*", "epoch")]
    assert service.rows == {
        int(r["epoch"]): without_empty(r) for r in read_csv(run / "metrics.csv")
    }
    shown = dict(service.shown)
    assert shown["rollout"] == ("gif", str(run / "visualization/epoch=1.gif"))
    assert shown["val"] == ("gif", str(run / "val.gif"))
    assert shown["traversal"] == ("image", str(run / "plots/traversal.png"))
    assert shown.keys() == FILES | {"rollout", "epoch"}
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_NAME", "longer")
    train("--wandb", "--num_epoch", 3, "--no-plots")
    second = service.begun[1]
    assert (second["project"], second["name"], second["id"]) == ("mine", "longer", "id1")
    assert service.rows.keys() == {0, 1, 2} and service.codes == [0, 0]
    train("--num_epoch", 4, "--no-plots")  # the id is kept by a part without --wandb
    assert load(run)["trackers"]["wandb"]["id"] == "id1"


def test_a_tracker_that_is_down_to_the_end_is_sent_the_rows_by_the_next_start(service, train):
    service.down = True
    run, text = train("--wandb", "--num_epoch", 2, "--no-plots")
    assert service.rows == {} and "warning: what --wandb is sent" in text
    assert (run / "report.html").exists()
    service.down = False
    train("--wandb", "--num_epoch", 2, "--no-plots")  # nothing left to train
    assert list(service.rows) == [0, 1]


def test_wandb_that_does_not_start_is_an_error_before_training(
    service, call, dataset, tmp_path, monkeypatch
):
    def refuse(**settings):
        raise RuntimeError("api_key not configured (no-tty)")

    monkeypatch.setattr(service, "init", refuse)
    run = tmp_path / "run"
    done = call("Trainer", "--DR", dataset, "--save_root", run, *SMALL, "--wandb")
    assert done.code == 1 and not (run / "last.ckpt").exists()
    assert "--wandb: api_key not configured (no-tty). Log in once" in done.err
    assert "WANDB_MODE=offline" in done.err


@pytest.mark.parametrize("flag", trackers.TRACKERS)
def test_a_tracker_whose_import_breaks_is_left_out(train, monkeypatch, flag):
    class Broken:
        def __getattr__(self, name):
            raise ValueError("numpy.dtype size changed")

        def find_spec(self, name, *_):
            if name.split(".")[0] in ("tensorboard", "wandb"):
                raise ValueError("numpy.dtype size changed")

    for name in [x for x in sys.modules if x.split(".")[0] in ("tensorboard", "wandb")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    run, text = train(f"--{flag}", "--num_epoch", 1, "--no-plots")
    assert f"warning: --{flag} is left out: ValueError: numpy.dtype size changed" in text
    assert load(run)["last_epoch"] == 1


# ---------------------------------------------------------------- the readers


def test_tensorboard_reads_back_what_was_sent(train):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train("--tensorboard", "--num_epoch", 2, "--no-plots")
    run, _ = train("--tensorboard", "--num_epoch", 3)
    events = EventAccumulator(str(run), {"images": 0, "scalars": 0, "tensors": 0}).Reload()
    rows = read_csv(run / "metrics.csv")
    names = set(rows[0]) - {"epoch"}
    assert set(events.Tags()["scalars"]) == names
    for name in names:
        sent = [(event.step, event.value) for event in events.Scalars(name)]
        expected = [(row["epoch"], np.float32(row[name])) for row in rows if row[name] is not None]
        assert sent == expected, name
    images = {name: events.Images(name) for name in events.Tags()["images"]}
    assert images.keys() == FILES | {"rollout"}
    assert images["val"][-1].encoded_image_string == (run / "val.gif").read_bytes()
    strip = images["val_strip"][-1]
    assert strip.encoded_image_string == (run / "val_strip.png").read_bytes()
    assert (strip.step, strip.width > strip.height) == (2, True)
    gifs = [(image.step, image.encoded_image_string) for image in images["rollout"]]
    paths = [run / f"visualization/epoch={epoch}.gif" for epoch in range(3)]
    assert gifs == [(epoch, path.read_bytes()) for epoch, path in enumerate(paths)]
    settings = events.Tensors("settings/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "|num_epoch|3|" in settings and "|kl_anneal_type|Cyclical|" in settings


# ---------------------------------------------------------------- time left


def test_the_time_left_is_that_of_the_whole_run():
    clock = Clock()
    assert clock.left(steps=100) == ""
    clock.add("steps", 10, 5)
    assert clock.left(steps=7000, validations=3) == "58:20"
    clock.add("validations", 2, 60)
    assert clock.left(steps=7000, validations=3) == "59:50"


def test_the_time_of_the_run_is_printed_once_after_its_first_steps(train, monkeypatch):
    monkeypatch.setattr("modules.report.monitor.SHOW_SECONDS", 0)
    _, text = train("--num_epoch", 2, "--no-plots")
    before, after = re.split("the training steps take about .*\n", text)
    assert "epoch " not in before and after.count("frames/s") == 2
