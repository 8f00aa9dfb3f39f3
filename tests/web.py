"""A web of its own for tests: any host, over TLS, behind a proxy on this machine; no library is patched to use it.

    client --CONNECT host:443--> proxy here --TLS with a certificate for that host--> handlers written by the test

Clients find it by the environment they read anyway (HTTPS_PROXY and the variables that name certificates).

    with Web.open(tmp_path) as web:
        for name, value in web.environment.items():
            monkeypatch.setenv(name, value)
        web.on("mba.tuck.dartmouth.edu", "/pages", Reply(body=archive))
        web.on("query2.finance.yahoo.com", "/v8", [Reply(status=429), lambda request: Reply(body=chart(request))])
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import trustme


@dataclass(frozen=True)
class Request:
    """One request as it came in; `query` holds the last value of each name."""

    host: str
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """What is answered: `cut` closes the connection after so many bytes of the body; `delay` is in seconds."""

    status: int = 200
    body: bytes | str = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    delay: float = 0.0


Handler = Callable[[Request], Reply]


@lru_cache(maxsize=1)
def _authority() -> trustme.CA:
    return trustme.CA()


@lru_cache(maxsize=64)
def _context(host: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    _authority().issue_cert(host).configure_cert(context)
    return context


class Web:
    """Routes, and what was asked; unknown addresses answer 404."""

    def __init__(self, url: str, certificates: Path) -> None:
        self.requests: list[Request] = []
        self._routes: list[tuple[str, str, list[Reply | Handler]]] = []
        self._lock = threading.Lock()
        names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        self.environment = dict.fromkeys(names, str(certificates))
        self.environment |= dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"), url)
        self.environment |= {"NO_PROXY": "", "no_proxy": ""}

    def on(self, host: str, prefix: str, answer: Reply | Handler | Sequence[Reply | Handler]) -> None:
        """Answer requests for paths that begin with `prefix`: the longest counts, of equals the one set last.

        A sequence is a script: one answer a request, the last one for ever.
        """
        script = [answer] if isinstance(answer, Reply) or callable(answer) else list(answer)
        with self._lock:
            self._routes.append((host, prefix, script))

    def seen(self, host: str = "", prefix: str = "") -> list[Request]:
        """The requests so far to a host (any) for paths that begin with `prefix`."""
        with self._lock:
            return [item for item in self.requests if host in ("", item.host) and item.path.startswith(prefix)]

    def answer(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            fits = [item for item in self._routes if item[0] == request.host and request.path.startswith(item[1])]
            if not fits:
                return Reply(404, b"there is nothing here")
            _, _, script = max(reversed(fits), key=lambda item: len(item[1]))
            chosen = script.pop(0) if len(script) > 1 else script[0]
        return chosen if isinstance(chosen, Reply) else chosen(request)

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator[Web]:
        """A running one; `folder` gets the certificate of its authority."""
        certificates = folder / "authority.pem"
        _authority().cert_pem.write_to_path(str(certificates))
        server = _Server(("127.0.0.1", 0), _Proxy)
        web = cls(f"http://127.0.0.1:{server.server_port}", certificates)
        server.web = web
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield web
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # clients keep their connections open
    web: Web

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of the test."""


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    inside: str | None = None

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_CONNECT(self) -> None:
        self.inside = self.path.rpartition(":")[0]
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        self.connection = _context(self.inside).wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)
        self.close_connection = False

    def finish(self) -> None:
        super().finish()
        self.connection.close()

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        host = self.inside or parts.hostname or ""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        reply = self.server.web.answer(Request(host, self.command, parts.path, query, dict(self.headers), body))
        if reply.delay:
            time.sleep(reply.delay)
        data = reply.body.encode() if isinstance(reply.body, str) else reply.body
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data if reply.cut is None else data[: reply.cut])
        if reply.cut is not None:
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_POST = do_HEAD = _serve
