"""Verdicts to many readers: a slow one loses the oldest, and is told how many."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

QUEUE = 1000
"""Verdicts that wait for a reader at most."""

MOST_READERS = 100
"""Readers at a time."""

SILENCE = 15.0
"""Seconds without a verdict after which a comment is sent, so that a connection that is gone is noticed."""


class Reader:
    """Hold what one reader has not yet got.

    Args:
        asset: name of the asset whose verdicts it gets; None: of all.
        flagged: whether it gets those on flagged bars alone.
    """

    def __init__(self, asset: str | None, flagged: bool) -> None:
        self.asset = asset
        self.flagged = flagged
        self.waiting: deque[str] = deque(maxlen=QUEUE)
        self.lost = 0
        self.there = asyncio.Event()

    def offer(self, asset: str | None, flagged: bool, text: str) -> None:
        """Queue a verdict, if the reader asked for it; the oldest gives way."""
        if (self.asset is not None and asset != self.asset) or (self.flagged and not flagged):
            return
        self.lost += len(self.waiting) == QUEUE
        self.waiting.append(text)
        self.there.set()


class Broadcast:
    """Give each verdict to every reader."""

    def __init__(self) -> None:
        self.readers: set[Reader] = set()
        self.lost = 0
        self.ended = False

    @property
    def full(self) -> bool:
        """Tell whether there is no room for another reader."""
        return len(self.readers) >= MOST_READERS

    def send(self, asset: str | None, flagged: bool, text: str) -> None:
        """Queue a verdict for all readers; it waits for none of them."""
        for reader in self.readers:
            reader.offer(asset, flagged, text)

    def end(self) -> None:
        """End the events of all readers, who would else keep the server from ending."""
        self.ended = True
        for reader in self.readers:
            reader.there.set()

    async def events(self, reader: Reader) -> AsyncIterator[str]:
        """Yield server-sent events for a reader until it goes, or the server ends.

        Args:
            reader: new.
        """
        self.readers.add(reader)
        try:
            yield ": verdicts as they come\n\n"
            while True:
                try:
                    await asyncio.wait_for(reader.there.wait(), SILENCE)
                except TimeoutError:
                    yield ": nothing new\n\n"
                    continue
                if self.ended:
                    return
                if reader.lost:
                    lost, reader.lost = reader.lost, 0
                    self.lost += lost
                    yield f'event: lost\ndata: {{"lost": {lost}}}\n\n'
                texts = [reader.waiting.popleft() for _ in range(min(100, len(reader.waiting)))]
                if not reader.waiting:
                    reader.there.clear()
                yield "".join(f"data: {text}\n\n" for text in texts)
        finally:
            self.readers.discard(reader)
