"""One file from a web server: asked for again where that may help, with a sentence where it did not.

    200 -> Answer      304 (not modified since) -> None      404 -> Answer, for the caller knows what is near
    429, 5xx, a connection that dies or stays silent -> again, after what the server asks for or 1, 2, 4 pauses
    anything else -> DataError

Proxies and certificates come from the environment (HTTPS_PROXY, REQUESTS_CA_BUNDLE), as the library requests reads it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import requests

from portfolio_ebm.errors import DataError

TRIES = 4
PAUSE = 1.0
"""Seconds before the second try, doubled before each further one."""

LONGEST = 60.0
"""Seconds to wait at most when a server asks for patience; more than that is an error that says for how long."""

TIMEOUT = (10.0, 60.0)
"""Seconds to connect, and of silence while reading."""

_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
# Some servers turn away the name that requests gives itself.
_AGENT = "Mozilla/5.0 (compatible; portfolio-ebm)"


@dataclass(frozen=True)
class Answer:
    """Status (200 or 404), body, and what the server said of its version, for the next time."""

    status: int
    body: bytes
    etag: str | None
    modified: str | None


def get(url: str, *, etag: str | None = None, modified: str | None = None) -> Answer | None:
    """What is at `url`; None where the server says that it is still the version of `etag` or `modified`.

    Raises:
        DataError: it could not be had; says why, and what to do.

    Example:
        >>> answer = get("https://example.org/data.zip")
        >>> get("https://example.org/data.zip", etag=answer.etag, modified=answer.modified) is None
        True
    """
    headers = {"User-Agent": _AGENT}
    if etag:
        headers["If-None-Match"] = etag
    if modified:
        headers["If-Modified-Since"] = modified
    why = ""
    for attempt in range(TRIES):
        pause = PAUSE * 2.0**attempt
        try:
            answer = requests.get(url, headers=headers, timeout=TIMEOUT)
        except requests.exceptions.RequestException as error:
            why = f"the connection failed ({_last(error)})"
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise DataError(
                    f"{url}: the server's certificate was not accepted ({_last(error)}); set REQUESTS_CA_BUNDLE to "
                    "your network's certificates, or mend the clock."
                ) from error
        else:
            if answer.status_code in (200, 404):
                heads = answer.headers
                return Answer(answer.status_code, answer.content, heads.get("ETag"), heads.get("Last-Modified"))
            if answer.status_code == 304:
                return None
            why = f"the server answers {answer.status_code} {answer.reason}"
            if answer.status_code not in _AGAIN:
                raise DataError(f"{url}: {why}; look at the address in a browser, and at your proxy.")
            asked = _asked(answer.headers.get("Retry-After"))
            if asked is not None and asked > LONGEST:
                raise DataError(f"{url}: {why} and asks to wait for {asked:.0f} seconds; try again then.")
            pause = pause if asked is None else asked
        if attempt < TRIES - 1:
            time.sleep(pause)
    raise DataError(f"{url}: {why}, {TRIES} times over; check your connection and proxy, or try again later.")


def _asked(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (then.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def _last(error: BaseException) -> str:
    """The reason at the bottom of a chain of wrapped errors, in few words."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return f"{type(error).__name__}: {error}"[:160]
