"""Keys of series as file names, and back: safe on every file system, readable where that is possible.

    BRK-B -> BRK-B        ^GSPC -> %5EGSPC        CON -> %43ON        A/B -> A%2FB        abc -> abc~7

Letters, digits and -._=+ stand for themselves, any other byte of the UTF-8 text is %XX. What Windows keeps for devices
is broken by quoting its first letter. A name with small letters ends in ~ and the set of their positions as a
hexadecimal number, so that abc and ABC are two files where a file system takes one for the other.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from portfolio_ebm.errors import StoreError

PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._=+")
LONGEST = 180
"""Bytes of a file name before its ending; file systems allow 255 and what stands around it needs some 40."""

_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def file_stem(key: str) -> str:
    """The file name of `key`, without an ending.

    Raises:
        StoreError: an empty key, half a character, or one too long for a file name.

    Example:
        >>> file_stem("^GSPC"), file_stem("Mkt-RF")
        ('%5EGSPC', 'Mkt-RF~6')
    """
    try:
        parts = [chr(byte) if byte in PLAIN else f"%{byte:02X}" for byte in key.encode()]
    except UnicodeEncodeError as error:
        raise StoreError(f"{key!r} cannot be the name of a series: it is not valid Unicode; give another.") from error
    if not parts:
        raise StoreError("A series needs a name, and this one is empty.")
    if parts[0] == "." or _DEVICE.fullmatch(key):
        parts[0] = f"%{ord(key[0]):02X}"
    text = "".join(parts)
    small = sum(1 << at for at, letter in enumerate(text) if letter.islower())
    name = f"{text}~{small:X}" if small else text
    if len(name) > LONGEST:
        raise StoreError(f"{key[:40]!r}...: {len(name)} bytes are too long for the name of a series; {LONGEST} fit.")
    return name


def key_of(stem: str) -> str | None:
    """The key whose `file_stem` is `stem`; None where no key has that name.

    Example:
        >>> key_of("%5EGSPC"), key_of("Mkt-RF~6")
        ('^GSPC', 'Mkt-RF')
    """
    key = unquote(stem.partition("~")[0], errors="replace")
    try:
        return key if file_stem(key) == stem else None
    except StoreError:
        return None
