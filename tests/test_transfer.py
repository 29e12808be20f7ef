"""scripts/transfer.py and scripts/video/joints.py: a person dances the poses of another one."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT, SHORT, settings_of
from PIL import Image

sys.path.insert(0, str(ROOT / "scripts"))
import make_toy_data
import transfer
from toy import dance
from video import joints as j
from video.skeleton import draw_skeleton

from modules.data.cache import decode
from modules.errors import UserError
from modules.report import pictures
from Trainer import train

HEIGHT, FPS = 64, 30


def dancer(seed, frames=300):
    bodies, _ = dance.dance(np.random.default_rng(seed), frames)
    return np.array([dance.keypoints(body, HEIGHT) for body in bodies])


def elsewhere(joints):
    """A smaller person at another place."""
    return joints * (0.6, 0.6, 1) + (40, 12, 0)


# ---------------------------------------------------------------- keypoints over time


def test_a_person_placed_like_itself_elsewhere_is_there():
    """Scale and place are found exactly, leaps and crouches included."""
    person = elsewhere(dancer(1))
    assert np.abs(j.place_like(dancer(1), person, (FPS, FPS)) - person).max() < 0.05


@pytest.mark.parametrize("missing", ["legs", "hips", "height"])
def test_a_person_that_cannot_be_placed_is_refused(missing):
    source = dancer(1)
    if missing == "height":
        source[..., 1] = 20
    else:
        source[:, {"legs": slice(8, 14), "hips": j.HIPS}[missing], 2] = 0
    with pytest.raises(UserError, match="--poses never shows a person from head to ankles"):
        j.place_like(source, dancer(2), (FPS, FPS))


# ---------------------------------------------------------------- the script


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two toy datasets, and a run on the first."""
    base = tmp_path_factory.mktemp("transfer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_toy_data, "CLIP", 12)
        patch.setattr(make_toy_data, "draw_all", lambda draw, jobs, *_: [draw(x) for x in jobs])
        for seed, name in ((0, "me"), (1, "friend")):
            flags = f"--height 32 --train_frames 40 --test_clips 2 --workers 1 --seed {seed}"
            patch.setattr(sys, "argv", ["toy", str(base / name), *flags.split()])
            make_toy_data.main()
    flags = ["--DR", base / "me", "--save_root", base / "run", "--num_epoch", 1, "--no-plots"]
    train(settings_of([*flags, *SHORT]))
    return SimpleNamespace(me=base / "me", friend=base / "friend", ckpt=base / "run/last.ckpt")


def test_toy_data_have_their_keypoints(made):
    poses = j.read_joints(made.me, "--DR")
    frames = {"train": 40, "val": 12, "test0": 12, "test1": 12}
    assert {part: len(joints) for part, joints in poses.parts.items()} == frames
    drawn = draw_skeleton(poses.parts["test1"][5].astype(float), poses.size)
    image = np.asarray(Image.open(made.me / "test/test_label/1/frame000005.png"))
    assert np.abs(drawn * 255 - image).max() < 2


def run_transfer(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["transfer.py", *map(str, words)])
    transfer.main()


def test_pose_and_result_are_written(made, tmp_path, monkeypatch, capsys):
    words = ["--ckpt_path", made.ckpt, "--poses", made.friend, "--save_root", tmp_path]
    run_transfer(monkeypatch, *words, "--part", "test1", "--device", "cpu")
    assert pictures.gif_time(tmp_path / "transfer.gif") == 12 * 30  # 33 ms, in hundredths of a s
    assert "12 frames written" in capsys.readouterr().out
    assert (tmp_path / "transfer_strip.png").exists()
    page = (tmp_path / "transfer.html").read_text()
    assert all(f'"{name}"' in page for name in ("the other person", "pose", "your person"))
    if (tmp_path / "transfer.mp4").exists():
        assert pictures.mp4_length(tmp_path / "transfer.mp4") == 12


def test_the_rollout_is_of_the_poses_as_placed(made):
    words = ["--ckpt_path", made.ckpt, "--poses", made.friend, "--device", "cpu"]
    words = [str(word) for word in [*words, "--start", 2, "--frames", 5]]
    source, pose, result, fps = transfer.transfer(transfer.parse_arguments(words))
    frame = decode(made.friend / "test/test_truth/0/frame000004.png", (12, 16))
    assert np.array_equal(source[2], frame)
    assert pose.shape == result.shape == (5, 12, 16, 3) and fps == dance.FPS
    person, friend = j.read_joints(made.me, "--DR"), j.read_joints(made.friend, "--poses")
    placed = j.place_like(friend.parts["test0"], person.parts["train"], (FPS, FPS))[2:7]
    expected = transfer.draw_poses(placed, person.size, (12, 16))
    assert torch.equal(torch.from_numpy(pose).movedim(-1, 1) / 255, expected)


def test_a_rollout_of_any_length_goes_forth_and_back():
    assert transfer.forth_and_back(4, 11).tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2]


def test_the_first_frame_is_the_one_of_the_nearest_pose():
    joints = dancer(1, 100)
    joints[70, :, 2] = 0  # no pose
    for t in (0, 37, 71):
        assert transfer.nearest_frame(joints, joints[t] + (0.3, -0.3, 0)) == t


def test_what_is_wrong_is_named(made, tmp_path, monkeypatch):
    (tmp_path / "no_train").mkdir()
    j.write_joints(tmp_path / "no_train", {"val": dancer(1)}, (32, 64), FPS)
    words = ["--ckpt_path", made.ckpt, "--poses", made.friend, "--save_root", tmp_path]
    for flags, text in (
        (["--part", "test7"], "--part test7: .*friend has train, val, test0, test1"),
        (["--start", 11], "--start 11: .*has 12 poses in test0, and a rollout needs two"),
        (["--poses", made.me / "val"], "has no joints.npz"),
        (["--DR", tmp_path / "no_train"], "no_train: joints.npz has no part train"),
        (["--DR", made.me / "val"], "--DR .* has no joints.npz"),
    ):
        with pytest.raises(UserError, match=text):
            run_transfer(monkeypatch, *words, *flags)
