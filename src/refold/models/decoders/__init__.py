"""Decoders: from a code to a window. One file each; all are called alike."""

from refold.models.decoders.autoregressive import AutoregressiveDecoder
from refold.models.decoders.conditional import ConditionalDecoder
from refold.models.decoders.repeat import RepeatDecoder

__all__ = ["AutoregressiveDecoder", "ConditionalDecoder", "RepeatDecoder"]
