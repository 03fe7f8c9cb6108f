"""Every row of the threat model in the README names tests, and there are such tests."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_row_of_the_threat_model_is_shown_by_tests_that_exist() -> None:
    section = (
        (ROOT / "README.md").read_text().partition("## Who may do what to whom\n")[2].partition("\n## ")[0]
    )
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 10
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    there = set(re.findall(r"def (test_\w+)\(", tests))
    for who, _, _, shown_by in rows:
        named = re.findall(r"`(test_\w+)`", shown_by)
        assert named, who
        assert set(named) <= there, who
