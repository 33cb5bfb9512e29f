"""The report of a preparation: what was kept, what was left out and why, and which images are copies."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from wbc_diffusers.data.check import REASONS
from wbc_diffusers.data.crops import Cell
from wbc_diffusers.data.duplicates import Pair
from wbc_diffusers.data.split import SPLITS

SCHEMA_VERSION = 1


@dataclass
class Report:
    """What a preparation did; `to_dict` is what `report.json` holds."""

    source: str
    out: str
    options: dict[str, Any]
    kept: dict[str, int] = field(default_factory=dict)
    """Images by split."""
    labels: list[dict[str, Any]] = field(default_factory=list)
    """Images by split, cell type, abnormality and grade."""
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    """File, reason (a key of `check.REASONS`) and detail."""
    duplicates: list[dict[str, Any]] = field(default_factory=list)
    """Pairs of copies that were found, also those of which one was dropped."""
    filtered_out: int = 0
    """Images that the filters did not let through; they were not opened."""
    turned: int = 0
    """Images turned or flipped as their EXIF orientation asks."""
    grades_assumed: int = 0
    groups: int = 0
    other_files: list[str] = field(default_factory=list)
    """Documents in the source, which were not looked at."""
    notes: list[str] = field(default_factory=list)

    @property
    def reasons(self) -> dict[str, int]:
        """How many files were left out for each reason, the most frequent first."""
        return dict(Counter(reason for _, reason, _ in self.left_out).most_common())

    def reasons_in_words(self) -> str:
        """Say how many files were left out for each reason, in one line."""
        if not self.left_out:
            return "No file was left out."
        return "Left out: " + "; ".join(f"{n} {reason} ({REASONS[reason]})" for reason, n in self.reasons.items()) + "."

    def add_pairs(self, pairs: Sequence[Pair], cells: Sequence[Cell]) -> None:
        """List pairs of copies by name and split."""
        self.duplicates = [
            {
                "files": [cells[pair.first].item.name, cells[pair.second].item.name],
                "splits": [cells[pair.first].split, cells[pair.second].split],
                "kind": pair.kind,
                "hash_distance": pair.hash_distance,
                "mean_difference": pair.mean_difference,
            }
            for pair in pairs
        ]

    def count(self, cells: Sequence[Cell]) -> None:
        """Count the kept images by split and label."""
        splits = Counter(cell.split for cell in cells)
        self.kept = {split: splits[split] for split in SPLITS}
        self.groups = len({cell.group for cell in cells if cell.group})
        by_label = Counter((c.split, c.label.cell_type, c.label.abnormality, c.label.grade) for c in cells)
        self.labels = [
            {"split": split, "cell_type": cell_type, "abnormality": abnormality, "grade": grade, "images": number}
            for (split, cell_type, abnormality, grade), number in sorted(
                by_label.items(), key=lambda entry: (SPLITS.index(entry[0][0]), entry[0][1:])
            )
        ]

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain values for JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            "source": self.source,
            "options": self.options,
            "kept": self.kept,
            "groups": self.groups,
            "labels": self.labels,
            "filtered_out": self.filtered_out,
            "left_out": self.reasons,
            "files_left_out": [
                {"file": name, "reason": reason, "meaning": REASONS[reason], "detail": detail}
                for name, reason, detail in self.left_out
            ],
            "duplicates": self.duplicates,
            "turned_by_exif": self.turned,
            "grades_assumed": self.grades_assumed,
            "other_files": self.other_files,
            "notes": self.notes,
        }
