"""A real browser that stays open, asked over its debugging protocol: what a page shows that a stream keeps changing."""

import base64
import json
import os
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx

_PLAIN = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--window-size=1300,2000", "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)  # fmt: skip


class Browser:
    """A headless Chromium with one page.

    Args:
        program: to start.
        url: of the page.
        profile: folder for it, new.
    """

    def __init__(self, program: str, url: str, profile: Path) -> None:
        self._process = subprocess.Popen(
            [program, *_PLAIN, f"--user-data-dir={profile}", url],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._number = 0
        port = int(_when(lambda: (profile / "DevToolsActivePort").read_text().split()[0], OSError, IndexError))
        pages = _when(lambda: [one for one in httpx.get(f"http://127.0.0.1:{port}/json").json() if one["url"] == url])
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        path = pages[0]["webSocketDebuggerUrl"].partition(str(port))[2]
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self._read = self._socket.makefile("rb")
        while self._read.readline().strip():  # the end of the answer's head
            pass

    def evaluate(self, script: str) -> Any:
        """Return what an expression is in the page."""
        self._number += 1
        asked = {
            "id": self._number,
            "method": "Runtime.evaluate",
            "params": {"expression": script, "returnByValue": True},
        }
        text = json.dumps(asked).encode()
        mask = os.urandom(4)
        head = bytes([0x81]) + (bytes([0x80 | len(text)]) if len(text) < 126 else struct.pack("!BH", 0xFE, len(text)))
        self._socket.sendall(head + mask + bytes(byte ^ mask[n % 4] for n, byte in enumerate(text)))
        while (answer := json.loads(self._frame())).get("id") != self._number:
            pass
        assert "exceptionDetails" not in answer["result"], answer
        return answer["result"]["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """Return what an expression is as soon as it is true."""
        return _when(lambda: self.evaluate(script))

    def close(self) -> None:
        """End the browser."""
        self._read.close()
        self._socket.close()
        self._process.kill()
        self._process.wait(60)

    def _frame(self) -> bytes:
        size = self._read.read(2)[1] & 0x7F
        if size >= 126:
            size = int.from_bytes(self._read.read(2 if size == 126 else 8), "big")
        return self._read.read(size)


def _when(found: Any, *errors: type[Exception]) -> Any:
    """Return the first true answer of a function."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            if answer := found():
                return answer
        except (*errors, httpx.HTTPError):
            pass
        time.sleep(0.1)
    raise AssertionError("it did not come")
