"""Scores, levels and verdicts of bars that are ready for the model.

Letters: N bars, P of them present, T bars in a window, F features, V values that a score measures.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from refold.data.unscored import REASONS
from refold.live.arrivals import NAMES
from refold.live.clock import Clock
from refold.live.past import Past
from refold.live.peers import Peers
from refold.live.steps import CODE, Round
from refold.live.traits import Traits
from refold.live.verdict import Verdict
from refold.models.portable import frozen
from refold.scoring.events import CONTEXT, OTHER, blame, likely_kinds
from refold.scoring.rarity import POOL
from refold.scoring.rules import nothing_fires
from refold.scoring.tails import tail_levels
from refold.scoring.thresholds import StreamingPeaks, Threshold

UNKNOWN = "the run was not trained on this asset; what all its assets have in common judges it"


_TOLD = ("score", "level", "flagged", "rarity", "expected", "expected_close")
"""Fields that a verdict takes from `Judged` as they are."""


class Judged(NamedTuple):
    """Hold the scores and levels of the N bars of some rounds, NaN where there is none."""

    score: np.ndarray
    contributions: np.ndarray
    expected: np.ndarray
    expected_close: np.ndarray
    level: np.ndarray
    flagged: np.ndarray
    rarity: np.ndarray


class Judging:
    """Put windows through the model, and judge their last bars.

    Args:
        past: of the assets.
        peers: what all assets did.
        traits: what the run says of the assets.
        clock: of the times.
    """

    def __init__(self, past: Past, peers: Peers, traits: Traits, clock: Clock) -> None:
        self.past, self.peers, self.traits, self.clock = past, peers, traits, clock
        self.detector = traits.detector
        self.score = self.detector.score_function
        self.learns = learns(self.detector.threshold)
        self.features = self.detector.features
        self.relative = "window_log_price" in self.features
        self.place = {name: number for number, name in enumerate(past.columns)}
        self.frozen = frozen(self.detector.autoencoder)

    def judge(self, rounds: Sequence[Round]) -> Judged:
        """Judge the bars of rounds that follow each other, and record what is said of them."""
        sizes = [len(one.places) for one in rounds]
        join = _joined if len(rounds) > 1 else lambda parts: parts[0]
        places, present, row = (join([getattr(one, name) for one in rounds]) for name in ("places", "present", "row"))
        N, F = len(places), len(self.features)
        expected = np.full((N, F), np.nan)
        there = np.flatnonzero(present)
        V = F if self.score.names_features else 1
        values = np.full((N, V), np.nan, dtype=np.float32)
        if len(there):
            measured, made = self._measure(rounds, join)
            values[there] = measured
            scale = (join([getattr(one, name) for one in rounds])[there] for name in ("mean", "std"))
            mean, std = scale
            if self.relative:
                made = self._to_levels(rounds, join, made, std)
            expected[there] = (made.astype(np.float64) * std + mean).astype(np.float32)
            self.past.put("measured", places[there], row[there], measured)
        contributions = self._contributions(places, row, present, values)
        score = contributions.sum(axis=1)
        level = self._levels(places, score, sizes, join([one.bar for one in rounds]))
        with np.errstate(invalid="ignore"):
            flagged = score > level
        close = self._closes(expected, join([one.last_close for one in rounds]))
        judged = Judged(score, contributions, expected, close, level, flagged, self._rarity(places, score))
        self._record(rounds, join, judged)
        return judged

    # ---- the model ---------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _measure(self, rounds: Sequence[Round], join) -> tuple[np.ndarray, np.ndarray]:
        """Return the values (P, V) and the scaled reconstructions (P, F) of the last bars of windows."""
        windows, mask, ends = (join([getattr(one, name) for one in rounds]) for name in ("windows", "mask", "ends"))
        if mask.all():
            return self._run(windows, None, ends)
        whole = mask.all(axis=1)
        values, made = (np.empty((len(ends), width), np.float32) for width in (self._width, len(self.features)))
        for chosen, masks in ((whole, None), (~whole, mask)):
            if chosen.any():
                own = None if masks is None else masks[chosen]
                values[chosen], made[chosen] = self._run(windows[chosen], own, ends[chosen])
        return values, made

    @property
    def _width(self) -> int:
        return len(self.features) if self.score.names_features else 1

    def _run(self, windows: np.ndarray, mask: np.ndarray | None, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        model, parts = self.frozen if mask is None else self.detector.autoencoder, []
        for start in range(0, len(windows), self.detector.batch):
            part = slice(start, start + self.detector.batch)
            truth = torch.from_numpy(windows[part])
            own = None if mask is None else torch.from_numpy(mask[part])
            codes = model.encode(truth, own)
            made = model.decode(codes, truth.shape[1], mask=own)
            measured = self.score.measure(truth, made, codes, own)
            number, last = np.arange(len(truth)), ends[part]
            parts.append((measured.numpy()[number, last], made.numpy()[number, last]))
        if len(parts) == 1:
            return parts[0]
        return _joined([values for values, _ in parts]), _joined([made for _, made in parts])

    def _to_levels(self, rounds: Sequence[Round], join, made: np.ndarray, std: np.ndarray) -> np.ndarray:
        """Turn what is relative to a window's first bar back to levels."""
        closes = join([one.first_close for one in rounds]).astype(np.float64)
        made = made.copy()
        for column in [n for n, name in enumerate(self.features) if name == "window_log_price"]:
            made[:, column] += (np.log(closes) / std[:, column]).astype(np.float32)
        return made

    def _contributions(
        self, places: np.ndarray, row: np.ndarray, present: np.ndarray, values: np.ndarray
    ) -> np.ndarray:  # fmt: skip
        """Return the contributions (N, V) to the scores."""
        contributions = np.full(values.shape, np.nan)
        there = np.flatnonzero(present)
        before = self.score.before
        if not len(there):
            return contributions
        if not before:
            own: Tensor = torch.from_numpy(values[there].astype(np.float64))
            contributions[there] = self.score.contributions(own, np.zeros(len(there), dtype=np.int64)).numpy()
            return contributions
        for start in range(0, len(there), 512):
            chosen = there[start : start + 512]
            # rows that were never written are NaN, as absent ones
            rows = self.past.tail("measured", places[chosen], before + 1, row[chosen]).astype(np.float64)
            rows[np.arange(before, -1, -1) > row[chosen][:, None]] = np.nan
            asset = np.repeat(np.arange(len(chosen)), before + 1)
            made = self.score.contributions(torch.from_numpy(rows.reshape(len(asset), -1)), asset)
            contributions[chosen] = made.numpy()[before :: before + 1]
        return contributions

    # ---- levels ------------------------------------------------------------------------------------------------------

    def _levels(self, places: np.ndarray, score: np.ndarray, sizes: list[int], bar: np.ndarray) -> np.ndarray:
        """Return the levels (N,) that hold at bars, and let a threshold that learns go on."""
        if not self.learns:
            return self.traits.level[places]
        arrays, level = self.past.arrays, np.empty(len(places))
        if not isinstance(self.detector.threshold, StreamingPeaks):
            return self._learnt_levels(places, score, bar)
        for start, end in pairwise(np.cumsum([0, *sizes]).tolist()):
            own, scores = places[start:end], score[start:end]
            self.past.put("tail_count", own, bar[start:end], arrays["count"][own])
            peaks = [len(self.past.peaks[place]) for place in own.tolist()]
            self.past.put("tail_peaks", own, bar[start:end], np.array(peaks, dtype=np.int32))
            level[start:end] = self._tail_levels(own)
            with np.errstate(invalid="ignore"):
                high = scores > self.traits.begin[own]
            arrays["count"][own] += np.isfinite(scores) & ~high
            learnt = high & (scores <= level[start:end])
            if learnt.any():
                self._learn(own[learnt].tolist(), scores[learnt].tolist())
        return level

    def _learnt_levels(self, places: np.ndarray, score: np.ndarray, bar: np.ndarray) -> np.ndarray:
        """Return the levels (N,) of a threshold that learns by its own `levels`, bar after bar."""
        level, past = np.empty(len(places)), self.past
        for number, (place, count) in enumerate(zip(places.tolist(), bar.tolist(), strict=True)):
            own, part = self.detector.threshold.of(past.names[place]), slice(number, number + 1)
            oldest, newest = past.memories[place]
            level[part], newest = own.levels(score[part], newest)
            if count >= past.kept:  # the bar whose place this one takes
                oldest = own.levels(past.arrays["score"][place, [count % past.kept]], oldest)[1]
            past.memories[place] = oldest, newest
        return level

    def _tail_levels(self, places: np.ndarray) -> np.ndarray:
        level = self.past.arrays["tail_level"][places]
        return np.where(np.isnan(level), self.traits.level[places], level)

    def _learn(self, places: list[int], scores: list[float]) -> None:
        """Add a score to the tail of each of some assets."""
        arrays, peaks, begins, counts, risk = self.past.arrays, [], [], [], 0.0
        for place, score in zip(places, scores, strict=True):
            threshold = self.detector.threshold.of(self.past.names[place])
            assert isinstance(threshold, StreamingPeaks)
            begins.append(float(threshold.begin))
            risk = threshold.risk
            self.past.peaks[place] = np.append(self.past.peaks[place], score - begins[-1])
            peaks.append(np.concatenate([threshold.peaks.numpy(), self.past.peaks[place]]))
            arrays["count"][place] += 1
            counts.append(int(threshold.count) + int(arrays["count"][place]))
        arrays["tail_level"][places] = tail_levels(begins, peaks, counts, risk)

    def _rarity(self, places: np.ndarray, score: np.ndarray) -> np.ndarray:
        result, rarity = np.full(len(score), np.nan), self.detector.rarity
        if rarity is None:
            return result
        alone = self.traits.alone[places]
        if not alone.any():
            return rarity.of(score, POOL)
        if len(places) == 1:
            return rarity.of(score, self.past.names[places.item()])
        result[~alone] = rarity.of(score[~alone], POOL)
        for place in set(places[alone].tolist()):
            chosen = places == place
            result[chosen] = rarity.of(score[chosen], self.past.names[place])
        return result

    def _closes(self, expected: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Return the closes (N,) that expected features give; see `refold.scoring.scan.reconstructed_close`."""
        place = {name: number for number, name in enumerate(self.features)}
        if "close" not in self.past.columns:
            return np.full(len(expected), np.nan)
        if "window_log_price" in place:
            return np.exp(expected[:, place["window_log_price"]])
        if "log_return" in place:
            return last * np.exp(expected[:, place["log_return"]])
        if {"overnight_return", "intraday_return"} <= place.keys():
            return last * np.exp(expected[:, place["overnight_return"]] + expected[:, place["intraday_return"]])
        return np.full(len(expected), np.nan)

    def _record(self, rounds: Sequence[Round], join, judged: Judged) -> None:
        """Keep what was said of the bars, so that a revision can tell what has changed."""
        places, bar = join([one.places for one in rounds]), join([one.bar for one in rounds])
        reason = join([one.reason for one in rounds])
        lacks = np.isnan(judged.score) & (reason == 0)
        reason[lacks] = CODE["no_score"]
        for name, values in (
            ("score", judged.score), ("level", judged.level), ("reason", reason),
            ("found", join([one.found for one in rounds])), ("lost", join([one.lost for one in rounds])),
        ):  # fmt: skip
            self.past.put(name, places, bar, values)
        if len(rounds) > 1:
            start = 0
            for one in rounds:
                one.reason[:] = reason[start : start + len(one.reason)]
                start += len(one.reason)

    # ---- words -------------------------------------------------------------------------------------------------------

    def verdicts(
        self, rounds: Sequence[Round], judged: Judged, drift: Callable[[str], str | None] = lambda asset: None
    ) -> list[Verdict]:
        """Return a verdict for each bar, in the order of the rounds.

        Args:
            rounds: of the bars.
            judged: scores and levels.
            drift: asset -> state of its test of drift.
        """
        said, start = [], 0
        names, past, known = self.features, self.past.names, self.traits.known
        strange = np.flatnonzero(judged.flagged)
        where = (np.concatenate([getattr(one, name) for one in rounds])[strange].tolist() for name in ("places", "bar"))
        kinds = dict(zip(strange.tolist(), self._kinds(*where), strict=True))
        for one in rounds:
            when, stop = self.clock.moment(one.time), start + len(one.places)
            part = [getattr(judged, name)[start:stop].tolist() for name in _TOLD]
            rows = zip(
                one.places.tolist(), one.features.tolist(), one.present.tolist(), one.reason.tolist(),
                one.found.tolist(), one.lost.tolist(), known[one.places].tolist(), *part, strict=True,
            )  # fmt: skip
            for number, row in enumerate(rows, start):
                place, features, present, reason, found, lost, knows, score, level, flagged, rarity, made, close = row
                asset = past[place]
                said.append(
                    Verdict(
                        when, asset,
                        None if reason else score,
                        level,
                        flagged,
                        None if reason else rarity,
                        kinds[number] if flagged else None,
                        self._blamed(judged.contributions[number]) if flagged else (),
                        dict(zip(names, features, strict=True)) if present else None,
                        None if reason else dict(zip(names, made, strict=True)),
                        close if close == close else None,
                        tuple(name for bit, name in enumerate(NAMES) if found >> bit & 1) if found else (),
                        lost,
                        REASONS[reason] if reason else None,
                        None if knows else UNKNOWN,
                        drift(asset),
                    )
                )  # fmt: skip
            start = stop
        return said

    def _blamed(self, shares: np.ndarray) -> tuple[str, ...]:
        return tuple(blame(shares, self.features)) if self.score.names_features else ()

    def _kinds(self, places: list[int], bars: list[int]) -> list[str]:
        """Name what some bars look like, each by the bars of its asset up to it."""
        kinds = [OTHER] * len(places)
        asked = [number for number, where in enumerate(zip(places, bars, strict=True)) if not self._is_calm(*where)]
        if not asked:
            return kinds
        parts = [
            self.bars(places[number], bars[number], CONTEXT + 1).with_columns(pl.lit(f"{number:06}").alias("asset"))
            for number in asked
        ]
        table = pl.concat(parts)
        first, last = table["timestamp"].min(), table["timestamp"].max()
        market = self.peers.table(self.clock).filter(pl.col("timestamp").is_between(first, last))
        named = likely_kinds(table, market, self.traits.checks.kind)
        newest = named[np.cumsum([part.height for part in parts]) - 1].fill_null(OTHER)
        for number, kind in zip(asked, newest.to_list(), strict=True):
            kinds[number] = kind
        return kinds

    def _is_calm(self, place: int, last: int) -> bool:
        """Tell whether no rule can name what a bar looks like, without a table: so it is for most bars."""
        column = self.place.get("close")
        if self.traits.checks.kind == "series" or column is None:
            return True
        number = self._kept_numbers(place, last, CONTEXT + 1)
        raw, gone = self.past.arrays["raw"][place, number], self.past.arrays["raw_absent"][place, number]
        return not gone.any() and nothing_fires(raw[:, self.place.get("open", column)], raw[:, column])

    def _kept_numbers(self, place: int, last: int, count: int) -> np.ndarray:
        """Return where the bars of an asset up to number `last` lie in its rings, `count` of them at most."""
        oldest = int(self.past.arrays["bars"][place]) - self.past.kept
        return np.arange(max(0, oldest, last + 1 - count), last + 1) % self.past.kept

    def bars(self, place: int, last: int, count: int) -> pl.DataFrame:
        """Return bars of an asset as they came, those up to number `last`, as a canonical table."""
        arrays, number = self.past.arrays, self._kept_numbers(place, last, count)
        values, absent = arrays["raw"][place, number], arrays["raw_absent"][place, number]
        columns = {
            name: [None if gone else value for value, gone in zip(*part, strict=True)]
            for name, *part in zip(self.past.columns, values.T.tolist(), absent.T.tolist(), strict=True)
        }
        table = pl.DataFrame(columns, schema=dict.fromkeys(self.past.columns, pl.Float64))
        times = self.clock.series(arrays["time"][place, number])
        return table.insert_column(0, times).insert_column(
            1, pl.Series("asset", [self.past.names[place]] * len(number))
        )


def learns(threshold: Threshold) -> bool:
    """Tell whether the level at a bar depends on the bars before it."""
    return type(threshold).levels is not Threshold.levels


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts)
