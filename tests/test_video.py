"""scripts/video/source.py: frames of files, gifs and folders, upright and in time."""

import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from modules.errors import UserError

sys.path.insert(0, str(ROOT / "scripts"))
from video.source import Part, is_cut_off, open_video

ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is not installed")
FRAMES, FPS, SIZE = 60, 30, (64, 96)  # of the video; its frame t is 20 + 3 t bright


def picture(t):
    """The upper left quarter is black."""
    image = np.full((*SIZE, 3), 20 + 3 * t, np.uint8)
    image[:32, :48] = 0
    return image


def convert(source, out, before=(), after=()):
    command = [ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *before, "-i", source, *after, out]
    subprocess.run([str(word) for word in command], check=True)
    return out


@pytest.fixture(scope="module")
def mp4(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "it's 100% a %d video.mp4"
    writer = ffmpeg.write_frames(str(path), SIZE[::-1], fps=FPS, macro_block_size=2, quality=9)
    writer.send(None)
    for t in range(FRAMES):
        writer.send(picture(t))
    writer.close()
    return path


def read(path, **part):
    """The video, and which frame of the mp4 each of its frames is."""
    video = open_video(path, Part(**part))
    frames = [*video.frames()]
    assert {frame.shape for frame in frames} <= {(*video.size, 3)}
    return video, np.array([(int(frame[-1, -1].max()) - 20) / 3 for frame in frames])


def assert_near(found, expected, tolerance=1.5):
    assert len(found) == len(expected) and np.abs(found - expected).max() < tolerance


def test_a_file_is_read_frame_by_frame_and_again(mp4):
    video, found = read(mp4)
    assert (video.size, video.fps, video.expected) == (SIZE, FPS, FRAMES)
    assert_near(found, np.arange(FRAMES))
    assert len([*video.frames()]) == FRAMES and not is_cut_off(video, FRAMES)


def test_start_end_and_rate(mp4, tmp_path):
    assert_near(read(mp4, start=1, end=1.5)[1], np.arange(30, 45))
    video, found = read(mp4, fps=15)
    assert video.expected == 30
    assert_near(found, np.arange(0, FRAMES, 2))
    fast = convert(mp4, tmp_path / "fast.mp4", after=["-vf", "setpts=PTS/2", "-r", "60"])
    video, found = read(fast)
    assert video.fps == 30
    assert_near(found[:30], np.arange(0, FRAMES, 2), 2)


def test_a_crop_in_upright_pixels_and_a_smaller_size(mp4):
    frames = [*open_video(mp4, Part(crop=(40, 16, 56, 48))).frames()]
    assert frames[0].shape == (48, 56, 3)
    assert frames[50][:12, :4].max() < 20 < frames[50][:12, 16:].min()  # from the black quarter on
    assert open_video(mp4, Part(height=32)).size == (32, 48)


def test_a_phone_held_upright_is_read_upright(mp4, tmp_path):
    turned = convert(mp4, tmp_path / "turned.mp4", ["-display_rotation", 90], ["-c", "copy"])
    video = open_video(turned, Part())
    assert video.size == SIZE[::-1]
    frame = [*video.frames()][50]
    dark = [(y, x) for y in (0, -1) for x in (0, -1) if frame[y, x].max() < 20]
    assert dark == [(-1, 0)]  # a quarter to the left


def test_a_gif(tmp_path):
    images = [Image.fromarray(picture(t)) for t in range(0, 60, 3)]
    path = tmp_path / "a.gif"
    images[0].save(path, save_all=True, append_images=images[1:], duration=100, loop=0)
    video, found = read(path)
    assert video.fps == 10
    assert_near(found[:20], np.arange(0, 60, 3), 3)


def test_a_folder_of_pictures_in_the_order_of_its_numbers(tmp_path):
    for t in range(12):
        Image.fromarray(picture(t)).save(tmp_path / f"shot{t}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    video, found = read(tmp_path, start=0.5, fps=4)
    assert (video.size, video.expected) == (SIZE, 10)
    assert_near(found, np.arange(2, 12), 0.1)
    assert open_video(tmp_path, Part(crop=(8, 0, 32, 64), height=16)).size == (16, 8)
    Image.fromarray(picture(12)[:32]).save(tmp_path / "shot12.png")
    with pytest.raises(UserError, match=r"shot12\.png is 96 wide and 32 high"):
        read(tmp_path)


def test_what_cannot_be_read_is_one_sentence(mp4, tmp_path):
    convert("sine=d=1", tmp_path / "silent.mp4", ["-f", "lavfi"])
    (tmp_path / "cut.mp4").write_bytes(mp4.read_bytes()[:2000])
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(b"no png")
    for name, part, text in (
        ("silent.mp4", {}, "it has no pictures"),
        ("cut.mp4", {}, "it is not complete"),
        ("text.mp4", {}, "cannot be read as a video"),
        ("none.mp4", {}, "does not exist"),
        ("empty", {}, "has no picture"),
        ("photos", {}, r"a\.png cannot be read as an image"),
        (mp4, {"start": 9}, "lasts 2 seconds"),
        (mp4, {"crop": (40, 20, 57, 30)}, "96 wide and 64 high"),
    ):
        with pytest.raises(UserError, match=text) as error:
            read(tmp_path / name, **part)
        assert "\n" not in str(error.value)


def test_a_file_that_ends_early_is_known(mp4, tmp_path):
    path = convert(mp4, tmp_path / "a.mp4", after=["-c", "copy", "-movflags", "+faststart"])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    video, found = read(path)
    assert is_cut_off(video, len(found))
