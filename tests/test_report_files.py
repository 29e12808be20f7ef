"""What a run keeps for its page: lossless frames, the page from the first epoch, console.txt."""

import html
import json
import re
import shlex

import numpy as np
import pytest
import torch
from helpers import SHORT, assert_ended, interrupt, stop, write_tested

from modules.cli.parser import parse
from modules.data.pose import Dataset_Dance
from modules.files import write_json
from modules.models import load_model
from modules.models.rollout import noise_source, roll_out
from modules.report import clips, pages, summary
from modules.report.pictures import to_uint8
from modules.report.reading import Run, read_csv, read_run
from modules.report.summary import command
from modules.runs.folder import TEST_FUTURES, VAL_CLIP, VAL_FUTURES, clip_file

pytestmark = pytest.mark.usefixtures("no_plots")


@pytest.fixture
def flags(dataset, tmp_path):
    return "--DR", dataset, "--save_root", tmp_path / "run", "--num_epoch", 2, *SHORT


@pytest.fixture
def page(tmp_path):
    """page() -> the text of the run's page, and the data that its script draws."""

    def read():
        text = (tmp_path / "run" / "report.html").read_text()
        return text, json.loads(text.split('id="data">')[1].split("</script>")[0])

    return read


# ---------------------------------------------------------------- frames


def test_packed_frames_come_back_to_the_bit():
    frames = np.random.default_rng(0).integers(0, 256, (5, 7, 3, 3), np.uint8)
    np.testing.assert_array_equal(clips.unpack(clips.pack(frames), (5, 7, 3)), frames)
    still = np.repeat(frames[:1], 500, axis=0)
    assert len(clips.pack(still)) < len(clips.pack(frames)) + 200  # what does not move is free


def test_clips_console_and_page_of_a_finished_run(call, flags, page, dataset, tmp_path):
    run = tmp_path / "run"
    done = call("Trainer", *flags)
    assert_ended(done)
    console = (run / "console.txt").read_text()
    assert console.startswith("--- ") and console.partition("\n")[2] == done.out
    text, data = page()
    assert "unfinished" not in text and "training: " not in text
    titles = [clip["title"] for clip in data["clips"]]
    assert titles == ["validation, best weights", "sampled futures, first 6 frames"]
    assert call("Trainer", *flags, "--lr", 0.5).code == 1  # refused: its console is left alone
    assert (run / "console.txt").read_text() == console
    best, size = run / "best_score.ckpt", (12, 16)
    place = "--DR", dataset, "--save_root", run, "--ckpt_path", best
    tested = call("Tester", *place, "--n_samples", 2)
    assert (run / "console.txt").read_text().endswith(tested.out)
    model = load_model(best)
    frames, poses = Dataset_Dance(dataset, "val", 6, 1.0, size)[0]
    noise = noise_source("sample", 0, [0])
    rollout = roll_out(model, frames[None, :1], poses[None], noise)[0]
    found = clips.frames_of(run / VAL_CLIP)
    for label, expected in (("prediction", rollout), ("truth", frames), ("pose", poses)):
        np.testing.assert_array_equal(found[label], to_uint8(expected))
    psnr = clips.read(run / VAL_CLIP)["psnr"]["prediction"]
    assert psnr == [row["rollout"] for row in read_csv(run / "val_frames.csv")]
    for name, futures in ((VAL_FUTURES, 8), (TEST_FUTURES, 2)):
        assert len(clips.frames_of(run / name)) == 1 + futures
    tested = clips.frames_of(run / clip_file(0))
    # the first future is the scored rollout
    future = clips.frames_of(run / TEST_FUTURES)["future 1"]
    np.testing.assert_array_equal(future, tested["prediction"])
    rows = np.loadtxt(run / "submission.csv", delimiter=",", skiprows=1)[:, 1:]
    first = tested["prediction"].transpose(0, 3, 1, 2).reshape(6, -1)
    np.testing.assert_array_equal(rows[:6], first)


def test_a_clip_too_large_for_a_page_is_cut_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "MOST", 3 * 4 * 4 * 2)

    class Lab:
        given, frame_ms, fps = 1, 20, None

    frames = np.zeros((5, 4, 4, 3), np.uint8)
    clips.write(tmp_path / "clip", "validation", Lab, {"truth": frames}, {"a": torch.ones(5)})
    clip = clips.read(tmp_path / "clip")
    assert clip["title"] == "validation, first 2 of 5 frames" and clip["size"] == [2, 4, 4]
    assert clip["psnr"] == {"a": [1.0]}


def test_a_page_holds_no_more_clips_than_its_budget(tmp_path, monkeypatch):
    values = {"title": "a", "size": [1, 1, 1], "given": 1, "frame_ms": 20, "fps": None}
    values |= {"length": 1, "psnr": {}}
    tracks = [{"prediction": letter * 400} for letter in "ABC"]
    clips_of_test = (json.dumps(values | {"tracks": x}) for x in tracks)
    write_tested(tmp_path, {clip_file(i): text for i, text in enumerate(clips_of_test)})
    monkeypatch.setattr("modules.report.page.BUDGET", 900)
    pages.write_run_page(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert text.count('type="text/plain"') == 2 and "1 more clips are left out" in text


@pytest.mark.parametrize("value", ["NaN", "null"])
def test_a_score_that_is_not_finite_is_a_dash_on_the_page(tmp_path, value):
    (tmp_path / "metrics.csv").write_text("epoch,val/psnr\n0,20.5\n")
    scores = f'{{"mean": {{"psnr": {value}}}, "clips": [{{"psnr": {value}}}]}}'
    write_tested(tmp_path, {"scores.json": scores})
    pages.write_run_page(tmp_path)
    text = (tmp_path / "report.html").read_text().partition("<script")[0].lower()
    assert "test clip 0" in text and "nan" not in text


# ---------------------------------------------------------------- the page of a run that goes on


def test_the_page_is_there_from_the_first_epoch_on(call, flags, page, monkeypatch, tmp_path):
    interrupt(monkeypatch, epoch=1, step=0)
    assert call("Trainer", *flags).code == 130
    text, data = page()
    assert re.search(r"training: 1 of 2 epochs done, about \d+:\d+ left", text)
    assert [clip["title"] for clip in data["clips"]] == ["validation, epoch 0"]
    assert "psnr" in {chart["name"] for chart in data["charts"]}
    assert (tmp_path / "run/console.txt").read_text().endswith("stopped by a signal\n")


def test_a_run_that_is_stopped_says_so_on_its_page(call, flags, page, monkeypatch):
    stop(monkeypatch, epoch=1, step=0)
    assert call("Trainer", *flags).code == 143
    assert "stopped: 1 of 2 epochs done, 1 steps of the next" in page()[0]


POSE = """--lr 1e-05 --lr_milestones 3 9
    --kl_anneal_type None --published_step --scene --val_every 2
    --precision float32 --deterministic --num_epoch 7 --jump_start 0.5 --ckpt_path -a.ckpt"""
ROBOT = """--lab robot --niter 7 --vgg_width 8 --condition none --random_offset --kl_anneal_cyclical
    --epoch_size 9 --no-plots --seed 3"""


@pytest.mark.parametrize("flags", [POSE, ROBOT])
def test_the_command_of_a_run_sets_all_that_the_run_was_told(tmp_path, flags):
    folder = tmp_path / "<script>; it's"
    folder.mkdir()
    flags = flags.replace("ckpt_path ", "ckpt_path=").split()
    told, _ = parse("Trainer", ["--DR=-my data", "--save_root", str(folder), *flags])
    write_json(folder / "args.json", told.as_dict())
    words = shlex.split(command(read_run(folder)))
    again, _ = parse("Trainer", words[2:])
    assert again.as_dict() == told.as_dict() | {"save_root": "runs/<script>; it's-again"}
    assert type(again) is type(told)


# ---------------------------------------------------------------- the first screen


def finished_run(scores, **settings):
    facts = {"parameters": 269272, "seconds": 95, "val_clips": 1, "world": "dancer", "fps": 30.0}
    place = {"time": "2026-12-01T00:43:02+00:00", "commit": "0123456789abcdef+", "processor": "CPU"}
    settings = {"lab": "pose", "seed": 0, "num_epoch": 1, "nets": "unet"} | settings
    row = {"epoch": 0.0, "val/psnr": 20.0, "val/psnr_given_frame_repeated": 33.32}
    settings |= {"environment": place, "DR": "data"}
    clips_of_test = [scores] * 2 if scores else []
    return Run("run", settings, [row], [], scores, clips_of_test, set(), facts=facts)


def test_the_first_screen_says_what_a_run_is_how_good_and_what_to_type_next(tmp_path):
    run = finished_run({"psnr": 35.34, "psnr_given_frame_repeated": 17.58})
    run.folder = tmp_path
    text = html.unescape(re.sub("<[^>]*>", " ", summary.first_screen(run, [{"length": 630}])))
    for words in (
        "predicts a video frame by frame from its first frame and a pose for every frame",
        "35.34 dB PSNR on 2 unseen clips of 630 frames, 17.76 dB above copying the first frame",
        "data, synthetic (dancer), 30 frames/s",
        "U-Net, 269,272 parameters",
        "1 epochs, the best: 0, 01:35, seed 0",
        "2026-12-01 00:43, commit 0123456789+",
        f"python scripts/compare.py {tmp_path.parent}",
        "bash scripts/disc_demo.sh",
    ):
        assert words in text, words


def test_a_run_below_its_baseline_says_so_and_what_has_no_test_is_to_be_tested(tmp_path):
    run = finished_run({}, latent=False)
    run.folder = tmp_path
    text = summary.first_screen(run, [{"length": 630}])
    assert "20.00 dB PSNR on 1 validation clip of 630 frames, 13.32 dB below copying" in text
    assert "worse than no prediction" in text and "python Tester.py --DR data" in text
    assert "A deterministic network" in text and "disc_demo" not in text
