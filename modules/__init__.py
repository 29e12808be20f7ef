"""The published names of the pose lab's nets, imported when they are used: torch is slow to."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .nets.course import (
        Decoder_Fusion,
        Gaussian_Predictor,
        Generator,
        Label_Encoder,
        RGB_Encoder,
    )

__all__ = ["Decoder_Fusion", "Gaussian_Predictor", "Generator", "Label_Encoder", "RGB_Encoder"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .nets import course

    return getattr(course, name)
