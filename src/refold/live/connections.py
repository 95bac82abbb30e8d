"""Connections that send nothing, or the head of a request a byte at a time, do not keep others out."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def closing_silent(seconds: float) -> type[H11Protocol]:
    """Return uvicorn's protocol of a connection, which closes one that has no request after some time.

    A request whose head is there may take as long as it wants: a body has a time of its own, and a stream has none.

    Args:
        seconds: from the opening, or from the check before; a connection is closed after two of them at most.
    """

    class ClosingSilent(H11Protocol):
        checking: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            super().connection_made(transport)
            self.seen: Any = None
            self.checking = self.loop.call_later(seconds, self.check)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self.checking is not None:
                self.checking.cancel()

        def check(self) -> None:
            """Close the connection if no request has come since the check before and none is being answered."""
            answering = self.cycle is not None and not self.cycle.response_complete
            if not answering and self.cycle is self.seen:
                self.transport.close()
                return
            self.seen = self.cycle
            self.checking = self.loop.call_later(seconds, self.check)

    return ClosingSilent
