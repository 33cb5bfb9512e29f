"""What a reader study may be, and in which words its pages speak."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from wbc_diffusers.readers.config import ReaderStudy, load_reader_study
from wbc_diffusers.readers.texts import load_texts

SOURCES = {"real": {"folder": "data", "number": 20}, "ddim": {"folder": "cells", "number": 20}}
STUDY: dict[str, Any] = {"title": "Cells", "strata": {"normal": SOURCES}, "readers": ["anna", "ben"]}
WITHOUT_REAL = {"ddim": SOURCES["ddim"], "gan": SOURCES["ddim"]}


def test_a_study_is_read_and_written_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    study = load_reader_study(path)
    assert study.items == 40
    assert ReaderStudy.from_dict(study.to_dict()) == study
    assert ReaderStudy.from_dict({**STUDY, "question": "which_is_real"}).items == 20


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"readers": []}, "give each a name of its own"),
        ({"readers": ["anna", "anna "]}, "give each a name of its own"),
        ({"readers": [" "]}, "give each a name of its own"),
        ({"confidences": 6}, "give 1 .none. to 5 steps"),
        ({"confidences": 0}, "give 1 .none. to 5 steps"),
        ({"abnormalities": ["none"]}, "they can be hypersegmentation"),
        ({"training": -1}, "of 0 or more"),
        ({"margin": 0.46}, r"between 0 and 0\.45"),
        ({"jpeg_quality": 0}, "give 1 to 100"),
        ({"repeats": 14}, "repeats 14 of 40 cells; a third is the most"),
        ({"question": "which_is_real", "abnormalities": ["dohle_bodies"]}, "can't ask for the abnormality"),
        ({"question": "why"}, "question is 'why'; it must be one of real_or_synthetic, which_is_real"),
        ({"strata": {}}, "has no strata"),
        ({"strata": {"normal": {"real": SOURCES["real"]}}}, "has only real cells"),
        ({"strata": {"normal": WITHOUT_REAL}}, "has no source called real"),
        ({"strata": {"normal": [1]}}, "must name its sources"),
        ({"strata": {"normal": {"real": {"folder": "data"}}}}, "The source real of normal has no number"),
        ({"strata": {"normal": {**SOURCES, "gan": {"folder": "x", "number": 0}}}}, "must be 1 or more"),
        ({"strata": {"normal": {**SOURCES, "gan": {"folder": "x", "nmber": 1, "number": 2}}}}, "Did you mean number"),
        ({"strata": {"normal": {**SOURCES, "gan": SOURCES["ddim"]}}, "question": "which_is_real"}, "pairs are of two"),
        (
            {"strata": {"n": {**SOURCES, "real": {"folder": "x", "number": 3}}}, "question": "which_is_real"},
            "must give as many cells each",
        ),
        ({"titel": "x"}, "Did you mean title"),
        ({"readers": ["Anna", "anna"]}, "give each a name of its own"),
        ({"readers": ["=cmd()"]}, "spreadsheets take for a formula"),
        ({"abnormalities": ["dohle_bodies", "dohle_bodies"]}, "name one twice"),
        ({"strata": {1: SOURCES}}, "a stratum called 1; its name must be a text"),
        ({"strata": {"all": SOURCES}}, "but not 'all'"),
        ({"strata": {" All": SOURCES}}, "but not 'all'"),
        ({"strata": {"": SOURCES}}, "must be a text"),
        ({"strata": {"n": {**SOURCES, False: SOURCES["ddim"]}}}, "a source called False"),
        ({"strata": {"n": {**SOURCES, "all": SOURCES["ddim"]}}}, "a source called 'all'"),
        ({"strata": {"n": {"Real": SOURCES["real"], **WITHOUT_REAL}}}, "a source called 'Real'; real cells are called"),
        ({"strata": {"=n": SOURCES}}, "The stratum '=n' has a name that spreadsheets take for a formula"),
        ({"strata": {"n": {**SOURCES, "@gan": SOURCES["ddim"]}}}, "The source '@gan' has a name"),
        (
            {"strata": {"n": {**SOURCES, "gan": {"folder": "x", "number": 3}}}},
            "The generators of n must give as many cells each",
        ),
        (
            {"strata": {"a": WITHOUT_REAL, "b": SOURCES}, "question": "which_is_real"},
            "all its strata must be of the same two",
        ),
        ({"strata": {"n": WITHOUT_REAL}, "question": "which_is_real", "training": 1}, "no truth to tell in training"),
    ],
)
def test_what_is_no_study_is_refused_with_what_would_be(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ReaderStudy.from_dict({**STUDY, **changes})


def test_a_study_without_its_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="The study has no readers, strata"):
        ReaderStudy.from_dict({"title": "Cells"})
    with pytest.raises(FileNotFoundError, match="There is no study"):
        load_reader_study(Path("nowhere.yaml"))


# -- languages --------------------------------------------------------------------------------------------------------


def english() -> dict[str, Any]:
    """Give the texts of the package."""
    return dict(yaml.safe_load((files("wbc_diffusers.readers") / "languages" / "en.yaml").read_text(encoding="utf-8")))


def test_any_language_is_a_file_with_the_same_texts(tmp_path: Path) -> None:
    swedish = {**english(), "language": "sv", "real": "Äkta", "progress": "{number} av {total}"}
    path = tmp_path / "sv.yaml"
    path.write_text(yaml.safe_dump(swedish, allow_unicode=True), encoding="utf-8")
    assert load_texts(str(path)) == swedish
    assert load_texts("en") == english()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"real": None}, "real of the language .* is None"),
        ({"real": " "}, "must be a text"),
        ({"progress": "{number} av"}, r"must be a text with {number} in it with {total} in it"),
        ({"progress": "{number} av {total"}, "must be a text"),
        ({"confidences": {2: ["a", "b"]}}, "must have 2, 3, 4, 5"),
        ({"confidences": {2: ["a"], 3: ["a"] * 3, 4: ["a"] * 4, 5: ["a"] * 5}}, "it must be 2 texts"),
        ({"direction": "down"}, "direction of the language .* is 'down'; it must be ltr or rtl"),
        ({"reel": "x"}, "has reel, which no page shows"),
    ],
)
def test_a_language_that_would_leave_gaps_is_refused(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    path = tmp_path / "sv.yaml"
    path.write_text(yaml.safe_dump({**english(), **changes}))
    with pytest.raises(ValueError, match=told):
        load_texts(str(path))


def test_a_language_that_lacks_texts_is_told_which(tmp_path: Path) -> None:
    path = tmp_path / "sv.yaml"
    path.write_text("language: sv\nreal: Äkta\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"lacks .*pause.*: copy these, and translate"):
        load_texts(str(path))
    with pytest.raises(FileNotFoundError, match="There is no language fr"):
        load_texts("fr")


def test_every_text_that_the_pages_use_is_there() -> None:
    import re

    script = (files("wbc_diffusers.readers") / "pages" / "reader.js").read_text(encoding="utf-8")
    used = set(re.findall(r"\btexts\.(\w+)", script))
    assert used
    assert used <= english().keys()
