"""Experiment trackers on request: the rows of metrics.csv go to them too."""

from ..config import Training
from ..errors import UserError


class TensorBoard:
    def __init__(self, settings: Training):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("--tensorboard needs a package: pip install tensorboard") from None
        self.writer = SummaryWriter(settings.save_root)

    def log(self, row: dict) -> None:
        for name, value in row.items():
            if value is not None and name != "epoch":
                self.writer.add_scalar(name, value, row["epoch"])
        self.writer.flush()


class WeightsAndBiases:
    def __init__(self, settings: Training):
        try:
            import wandb
        except ImportError:
            raise UserError("--wandb needs a package: pip install wandb") from None
        config = settings.as_dict()
        self.run = wandb.init(project="video-cvae", dir=settings.save_root, config=config)

    def log(self, row: dict) -> None:
        self.run.log({k: v for k, v in row.items() if v is not None}, step=row["epoch"])


def open_trackers(settings: Training) -> list:
    wanted = ((settings.tensorboard, TensorBoard), (settings.wandb, WeightsAndBiases))
    return [tracker(settings) for asked, tracker in wanted if asked]
