"""The registry of labs: all that differs between them is a method of one of these classes."""

from .pose import PoseLab
from .robot import RobotLab

LABS = {"pose": PoseLab, "robot": RobotLab}
