"""The French source as users reach it: the library's own address, over TLS and through a proxy; nothing is patched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cases_french import DAILY, zipped
from web import Reply, Web

from portfolio_ebm.data.sources.french import french
from portfolio_ebm.errors import DataError

HOST, NAME = "mba.tuck.dartmouth.edu", "F-F_Research_Data_5_Factors_2x3_daily"
PATH = f"/pages/faculty/ken.french/ftp/{NAME}_CSV.zip"
WHOLE = Reply(body=zipped(NAME, DAILY))


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    with Web.open(tmp_path) as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PORTFOLIO_EBM_HOME", str(tmp_path / "home"))
        yield found


def test_factors_come_over_tls_and_are_kept(web: Web) -> None:
    web.on(HOST, PATH, WHOLE)
    frame = french("ff5")
    assert [(item.host, item.path) for item in web.seen()] == [(HOST, PATH)]
    assert french("ff5").equals(frame)
    assert french("ff5", offline=True).equals(frame)
    assert len(web.seen()) == 1, "what is fresh is not asked for again"


@pytest.mark.parametrize(
    "trouble", [Reply(429, headers={"Retry-After": "0"}), Reply(body=WHOLE.body, cut=50)], ids=["429", "dies"]
)
def test_trouble_that_passes_is_waited_out(web: Web, trouble: Reply) -> None:
    web.on(HOST, PATH, [trouble, WHOLE])
    assert len(french("ff5")) > 0
    assert len(web.seen()) == 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Reply(404), "no such file"),
        (Reply(body=bytes(WHOLE.body)[:60]), "zip"),
        (Reply(body=b"<html>moved</html>"), "zip"),
    ],
    ids=["404", "cut zip", "a page"],
)
def test_trouble_that_stays_is_a_sentence(web: Web, answer: Reply, words: str) -> None:
    web.on(HOST, PATH, answer)
    with pytest.raises(DataError, match=words):
        french("ff5")


def test_a_certificate_of_somebody_else_is_refused(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.on(HOST, PATH, WHOLE)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name)
    with pytest.raises(DataError, match="certificate"):
        french("ff5")
