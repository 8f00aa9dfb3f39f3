"""Shared by all tests: one thread, a store of fits that is theirs alone, and verdicts that can be repeated."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

# Examples drawn from one seed, and none judged by the clock: neither luck nor a busy machine fails a test.
settings.register_profile("calm", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calm")


@pytest.fixture(scope="session", autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads what a user has trained, and none leaves anything behind."""
    before = os.environ.get("PORTFOLIO_EBM_HOME")
    os.environ["PORTFOLIO_EBM_HOME"] = str(tmp_path_factory.mktemp("home"))
    torch.set_num_threads(1)
    yield
    if before is None:
        del os.environ["PORTFOLIO_EBM_HOME"]
    else:
        os.environ["PORTFOLIO_EBM_HOME"] = before


@pytest.fixture(scope="module")
def module_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A store for the tests of one file, so that what they count as trained was trained by them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTFOLIO_EBM_HOME", str(tmp_path_factory.mktemp("home")))
        yield
