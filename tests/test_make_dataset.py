"""scripts/make_dataset.py: a video of one person -> a data set to train on, or one clear sentence.

The estimator of most tests knows the keypoints; the real one is used where it is installed.
"""

import json
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT, settings_of, tree
from PIL import Image

sys.path.insert(0, str(ROOT / "scripts"))
import make_dataset
from toy import dance
from video import build
from video.estimator import find_solution
from video.joints import read_joints, write_joints
from video.skeleton import draw_skeleton

from modules.data.pose import Dataset_Dance, load_test_clips, load_truth, truth_folder
from modules.errors import UserError
from modules.labs.pose import PoseLab

HEIGHT, FRAMES = 64, 96


class Known:
    """An estimator that is told the keypoints of every frame; None: it sees nobody."""

    def __init__(self, joints, other=None):
        self.joints, self.other = iter(joints), other

    def follow(self, frame):
        return next(self.joints)

    def find(self, frame):
        return self.other


def draw_video(folder, frames=FRAMES, seed=0):
    """A drawn dancer as a folder of pictures; -> its keypoints (T, 18, 3)."""
    folder.mkdir()
    bodies, stature = dance.dance(np.random.default_rng(seed), frames)
    scene = dance.make_scene(np.random.default_rng(seed), HEIGHT)
    for t, (body, size) in enumerate(zip(bodies, stature)):
        frame = dance.draw_frame(body, size, scene)
        Image.fromarray((frame * 255 + 0.5).astype(np.uint8)).save(folder / f"{t}.png")
    return np.array([dance.keypoints(body, HEIGHT) for body in bodies], np.float32)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """The folder of a video, and the keypoints of its frames."""
    folder = tmp_path_factory.mktemp("film") / "video"
    return folder, draw_video(folder)


def make(monkeypatch, source, out, estimator, *flags):
    words = ["make_dataset.py", source, out, "--height", HEIGHT, "--smooth", 0, *flags]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    make_dataset.main(lambda: estimator)
    return json.loads((out / "quality.json").read_text())


@pytest.fixture(scope="module")
def made(video):
    """A data set of the whole video, to be read only."""
    out = video[0].parent / "data" / "me"
    with pytest.MonkeyPatch.context() as patch:
        return out, make(patch, video[0], out, Known(video[1]), "--whole")


# ---------------------------------------------------------------- what is made


def test_the_frames_and_poses_of_the_video_in_the_layout_of_the_lab(video, made):
    folder, joints = video
    out, facts = made
    assert facts["parts"] == {"train": 72, "val": 12, "test0": 12} and facts["found"] == 1
    for split, first in (("train", 0), ("val", 72)):
        data = Dataset_Dance(out, split, video_len=12, size=(HEIGHT, 2 * HEIGHT))
        for row, t in ((0, first), (11, first + 11)):
            assert np.array_equal(data.frames[row], np.asarray(Image.open(folder / f"{t}.png")))
            drawn = draw_skeleton(joints[t], (HEIGHT, 2 * HEIGHT)) * 255
            assert np.abs(data.conditions[row] - drawn).max() < 1
    ((given, poses),) = load_test_clips(out, (HEIGHT, 2 * HEIGHT))
    (truth,) = load_truth(truth_folder(out), (HEIGHT, 2 * HEIGHT), [12])
    assert len(poses) == 12 and torch.equal(given, truth[0])
    assert len([*(out / "test/test_img/0").iterdir()]) == 1


def test_the_keypoints_are_stored(video, made):
    poses = read_joints(made[0], "--DR")
    assert (poses.size, poses.fps) == ((HEIGHT, 2 * HEIGHT), 30)
    assert np.allclose(np.concatenate([*poses.parts.values()]), video[1], atol=1e-3)


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


def test_a_short_validation_split_is_one_clip(made):
    """Trainer.py takes the data set as it is: --val_vi_len has a default of 630."""
    flags = ["--DR", made[0], "--save_root", "run"]
    assert PoseLab(settings_of(flags)).open_val().starts.tolist() == [0]
    assert len(PoseLab(settings_of(flags)).open_val()[0][0]) == 12
    assert len(PoseLab(settings_of([*flags, "--val_vi_len", 5])).open_val()) == 2
    with pytest.raises(UserError, match="too few for one clip of 13"):
        PoseLab(settings_of([*flags, "--val_vi_len", 13])).open_val()


def test_the_window_is_around_the_poses(video, tmp_path, monkeypatch):
    joints = video[1].copy()
    joints[..., :2] = joints[..., :2] * 0.4 + (50, 20)  # a small person
    out = tmp_path / "me"
    facts = make(monkeypatch, video[0], out, Known(joints))
    left, top, width, height = facts["window"]
    assert width == pytest.approx(2 * height, abs=0.2) and height < 0.7 * HEIGHT
    placed = np.concatenate([*read_joints(out, "--DR").parts.values()])
    expected = (joints[..., :2] - (left, top)) * HEIGHT / height
    assert np.abs(placed[..., :2] - expected).max() < 0.5
    inside = (placed[..., :2] >= 0) & (placed[..., :2] <= (2 * HEIGHT, HEIGHT))
    assert inside.mean() > 0.99
    assert facts["bars"] == 0


@pytest.mark.parametrize(
    ("size", "low", "high", "share"),
    [((720, 1280), (500, 100), (700, 600), 1), ((1280, 720), (200, 200), (500, 1100), 0.4),
     ((480, 640), (10, 5), (630, 475), 0.6), ((400, 800), (0, 0), (60, 60), 1)],
)  # fmt: skip
def test_a_window_holds_all_poses_and_has_bars_only_where_it_must(size, low, high, share):
    joints = np.zeros((10, 18, 3))
    joints[..., 2] = 1
    joints[..., :2] = np.linspace(low, high, 18)
    left, top, width, height = build.window_around(joints, size, 2)
    assert width == pytest.approx(2 * height)
    assert left <= low[0] and top <= low[1] and left + width >= high[0] and top + height >= high[1]
    assert build.visible_share((left, top, width, height), size) == pytest.approx(share, abs=0.06)


def test_pictures_of_another_aspect(video, tmp_path, monkeypatch):
    joints = video[1].copy()
    joints[..., 0] = joints[..., 0] * 0.2 + 50  # dances on the spot
    out = tmp_path / "me"
    facts = make(monkeypatch, video[0], out, Known(joints), "--width", 48)
    assert facts["window"][2] == pytest.approx(0.75 * facts["window"][3], abs=0.1)
    assert Image.open(out / "train/train_img/frame000000.png").size == (48, HEIGHT)
    assert "runs/me --frame_H 32 --frame_W 24" in (out / "quality.html").read_text()


def test_short_gaps_are_filled_and_long_ones_left_out(video, tmp_path, monkeypatch):
    joints = [*video[1]]
    for t in (20, 21, *range(40, 60)):
        joints[t] = None
    out = tmp_path / "me"
    facts = make(monkeypatch, video[0], out, Known(joints), "--whole", "--gap", 0.1)
    assert facts["interpolated"] == 2 and facts["left_out"] == [[40, 59]]
    numbers = [int(p.stem[5:]) for p in sorted((out / "train/train_img").iterdir())]
    assert 39 in numbers and 60 in numbers and not set(range(40, 60)) & set(numbers)
    filled = read_joints(out, "--DR").parts["train"][20]
    expected = video[1][19] + (video[1][22] - video[1][19]) / 3
    seen = (video[1][[19, 22], :, 2] > 0).all(0)
    assert seen.sum() > 13 and np.abs(filled - expected)[seen].max() < 1e-3


def test_what_is_suspicious_is_told(video, tmp_path, monkeypatch, capsys):
    joints = [*video[1]]
    joints[30] = joints[30] + (40, 0, 0)
    joints[50:70] = [None] * 20
    make(monkeypatch, video[0], tmp_path / "me", Known(joints), "--whole")
    told = capsys.readouterr().out
    assert "20 of 96 frames show no whole pose and are left out (seconds 1.7-2.3)" in told
    assert "The pose jumps in 2 frames" in told and "1.0 s" in told


def test_a_camera_that_moves_gets_no_scene(video, tmp_path, monkeypatch, capsys):
    moving = tmp_path / "moving"
    moving.mkdir()
    for t in range(FRAMES):
        frame = np.asarray(Image.open(video[0] / f"{t}.png"))
        Image.fromarray(np.roll(frame, t // 3, 1)).save(moving / f"{t}.png")
    facts = make(monkeypatch, moving, tmp_path / "me", Known(video[1]), "--whole")
    assert facts["camera_moves"] and "The background is not the same" in capsys.readouterr().out
    assert "runs/me --no-scene --warp 0 --sigmoid<" in (tmp_path / "me/quality.html").read_text()


def test_a_damaged_joints_file_is_named(made, tmp_path):
    path = tmp_path / "joints.npz"
    path.write_bytes((made[0] / "joints.npz").read_bytes()[:100])
    with pytest.raises(UserError, match=r"joints\.npz cannot be read as joints"):
        read_joints(tmp_path, "--DR")
    write_joints(tmp_path, {"train": np.zeros((4, 17, 3))}, (8, 8), 30)
    with pytest.raises(UserError, match=r"joints\.npz: train has the shape \(4, 17, 3\)"):
        read_joints(tmp_path, "--DR")


# ---------------------------------------------------------------- what is refused


def refused(monkeypatch, capsys, text, source, out, estimator, *flags):
    """One sentence, and nothing is left of the data set."""
    with pytest.raises(UserError, match=text) as error:
        make(monkeypatch, source, out, estimator, *flags)
    assert "\n" not in str(error.value)
    assert not out.exists() and not [*out.parent.glob("*.partial*")]


def test_nobody_in_the_picture(video, tmp_path, monkeypatch, capsys):
    nobody = Known([None] * FRAMES)
    refused(monkeypatch, capsys, "no person was found in 96", video[0], tmp_path / "me", nobody)


def test_a_part_without_frames(video, tmp_path, monkeypatch, capsys):
    text = "has no frame between --start and --end"
    flags = ("--start", 60)
    refused(monkeypatch, capsys, text, video[0], tmp_path / "me", Known(video[1]), *flags)


def test_two_persons(video, tmp_path, monkeypatch, capsys):
    two = Known(video[1], other=video[1][0])
    refused(monkeypatch, capsys, "shows two persons in", video[0], tmp_path / "me", two)


def test_a_passer_by_is_only_told(video, tmp_path, monkeypatch, capsys):
    estimator, looks = Known(video[1]), []

    def find(frame):
        looks.append(1)
        return video[1][0] if len(looks) < 4 else None

    estimator.find = find
    facts = make(monkeypatch, video[0], tmp_path / "me", estimator, "--whole")
    assert facts["others"] == 3 and "A second person was seen" in capsys.readouterr().out


def test_ten_frames(video, tmp_path, monkeypatch, capsys):
    short = ("--end", 1 / 3)
    text = "only 10 frames show a person; a data set needs 64"
    refused(monkeypatch, capsys, text, video[0], tmp_path / "me", Known(video[1]), *short)


def test_splits_that_leave_nothing_to_train_on(video, tmp_path, monkeypatch, capsys):
    flags = ("--val_frames", 40, "--test_frames", 40)
    text = "--val_frames 40 and --test_frames 40 leave 16 of 96"
    refused(monkeypatch, capsys, text, video[0], tmp_path / "me", Known(video[1]), *flags)


def test_a_folder_that_is_not_empty_is_left_alone(video, tmp_path, monkeypatch):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is not an empty folder"):
        make(monkeypatch, video[0], tmp_path, Known(video[1]))
    assert tree(tmp_path) == [tmp_path.joinpath("note.txt").relative_to(tmp_path)]


def test_a_folder_that_cannot_be_made(video, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/me"):
        make(monkeypatch, video[0], tmp_path / "file/me", Known(video[1]))


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ("--start 3 --end 2", "--end 2 is not after --start 3"),
        ("--crop 0 0 8 8", "at least 16"),
        ("--fps 0", "must be above 0"),
        ("--height 5", "must be at least 32"),
        ("--gap nan", "must be"),
    ],
)
def test_wrong_flags(flags, text, tmp_path, capsys):
    with pytest.raises(SystemExit):
        make_dataset.parse_arguments([str(tmp_path), str(tmp_path / "out"), *flags.split()])
    assert text in capsys.readouterr().err


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


# ---------------------------------------------------------------- interrupted

SLOW = """
import sys, time
sys.path.insert(0, {scripts!r})
import make_dataset
import numpy as np

class Slow:
    def follow(self, frame):
        time.sleep(0.02)
        return np.load({joints!r})[0]
    def find(self, frame):
        return None

sys.argv = ["make_dataset.py", {source!r}, {out!r}, "--height", "32"]
make_dataset.run(lambda: make_dataset.main(Slow))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_half_data_set(video, tmp_path, monkeypatch, number):
    np.save(tmp_path / "joints.npy", video[1])
    out = tmp_path / "data/me"
    words = {"scripts": str(ROOT / "scripts"), "joints": str(tmp_path / "joints.npy")}
    text = SLOW.format(**words, source=str(video[0]), out=str(out))
    child = subprocess.Popen([sys.executable, "-c", text], stderr=subprocess.PIPE, text=True)
    while child.poll() is None and not [*tmp_path.glob("data/me.partial-*")]:
        time.sleep(0.05)
    child.send_signal(number)
    _, told = child.communicate()
    assert child.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert not out.exists() and "Traceback" not in told
    make(monkeypatch, video[0], out, Known(video[1]))
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["me"]


# ---------------------------------------------------------------- the real estimator


def test_the_real_estimator_sees_the_drawn_dancer(tmp_path):
    pytest.importorskip("mediapipe", reason="mediapipe is not installed")
    pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is not installed")
    import pose_accuracy

    found, distance, *_ = pose_accuracy.measure(tmp_path / "a.mp4", 4, 360, 15, 30)
    assert found > 0.95 and distance < 0.05
