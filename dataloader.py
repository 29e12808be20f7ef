"""The data sets of both labs: the public face of modules/data.

The pose lab: DR/train/train_img/*.png + DR/train/train_label/*.png        (val alike)
              DR/test/test_img/{i}/*.png (one image) + DR/test/test_label/{i}/*.png (its poses)
The robot lab: DR/{train,validate,test}/{record}/{n}/{t}.png, with actions.csv and
               endeffector_positions.csv
"""

from modules.data.pose import (
    DanceClips,
    Dataset_Dance,
    find_takes,
    load_test_clips,
    load_truth,
    truth_folder,
)
from modules.data.robot import Dataset_Robot, RobotClips

__all__ = [
    "DanceClips",
    "Dataset_Dance",
    "Dataset_Robot",
    "RobotClips",
    "find_takes",
    "load_test_clips",
    "load_truth",
    "truth_folder",
]
