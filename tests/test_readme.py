"""The README's Python runs as it stands, its table is where it says, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.S)


def test_there_is_code_to_run() -> None:
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("code", BLOCKS, ids=lambda code: code.strip().splitlines()[0][:40])
def test_the_code_runs(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_a_printed_table_stands_in_the_first_thirty_lines() -> None:
    assert "1/N" in "\n".join(README.splitlines()[:30])


def test_the_make_targets_and_commands_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"\bmake (\w+)", README)) <= targets
    from typer.main import get_command

    from portfolio_ebm.cli import app

    commands = set(getattr(get_command(app), "commands", {}))
    assert set(re.findall(r"portfolio-ebm\s+(\w+)\s", README)) <= commands
