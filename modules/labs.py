"""What differs between the two labs: their data, their nets, their scores and their pictures."""

import torch

from dataloader import (
    DanceClips,
    Dataset_Dance,
    Dataset_Robot,
    RobotClips,
    load_test_clips,
    load_truth,
    truth_folder,
)

from . import report
from .metrics import channel_psnr, course_averages, drifts, frame_psnr, pose_box_psnr, score_clip
from .models import VAE_Model, noise_source, one_step
from .recurrent_model import RecurrentVAE
from .warp import still_scene


class PoseLab:
    """One given frame of a dancer, then a pose picture for every frame to predict."""

    TrainClips = DanceClips
    given, frame_ms = 1, 20
    frame_psnr = staticmethod(frame_psnr)

    def __init__(self, args):
        self.args = args
        self.size = (args.frame_H, args.frame_W)

    def make_model(self, train_set=None):
        model = VAE_Model(self.args)
        if train_set and self.args.scene:
            model.scene.data.copy_(still_scene(train_set, self.args.partial))
        return model

    def open_train(self):
        return self.open_split("train", self.args.train_vi_len, self.args.partial)

    def open_val(self):
        return self.open_split("val", self.args.val_vi_len)

    def open_split(self, mode, length, share=1.0):
        args = self.args
        cache = args.cache_dir, args.num_workers, args.skip_bad_frames
        return Dataset_Dance(args.DR, mode, length, share, self.size, *cache)

    def open_test(self, typed):
        """-> given frames, conditions and true frames (None where unknown), one of each a clip."""
        args, length = self.args, self.args.val_vi_len if "val_vi_len" in typed else None
        clips = load_test_clips(args.DR, self.size, args.cache_dir, args.num_workers)
        given, poses = [frame[None] for frame, _ in clips], [p[:length] for _, p in clips]
        path = args.truth or truth_folder(args.DR)
        lengths = [len(p) for p in poses]
        return given, poses, path and load_truth(path, self.size, lengths, cut=length)

    def score(self, pred, true):
        """One clip's rollout (T, 3, H, W) against the truth."""
        return score_clip(pred, true)

    def score_test(self, pred, true, poses, model):
        """What Tester adds: the course's averages, the dancer's own pixels, and drift."""
        noise = noise_source(self.args.z_source, self.args.seed, [0])
        steps = frame_psnr(one_step(model, true, poses, noise), true[1:])
        return (
            self.score(pred, true)
            | course_averages(pred, true)
            | {"psnr_pose_box": pose_box_psnr(pred[1:], true[1:], poses[1:])}
            | drifts(frame_psnr(pred, true)[1:])
            | {"psnr_one_step": steps.mean().item(), "drift_one_step": drifts(steps)["drift"]}
        )

    def rows(self, condition, pred, true=None):
        """{label: uint8 clip} of what is shown beside each other, from floats (T, 3, H, W)."""
        clips = {"pose": condition, "prediction": pred, "truth": true}
        return {name: report.to_uint8(clip) for name, clip in clips.items() if clip is not None}

    def gif(self, rows):
        """What Tester's gif of a clip shows: nothing but the prediction, as the course has it."""
        return rows["prediction"]

    def strip_times(self, length):
        return report.spread(length, 8)


class RobotLab:
    """A few given frames of a robot arm, then actions and positions for those to predict."""

    TrainClips = RobotClips
    frame_ms = 100
    frame_psnr = staticmethod(channel_psnr)

    def __init__(self, args):
        self.args, self.given = args, args.n_past
        self.scored = args.n_past + args.n_future

    def make_model(self, train_set=None):
        model = RecurrentVAE(self.args)
        if train_set and self.args.standardise:
            model.standardise_conditions(torch.tensor(train_set.conditions))
        return model

    def open_train(self):
        return self.open_split("train", self.scored, "--n_past + --n_future")

    def open_val(self):
        return self.open_split("validate", self.args.n_eval, "--n_eval")

    def open_split(self, split, length, flag):
        args = self.args
        skip = getattr(args, "skip_bad_frames", False)  # Tester leaves nothing out
        cache = args.cache_dir, args.num_workers, skip
        return Dataset_Robot(args.DR, split, length, flag, *cache)

    def open_test(self, typed):
        """-> given frames, conditions and true frames, one of each a clip."""
        truth, conditions = zip(*self.open_split("test", self.args.n_eval, "--n_eval"))
        return [frames[: self.given] for frames in truth], conditions, truth

    def score(self, pred, true):
        """The --n_future frames after the given ones, of one clip's rollout (T, 3, H, W)."""
        frames = slice(self.scored)
        return score_clip(pred[frames], true[frames], self.given, channel_psnr)

    def score_test(self, pred, true, conditions, model):
        return self.score(pred, true)

    def rows(self, condition, pred, true):
        """{label: uint8 clip}: the prediction framed in green while given, then in red."""
        truth = report.framed(report.to_uint8(true), 0, report.GREY)
        return {"truth": truth, "prediction": report.framed(report.to_uint8(pred), self.given)}

    def gif(self, rows):
        return report.side_by_side(*rows.values())

    def strip_times(self, length):
        return range(length)


LABS = {"pose": PoseLab, "robot": RobotLab}
