"""The slow plain twins: what the models compute, one window and one step at a time. The fast paths are held to this.

Legend: B windows, T bars, F features, H hidden size, Z conditioning size, L layers.
"""

import torch
from torch import Tensor, nn

from refold.models import AutoregressiveDecoder, Feeding, RepeatDecoder

State = tuple[Tensor, Tensor]
FREE = Feeding(coins=None, detach_feedback=False, parallel_passes=0)


def encode(lstm: nn.LSTM, windows: Tensor, mask: Tensor) -> State:
    """State (h, c), each (L, B, H or 2 H), of each window's present bars, read alone."""
    states = [lstm(window[present].unsqueeze(0))[1] for window, present in zip(windows, mask, strict=True)]
    h, c = (torch.cat(part, dim=1) for part in zip(*states, strict=True))
    if lstm.bidirectional:  # nn.LSTM stacks forward and backward of layer 0, then of layer 1, ...
        h, c = (torch.stack([torch.cat([s[n], s[n + 1]], dim=1) for n in range(0, len(s), 2)]) for s in (h, c))
    return h, c


def decode_loop(
    decoder: nn.Module,
    conditioning: Tensor,
    state: State,
    window_size: int,
    truth: Tensor | None = None,
    feeding: Feeding = FREE,
) -> Tensor:
    """The usual loop, in order of decoding: per step one nn.LSTM call of length 1 and one projection -> (B, T, F)."""
    B, with_feedback = conditioning.shape[0], not isinstance(decoder, RepeatDecoder)
    with_conditioning = not isinstance(decoder, AutoregressiveDecoder)
    coins = None if feeding.coins is None else feeding.coins.expand(B, window_size).to(conditioning.device).unsqueeze(2)
    outputs: list[Tensor] = []
    for t in range(window_size):
        parts = []
        if with_feedback and t == 0:
            parts.append(decoder.start_token.expand(B, -1))
        elif with_feedback:
            own = outputs[-1].detach() if feeding.detach_feedback else outputs[-1]
            fed = own if coins is None else torch.where(coins[:, t], truth[:, t - 1], own)
            if feeding.dropped is not None:
                fed = torch.stack([row * 0.0 if feeding.dropped[b, t] else row for b, row in enumerate(fed)])
            parts.append(fed)
        if with_conditioning:
            parts.append(conditioning)
        hidden, state = decoder.lstm(torch.cat(parts, dim=1).unsqueeze(1), state)
        outputs.append(decoder.projection(hidden.squeeze(1)))
    return torch.stack(outputs, dim=1)  # T x (B, F) -> (B, T, F)


def decode(
    decoder: nn.Module,
    conditioning: Tensor,
    state: State,
    window_size: int,
    truth: Tensor | None = None,
    feeding: Feeding = FREE,
    mask: Tensor | None = None,
) -> Tensor:
    """Each window alone, as the window of its present bars; zeros at absent bars -> (B, T, F), in order of time."""
    coins = None if feeding.coins is None else feeding.coins.expand(conditioning.shape[0], window_size)
    windows = []
    for b in range(conditioning.shape[0]):
        bars = torch.arange(window_size) if mask is None else mask[b].nonzero().squeeze(1)
        if decoder.reverse:
            bars = bars.flip(0)
        alone = feeding._replace(
            coins=None if coins is None else coins[b : b + 1, : len(bars)],
            dropped=None if feeding.dropped is None else feeding.dropped[b : b + 1, : len(bars)],
        )
        own_truth = None if truth is None else truth[b : b + 1, bars]
        own_state = tuple(part[:, b : b + 1] for part in state)
        outputs = decode_loop(decoder, conditioning[b : b + 1], own_state, len(bars), own_truth, alone)
        windows.append(outputs.new_zeros(window_size, outputs.shape[2]).index_copy(0, bars, outputs[0]))
    return torch.stack(windows)


def normalized(model: nn.Module, windows: Tensor, mask: Tensor, feeding: Feeding = FREE) -> tuple[Tensor, Tensor]:
    """A model that normalises windows, bar by bar: codes (B, Z), and reconstructions (B, T, F), 0 at absent bars."""
    sizes = []
    for window, present in zip(windows, mask, strict=True):
        bars = window[present]
        sizes.append((bars.square().sum() / bars.numel()).sqrt())
    size = torch.stack(sizes)[:, None]
    direction = model.bridge.encode(encode(model.encoder.lstm, windows / size.unsqueeze(2), mask))
    code = size * direction / (direction.square().sum(dim=1, keepdim=True) / model.code_size).sqrt()
    length = (code.square().sum(dim=1, keepdim=True) / model.code_size).sqrt()
    conditioning, state = model.bridge.decode(code / length)
    fed = windows / length.detach().unsqueeze(2)  # the truth that is fed, as data
    decoded = decode(model.decoder, conditioning, state, windows.shape[1], fed, feeding, mask)
    return code, length.unsqueeze(2) * decoded * mask.unsqueeze(2)


def autoencode(model: nn.Module, windows: Tensor, mask: Tensor, feeding: Feeding = FREE) -> tuple[Tensor, Tensor]:
    """A model with a linear path, bar by bar: codes (B, Z), and reconstructions (B, T, F), 0 at absent bars."""
    B, T, F = windows.shape
    line = model.linear
    places = range(line.window_size - T, line.window_size)  # of a shorter window's bars in a whole one
    bars = [slice(t * F, (t + 1) * F) for t in places]
    codes, straight = list(model.bridge.encode(encode(model.encoder.lstm, windows, mask)).unbind()), []
    for b in range(B):
        codes[b] = codes[b] + line.to_code.bias
        for t in mask[b].nonzero().flatten().tolist():
            codes[b] = codes[b] + line.to_code.weight[:, bars[t]] @ windows[b, t]
        straight.append(torch.stack([line.to_window.weight[bar] @ codes[b] + line.to_window.bias[bar] for bar in bars]))
    code, straight = torch.stack(codes), torch.stack(straight)
    rest = (windows - straight).detach()  # the truth that is fed: what the path leaves of it, as data
    conditioning, state = model.bridge.decode(code)
    decoded = decode(model.decoder, conditioning, state, T, rest, feeding, mask)
    return code, (straight + decoded) * mask.unsqueeze(2)


def composite(
    model: nn.Module, windows: Tensor, mask: Tensor, ahead: Tensor, ahead_mask: Tensor, feeding: Feeding = FREE
) -> tuple[Tensor, Tensor]:
    """A model with a predictor, bar by bar: reconstruction (B, T, F) and the bars after (B, P, F), 0 at absent bars.

    The reconstruction runs free, the coins are those of the prediction.
    """
    size = windows.new_ones(len(windows), 1)
    if model.normalize_windows:
        size = torch.stack(
            [window[present].square().mean().sqrt() for window, present in zip(windows, mask, strict=True)]
        )[:, None]
    code = model.bridge.encode(encode(model.encoder.lstm, windows / size.unsqueeze(2), mask))
    if model.normalize_windows:
        code = code / code.square().mean(dim=1, keepdim=True).sqrt()
    outputs = []
    for decoder, bars, there, coins in (
        (model.decoder, windows, mask, FREE),
        (model.predictor, ahead, ahead_mask, feeding),
    ):
        conditioning, state = model.bridge.decode(code)
        fed = bars / size.detach().unsqueeze(2)
        made = decode(decoder, conditioning, state, bars.shape[1], fed, coins, there)
        outputs.append(size.unsqueeze(2) * made * there.unsqueeze(2))
    return outputs[0], outputs[1]


# The three models that this project grew from and the fourth that was described in words, written out as their authors
# would: no class of refold, one step after the other. Weights are copied in from a refold model, by name.


class KerasStates(nn.Module):
    """Encoder LSTM with returned states; decoder LSTM started from them and fed the true sequence; one Dense.

    In Keras' own terms: kernel (F, 4 H), recurrent_kernel (H, 4 H), bias (4 H,), gates in the order i, f, c, o.
    """

    def __init__(self, F: int, H: int) -> None:
        super().__init__()
        for side in ("encoder", "decoder"):
            self.register_parameter(f"{side}_kernel", nn.Parameter(torch.empty(F, 4 * H)))
            self.register_parameter(f"{side}_recurrent_kernel", nn.Parameter(torch.empty(H, 4 * H)))
            self.register_parameter(f"{side}_bias", nn.Parameter(torch.empty(4 * H)))
        self.dense_kernel, self.dense_bias = nn.Parameter(torch.empty(H, F)), nn.Parameter(torch.empty(F))
        self.units = H

    def cell(self, side: str, x: Tensor, h: Tensor, c: Tensor) -> State:
        kernel, recurrent, bias = (getattr(self, f"{side}_{name}") for name in ("kernel", "recurrent_kernel", "bias"))
        i, f, candidate, o = (x @ kernel + h @ recurrent + bias).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(candidate)
        return torch.sigmoid(o) * torch.tanh(c), c

    def forward(self, encoder_inputs: Tensor, decoder_inputs: Tensor) -> Tensor:
        """Both (B, T, F); decoder_inputs are the targets one step later, after a start token. Returns (B, T, F)."""
        h = c = encoder_inputs.new_zeros(len(encoder_inputs), self.units)
        for t in range(encoder_inputs.shape[1]):
            h, c = self.cell("encoder", encoder_inputs[:, t], h, c)
        outputs = []
        for t in range(decoder_inputs.shape[1]):
            h, c = self.cell("decoder", decoder_inputs[:, t], h, c)
            outputs.append(h @ self.dense_kernel + self.dense_bias)
        return torch.stack(outputs, dim=1)


class StepwiseSeq2Seq(nn.Module):
    """Encoder states reused, a start token of zeros, then at each step the model's own output or the truth; one Linear.

    States are (L, B, H) from nn.LSTM and go into nn.LSTM as they are: an unsqueeze would make them 4-D. Data is
    batch-first on both sides. With `latent_size` the previous output stands beside a latent vector at each step, and
    that vector, not the encoder's state, starts the decoder.
    """

    def __init__(self, F: int, H: int, L: int, latent_size: int = 0) -> None:
        super().__init__()
        self.encoder = nn.LSTM(F, H, L, batch_first=True)
        self.decoder = nn.LSTM(F + latent_size, H, L, batch_first=True)
        self.linear = nn.Linear(H, F)
        if latent_size:
            self.to_latent = nn.Linear(2 * L * H, latent_size)
            self.from_latent = nn.Linear(latent_size, 2 * L * H)

    def forward(self, x: Tensor, use_truth: list[bool]) -> Tensor:
        """x: (B, T, F). use_truth: T coins; the first is not looked at. Returns (B, T, F)."""
        B, T, F = x.shape
        _, (h, c) = self.encoder(x)
        latent = None
        if hasattr(self, "to_latent"):
            L, _, H = h.shape
            per_window = torch.stack([torch.cat([h[:, b].flatten(), c[:, b].flatten()]) for b in range(B)])
            latent = self.to_latent(per_window)
            state = self.from_latent(latent)
            h = torch.stack([state[:, n * H : (n + 1) * H] for n in range(L)])
            c = torch.stack([state[:, (L + n) * H : (L + n + 1) * H] for n in range(L)])
        step, outputs = x.new_zeros(B, 1, F), []
        for t in range(T):
            if t > 0:
                step = x[:, t - 1 : t] if use_truth[t] else outputs[-1]
            inputs = step if latent is None else torch.cat([step, latent.unsqueeze(1)], dim=2)
            hidden, (h, c) = self.decoder(inputs, (h, c))
            outputs.append(self.linear(hidden))
        return torch.cat(outputs, dim=1)


def cloze(model: nn.Module, windows: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and log scale of each present bar, from the bars before it and those after it, each side read anew."""
    B, T, F = windows.shape
    mean, log_scale = windows.new_zeros(B, T, F), windows.new_zeros(B, T, F)
    for b in range(B):
        bars = torch.arange(T) if mask is None else mask[b].nonzero().squeeze(1)
        own = windows[b, bars]
        for n, t in enumerate(bars.tolist()):
            states = []
            for lstm, side in (
                (model.before, own[: max(0, n - model.margin)]),
                (model.after, own[n + 1 + model.margin :].flip(0)),
            ):
                h = windows.new_zeros(lstm.hidden_size) if not len(side) else lstm(side.unsqueeze(0))[0][0, -1]
                states.append(h)
            mean[b, t], log_scale[b, t] = model.read_out(torch.cat(states)).chunk(2)
    return mean, log_scale
