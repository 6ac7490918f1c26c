"""What must not be shown or written down: passwords in addresses, and secrets in environment variables.

Standard library only, because also the first message of a command goes through here.
"""

import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO
from urllib.parse import quote, unquote

HIDDEN = "***"
# Shorter values are ordinary words, which would vanish from every text.
SHORTEST, SHORTEST_KEY = 6, 8
_SECRET_NAME = re.compile(
    r"(^|_)(PASSWORD|PASSWD|PASSPHRASE|TOKEN|SECRET|CREDENTIALS?)(_|$)|SECRET|PASSWORD|TOKEN$"
)
_KEY_NAME = re.compile(r"(^|_)(API|ACCESS|PRIVATE|SHARED|ACCOUNT)?_?KEY(_ID)?$|APIKEY$")
_USER_AND_PASSWORD = re.compile(r"([A-Za-z][\w+.\-]*://)([^\s:/?#@'\"]*):([^\s'\"]*)@")
_TOKEN_ALONE = re.compile(r"([A-Za-z][\w+.\-]*://)([^\s:/?#@'\"]+)@")
_IN_A_QUERY = re.compile(
    r"([?&;](?:[\w\-]*(?:password|passwd|pwd|token|secret|signature|credential)|api_?key|key|sig)=)[^&;\s'\"#]+",
    re.IGNORECASE,
)
_IN_A_HEADER = re.compile(r"(authorization['\"]?\s*[:=]\s*['\"]?(?:basic|bearer)\s+)[^\s'\"]+", re.IGNORECASE)
_WHOLE_ADDRESS = re.compile(r"[A-Za-z][\w+.\-]*://([^:/?#@]*):(.*)@[^@]*", re.DOTALL)

_remembered: set[str] = set()


def redacted(text: str) -> str:
    """The text with ``***`` for every secret.

    Secrets are passwords in addresses (``scheme://user:password@host``; where a user stands alone it is a token and
    hidden, too), parameters of addresses such as ``?token=``, headers of authorization, and the values of environment
    variables that are called a password, token, secret or key.
    """
    for value in sorted(_secret_values(), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    text = _USER_AND_PASSWORD.sub(rf"\1\2:{HIDDEN}@", text)
    text = _TOKEN_ALONE.sub(rf"\1{HIDDEN}@", text)
    text = _IN_A_QUERY.sub(rf"\1{HIDDEN}", text)
    return _IN_A_HEADER.sub(rf"\1{HIDDEN}", text)


def redacted_values(value: Any) -> Any:
    """The same mapping, list or text with every text in it redacted, keys included; other values stay."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {redacted_values(key): redacted_values(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(redacted_values, value))
    return value


def remember(words: Iterable[str]) -> None:
    """Take passwords out of addresses among a command's words (``key=ADDRESS``), to know them wherever they occur.

    Only where an address stands alone is it clear where a password with unusual letters ends.
    """
    for word in words:
        for part in (word, word.partition("=")[2]):
            _remembered.update(_passwords(part))


def hide_in_output() -> None:
    """From now on redact what this process prints and logs."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Redacting):
            setattr(sys, name, _Redacting(stream))
    factory = logging.getLogRecordFactory()
    if factory is not _record:
        logging.setLogRecordFactory(_record)


class _Redacting:
    """A stream that redacts what is written to it, and is the stream below in all else."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redacted(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _record(*given: Any, **more: Any) -> logging.LogRecord:
    """A record of logging with its message and traceback redacted."""
    record = logging.LogRecord(*given, **more)
    try:
        record.msg, record.args = redacted(record.getMessage()), ()
    except (TypeError, ValueError):
        return record  # a message that does not fit its arguments: logging says so itself
    if record.exc_info and record.exc_info[0] is not None:
        record.exc_text = redacted("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))
    return record


def variables_within(text: str) -> list[str]:
    """Names of the environment variables whose secrets occur in a text."""
    return sorted(
        name
        for name, value in os.environ.items()
        if any(each in text for each in _secrets_of_variable(name, value))
    )


def _secret_values() -> set[str]:
    return _remembered.union(*(_secrets_of_variable(name, value) for name, value in os.environ.items()))


def _secrets_of_variable(name: str, value: str) -> set[str]:
    found = set(_passwords(value))
    if is_secret(name, value):
        found |= {value, quote(value, safe=""), value.strip()}
    return found - {""}


def is_secret(name: str, value: str) -> bool:
    """Whether an environment variable is one whose value must not be shown, by its name."""
    upper = name.upper()
    if _SECRET_NAME.search(upper):
        return len(value) >= SHORTEST
    return bool(_KEY_NAME.search(upper)) and len(value) >= SHORTEST_KEY


def _passwords(address: str) -> Iterator[str]:
    """The password in a text that is one address, as it stands and decoded, and its parts.

    Libraries that take a slash for the end of it tell of the first part in their errors.
    """
    found = _WHOLE_ADDRESS.fullmatch(address.strip("'\""))
    if found:
        written = found[2]
        for each in (written, unquote(written), *re.split(r"[/?#@:]", written)):
            if len(each) >= SHORTEST:
                yield each
