"""Bridges: they turn the encoder's final state into a code, and a code into the decoder's first state.

Letters as in `refold.models`. A state is a pair (h, c), each (L, B, H).
"""

from abc import ABC, abstractmethod
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from refold.bounds import at_least, checked, within
from refold.models.fused import State


def _to_vector(state: State) -> Tensor:
    """Flatten a state to one vector per window: (h, c), each (L, B, H) -> (B, 2 L H), h of all layers first."""
    return torch.cat(state).transpose(0, 1).flatten(1)


def _to_state(vector: Tensor, num_layers: int) -> State:
    """Undo `_to_vector`: (B, 2 L H) -> (h, c), each (L, B, H)."""
    layers = vector.unflatten(1, (2 * num_layers, -1)).transpose(0, 1)  # (B, 2 L H) -> (2 L, B, H)
    return layers[:num_layers].contiguous(), layers[num_layers:].contiguous()


def check_code(code: Tensor, code_size: int, key: str) -> None:
    """Refuse a tensor that is no code.

    Args:
        code: to be (B, Z), floating point.
        code_size: Z.
        key: the config key, or the product of keys, that gives Z; for the message.

    Raises:
        ValueError: the tensor has another shape or type.
    """
    if code.ndim != 2 or code.shape[1] != code_size:
        raise ValueError(f"code is {tuple(code.shape)}; it must be (B, {code_size}), its width given by {key}")
    if not code.is_floating_point():
        raise ValueError(f"code is {code.dtype}; it must be a floating-point tensor as the encoder gives it")


class Bridge(nn.Module, ABC):
    """Base class of bridges: turn the encoder's state into a code, and a code into a decoder's first state.

    A subclass sets `code_size` (Z) and `conditioning_size` (C, numbers of the conditioning that decoders get).
    """

    code_size: int
    conditioning_size: int
    normalize_windows = False
    """True: the autoencoder divides windows by their size before it encodes them."""
    with_linear_path = False
    """True: the autoencoder needs a `LinearPath` beside this bridge."""

    @abstractmethod
    def encode(self, state: State) -> Tensor:
        """Turn the encoder's state into a code.

        Args:
            state: (h, c), each (L, B, state size of the encoder).

        Returns:
            Code (B, Z).
        """

    @abstractmethod
    def decode(self, code: Tensor) -> tuple[Tensor, State]:
        """Turn a code into a decoder's first state.

        Args:
            code: (B, Z), floating point.

        Returns:
            Conditioning (B, C), and the decoder's first (h, c), each (L, B, H).

        Raises:
            ValueError: the code is not (B, Z) or not floating point.
        """


class LatentBridge(Bridge):
    """A bottleneck: one linear map from the encoder's state to z (B, Z), and one from z to the decoder's first state.

    The layers and sizes of encoder and decoder may differ. Decoders are conditioned on z.

    Args:
        latent_dim: Z, at least 1.
        dropout: probability of dropping a number of the encoder's state while training, in [0, 1).
        linear_path: "pca" asks for a `LinearPath` beside this bridge that starts from principal components; "none" for
            none.
        normalize_windows: True has the autoencoder read windows in units of their own size, which becomes the length
            of the code. It excludes linear_path="pca" and needs latent_dim of at least 2.
        encoder_num_layers: L of the encoder.
        encoder_state_size: H of the encoder, or 2 H if it is bidirectional.
        decoder_num_layers: L of the decoder.
        decoder_hidden_size: H of the decoder.

    Raises:
        ValueError: a value is out of bounds, or normalize_windows is True with one that it excludes.
    """

    @checked("bridge")
    def __init__(
        self,
        *,
        latent_dim: Annotated[int, at_least(1)],
        dropout: Annotated[float, within(0, 1, open_end=True)],
        linear_path: Literal["none", "pca"],
        normalize_windows: bool,
        encoder_num_layers: Annotated[int, at_least(1)],
        encoder_state_size: Annotated[int, at_least(1)],
        decoder_num_layers: Annotated[int, at_least(1)],
        decoder_hidden_size: Annotated[int, at_least(1)],
    ) -> None:
        super().__init__()
        if normalize_windows and linear_path != "none":
            raise ValueError(
                f"bridge.linear_path is {linear_path}; with bridge.normalize_windows=true it must be none; "
                "bridge=latent_pca starts from principal components, of windows as they are"
            )
        if normalize_windows and latent_dim == 1:
            raise ValueError(
                "bridge.latent_dim is 1; with bridge.normalize_windows=true it must be at least 2: the code's length "
                "says the window's size, its direction the shape"
            )
        self.code_size = self.conditioning_size = latent_dim
        self.normalize_windows = normalize_windows
        self.with_linear_path = linear_path == "pca"
        self.decoder_num_layers = decoder_num_layers
        self.dropout = nn.Dropout(dropout)
        self.to_code = nn.Linear(2 * encoder_num_layers * encoder_state_size, latent_dim)
        self.to_state = nn.Linear(latent_dim, 2 * decoder_num_layers * decoder_hidden_size)

    def encode(self, state: State) -> Tensor:
        return self.to_code(self.dropout(_to_vector(state)))

    def decode(self, code: Tensor) -> tuple[Tensor, State]:
        check_code(code, self.code_size, "bridge.latent_dim")
        return code, _to_state(self.to_state(code), self.decoder_num_layers)


class StatesBridge(Bridge):
    """Start the decoder from the encoder's (h, c) of every layer as they are; the code is all of them, Z = 2 L H.

    Decoders are conditioned on the top layer's h, C = H. There is no bottleneck, and nothing to learn.

    Args:
        encoder_num_layers: L of the encoder.
        encoder_state_size: H of the encoder, or 2 H if it is bidirectional.
        decoder_num_layers: L of the decoder, equal to the encoder's.
        decoder_hidden_size: H of the decoder, equal to the size of the encoder's state.

    Raises:
        ValueError: encoder and decoder differ in layers or in the size of a state.
    """

    @checked("bridge")
    def __init__(
        self,
        *,
        encoder_num_layers: Annotated[int, at_least(1)],
        encoder_state_size: Annotated[int, at_least(1)],
        decoder_num_layers: Annotated[int, at_least(1)],
        decoder_hidden_size: Annotated[int, at_least(1)],
    ) -> None:
        super().__init__()
        if encoder_num_layers != decoder_num_layers:
            raise ValueError(
                f"decoder.num_layers is {decoder_num_layers}; under bridge=states it must be equal to "
                f"encoder.num_layers = {encoder_num_layers}: set decoder.num_layers={encoder_num_layers}, "
                "or bridge=latent, which joins any two"
            )
        if encoder_state_size != decoder_hidden_size:
            raise ValueError(
                f"decoder.hidden_size is {decoder_hidden_size}; under bridge=states it must be equal to the size of an "
                f"encoder state = {encoder_state_size} (encoder.hidden_size, twice that if encoder.bidirectional): set "
                f"decoder.hidden_size={encoder_state_size}, or bridge=latent, which joins any two"
            )
        self.num_layers = decoder_num_layers
        self.code_size = 2 * decoder_num_layers * decoder_hidden_size
        self.conditioning_size = decoder_hidden_size

    def encode(self, state: State) -> Tensor:
        return _to_vector(state)

    def decode(self, code: Tensor) -> tuple[Tensor, State]:
        check_code(code, self.code_size, "2 * decoder.num_layers * decoder.hidden_size")
        state = _to_state(code, self.num_layers)
        return state[0][-1], state  # the top layer's h, (L, B, H) -> (B, H)
