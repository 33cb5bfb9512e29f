"""The tables of the docs are those of the records."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks/studies/results").glob("*.json")), ids=lambda p: p.stem)
def test_the_docs_say_what_the_record_of_a_study_says(path: Path) -> None:
    table = runpy.run_path(str(ROOT / "benchmarks/study_table.py"))["table"]
    record = json.loads(path.read_text(encoding="utf-8"))
    assert len(record["arms"]) > 1
    assert table(record) in (ROOT / "docs/classifying.md").read_text(encoding="utf-8")
