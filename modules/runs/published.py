"""Checkpoints of published code: names of weights, and settings read off their shapes."""

import re
from typing import Any

import torch

from ..config import CONDITION
from ..errors import UserError

NETS = {"encoder", "decoder", "frame_predictor", "posterior"}
MARKS = {"pose": "frame_transformation", "robot": "frame_predictor"}  # a net that only this lab has
NAMES = [  # a name of the published code -> ours
    (r"encoder\.c5\.(\d)\.", r"encoder.head.\1."),
    (r"encoder\.c(\d)\.(\d)\.main\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.{m[2]}."),
    (r"decoder\.upc1\.(\d)\.", r"decoder.head.\1."),
    (r"decoder\.upc(\d)\.(\d)\.(main\.)?", lambda m: f"decoder.stages.{int(m[1]) - 2}.{m[2]}."),
    (r"\.lstm\.(\d+)\.(weight|bias)_([ih]h)$", r".lstm.\2_\3_l\1"),
]


def robot_nets(content: Any) -> dict[str, dict] | None:
    """{net: its state dict} of a file of the robot lab's published code, else None.

    It holds one state dict per net, as docs/robot.md says how to save them, or one of all nets.
    """
    content = content if isinstance(content, dict) else {}
    names = [name for name in content if isinstance(name, str)]
    if any(name.startswith("encoder.c1.") for name in names):
        nets = {}
        for name in names:
            net, _, rest = name.partition(".")
            nets.setdefault(net, {})[rest] = content[name]
        content = nets
    if not all(isinstance(content.get(net), dict) for net in NETS):
        return None
    return {net: content[net] for net in content if net in NETS | {"prior"}}


def convert(content: dict[str, dict]) -> dict[str, torch.Tensor]:
    """-> a state dict of RecurrentVAE. What does not fit is reported when it is loaded."""
    refuse_svg(content["frame_predictor"])
    weights = {our_name(f"{net}.{k}"): v for net in content for k, v in content[net].items()}
    return weights | {
        "condition_mean": torch.zeros(CONDITION),
        "condition_std": torch.ones(CONDITION),
    }


def refuse_svg(predictor: dict[str, torch.Tensor]) -> None:
    """The weights of edenton/svg have the names of the lab's, but are those of another model."""
    if "output.0.weight" in predictor and "output.1.weight" not in predictor:
        raise UserError(
            "holds weights of edenton/svg: its frame predictor has no BatchNorm after its output "
            "and takes no conditions; only weights of the lab's code are read"
        )


def our_name(name: str) -> str:
    for pattern, ours in NAMES:
        name, found = re.subn(pattern, ours, name)
        if found:
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
        "feedback_clamp": False,
    }
