"""One call that builds a whole autoencoder, for use without a configuration."""

from typing import Annotated, Any, Literal

from refold.bounds import at_least, checked, within
from refold.models.autoencoder import Autoencoder
from refold.models.bridge import LatentBridge, StatesBridge
from refold.models.decoders import AutoregressiveDecoder, ConditionalDecoder, RepeatDecoder
from refold.models.decoders.decoder import Decoder
from refold.models.encoder import LSTMEncoder
from refold.models.linear import LinearPath


@checked("build")
def build(
    num_features: Annotated[int, at_least(1)],
    *,
    encoder: Literal["bilstm", "lstm"] | None = None,
    bridge: Literal["latent", "latent_normalized", "latent_pca", "states"] = "latent",
    decoder: Literal["repeat", "autoregressive", "conditional"] = "repeat",
    layers: Annotated[int, at_least(1)] = 1,
    hidden_size: Annotated[int, at_least(1)] = 64,
    latent_dim: Annotated[int, at_least(1)] = 16,
    dropout: Annotated[float, within(0, 1, open_end=True)] = 0.0,
    bridge_dropout: Annotated[float, within(0, 1, open_end=True)] = 0.3,
    reverse: bool = True,
    start_token: Literal["zeros", "learned"] = "zeros",
    window_size: Annotated[int, at_least(1)] | None = None,
    predictor: Literal["none", "repeat", "autoregressive", "conditional"] = "none",
    horizon: Annotated[int, at_least(1)] = 5,
) -> Autoencoder:
    """Build an autoencoder with fresh weights from a few sizes; the sizes that follow from these are worked out.

    Names and defaults are those of the options in `conf/`. Encoder and decoder get the same layers and hidden size;
    an autoencoder whose two sides differ is put together from the classes of `refold.models`.

    Args:
        num_features: F, values in one bar, at least 1.
        encoder: "bilstm" reads windows in both directions, "lstm" from the first bar to the last. None is "bilstm", or
            "lstm" under bridge="states", which needs encoder states of the decoder's size.
        bridge: what leads from the encoder's state to the decoder's. "latent" is a bottleneck; "latent_normalized" is
            one that reads windows in units of their own size; "latent_pca" is one with linear maps beside the LSTMs, to
            be started with `Autoencoder.start_from_components`; "states" hands all states over.
        decoder: kind of decoder, named by what it reads at each step. "repeat": the code. "autoregressive": the bar
            before. "conditional": both.
        layers: L, stacked LSTM layers, at least 1.
        hidden_size: H of each layer and direction, at least 1.
        latent_dim: Z, numbers of the code, at least 1. bridge="states" does not use it: its codes have 2 L H numbers.
        dropout: probability of dropping a number between two layers while training, in [0, 1).
        bridge_dropout: probability of dropping a number of the encoder's state while training, in [0, 1).
            bridge="states" does not use it.
        reverse: True decodes from the last bar to the first.
        start_token: input of the first step of a decoder that reads bars: zeros, or learned.
        window_size: T of the longest windows; bridge="latent_pca" needs it, the others read windows of any length.
        predictor: kind of a second decoder, which predicts the bars after a window from its code; "none": there is
            none. It has the sizes, the dropout and the start token of the first, and runs from the first bar on.
        horizon: P, bars that it predicts, at least 1. predictor="none" does not use it.

    Returns:
        The model, in training mode, on torch's default device.

    Raises:
        ValueError: an argument is out of bounds or does not go with another one. The message names the value and
            what it may be.
    """
    bidirectional = encoder == "bilstm" if encoder else bridge != "states"
    if bridge == "latent_pca" and window_size is None:
        raise ValueError("build.window_size is None; with bridge=latent_pca it must be at least 1, bars in a window")
    shared = {"hidden_size": hidden_size, "num_layers": layers, "dropout": dropout}
    reader = LSTMEncoder(input_size=num_features, bidirectional=bidirectional, **shared)
    sizes = {
        "encoder_num_layers": layers,
        "encoder_state_size": reader.state_size,
        "decoder_num_layers": layers,
        "decoder_hidden_size": hidden_size,
    }
    if bridge == "states":
        joint = StatesBridge(**sizes)
    else:
        joint = LatentBridge(
            latent_dim=latent_dim,
            dropout=bridge_dropout,
            linear_path="pca" if bridge == "latent_pca" else "none",
            normalize_windows=bridge == "latent_normalized",
            **sizes,
        )
    shared |= {"output_size": num_features, "conditioning_size": joint.conditioning_size}
    writer = _decoder(decoder, start_token, reverse=reverse, **shared)
    linear = None
    if bridge == "latent_pca" and window_size is not None:
        linear = LinearPath(window_size=window_size, num_features=num_features, code_size=joint.code_size)
    if predictor == "none":
        return Autoencoder(reader, joint, writer, linear)
    ahead = _decoder(predictor, start_token, reverse=False, **shared)
    return Autoencoder(reader, joint, writer, linear, ahead, horizon)


def _decoder(kind: str, start_token: Literal["zeros", "learned"], **settings: Any) -> Decoder:
    """Build a decoder of a kind, with a start token where it reads bars."""
    if kind == "repeat":
        return RepeatDecoder(**settings)
    fed = AutoregressiveDecoder if kind == "autoregressive" else ConditionalDecoder
    return fed(**settings, start_token=start_token)
