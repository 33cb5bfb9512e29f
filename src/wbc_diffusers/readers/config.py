"""A reader study in a YAML file: whose cells, how many, what readers are asked, and in which words."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from wbc_diffusers.data.labels import ABNORMALITIES
from wbc_diffusers.readers.certainty import LARGEST_MARGIN, MARGIN
from wbc_diffusers.training.fields import check_fields, plain, read_fields, read_mapping

REAL = "real"
"""The name of the source of real cells; any other is a generator's."""

UNEVEN = 0.05
"""How far strata may differ in their share of real cells and still be judged together."""

ALL = "all"
"""The name of all strata, or generators, together."""

Question = Literal["real_or_synthetic", "which_is_real"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the cells of a stratum come from.

    Attributes:
        folder: A prepared folder, or one of `wbc generate`.
        number: How many of its cells are shown.
        split: Of a prepared folder.
        where: Column values that a cell must have, such as `{abnormality: hypersegmentation, grade: 2}`.
    """

    folder: str
    number: int
    split: str = "train"
    where: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self, "source")
        if self.number < 1:
            raise ValueError(f"The number of cells of {self.folder} is {self.number}; it must be 1 or more.")


@dataclass(frozen=True, kw_only=True)
class ReaderStudy:
    """What readers are shown and asked.

    Attributes:
        title: As readers and report see it.
        strata: By name the sources by name: `real`, and those of the generators. Where one of two is chosen, each
            stratum has two sources of as many cells: real ones and a generator's, or those of two generators.
        readers: A name for each, which no other reader sees.
        question: Whether one cell is real or synthetic, or which of two is real.
        confidences: How many steps of confidence there are; 1 asks for none.
        abnormalities: Abnormalities that readers choose from, and their grade; without any they are not asked.
        comments: Whether there is room for a comment.
        training: Further cells of each source, shown first, whose truth is told.
        repeats: Cells shown a second time, a third of the study or more later.
        consent: Text that readers agree to before they begin; none if empty.
        instructions: Text that they read before they begin; that of the language if empty.
        language: `en`, or a YAML file with the texts of the pages.
        jpeg_quality: Compress all cells alike by JPEG before they are shown: most real ones were once, which a program
            can see at their borders; null if none ever was.
        margin: How far from 0.5 a share may be to be as good as chance.
        seed: Of the choice of cells; drawn, and told in the key, if left out. Orders and names are always drawn anew.
    """

    title: str
    strata: dict[str, Any]
    readers: list[str]
    question: Question = "real_or_synthetic"
    confidences: int = 3
    abnormalities: list[str] = field(default_factory=list)
    comments: bool = False
    training: int = 0
    repeats: int = 0
    consent: str = ""
    instructions: str = ""
    language: str = "en"
    jpeg_quality: int | None = 75
    margin: float = MARGIN
    seed: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, "study")
        names = [name.strip() for name in self.readers]
        if not names or not all(names) or len({name.casefold() for name in names}) < len(names):
            raise ValueError(f"The study's readers are {self.readers}; give each a name of its own.")
        for name in names:
            _check_no_formula(name, "reader")
        if not 1 <= self.confidences <= 5:
            raise ValueError(f"The study's confidences are {self.confidences}; give 1 (none) to 5 steps.")
        if len(set(self.abnormalities)) < len(self.abnormalities):
            raise ValueError(f"The study's abnormalities {self.abnormalities} name one twice.")
        if unknown := set(self.abnormalities) - (set(ABNORMALITIES) - {"none"}):
            raise ValueError(
                f"The study's abnormalities have {', '.join(sorted(unknown))}; they can be "
                f"{', '.join(a for a in ABNORMALITIES if a != 'none')}."
            )
        if self.training < 0 or self.repeats < 0 or not 0.0 < self.margin <= LARGEST_MARGIN:
            raise ValueError(
                f"The study needs training and repeats of 0 or more, and a margin between 0 and {LARGEST_MARGIN}."
            )
        if self.jpeg_quality is not None and not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"The study's jpeg_quality is {self.jpeg_quality}; give 1 to 100, or null.")
        if self.repeats > self.items // 3:
            raise ValueError(f"The study repeats {self.repeats} of {self.items} cells; a third is the most.")
        if self.abnormalities and self.question == "which_is_real":
            raise ValueError("The study asks which of two cells is real; it can't ask for the abnormality of one.")

    @property
    def sources(self) -> dict[str, dict[str, Source]]:
        """The sources by stratum and name.

        Raises:
            ValueError: If there are none, or they don't fit the question.
        """
        strata = {_name_of(name, "stratum"): _sources_of(name, each) for name, each in self.strata.items()}
        if not strata:
            raise ValueError("The study has no strata: give one with its sources, real and a generator's.")
        for name, sources in strata.items():
            if self.question == "which_is_real" and len({source.number for source in sources.values()}) > 1:
                raise ValueError(f"The sources of {name} must give as many cells each: they are shown in pairs.")
            if self.question == "which_is_real" and len(sources) != 2:
                raise ValueError(f"The stratum {name} has {len(sources)} sources; pairs are of two.")
            if self.question == "real_or_synthetic" and REAL not in sources:
                raise ValueError(
                    f"The stratum {name} has no source called {REAL}: without real cells nobody can tell them apart."
                )
            if self.training and REAL not in sources:
                raise ValueError(f"The stratum {name} has no real cells, so there is no truth to tell in training.")
            if len(sources) < 2:
                raise ValueError(f"The stratum {name} has only real cells: add a generator's.")
            if len({source.number for generator, source in sources.items() if generator != REAL}) > 1:
                raise ValueError(f"The generators of {name} must give as many cells each, or they can't be compared.")
        matches = {frozenset({REAL} if REAL in sources else sources) for sources in strata.values()}
        if len(matches) > 1:
            raise ValueError(
                "The study has pairs of two generators, so all its strata must be of the same two: give others a study "
                "of their own."
            )
        return strata

    @property
    def items(self) -> int:
        """How many items each reader is asked about, without those for practice and the repeated ones."""
        numbers = [[source.number for source in sources.values()] for sources in self.sources.values()]
        return sum(each[0] if self.question == "which_is_real" else sum(each) for each in numbers)

    @property
    def practice(self) -> int:
        """How many items each reader is shown with their truth first."""
        return self.training * sum(
            1 if self.question == "which_is_real" else len(sources) for sources in self.sources.values()
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a study of a mapping, or raise ValueError."""
        if missing := {"title", "strata", "readers"} - values.keys():
            raise ValueError(f"The study has no {', '.join(sorted(missing))}.")
        return cls(**read_fields(cls, values))

    def to_dict(self) -> dict[str, Any]:
        """The study as plain data."""
        return plain(asdict(self))


def _name_of(name: Any, what: str) -> str:
    """A name that can stand in tables, where "all" is all of them."""
    if isinstance(name, str) and name != REAL and name.strip().casefold() == REAL:
        raise ValueError(f"The study has a {what} called {name!r}; real cells are called {REAL!r}.")
    if not isinstance(name, str) or not name.strip() or name.strip().casefold() == ALL:
        raise ValueError(
            f"The study has a {what} called {name!r}; its name must be a text (in quotes), but not {ALL!r}."
        )
    _check_no_formula(name, what)
    return name


def _check_no_formula(name: str, what: str) -> None:
    if name.strip()[0] in "=+-@":
        raise ValueError(f"The {what} {name!r} has a name that spreadsheets take for a formula: give another.")


def _sources_of(stratum: str, given: Any) -> dict[str, Source]:
    if not isinstance(given, dict) or not all(isinstance(each, dict) for each in given.values()):
        raise ValueError(f"The stratum {stratum} must name its sources, each with folder and number.")
    sources = {}
    for name, each in given.items():
        if missing := {"folder", "number"} - each.keys():
            raise ValueError(f"The source {name} of {stratum} has no {', '.join(sorted(missing))}.")
        sources[_name_of(name, "source")] = Source(**read_fields(Source, each))
    return sources


def load_reader_study(path: Path) -> ReaderStudy:
    """Read a reader study's file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no YAML, or no study.
    """
    return ReaderStudy.from_dict(read_mapping(path, "study", "a YAML file, as docs/readers.md shows"))
