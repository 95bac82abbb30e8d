"""The model: an encoder, a bridge, a decoder, and the autoencoder that joins them; and the cloze beside it.

This package imports torch, `refold.bounds` and `refold.errors` alone, so it works in any training loop.

One letter has one meaning in all of Refold: B windows in a batch, T bars in a window, F features of a bar, H hidden
size, Z numbers of a code, L layers, P bars after a window that are predicted. In this package C is the size of a
decoder's conditioning: Z, or H under bridge=states.
"""

from refold.models.assemble import build
from refold.models.autoencoder import Autoencoder
from refold.models.bridge import Bridge, LatentBridge, StatesBridge
from refold.models.closed_loop import Feeding
from refold.models.cloze import Cloze
from refold.models.decoders import AutoregressiveDecoder, ConditionalDecoder, RepeatDecoder
from refold.models.encoder import LSTMEncoder
from refold.models.linear import LinearPath
from refold.models.masks import lengths_to_mask

__all__ = [
    "Autoencoder",
    "AutoregressiveDecoder",
    "Bridge",
    "Cloze",
    "ConditionalDecoder",
    "Feeding",
    "LSTMEncoder",
    "LatentBridge",
    "LinearPath",
    "RepeatDecoder",
    "StatesBridge",
    "build",
    "lengths_to_mask",
]
