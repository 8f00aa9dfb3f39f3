"""Files in the layout of French's library, made by hand, and a server that gives them out in its place."""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from portfolio_ebm.data.sources import fetching
from portfolio_ebm.data.sources import french as module

# A factor file as of 2012: monthly, then annual, no titles above the first table.
FACTORS = (
    "This file was created by SOME_PROGRAM using the 202412 CRSP database.\r\n"
    "The 1-month TBill return is from somewhere,  and so on.\r\n"
    "\r\n"
    ",Mkt-RF,SMB,HML,RF\r\n"
    "192607,    2.96,   -2.56,   -2.43,    0.22\r\n"
    "192608,    2.64,   -1.17,  -99.99,    0.25\r\n"
    "192609,    0.36,   -1.40,    0.13,    0.23\r\n"
    "\r\n"
    " Annual Factors: January-December \r\n"
    ",Mkt-RF,SMB,HML,RF\r\n"
    "  1927,   29.47,   -2.04,   -4.54,    3.12\r\n"
    "\r\n"
    "Copyright 2024 Somebody and Somebody Else\r\n"
)

# An industry file: two weightings, firms counted, sizes averaged, years; blanks inside the names of the header.
INDUSTRIES = """This file was created by SOME_PROGRAM using the 202412 CRSP database.
It contains value- and equal-weighted returns for 2 industry portfolios.

Missing data are indicated by -99.99 or -999.

  Average Value Weighted Returns -- Monthly
,NoDur ,Other
192607,   1.45,   2.13
192608,   3.97,   4.35
192609,   1.14, -99.99

  Average Equal Weighted Returns -- Monthly
,NoDur ,Other
192607,   0.50,   1.50
192608,   1.00,   -999

  Average Value Weighted Returns -- Annual
,NoDur ,Other
1927,  43.45,  28.42

  Number of Firms in Portfolios
,NoDur ,Other
192607,    112,    176

  Average Firm Size
,NoDur ,Other
192607,  26.05,  19.40

  Sum of BE / Sum of ME
,NoDur ,Other
1926,   0.55,   0.89


Copyright 2024 Somebody
"""

DAILY = """Prose.

,Mkt-RF,SMB,HML,RMW,CMA,RF
20240102,-0.53,0.70,0.58,0.71,0.30,0.022
20240103,-0.84,-0.33,0.14,0.12,0.19,0.022
20240104,-0.31,0.06,-0.10,-0.03,0.22,0.022
20240105,0.15,-0.20,0.05,0.00,0.10,0.022
"""

MOMENTUM = """Prose, more prose.
Missing data are indicated by -99.99 or -999.
,Mom   ,
20240102,   -2.46,
20240103,   -0.51,
20240105,    0.40,
"""


def days(*texts: str) -> np.ndarray:
    return np.array(texts, dtype="datetime64[ns]")


@dataclass
class Library:
    """A server in the place of the library: what it answers for a file, and what it was asked."""

    files: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)

    def put(self, name: str, text: str, etag: str | None = None) -> None:
        self.files[name] = lambda handler: answer(handler, zipped(name, text), etag=etag)

    def say(self, name: str, *answers: Callable[[BaseHTTPRequestHandler], None]) -> None:
        """One answer after the other; the last one stays."""
        left = list(answers)
        self.files[name] = lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


def zipped(name: str, text: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.CSV", text.encode("latin-1"))
    return out.getvalue()


def answer(
    handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, etag: str | None = None, **heads: str
) -> None:
    if etag is not None and handler.headers.get("If-None-Match") == etag:
        status, body = 304, b""
    handler.send_response(status)
    for name, value in ({"ETag": etag} if etag else {}).items() | heads.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def die(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.write(b"PK and then nothing")
    handler.close_connection = True


def status(code: int, **heads: str) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: answer(handler, b"<html>no</html>", code, **heads)


def raw(body: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: answer(handler, body)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    held = Library()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/ftp/").removesuffix("_CSV.zip")
            held.asked.append(name)
            held.files.get(name, status(404))(self)

        def send_response(self, code: int, message: str | None = None) -> None:
            held.sent.append(code)
            super().send_response(code, message)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(module, "LIBRARY", f"http://127.0.0.1:{server.server_port}/ftp")
    monkeypatch.setattr(fetching, "PAUSE", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield held
    server.shutdown()
    server.server_close()
