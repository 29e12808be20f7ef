#!/usr/bin/env python
"""Make a checkpoint of this package from the robot lab's published weights.

    python scripts/convert_robot.py state_dicts.pth runs/published.ckpt --condition previous

state_dicts.pth holds one state dict per net (docs/robot.md says how to save them), or one of all
nets. The checkpoint also holds what the weights do not show, so no flag has to be typed at test.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before slow imports; PYTHONSAFEPATH leaves the folders out
    sys.path[:0] = map(str, Path(__file__).resolve().parents[:2])
    from modules.cli.start import start

    start()

from modules.checkpoints import checkpoint as ckpt
from modules.cli.entry import run
from modules.config import RobotModel, RobotTraining
from modules.errors import UserError
from modules.models.loading import load_weights, model_settings
from modules.models.robot import RecurrentVAE
from modules.runs.folder import run_folder

NOT_IN_WEIGHTS = ("condition", "skip_from")  # settings with a choice of words
PUBLISHED_SKIP = "second_last"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("published", type=Path, help="file with the state dicts")
    add("checkpoint", type=Path, help="file to write")
    add("--n_past", type=int, default=RobotModel.default("n_past"), help="given frames")
    for name in NOT_IN_WEIGHTS:
        item = RobotModel.__dataclass_fields__[name]
        default = PUBLISHED_SKIP if name == "skip_from" else item.default
        text = f"{item.metadata['help']} ({default})"
        add(f"--{name}", choices=item.metadata["check"].words, help=text)
    add("--last_frame_skip", action="store_true", help="skips come from the previous frame")
    return parser.parse_args()


def settings_of(args: argparse.Namespace, of_weights: dict[str, Any]) -> RobotTraining:
    """Of the weights, of what was typed, and of published code."""
    shortest = args.n_past + RobotTraining.default("n_future")
    skip = "last" if args.last_frame_skip or args.n_past == 1 else PUBLISHED_SKIP
    return RobotTraining(**of_weights).replace(
        n_past=args.n_past,
        n_eval=max(RobotTraining.default("n_eval"), shortest),
        last_frame_skip=args.last_frame_skip,
        skip_from=args.skip_from or skip,
        condition=args.condition or RobotModel.default("condition"),
    )


def main() -> None:
    args = parse_arguments()
    if args.checkpoint.exists():
        raise UserError(f"{args.checkpoint} exists: choose another name, or remove it")
    found = ckpt.load(args.published)
    if ckpt.is_ours(found) or ckpt.lab_of(found) != "robot":
        raise UserError(
            f"{args.published} holds {ckpt.contents_of(found)}, "
            "not the robot lab's published weights"
        )
    settings = settings_of(args, model_settings(found, args.published))
    if problem := settings.contradiction():
        raise UserError(problem)
    load_weights(RecurrentVAE(settings), found["state_dict"], args.published)
    run_folder(args.checkpoint.parent, "the folder")
    ckpt.save(
        args.checkpoint,
        {
            "version": ckpt.VERSION,
            "args": settings.as_dict(),
            "state_dict": found["state_dict"],
            "last_epoch": 1,  # an epoch with a posterior
        },
    )
    print(f"{args.checkpoint}: {len(found['state_dict'])} weights of {args.published}, with")
    told = {name: getattr(settings, name) for name in ("n_past", *NOT_IN_WEIGHTS)}
    switch = " --last_frame_skip" * settings.last_frame_skip
    print("  " + " ".join(f"--{name} {value}" for name, value in told.items()) + switch)


if __name__ == "__main__":
    run(main)
