"""The decoder whose input at each step is the bar before it, true or its own, and beside it the code."""

from typing import Annotated, Literal

from torch import Tensor

from refold.bounds import at_least, checked, within
from refold.models.closed_loop import Feeding, unroll, weights_of
from refold.models.decoders.base import Decoder
from refold.models.decoders.boundary import State


class ConditionalDecoder(Decoder):
    """LSTM whose input at step t is bar t - 1 in the order of decoding beside the conditioning, and one
    linear projection shared by all steps.

    The conditioning (B, Z) is z under bridge=latent (its direction, where windows are normalised) and the top layer's
    h under bridge=states.

    Args: output_size: F. conditioning_size: Z. hidden_size: H. num_layers: L. dropout: probability of dropping a number
        between two layers while training. reverse: decode from the last present bar to the first. start_token: input of
        step 0, zeros or learned.
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
        self.keep_start_token(start_token)

    def unroll(
        self, conditioning: Tensor, state: State, window_size: int, truth: Tensor | None, feeding: Feeding
    ) -> Tensor:
        weights = weights_of(self.lstm, self.projection)
        return unroll(weights, self.start_token, conditioning, state, window_size, truth, feeding)
