"""The published names of the pose lab's nets."""

from .nets.course import Decoder_Fusion, Gaussian_Predictor, Generator, Label_Encoder, RGB_Encoder

__all__ = ["Decoder_Fusion", "Gaussian_Predictor", "Generator", "Label_Encoder", "RGB_Encoder"]
