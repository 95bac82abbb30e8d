"""The repeat decoder, whose input at each step is the code."""

from typing import Annotated

from torch import Tensor

from refold.bounds import at_least, checked, within
from refold.models.closed_loop import Feeding
from refold.models.decoders.boundary import State
from refold.models.decoders.decoder import Decoder


class RepeatDecoder(Decoder):
    """LSTM whose input is the same conditioning at each step, and one linear projection shared by all steps.

    Known as RepeatVector or the unconditional decoder (Srivastava et al. 2015). It is never fed the truth, so teacher
    forcing changes nothing.

    Args:
        output_size: F, at least 1.
        conditioning_size: C, at least 1.
        hidden_size: H, at least 1.
        num_layers: L, at least 1.
        dropout: probability of dropping a number between two layers while training, in [0, 1).
        reverse: True decodes from the last present bar to the first.

    Raises:
        ValueError: a value is out of bounds.
    """

    fed_bars = False

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
    ) -> None:
        super().__init__(
            input_size=conditioning_size,
            output_size=output_size,
            conditioning_size=conditioning_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            dropout=dropout,
            reverse=reverse,
        )

    def unroll(
        self, conditioning: Tensor, state: State, window_size: int, truth: Tensor | None, feeding: Feeding
    ) -> Tensor:
        repeated = conditioning.unsqueeze(1).expand(-1, window_size, -1)  # (B, C) -> (B, T, C)
        hidden, _ = self.lstm(repeated, state)
        return self.projection(hidden)
