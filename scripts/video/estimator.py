"""The pose of a person in a picture: MediaPipe's BlazePose as 18 keypoints of OpenPose.

The last release of the package that has the weights in it is 0.10.21: nothing is fetched when it
runs. Later ones have the program only.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from modules.errors import UserError

from .skeleton import SEEN

RELEASE = "0.10.21"
INSTALL = f"pip install mediapipe=={RELEASE}"
MAX_PYTHON = 3, 12  # of Python, for which that release has a package
# Of BlazePose's points for OpenPose's; the neck is midway between the shoulders.
BLAZEPOSE_INDICES = [0, 11, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7]
NECK, SHOULDERS = 1, [2, 5]


class Estimator(Protocol):
    """Keypoints (18, 3) of the person in uint8 (H, W, 3): x and y in pixels, confidence in 0..1."""

    def follow(self, frame: np.ndarray) -> np.ndarray | None:
        """In the next frame of a video: near the pose of the frame before, if there was one."""

    def find(self, frame: np.ndarray) -> np.ndarray | None:
        """In any picture."""


class BlazePose:
    """Of one person: the most certain one of the first frame, then the same."""

    def __init__(self) -> None:
        with quiet():
            solution, options = find_solution(), {"model_complexity": 1, "smooth_landmarks": False}
            self.video = solution.Pose(static_image_mode=False, **options)
            self.single = solution.Pose(static_image_mode=True, **options)
            for pose in (self.video, self.single):  # their threads print at the first picture
                pose.process(np.zeros((64, 64, 3), np.uint8))

    def follow(self, frame: np.ndarray) -> np.ndarray | None:
        with quiet():
            return openpose_keypoints(self.video.process(frame), frame)

    def find(self, frame: np.ndarray) -> np.ndarray | None:
        with quiet():
            return openpose_keypoints(self.single.process(frame), frame)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the log of the library's C++ on stderr, which has no switch."""
    stream, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stream, 2)
        os.close(stream)
        os.close(nowhere)


def openpose_keypoints(found: object, frame: np.ndarray) -> np.ndarray | None:
    if found.pose_landmarks is None:
        return None
    height, width = frame.shape[:2]
    marks = [(m.x * width, m.y * height, m.visibility) for m in found.pose_landmarks.landmark]
    joints = np.array(marks, np.float32)[BLAZEPOSE_INDICES]
    joints[NECK] = joints[SHOULDERS].mean(0)
    joints[NECK, 2] = joints[SHOULDERS, 2].min()
    # a hidden keypoint is as near to the truth as the others, one outside the picture a mere guess
    inside = ((joints[:, :2] >= 0) & (joints[:, :2] <= (width, height))).all(1)
    joints[:, 2] = np.where(inside, np.maximum(joints[:, 2], SEEN), 0)
    return joints


def find_solution() -> object:
    """The part of mediapipe whose package contains its weights."""
    problem = "finding poses needs a package"
    try:
        import mediapipe

        if hasattr(mediapipe, "solutions"):
            return mediapipe.solutions.pose
        problem = f"mediapipe {mediapipe.__version__} has no weights in its package"
    except ImportError as error:
        if error.name != "mediapipe":
            problem = f"mediapipe cannot be imported ({error})"
    if sys.version_info[:2] > MAX_PYTHON:
        python = ".".join(map(str, MAX_PYTHON))
        raise UserError(
            f"finding poses needs Python 3.10 to {python}, since mediapipe {RELEASE} has no "
            "package for a newer one: run this script in an environment of its own "
            "(docs/own_video.md); what it makes can be used with any"
        )
    raise UserError(f"{problem}: {INSTALL}")
