"""Judge bars that come over HTTP, and show them on a page. pip install "refold[serve]"

    refold serve run=outputs/latest                              http://127.0.0.1:8000, for this machine alone
    refold serve run=outputs/latest state=live.pt every=1000     saves its state, and goes on from it
    refold serve run=outputs/latest warm=history.parquet         bars of before, without verdicts
    REFOLD_TOKEN=... refold serve run=outputs/latest host=0.0.0.0 port=8443

POST /bars, GET /verdicts (server-sent events), /assets, /last, /health, /metrics, /openapi.json, and a page at /. With
REFOLD_TOKEN in the environment every request needs it as a bearer token, but for the empty page and /health. body=N
bounds a body (16,000,000 bytes), rate=N the requests with bars per second (200). score=, threshold=, alignment= (last),
drift.* and data.checks.* may be chosen anew. docs/serve.md says more.
"""

import ipaddress
import logging
import os
import socket
import sys
from contextlib import suppress

from refold.cli import command
from refold.cli.live import open_feed, whole_number
from refold.errors import ConfigError
from refold.secrets import remember_value

OWN = ("run", "state", "every", "warm", "host", "port", "body", "rate", "trust")

TOKEN = "REFOLD_TOKEN"

SHORTEST_TOKEN = 16

MOST_CONNECTIONS = 1000
"""Connections at a time; a request beyond them gets 503."""

SILENT_SECONDS = 10.0
"""Seconds without a request, or within the head of one, after which a connection is closed."""


def main() -> None:
    """Load the run, and serve until ctrl-C or SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    settings = command.read_arguments(sys.argv[1:], __doc__)
    host = settings.get("host", "127.0.0.1")
    port = whole_number(settings, "port", 8000, least=0, most=65535)
    body = whole_number(settings, "body", 16_000_000)
    rate = whole_number(settings, "rate", 200)
    token = find_token(host)
    try:
        import uvicorn

        from refold.live.connections import EndingServer, closing_silent
        from refold.live.server import Limits, Service, make_app
    except ImportError as error:
        raise ConfigError(f'{error.name} is not installed, which serve needs: pip install "refold[serve]"') from None
    bound = bind(host, port)
    try:
        feed = open_feed(settings, OWN, command.trusted(settings))
        hosts = {"127.0.0.1", "localhost", "::1"} if is_loopback(host) else None
        service = Service(feed, settings["run"])
        app = make_app(service, Limits(token=token, body=body, rate=rate, hosts=hosts))
        config = uvicorn.Config(
            app, log_level="warning", limit_concurrency=MOST_CONNECTIONS, timeout_keep_alive=5, server_header=False,
            timeout_graceful_shutdown=3, http=closing_silent(SILENT_SECONDS),
        )  # fmt: skip
        shown = f"[{host}]" if ":" in host else host
        logging.getLogger("refold").info("http://%s:%d, ctrl-C ends it", shown, bound.getsockname()[1])
        with suppress(KeyboardInterrupt):  # it shuts down in order, then raises the signal again
            EndingServer(config, service.broadcast).run(sockets=[bound])
        feed.save()
        print(feed.summary(), file=sys.stderr)
    finally:
        bound.close()


def find_token(host: str) -> str | None:
    """Return the bearer token of the environment; None if there is none.

    Args:
        host: address to listen on.

    Raises:
        ConfigError: it is too short, or other machines could come in without one.
    """
    token = os.environ.get(TOKEN) or None
    if token is not None:
        remember_value(token)
        if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
            raise ConfigError(f"{TOKEN} must have at least {SHORTEST_TOKEN} printable letters or digits")
    elif not is_loopback(host):
        raise ConfigError(f"host is {host}; other machines can reach it: set {TOKEN} to a secret that they must bear")
    return token


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind(host: str, port: int) -> socket.socket:
    """Listen on an address.

    Raises:
        ConfigError: the port is in use, or there is no such address.
    """
    bound = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(MOST_CONNECTIONS)
    except OSError as error:
        if bound is not None:
            bound.close()
        advice = f": port={port + 1}" if "in use" in str(error) else ""
        raise ConfigError(f"port is {port} of {host}; {error.strerror or error}{advice}") from None
    return bound
