"""The models of both labs: load one from a checkpoint, roll it out."""

from .loading import load_model
from .pose import VAE_Model
from .robot import RecurrentVAE
from .rollout import roll_out

__all__ = ["RecurrentVAE", "VAE_Model", "load_model", "roll_out"]
