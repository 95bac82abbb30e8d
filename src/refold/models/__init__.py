"""The model: encoder, bridge, decoders and the autoencoder that joins them. Imports torch and `refold.bounds` alone."""

from refold.models.autoencoder import Autoencoder
from refold.models.bridge import LatentBridge, StatesBridge
from refold.models.closed_loop import Feeding
from refold.models.decoders import AutoregressiveDecoder, ConditionalDecoder, RepeatDecoder
from refold.models.encoder import LSTMEncoder
from refold.models.linear import LinearPath
from refold.models.masks import lengths_to_mask

__all__ = [
    "Autoencoder",
    "AutoregressiveDecoder",
    "ConditionalDecoder",
    "Feeding",
    "LSTMEncoder",
    "LatentBridge",
    "LinearPath",
    "RepeatDecoder",
    "StatesBridge",
    "lengths_to_mask",
]
