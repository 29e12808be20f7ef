"""Checkpoints of published code: names of weights, and settings read off their shapes."""

import re
from pathlib import Path
from typing import Any

import torch

from ..config import CONDITION
from ..errors import UserError, visible

ROBOT_NETS = {"encoder", "decoder", "frame_predictor", "posterior"}
MARKS = {"pose": "frame_transformation", "robot": "frame_predictor"}  # a net that only this lab has
OUR_NAMES = [  # a name of the published code -> ours
    (r"encoder\.c5\.(\d)\.", r"encoder.head.\1."),
    (r"encoder\.c(\d)\.(\d)\.main\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.{m[2]}."),
    (r"decoder\.upc1\.(\d)\.", r"decoder.head.\1."),
    (r"decoder\.upc(\d)\.(\d)\.(main\.)?", lambda m: f"decoder.stages.{int(m[1]) - 2}.{m[2]}."),
    (r"\.lstm\.(\d+)\.(weight|bias)_([ih]h)$", r".lstm.\2_\3_l\1"),
]


def weights_of(content: Any, path: str | Path) -> dict[str, Any]:
    """-> {"state_dict": weights by our names, "ignored": names of all else} of published code."""
    content = content if isinstance(content, dict) else {}
    rest = []
    if isinstance(content.get("state_dict"), dict):
        rest = [visible(str(name)[:40]) for name in content if name != "state_dict"]
        content = content["state_dict"]
    elif not (robot_nets(content) or "frame_transformation.0.conv1.weight" in content):
        raise UserError(f"{path} is not a checkpoint of this package: it has no state_dict")
    if nets := robot_nets(content):
        content = convert(nets)
    if not all(isinstance(weight, torch.Tensor) for weight in content.values()):
        raise UserError(f"{path} has no state_dict of tensors")
    return {"state_dict": content, "ignored": rest}


def robot_nets(content: dict) -> dict[str, dict] | None:
    """{net: its state dict} of a file of the robot lab's published code, else None.

    It holds one state dict per net, saved as in docs/robot.md, or one of all nets.
    """
    if any(str(name).startswith("encoder.c1.") for name in content):
        nets = {}
        for name in content:
            net, _, rest = name.partition(".")
            nets.setdefault(net, {})[rest] = content[name]
        content = nets
    if not all(isinstance(content.get(net), dict) for net in ROBOT_NETS):
        return None
    return {net: content[net] for net in content if net in ROBOT_NETS | {"prior"}}


def convert(content: dict[str, dict]) -> dict[str, torch.Tensor]:
    """-> a state dict of RecurrentVAE. What does not fit is reported when it is loaded."""
    weights = {our_name(f"{net}.{k}"): v for net in content for k, v in content[net].items()}
    return weights | {
        "condition_mean": torch.zeros(CONDITION),
        "condition_std": torch.ones(CONDITION),
    }


def our_name(name: str) -> str:
    for pattern, ours in OUR_NAMES:
        name, count = re.subn(pattern, ours, name)
        if count:
            break
    return name


def robot_sizes(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The settings of a robot model, read off the shapes of its weights."""

    def layers(net: str) -> int:
        return sum(name.startswith(f"{net}.lstm.weight_ih") for name in weights)

    return {
        "g_dim": weights["encoder.head.0.weight"].shape[0],
        "vgg_width": weights["encoder.stages.0.0.0.weight"].shape[0],
        "rnn_size": weights["frame_predictor.embed.weight"].shape[0],
        "z_dim": weights["posterior.mu_net.weight"].shape[0],
        "predictor_rnn_layers": layers("frame_predictor"),
        "posterior_rnn_layers": layers("posterior"),
        "learned_prior": "prior.mu_net.weight" in weights,
        "skip_from": "second_last",
    }


def template_sizes(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The same of the course's template, whose weights have our names."""
    return {
        "F_dim": weights["frame_transformation.6.weight"].shape[0],
        "L_dim": weights["label_transformation.4.conv1.weight"].shape[0],
        "N_dim": weights["Gaussian_Predictor.6.weight"].shape[0] // 2,
        "D_out_dim": weights["Decoder_Fusion.5.weight"].shape[0],
        "published_step": True,
    }
