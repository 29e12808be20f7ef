"""modules/data/video.py: frames of files, gifs and folders, as upright as a player shows them."""

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from video.source import Part, is_cut_off, open_video

from modules.errors import UserError

ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is not installed")
FRAMES, FPS, SIZE = 60, 30, (64, 96)  # of the video; its frame t is 20 + 3 t bright


def picture(t):
    """The upper left quarter is black, so that it tells which way is up."""
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


def times(path, part=None):
    """The video's size, and which frame of it each frame is."""
    video = open_video(path, part or Part())
    frames = [*video.frames()]
    assert {frame.shape for frame in frames} <= {(*video.size, 3)}
    return video, np.array([(int(frame[-1, -1].max()) - 20) / 3 for frame in frames])


def near(found, expected, tolerance=1.5):
    assert len(found) == len(expected)
    assert np.abs(found - expected).max() < tolerance


def test_a_file_is_read_frame_by_frame(mp4):
    video, found = times(mp4)
    assert (video.size, video.fps, video.expected) == (SIZE, FPS, FRAMES)
    near(found, np.arange(FRAMES))
    near(times(mp4)[1], np.arange(FRAMES))  # it can be read again


def test_start_end_and_rate(mp4):
    near(times(mp4, Part(start=1, end=1.5))[1], np.arange(30, 45))
    video, found = times(mp4, Part(fps=15))
    assert video.expected == 30
    near(found, np.arange(0, FRAMES, 2))


def test_faster_videos_are_read_at_30_frames_per_second(mp4, tmp_path):
    fast = convert(mp4, tmp_path / "fast.mp4", after=["-vf", "setpts=PTS/2", "-r", "60"])
    video, found = times(fast)
    assert video.fps == 30
    near(found[:30], np.arange(0, FRAMES, 2), 2)


def test_a_crop_in_upright_pixels_and_a_smaller_size(mp4):
    frames = [*open_video(mp4, Part(crop=(40, 16, 56, 48))).frames()]
    assert frames[0].shape == (48, 56, 3)
    assert frames[50][:12, :4].max() < 20 < frames[50][:12, 16:].min()  # from the black quarter on
    assert open_video(mp4, Part(height=32)).size == (32, 48)
    with pytest.raises(UserError, match="96 wide and 64 high"):
        open_video(mp4, Part(crop=(40, 20, 57, 30)))


def test_a_phone_held_upright_is_read_upright(mp4, tmp_path):
    turned = convert(mp4, tmp_path / "turned.mp4", ["-display_rotation", 90], ["-c", "copy"])
    video = open_video(turned, Part())
    assert video.size == SIZE[::-1]
    frame = [*video.frames()][50]
    dark = [(y, x) for y in (0, -1) for x in (0, -1) if frame[y, x].max() < 20]
    assert dark == [(-1, 0)]  # a quarter to the left


def test_pixels_that_are_not_square_are_made_so(mp4, tmp_path):
    wide = convert(mp4, tmp_path / "wide.mp4", after=["-vf", "setsar=2"])
    assert open_video(wide, Part()).size == (64, 192)


def test_a_variable_frame_rate_keeps_the_time(mp4, tmp_path):
    """After the first second every frame is shown for three."""
    slower = "setpts='if(lt(N,30),N,30+(N-30)*3)/30/TB'"
    path = convert(mp4, tmp_path / "vfr.mp4", after=["-vf", slower, "-fps_mode", "vfr"])
    _, found = times(path, Part(fps=FPS))
    t = np.arange(len(found))
    assert 112 <= len(found) <= 121
    near(found, np.minimum(np.where(t < 30, t, 30 + (t - 30) / 3), 59))


def test_a_gif(tmp_path):
    images = [Image.fromarray(picture(t)) for t in range(0, 60, 3)]
    path = tmp_path / "a.gif"
    images[0].save(path, save_all=True, append_images=images[1:], duration=100, loop=0)
    video, found = times(path)
    assert video.fps == 10
    near(found[:20], np.arange(0, 60, 3), 3)


def test_a_folder_of_pictures_in_the_order_of_its_numbers(tmp_path):
    for t in range(12):
        Image.fromarray(picture(t)).save(tmp_path / f"shot{t}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    video, found = times(tmp_path, Part(start=0.5, fps=4))
    assert (video.size, video.expected) == (SIZE, 10)
    near(found, np.arange(2, 12), 0.1)
    assert open_video(tmp_path, Part(crop=(8, 0, 32, 64), height=16)).size == (16, 8)
    Image.fromarray(picture(12)[:32]).save(tmp_path / "shot12.png")
    with pytest.raises(UserError, match=r"shot12\.png is 96 wide and 32 high"):
        times(tmp_path)
    (tmp_path / "shot12.png").write_bytes(b"no png")
    with pytest.raises(UserError, match=r"shot12\.png cannot be read as an image"):
        times(tmp_path)


def test_a_photo_that_says_how_it_was_held(tmp_path):
    turned = Image.fromarray(np.rot90(picture(50)))
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned to the right
    turned.save(tmp_path / "1.jpg", exif=exif, quality=95)
    assert np.abs([*open_video(tmp_path, Part()).frames()][0].astype(int) - picture(50)).mean() < 3


def damage(mp4, folder, kind):
    path = folder / f"{kind}.mp4"
    if kind == "silent":
        convert("sine=d=1", path, ["-f", "lavfi"])
    elif kind == "cut":
        path.write_bytes(mp4.read_bytes()[:2000])
    else:
        path.write_bytes(b"hello" * (kind == "text"))
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("silent", "it has no pictures"),
        ("cut", "it is not complete"),
        ("text", "cannot be read as a video"),
        ("empty", "cannot be read as a video"),
    ],
)
def test_what_is_no_video_is_one_sentence(mp4, tmp_path, kind, reason):
    with pytest.raises(UserError, match=reason) as error:
        times(damage(mp4, tmp_path, kind))
    assert f"{kind}.mp4" in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_an_empty_folder_and_a_start_behind_the_end(mp4, tmp_path):
    for path, part, text in (
        (tmp_path / "none.mp4", Part(), "does not exist"),
        (tmp_path, Part(), "has no picture"),
        (mp4, Part(start=9), "lasts 2 seconds"),
    ):
        with pytest.raises(UserError, match=text):
            open_video(path, part)


def test_a_file_that_ends_early_is_known(mp4, tmp_path):
    whole = convert(mp4, tmp_path / "a.mp4", after=["-c", "copy", "-movflags", "+faststart"])
    assert not is_cut_off(*(lambda v: (v, len([*v.frames()])))(open_video(whole, Part())))
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) * 2 // 3])
    video = open_video(whole, Part())
    assert is_cut_off(video, len([*video.frames()]))


@pytest.mark.skipif(not shutil.which("ps"), reason="ps is not installed")
def test_an_abandoned_reader_leaves_no_process(mp4):
    frames = open_video(mp4, Part()).frames()
    next(frames)
    frames.close()
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(mp4) not in left
