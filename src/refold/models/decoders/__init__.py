"""Decoders: from a code to a window. Each has a file of its own, and all take the same arguments."""

from refold.models.decoders.autoregressive import AutoregressiveDecoder
from refold.models.decoders.conditional import ConditionalDecoder
from refold.models.decoders.repeat import RepeatDecoder

__all__ = ["AutoregressiveDecoder", "ConditionalDecoder", "RepeatDecoder"]
