"""Print the table that docs/classifying.md has of a study, from its record.

python benchmarks/study_table.py benchmarks/studies/results/pbc-30.json
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wbc_diffusers.pages.tables import as_markdown
from wbc_diffusers.study.measures import MAIN
from wbc_diffusers.study.tables import numbers, swap_in_words, with_interval

HEAD = [
    "arm", "synthetic cells", "recall, %", "to the best without", "to its like", "threshold set before", "AUROC",
    "source swap",
]  # fmt: skip


def table(record: Mapping[str, Any]) -> str:
    """A row for each arm, as Markdown."""
    return as_markdown(HEAD, [row(arm, record["reference"]) for arm in record["arms"]])


def row(arm: Mapping[str, Any], reference: str) -> list[str]:
    recall = arm["estimates"][MAIN]
    shares = [f"{100 * recall[name]:.1f}" for name in ("value", "low", "high")]
    return [
        arm["name"],
        numbers(arm, "synthetic_images") if arm["synthetic"] else "",
        f"{shares[0]} ({shares[1]} to {shares[2]})",
        "the best" if arm["name"] == reference else with_interval(arm["differences"][MAIN]),
        with_interval(arm["counterpart"]["difference"]) if "counterpart" in arm else "",
        ", ".join(f"{100 * arm['means'][f'{name}_at_validation_threshold']:.1f}" for name in ("recall", "specificity")),
        f"{arm['means']['auroc']:.3f}",
        swap_in_words(arm["swap"]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, help="a study.json")
    print(table(json.loads(parser.parse_args().record.read_text(encoding="utf-8"))), end="")


if __name__ == "__main__":
    main()
