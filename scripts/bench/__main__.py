"""Time what is said to be fast against what it replaces, in one process.

    python scripts/bench decoders                              # all sizes, one thread, on the CPU and any CUDA GPU
    python scripts/bench decoders --sizes 64,64,5,64,1 --repeats 9
    python scripts/bench decoders --write docs/benchmarks.md   # put the table between the page's markers
    python scripts/bench masks                                 # windows of different lengths: packed, ours, unmasked
    python scripts/bench data gather memory                    # the data layer against the usual dataset
    python scripts/bench score --threads 2                     # scoring against a loop, and a million bars
    python scripts/bench live push many                        # verdicts on live bars against the model's own pass
    python scripts/bench per_asset                             # a scale and a level for each asset against one for all
    python scripts/bench overnight                             # first bars of sessions: masked, kept, or the end
    python scripts/bench allocator                             # a training step with and without memory kept
    python scripts/bench time_to_quality                       # seconds until a training is good
    python scripts/bench drift                                 # how often the test of drift is wrong, how soon right

`decoders` compares with the usual loop and with a fused LSTM that is fed the truth.

`decoders` and `masks` need torch and refold.models alone. The loop is that of tests/naive.py, to
which the tests hold the decoders.
Letters: B windows, T bars, F features, H hidden size, L layers.
"""

import argparse
import gc
import importlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler, which measures memory, else talks on stderr
import torch
from torch import Tensor, nn
from torch.profiler import profile

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from refold.models import (
    AutoregressiveDecoder,
    ConditionalDecoder,
    Feeding,
    LSTMEncoder,
    RepeatDecoder,
    closed_loop,
    lengths_to_mask,
)
from tests import naive

DECODERS = {"autoregressive": AutoregressiveDecoder, "conditional": ConditionalDecoder, "repeat": RepeatDecoder}
CONDITIONING_SIZE = 16
DRAWS = 4  # of coins for each row, the same for all that is timed
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}  # bf16: autocast, as the trainer's bf16-mixed does it


class Sizes(NamedTuple):
    B: int
    T: int
    F: int
    H: int
    L: int


class Case(NamedTuple):
    """One row: what is decoded, where and how."""

    device: str
    dtype: str
    mode: str  # train: forward and backward; infer: forward without gradient
    decoder: str
    coin: str  # free, or a kind of teacher_forcing.coin
    ratio: float  # probability of feeding the truth
    sizes: Sizes


SIZES = [Sizes(*s) for s in ((64, 64, 5, 64, 1), (1, 64, 5, 64, 1), (16, 128, 5, 32, 1), (64, 256, 5, 64, 1))]
SIZES += [Sizes(*s) for s in ((64, 64, 5, 64, 2), (16, 64, 5, 32, 2))]


def cases(devices: list[str], sizes: list[Sizes]) -> Iterator[Case]:
    """Every row of the table: all coins for the decoder most used, the others and bf16 at the first sizes."""
    for device in devices:
        for each in sizes:
            fed_back = [("free", 0.0), *(("step", r) for r in (0.1, 0.5, 0.9)), ("step", 1.0), ("prefix", 0.5)]
            for coin, ratio in [*fed_back, ("sequence", 0.5), ("sequence_step", 0.5)]:
                yield Case(device, "float32", "train", "autoregressive", coin, ratio, each)
            yield Case(device, "float32", "infer", "autoregressive", "free", 0.0, each)
        for mode in ("train", "infer"):
            yield Case(device, "float32", mode, "conditional", "free", 0.0, sizes[0])
            yield Case(device, "float32", mode, "repeat", "free", 0.0, sizes[0])
            yield Case(device, "bf16", mode, "autoregressive", "free", 0.0, sizes[0])
        for coin, ratio in (("step", 0.5), ("sequence_step", 0.5)):
            yield Case(device, "float32", "train", "conditional", coin, ratio, sizes[0])
            yield Case(device, "bf16", "train", "autoregressive", coin, ratio, sizes[0])


def draw_coins(coin: str, ratio: float, B: int, T: int, seed: int) -> Tensor | None:
    """Coins as training throws them."""
    if coin == "free":
        return None
    if coin == "prefix":
        return torch.arange(T) < round(ratio * T)
    shape = {"step": (T,), "sequence": (B, 1), "sequence_step": (B, T)}[coin]
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < ratio


def contestants(case: Case) -> dict[str, Callable[[int], None]]:
    """Return the functions to time: naive loop, ours, and the fused LSTM fed the truth.

    Each takes the number of a draw of coins.
    """
    (B, T, F, H, L), Z = case.sizes, CONDITIONING_SIZE
    torch.manual_seed(0)
    sizes = {"output_size": F, "conditioning_size": Z, "hidden_size": H, "num_layers": L, "dropout": 0.0}
    extra = {"reverse": False} if case.decoder == "repeat" else {"reverse": False, "start_token": "zeros"}
    decoder = DECODERS[case.decoder](**sizes, **extra).to(case.device)
    make = {"device": case.device, "requires_grad": case.mode == "train"}
    z, h, c = torch.randn(B, Z, **make), torch.randn(L, B, H, **make), torch.randn(L, B, H, **make)
    truth = torch.randn(B, T, F, device=case.device)
    feedings = [Feeding(draw_coins(case.coin, case.ratio, B, T, seed), False, 0) for seed in range(DRAWS)]

    reference = nn.LSTM(F + Z if case.decoder == "conditional" else F, H, L, batch_first=True).to(case.device)
    shifted = torch.cat([torch.zeros_like(truth[:, :1]), truth[:, :-1]], dim=1)

    def fused(draw: int) -> Tensor:
        inputs = shifted if case.decoder != "conditional" else torch.cat([shifted, z[:, None].expand(-1, T, -1)], dim=2)
        return decoder.projection(reference(inputs, (h, c))[0])

    def ours(draw: int) -> Tensor:
        return decoder(z, (h, c), window_size=T, truth=truth, feeding=feedings[draw], mask=None)

    def loop(draw: int) -> Tensor:
        return naive.decode_loop(decoder, z, (h, c), T, truth, feedings[draw])

    leaves = [z, h, c, *decoder.parameters(), *reference.parameters()]
    return {f.__name__: _step(f, case, truth, leaves) for f in (loop, ours, fused)}


def _step(decode: Callable[[int], Tensor], case: Case, truth: Tensor, leaves: list[Tensor]) -> Callable[[int], None]:
    def train(draw: int) -> None:
        for leaf in leaves:
            leaf.grad = None
        with autocast():
            loss = (decode(draw) - truth).square().mean()
        loss.backward()

    def infer(draw: int) -> None:
        with torch.no_grad(), autocast():
            decode(draw)

    def autocast() -> torch.autocast | nullcontext:
        return nullcontext() if case.dtype == "float32" else torch.autocast(case.device, DTYPES[case.dtype])

    return train if case.mode == "train" else infer


def milliseconds(steps: dict[str, Callable[[int], None]], device: str, repeats: int) -> dict[str, list[float]]:
    """Times of one step of each, one for each repeat. In a repeat all take turns, so that they share what disturbs."""

    def once(step: Callable[[int], None], rounds: int) -> float:
        start = time.perf_counter()
        for _ in range(rounds):
            for draw in range(DRAWS):
                step(draw)
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) * 1e3 / (rounds * DRAWS)

    for step in steps.values():
        once(step, 1)  # warm up
    rounds = {name: max(1, round(40 / (DRAWS * once(step, 1)))) for name, step in steps.items()}  # about 40 ms each
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            times[name].append(once(step, rounds[name]))
    return times


def ratio_of(one: list[float], other: list[float]) -> float:
    """Median over repeats of the ratio within a repeat."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def peak_bytes(step: Callable[[int], None], device: str) -> int:
    """Most bytes of tensors alive at once in one step, beyond those that were there before."""
    step(0)
    gc.collect()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(0)
        return torch.cuda.max_memory_allocated() - before
    with profile(profile_memory=True) as record:
        step(0)
    assert record.profiler is not None
    assert record.profiler.kineto_results is not None
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]  # torch's stub leaves it out
        peak = max(peak, alive)
    return peak


def decoders(args: argparse.Namespace) -> str:
    """The table, one row per case, in Markdown; rows are printed as they come."""
    if args.segments_per_step is not None:
        closed_loop.SEGMENTS_PER_STEP = args.segments_per_step
    devices = args.device or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    rows = [
        "| device | dtype | B, T, F, H, L | decoder | coin | ratio | step | loop, ms | fused truth-fed, ms | ours, ms "
        "| loop / ours | ours / fused | memory / loop's |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    print(*rows, sep="\n")
    for case in cases(devices, args.sizes or SIZES):
        steps = contestants(case)
        times = milliseconds(steps, case.device, args.repeats)
        loop, ours, fused = times.values()
        memory = "-"
        if case.mode == "train":
            memory = f"{peak_bytes(steps['ours'], case.device) / peak_bytes(steps['loop'], case.device):.2f}"
        sizes, ratio = ", ".join(map(str, case.sizes)), "-" if case.coin == "free" else f"{case.ratio:g}"
        rows.append(
            f"| {case.device} | {case.dtype} | {sizes} | {case.decoder} | {case.coin} | {ratio} | {case.mode} "
            f"| {' | '.join(f'{statistics.median(times[name]):.2f}' for name in ('loop', 'fused', 'ours'))} "
            f"| {ratio_of(loop, ours):.2f} | {ratio_of(ours, fused):.2f} | {memory} |"
        )
        print(rows[-1], flush=True)
    return "\n".join([*rows, *not_measured(devices, NOT_MEASURED)])


def masks(args: argparse.Namespace) -> str:
    """The encoder's training step on windows of T/2 to T bars, beside torch's packed sequences and beside no mask."""
    devices = args.device or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    rows = [
        "| device | B, T, F, H, L | directions | packed, ms | no mask, ms | ours, ms | packed / ours | ours / no mask |"
    ]
    rows.append("|---|---|---|---|---|---|---|---|")
    print(*rows, sep="\n")
    for device, (B, T, F, H, L), both in product(devices, args.sizes or [SIZES[0], SIZES[4]], (False, True)):
        torch.manual_seed(0)
        sizes = {"input_size": F, "hidden_size": H, "num_layers": L, "dropout": 0.0, "bidirectional": both}
        encoder, windows = LSTMEncoder(**sizes).to(device), torch.randn(B, T, F, device=device)
        lengths = torch.randint(T // 2, T + 1, (B,))
        mask = lengths_to_mask(lengths, T).to(device)

        def train(read: Callable[[], tuple[Tensor, Tensor]], encoder: LSTMEncoder = encoder) -> Callable[[int], None]:
            def step(_: int) -> None:
                encoder.zero_grad()
                torch.cat(read()).sum().backward()

            return step

        def packed(encoder: LSTMEncoder = encoder, windows: Tensor = windows, lengths: Tensor = lengths) -> tuple:
            rows = nn.utils.rnn.pack_padded_sequence(windows, lengths, batch_first=True, enforce_sorted=False)
            return encoder.lstm(rows)[1]

        read = {"packed": packed, "none": partial(encoder, windows, None), "ours": partial(encoder, windows, mask)}
        times = milliseconds({name: train(each) for name, each in read.items()}, device, args.repeats)
        milli = " | ".join(f"{statistics.median(seen):.2f}" for seen in times.values())
        ratios = ratio_of(times["packed"], times["ours"]), ratio_of(times["ours"], times["none"])
        rows.append(
            f"| {device} | {B}, {T}, {F}, {H}, {L} | {1 + both} | {milli} | {ratios[0]:.2f} | {ratios[1]:.2f} |"
        )
        print(rows[-1], flush=True)
    return "\n".join([*rows, *not_measured(devices)])


NOT_MEASURED = (
    "inference other than free",
    "bf16 with the conditional and the repeat decoder",
    "bf16 and these two decoders at other sizes than the first",
    "sequence and prefix at ratios other than 0.5",
)
"""What `cases` leaves out."""


def not_measured(devices: list[str], left_out: tuple[str, ...] = ()) -> list[str]:
    """Name what a table leaves out, so that nobody takes a gap for a figure."""
    missing = [*left_out, *([] if "cuda" in devices else ["CUDA"])]
    return ["", f"Not measured: {'; '.join(missing)}."] if missing else []


def conditions(args: argparse.Namespace) -> str:
    """Where the figures come from, in one paragraph."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    return (
        f"torch {torch.__version__}, Python {platform.python_version()}, {_processor()}, "
        f"{args.threads} thread{'s' if args.threads > 1 else ''}{gpu}. Medians of {args.repeats} interleaved "
        "repeats; a ratio is the median of the ratios within a repeat. "
        f"Command: `python scripts/bench {args.table} --threads {args.threads} --repeats {args.repeats}`."
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # Linux alone has it
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write(page: Path, table: str, text: str) -> None:
    """Replace what stands between a page's markers `<!-- table: begin -->` and `<!-- table: end -->`."""
    begin, end = f"<!-- {table}: begin -->", f"<!-- {table}: end -->"
    before, rest = page.read_text().split(begin)
    _, after = rest.split(end)
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = parser.add_subparsers(dest="table", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--sizes", action="append", type=sizes_of, metavar="B,T,F,H,L", help="may be given repeatedly")
    common.add_argument("--device", action="append", choices=["cpu", "cuda"], help="default: all there are")
    common.add_argument("--threads", type=int, default=1, help="of the CPU")
    common.add_argument("--repeats", type=int, default=7, help="interleaved repeats, at least 5 for figures to be kept")
    common.add_argument("--write", type=Path, metavar="PAGE", help="put the table between this page's markers")
    table = tables.add_parser("decoders", help="decoder x coin x sizes x device x dtype", parents=[common])
    table.set_defaults(run=decoders)
    table.add_argument("--segments-per-step", type=float, help="0: shared coins always step, 1: always in segments")
    table = tables.add_parser("masks", help="encoder of windows of different lengths", parents=[common])
    table.set_defaults(run=masks)
    table = tables.add_parser("data", help="gather, memory, building and mapped series; needs all of refold")
    table.add_argument("names", nargs="*", help="gather, memory, build, mapped, check; all, if none is named")
    table = tables.add_parser("score", help="windows per second in scoring, and a million bars; needs all of refold")
    table.add_argument("names", nargs="*", help="speed, batches, million; all, if none is named")
    table.add_argument("--threads", type=int, default=1, help="of the CPU")
    table.add_argument("--write", type=Path, metavar="PAGE", help="put the tables between this page's markers")
    table = tables.add_parser("live", help="verdicts on live bars against the model's own pass; needs all of refold")
    table.add_argument("names", nargs="*", help="push, many, memory, start, watch; all, if none is named")
    table.add_argument("--write", type=Path, metavar="PAGE", help="put the tables between this page's markers")
    table = tables.add_parser("per_asset", help="what is found in a calm asset, and who is flagged; trains models")
    table.add_argument(
        "--data", dest="sets", nargs="*", default=[], help="mixture, stocks, panel; all, if none is named"
    )
    table.add_argument(
        "--scale", dest="scales", nargs="*", default=[], help="pooled, per_asset, trailing; all, if none is named"
    )
    table.add_argument("--seeds", type=int, default=5, help="models of each kind")
    table.add_argument("--epochs", type=int, default=10, help="of each training")
    table.add_argument("--log", type=Path, help="file that gets a line of JSON for each model and threshold")
    table.add_argument("--write", type=Path, metavar="PAGE", help="put the table between this page's markers")
    table = tables.add_parser("overnight", help="what becomes of the first bar of a session; trains models")
    table.add_argument(
        "--scale", dest="scales", nargs="*", default=[], help="pooled, per_asset, trailing; all, if none is named"
    )
    table.add_argument("--seeds", type=int, default=3, help="models of each kind")
    table.add_argument("--epochs", type=int, default=8, help="of each training")
    table.add_argument("--write", type=Path, metavar="PAGE", help="put the table between this page's markers")
    table = tables.add_parser("drift", help="false and true alarms of the test of drift; needs all of refold")
    table.add_argument("--seeds", type=int, default=5, help="sets of bars of each kind")
    table.add_argument("--write", type=Path, metavar="PAGE", help="put the tables between this page's markers")
    table = tables.add_parser("walk_forward", help="whether budgets of alarms are kept, year after year; trains models")
    table.add_argument("--seeds", type=int, default=5, help="models of each year")
    table.add_argument("--epochs", type=int, default=10, help="of each training")
    table.add_argument("--write", type=Path, metavar="PAGE", help="put the table between this page's markers")
    table = tables.add_parser("composite", help="a second decoder that predicts, beside plain forecasts; trains models")
    table.add_argument("benches", nargs="*", help="learn, planted; both, if none is named")
    table.add_argument("--seeds", type=int, default=5, help="models of each kind")
    table.add_argument("--epochs", type=int, default=8, help="of each training")
    table.add_argument("--stride", type=int, default=4, help="bars between the starts of neighbouring windows")
    table.add_argument("--log", type=Path, help="file that gets a line of JSON for each model, to go on from")
    table.add_argument("--write", type=Path, metavar="PAGE", help="put the tables between this page's markers")
    table = tables.add_parser("time_to_quality", help="seconds until a training is good; trains models")
    table.add_argument("--seeds", type=int, default=5, help="trainings of each row")
    table.add_argument("--threads", type=int, default=1, help="of torch")
    table.add_argument("--write", type=Path, metavar="PAGE", help="put the table between this page's markers")
    table = tables.add_parser("allocator", help="a training step with and without memory kept; needs all of refold")
    table.add_argument("--repeats", type=int, default=7, help="turns of each")
    table.add_argument("--write", type=Path, metavar="PAGE", help="put the table between this page's markers")
    args = parser.parse_args()
    if args.table == "composite":
        from scripts.bench import composite

        text = composite.report(args.benches, args.seeds, args.epochs, args.stride, args.log)
        print(text)
        if args.write:
            write(args.write, args.table, text)
        return
    if args.table not in ("decoders", "masks"):  # a module beside this file; it imports what the decoders do without
        bench = importlib.import_module(f"scripts.bench.{args.table}")
        text = bench.report(**{name: value for name, value in vars(args).items() if name not in ("table", "write")})
        print(text)
        if vars(args).get("write"):
            write(args.write, args.table, text)
        return
    if args.write and args.repeats < 5:
        parser.error(f"--repeats is {args.repeats}; it must be at least 5 with --write: figures to be kept are medians")
    torch.set_num_threads(args.threads)
    text = f"{conditions(args)}\n\n{args.run(args)}"
    if args.write:
        write(args.write, args.table, text)


def sizes_of(text: str) -> Sizes:
    """Sizes from "64,64,5,64,1"."""
    return Sizes(*map(int, text.split(",")))


if __name__ == "__main__":
    main()
