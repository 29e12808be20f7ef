"""Experiment trackers on request: the rows of metrics.csv, sent elsewhere as well."""

from .options import UserError


class TensorBoard:
    def __init__(self, args):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("--tensorboard needs a package: pip install tensorboard") from None
        self.writer = SummaryWriter(args.save_root)

    def log(self, row):
        for name, value in row.items():
            if value is not None and name != "epoch":
                self.writer.add_scalar(name, value, row["epoch"])
        self.writer.flush()


class WeightsAndBiases:
    def __init__(self, args):
        try:
            import wandb
        except ImportError:
            raise UserError("--wandb needs a package: pip install wandb") from None
        self.run = wandb.init(project="video-cvae", dir=args.save_root, config=vars(args))

    def log(self, row):
        self.run.log({k: v for k, v in row.items() if v is not None}, step=row["epoch"])


def open_trackers(args):
    wanted = ((args.tensorboard, TensorBoard), (args.wandb, WeightsAndBiases))
    return [tracker(args) for asked, tracker in wanted if asked]
