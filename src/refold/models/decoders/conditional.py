"""The conditional decoder, whose input at each step is the bar before it, true or its own, and the code."""

from typing import Annotated, Literal

from torch import Tensor

from refold.bounds import at_least, checked, within
from refold.models.closed_loop import Feeding, unroll, weights_of
from refold.models.decoders.boundary import State
from refold.models.decoders.decoder import Decoder


class ConditionalDecoder(Decoder):
    """LSTM whose input at step t is bar t - 1 in the order of decoding and the conditioning, and one projection.

    The conditioning (B, C) is z under bridge=latent (its direction, where windows are normalised) and the top layer's
    h under bridge=states.

    Args:
        output_size: F, at least 1.
        conditioning_size: C, at least 1.
        hidden_size: H, at least 1.
        num_layers: L, at least 1.
        dropout: probability of dropping a number between two layers while training, in [0, 1).
        reverse: True decodes from the last present bar to the first.
        start_token: input of step 0, "zeros" or "learned".

    Raises:
        ValueError: a value is out of bounds.
    """

    @checked("decoder")
    def __init__(
        self,
        *,
        output_size: Annotated[int, at_least(1)],
        conditioning_size: Annotated[int, at_least(1)],
        hidden_size: Annotated[int, at_least(1)],
        num_layers: Annotated[int, at_least(1)],
        dropout: Annotated[float, within(0, 1, open_end=True)],
        reverse: bool,
        start_token: Literal["zeros", "learned"],
    ) -> None:
        super().__init__(
            input_size=output_size + conditioning_size,
            output_size=output_size,
            conditioning_size=conditioning_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            dropout=dropout,
            reverse=reverse,
        )
        self.add_start_token(start_token)

    def unroll(
        self, conditioning: Tensor, state: State, window_size: int, truth: Tensor | None, feeding: Feeding
    ) -> Tensor:
        weights = weights_of(self.lstm, self.projection)
        return unroll(weights, self.start_token, conditioning, state, window_size, truth, feeding)
