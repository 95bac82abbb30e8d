"""Secrets in texts: find passwords and tokens, and keep them out of whatever is written, printed or sent.

A reference such as ${oc.env:DATABASE_URL} is no secret: it says where one is kept. Standard library only.
"""

import functools
import logging
import os
import re
from typing import Any
from urllib.parse import unquote

MASK = "***"

REFERENCE = re.compile(r"\$\{oc\.env:([A-Za-z_]\w*)(?:,[^{}]*)?\}|\$env\{(\w+)\}")
"""A reference to an environment variable: as it is given and written, or as `refold.runs.settings` reads it back."""

_NAMES = (
    r"\w*(?:password|passwd|passphrase|secret|api[_-]?key|access[_-]?key|private[_-]?key|account[_-]?key|credentials?)"
    r"|(?:(?:access|auth|session|security|refresh|id|sas)[_-]?)?token|pwd|pass|sig|signature|authorization"
)
_ASSIGNED = re.compile(
    rf"(?P<name>(?<![A-Za-z0-9_])(?:{_NAMES})|(?<=[?&;])(?:key|auth)\b)(?P<is>['\"]?\s*[=:]\s*)"
    r"(?P<value>\"[^\"]*\"|'[^']*'|\{[^}]*\}|[^&;\s]+?(?=['\"\])}]*(?:[&;\s,]|$)))",
    re.IGNORECASE,
)
"""password=..., pwd=..., token=..., of a query, a connection string or a message."""

_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)(?P<user>[^:/@\s]*):(?P<value>\S+)@")
_WHOLE_ADDRESS = re.compile(r"^(?P<scheme>[A-Za-z][\w+.-]*://)(?P<user>[^:/@\s]*):(?P<value>.+)@", re.DOTALL)
_WEB_TOKEN = re.compile(r"(?P<scheme>https?://)(?P<user>)(?P<value>[^:/@\s]+)@", re.IGNORECASE)
"""user:password@ of an address. The password may hold any character; the last @ ends it."""

_SECRET_KEY = re.compile(rf"^(?:{_NAMES})$", re.IGNORECASE)

_SECRET_VARIABLE = re.compile(r"PASS|PWD|SECRET|TOKEN|KEY|CREDENTIAL", re.IGNORECASE)

_known: set[str] = set()
"""Secrets that this process has met: messages of drivers quote them in ways that no pattern foresees."""

SHORTEST = 4
"""Characters of the shortest secret that is looked for by itself: shorter ones are parts of ordinary words."""


def mask(text: str) -> str:
    """Replace each password and token in a text by `***`; references stay.

    Args:
        text: an address, a command-line argument, a message.

    Returns:
        The text; the same one if it holds no secret.
    """
    return _mask(text)[0]


def holds_secret(text: str) -> bool:
    """Return whether a text holds a password or a token that is not a reference."""
    return bool(_mask(text)[1])


def remember(text: str) -> None:
    """Keep the secrets of a text in memory, so that `redact` finds them wherever they turn up.

    Args:
        text: may refer to environment variables; the values of those called PASSWORD, TOKEN and the like count.
    """
    for secret in _mask(text)[1]:
        remember_value(secret)
    for match in REFERENCE.finditer(text):
        name = match[1] or match[2]
        if _SECRET_VARIABLE.search(name):
            remember_value(os.environ.get(name, ""))


def remember_value(secret: str) -> None:
    """Keep a secret in memory, as it is and with its percent signs decoded."""
    _known.update(form for form in (secret, unquote(secret)) if len(form) >= SHORTEST)


def redact(text: str) -> str:
    """Mask a text, and replace every secret that this process has met, in whatever place it stands."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return mask(text)


def mask_settings(settings: Any) -> Any:
    """Mask all texts of nested dicts and lists; values of keys such as `password` and `api_key` are masked entirely.

    Args:
        settings: plain values.

    Returns:
        New dicts and lists of the same shape.
    """
    if isinstance(settings, dict):
        return {key: MASK if is_secret_entry(key, value) else mask_settings(value) for key, value in settings.items()}
    if isinstance(settings, list):
        return [mask_settings(value) for value in settings]
    return mask(settings) if isinstance(settings, str) else settings


def is_secret_entry(key: Any, value: Any) -> bool:
    """Return whether a setting is secret by its name, and holds a text that is no reference."""
    if not isinstance(key, str) or not isinstance(value, str) or not _SECRET_KEY.match(key):
        return False
    return bool(value) and value not in (MASK, "???") and not REFERENCE.search(value)


@functools.cache  # once is enough
def redact_logs() -> None:
    """Let every log record of this process go through `redact`, whichever library writes it."""
    earlier = logging.getLogRecordFactory()

    def make(*arguments: Any, **keywords: Any) -> logging.LogRecord:
        record = earlier(*arguments, **keywords)
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # logging itself reports a format that does not fit its arguments
            return record
        if (clean := redact(text)) != text:
            record.msg, record.args = clean, None
        return record

    logging.setLogRecordFactory(make)


def _mask(text: str) -> tuple[str, list[str]]:
    """Return a text with its secrets masked, and the secrets."""
    references: list[str] = []
    found: list[str] = []

    def set_aside(match: re.Match[str]) -> str:
        references.append(match.group())
        return f"\0{len(references) - 1}\0"

    def masked(match: re.Match[str]) -> str:
        value = match["value"]
        bare = value.strip("\"'{}")
        if not bare or set(bare) == {"*"} or re.fullmatch(r"(?:\0\d+\0)+", bare):
            return match.group()
        found.append(bare)
        if "scheme" in match.groupdict():
            return f"{match['scheme']}{match['user']}{'' if match.re is _WEB_TOKEN else ':'}{MASK}@"
        return f"{match['name']}{match['is']}{MASK}"

    clean = REFERENCE.sub(set_aside, text)
    for pattern in (_WHOLE_ADDRESS, _ADDRESS, _WEB_TOKEN, _ASSIGNED):
        clean = pattern.sub(masked, clean)
    return re.sub(r"\0(\d+)\0", lambda match: references[int(match[1])], clean), found
