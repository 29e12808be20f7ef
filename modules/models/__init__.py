"""The models of both labs: load one from a checkpoint, roll it out, sample futures."""

from .loading import load_model
from .pose import VAE_Model
from .robot import RecurrentVAE
from .rollout import roll_out, sample_futures

__all__ = ["RecurrentVAE", "VAE_Model", "load_model", "roll_out", "sample_futures"]
