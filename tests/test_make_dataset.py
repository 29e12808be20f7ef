"""scripts/make_dataset.py: a video of one person -> a dataset, or one clear sentence.

The estimator of most tests knows the keypoints; the real one is used if it is installed.
"""

import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT, settings_of
from PIL import Image

sys.path.insert(0, str(ROOT / "scripts"))
import make_dataset
from toy import dance
from video.estimator import find_solution
from video.joints import read_joints
from video.quality import verdict_of
from video.skeleton import draw_skeleton

from modules.data.pose import Dataset_Dance, load_test_clips, load_truth, truth_folder
from modules.errors import UserError
from modules.files import new_folder
from modules.labs.pose import PoseLab

HEIGHT, FRAMES = 64, 96
SIZE = HEIGHT, 2 * HEIGHT


class Known:
    """An estimator with the keypoints of every frame, and of a second person in `others`."""

    def __init__(self, joints, others=()):
        self.joints, self.others = iter(joints), iter(others)

    def follow(self, frame):
        return next(self.joints)

    def find(self, frame):
        return next(self.others, None)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A drawn dancer as a folder of pictures, and the keypoints (T, 18, 3) in them."""
    folder = tmp_path_factory.mktemp("film")
    bodies, stature = dance.dance(np.random.default_rng(0), FRAMES)
    scene = dance.make_scene(np.random.default_rng(0), HEIGHT)
    for t, (body, size) in enumerate(zip(bodies, stature)):
        frame = dance.draw_frame(body, size, scene)
        Image.fromarray((frame * 255 + 0.5).astype(np.uint8)).save(folder / f"{t}.png")
    joints = [dance.keypoints(body, HEIGHT) for body in bodies]
    return SimpleNamespace(folder=folder, joints=np.array(joints, np.float32))


def make(source, out, estimator, *flags):
    words = ["make_dataset.py", source, out, "--height", HEIGHT, "--smooth", 0, *flags]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(word) for word in words])
        make_dataset.main(lambda: estimator)
    return json.loads((out / "quality.json").read_text())


@pytest.fixture(scope="module")
def made(video, tmp_path_factory):
    """A dataset of the whole video, to be read only, and its facts."""
    out = tmp_path_factory.mktemp("data") / "me"
    return out, make(video.folder, out, Known(video.joints), "--whole")


# ---------------------------------------------------------------- the dataset


def test_frames_and_poses_are_in_the_layout_of_the_lab(video, made):
    out, facts = made
    assert facts["parts"] == {"train": 72, "val": 12, "test0": 12} and facts["found"] == 1
    for split, first in (("train", 0), ("val", 72)):
        data = Dataset_Dance(out, split, video_len=12, size=SIZE)
        for row, t in ((0, first), (11, first + 11)):
            image = np.asarray(Image.open(video.folder / f"{t}.png"))
            assert np.array_equal(data.frames[row], image)
            drawn = draw_skeleton(video.joints[t], SIZE) * 255
            assert np.abs(data.conditions[row] - drawn).max() < 1
    ((given, poses),) = load_test_clips(out, SIZE)
    (truth,) = load_truth(truth_folder(out), SIZE, [12])
    assert len(poses) == 12 and torch.equal(given, truth[0])
    flags = ["--DR", out, "--save_root", "run"]
    assert len(PoseLab(settings_of(flags)).open_val()) == 1  # though --val_vi_len is 630
    with pytest.raises(UserError, match="too few for one clip of 13"):
        PoseLab(settings_of([*flags, "--val_vi_len", 13])).open_val()


def test_the_page_shows_poses_numbers_and_the_command(made):
    out, facts = made
    page = (out / "quality.html").read_text()
    assert page.count("data:image/png;base64") == 2
    assert f"DR={out} bash scripts/train_best.sh runs/me" in page and "--no-scene" not in page
    assert "copy-first-frame baseline, test" in page
    first, *rest = load_truth(truth_folder(out), (32, 64), [12])[0]
    expected = [-10 * torch.log10(((x - first) ** 2).mean()).item() for x in rest]
    assert facts["copy_first_frame"]["test0"] == pytest.approx(np.mean(expected), abs=1e-4)
    assert not facts["camera_moves"]


def test_the_window_is_around_the_poses(video, tmp_path):
    joints = video.joints.copy()
    joints[..., :2] = joints[..., :2] * 0.4 + (50, 20)  # a small person
    facts = make(video.folder, tmp_path / "me", Known(joints))
    left, top, width, height = facts["window"]
    assert width == pytest.approx(2 * height, abs=0.2) and height < 0.7 * HEIGHT
    placed = np.concatenate([*read_joints(tmp_path / "me", "--DR").parts.values()])
    expected = (joints[..., :2] - (left, top)) * HEIGHT / height
    assert np.abs(placed[..., :2] - expected).max() < 0.5
    assert ((placed[..., :2] >= 0) & (placed[..., :2] <= SIZE[::-1])).mean() > 0.99


def test_short_gaps_are_filled_and_long_ones_left_out(video, tmp_path):
    joints = [*video.joints]
    for t in (20, 21, *range(40, 60)):
        joints[t] = None
    facts = make(video.folder, tmp_path / "me", Known(joints), "--whole", "--gap", 0.1)
    assert facts["interpolated"] == 2 and facts["left_out"] == [[40, 59]]
    numbers = {int(path.stem[5:]) for path in (tmp_path / "me/train/train_img").iterdir()}
    assert {39, 60} <= numbers and not {*range(40, 60)} & numbers
    filled = read_joints(tmp_path / "me", "--DR").parts["train"][20]
    expected = video.joints[19] + (video.joints[22] - video.joints[19]) / 3
    seen = (video.joints[[19, 22], :, 2] > 0).all(0)
    assert seen.sum() > 13 and np.abs(filled - expected)[seen].max() < 1e-3


def test_warnings(video, tmp_path, capsys):
    joints = [*video.joints]
    joints[30] = joints[30] + (40, 0, 0)
    joints[50:70] = [None] * 20
    others = [video.joints[0]] * 3
    facts = make(video.folder, tmp_path / "me", Known(joints, others), "--whole")
    printed = capsys.readouterr().out
    assert "20 of 96 frames show no whole pose and are left out (seconds 1.7-2.3)" in printed
    assert "The pose jumps in 2 frames" in printed and "1.0 s" in printed
    assert f"A second person was seen in 3 of {facts['looked']} frames" in printed


def test_a_keypoint_that_is_no_number_was_not_found(video, tmp_path):
    joints = video.joints.copy()
    joints[10, 4, 0], joints[20, 7, 1] = np.inf, np.nan
    facts = make(video.folder, tmp_path / "me", Known(joints))
    assert facts["found"] == 1 and np.isfinite(facts["window"]).all()


@pytest.mark.parametrize(
    ("found", "jumped", "text"),
    [
        (0.98, 1, "good: a pose in 98% of frames, jumps under 5%"),
        (0.98, 9, "poor: a pose in 98% of frames, jumps in 9%"),
        (0.5, 0, "poor: a pose in 50% of frames, jumps under 5%"),
    ],
)
def test_the_verdict(found, jumped, text):
    assert verdict_of({"found": found, "jumped": jumped, "frames": 100}) == text


def test_the_next_two_commands_are_printed(video, tmp_path, capsys):
    make(video.folder, out := tmp_path / "me", Known(video.joints))
    shown = capsys.readouterr().out.splitlines()
    assert shown[-4].startswith("good: a pose in 100% of frames") and shown[-3] == "next:"
    assert shown[-2].startswith(f"  DR={out} bash scripts/train_best.sh runs/me")
    assert shown[-1].endswith(f"--ckpt_path runs/me/best_score.ckpt --poses {out}")


def test_no_folder_is_left_where_files_run_out(tmp_path):
    resource = pytest.importorskip("resource")
    limits, files = resource.getrlimit(resource.RLIMIT_NOFILE), []
    try:
        with pytest.raises(OSError, match="Too many open files"), new_folder(tmp_path / "me") as at:
            (at / "train/train_img").mkdir(parents=True)
            (at / "train/train_img/0.png").touch()
            count = len(os.listdir("/proc/self/fd"))
            resource.setrlimit(resource.RLIMIT_NOFILE, (count + 9, limits[1]))
            while True:
                files.append(open(os.devnull))
    finally:
        for file in files:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not list(tmp_path.iterdir())


def test_a_camera_that_moves_gets_no_scene(video, tmp_path, capsys):
    moving = tmp_path / "moving"
    moving.mkdir()
    for t in range(FRAMES):
        frame = np.asarray(Image.open(video.folder / f"{t}.png"))
        Image.fromarray(np.roll(frame, t // 3, 1)).save(moving / f"{t}.png")
    facts = make(moving, tmp_path / "me", Known(video.joints), "--whole")
    assert facts["camera_moves"] and "The background is not the same" in capsys.readouterr().out
    assert "runs/me --no-scene --warp 0 --sigmoid<" in (tmp_path / "me/quality.html").read_text()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("text", "flags", "name"),
    [
        ("no person was found in 96", (), "nobody"),
        ("shows two persons in", (), "two"),
        ("has no frame between --start and --end", ("--start", 60), "me"),
        ("only 10 frames show a person; a data set needs 64", ("--end", 1 / 3), "me"),
        ("--val_frames 40 and --test_frames 40 leave 16 of 96",
         ("--val_frames", 40, "--test_frames", 40), "me"),
        ("exists and is not an empty folder", (), "full"),
        ("cannot write .*file/me", (), "file/me"),
    ],
)  # fmt: skip
def test_what_is_refused_is_one_sentence_and_leaves_nothing(video, tmp_path, text, flags, name):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/note.txt").write_text("mine")
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    joints = [None] * FRAMES if name == "nobody" else video.joints
    others = [video.joints[0]] * FRAMES if name == "two" else ()
    with pytest.raises(UserError, match=text) as error:
        make(video.folder, tmp_path / name, Known(joints, others), *flags)
    assert "\n" not in str(error.value) and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("package", "problem"),
    [
        (None, "finding poses needs a package"),
        (SimpleNamespace(__version__="1.2.3"), "mediapipe 1.2.3 has no weights in its package"),
    ],
)
def test_a_missing_estimator_names_the_one_command(monkeypatch, package, problem):
    monkeypatch.setitem(sys.modules, "mediapipe", package)
    monkeypatch.setattr(sys, "version_info", (3, 12, 0))
    with pytest.raises(UserError, match=rf"^{problem}: pip install mediapipe==0\.10\.21$"):
        find_solution()
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    with pytest.raises(UserError, match=r"needs Python 3\.10 to 3\.12"):
        find_solution()
