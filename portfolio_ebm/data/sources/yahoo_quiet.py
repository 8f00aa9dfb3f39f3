"""yfinance made fit to be asked by many threads: it raises its errors, says nothing and keeps its caches with ours.

    with prepared():                      the process: settings, log, caches, warnings
        with quiet(): ticker.history()    one thread: the DeprecationWarnings of what it does now are dropped

All of that is the process's: the first who enters `prepared` sets it and the last who leaves puts it back, since one
thread would take back what another still needs. A filter of warnings alone does not do. For a moment pandas asks for
every DeprecationWarning (`pandas_dtype`), of all threads, since filters are the process's too; and threads that leave
such moments in another order than they entered leave that filter behind. So what a thread warns of in `quiet` is
dropped where it would be shown, and the filters are put back at the end.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import lru_cache
from typing import Any

from portfolio_ebm.data.sources.cache import home


@contextmanager
def prepared() -> Iterator[None]:
    """Inside, yfinance raises its errors, says nothing and keeps its own caches below `home()`; for any thread."""
    _place_caches(str(home() / "yfinance"))
    with _ALL_THREADS:
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, and inside `prepared`, no DeprecationWarning of this thread is shown: nothing that a user can mend."""
    _THREAD.quiet = True
    try:
        yield
    finally:
        _THREAD.quiet = False


class _Shared:
    """A context for many threads at once: entered with the first of them, left with the last."""

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self._make, self._inside, self._open, self._lock = make, 0, ExitStack(), threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._open.enter_context(self._make())
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._open.close()


@contextmanager
def _settings() -> Iterator[None]:
    import yfinance

    log, debug, show = logging.getLogger("yfinance"), yfinance.config.debug, warnings.showwarning
    level, hidden = log.level, debug.hide_exceptions

    def show_the_rest(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
        if not (getattr(_THREAD, "quiet", False) and issubclass(category, DeprecationWarning)):
            show(message, category, *where, **more)

    with warnings.catch_warnings():
        # At its import yfinance asks for its own warnings of what pandas will change. Where a user has made warnings
        # errors, the filter keeps them from being raised.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="yfinance")
        warnings.showwarning = show_the_rest
        log.setLevel(logging.CRITICAL + 1)
        debug.hide_exceptions = False
        try:
            yield
        finally:
            debug.hide_exceptions = hidden
            log.setLevel(level)
            warnings.showwarning = show


_ALL_THREADS = _Shared(_settings)
_THREAD = threading.local()


@lru_cache(maxsize=1)
def _place_caches(folder: str) -> None:
    """yfinance's own caches of cookies and time zones; moving them closes them, so that is done once a place."""
    import yfinance

    yfinance.set_tz_cache_location(folder)
