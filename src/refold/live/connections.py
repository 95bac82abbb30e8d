"""Connections that send nothing, or a head a byte at a time, keep no others out; open ones do not keep a server up."""

import asyncio
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from refold.live.broadcast import Broadcast


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


class EndingServer(uvicorn.Server):
    """Serve until a signal, then end the events of the readers first: they would be waited for, and then cancelled.

    Args:
        config: of the server.
        broadcast: sends the events.
    """

    def __init__(self, config: uvicorn.Config, broadcast: Broadcast) -> None:
        super().__init__(config)
        self.broadcast = broadcast

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the events and all connections; see uvicorn."""
        self.broadcast.end()
        await super().shutdown(sockets)
