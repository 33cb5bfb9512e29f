"""What is served of a study tells nothing, and the key all."""

import csv
import json
import shutil
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from tests.readers.conftest import SIDE, Built, a_cell, thesis_strata, write_source
from wbc_diffusers.data.images import pixel_sha256, write_png
from wbc_diffusers.readers.blinding import BORDER_FIGURES, border_figures, file_figures
from wbc_diffusers.readers.build import build_study, change_address
from wbc_diffusers.readers.config import ReaderStudy
from wbc_diffusers.readers.folder import IMAGES_NAME, KEY_NAME, LINKS_NAME, STUDY_NAME, token_hash
from wbc_diffusers.readers.texts import load_texts


def served(built: Built) -> dict[str, bytes]:
    """Give all files that are served, by their names."""
    return {
        str(path.relative_to(built.folder)): path.read_bytes() for path in built.folder.rglob("*") if path.is_file()
    }


def key_of(built: Built) -> dict[str, Any]:
    """Give the key."""
    return json.loads((built.key / KEY_NAME).read_text())


def orders(built: Built) -> dict[str, list[dict[str, Any]]]:
    """Give what each reader is shown."""
    study = json.loads((built.folder / STUDY_NAME).read_text())
    return {reader["name"]: reader["order"] for reader in study["readers"]}


def test_what_is_served_names_no_source_file_stratum_or_hash(
    build: Callable[..., Built], real: Path, made: Path
) -> None:
    built = build(readers=["anna", "ben"])
    everything = b"\n".join([*served(built).values(), *(name.encode() for name in served(built))])
    words = ["ddim", "hypersegmentation-", str(real), str(made), "metadata", "seed", "trainedAlgorithmicMedia"]
    words += [facts["pixel_sha256"] for facts in key_of(built)["cells"].values()]
    assert [word for word in words if word.encode() in everything] == []
    assert json.loads(served(built)[STUDY_NAME]).keys().isdisjoint({"strata", "seed", "config"})
    assert not any("truth" in entry for order in orders(built).values() for entry in order)


def test_images_differ_in_nothing_but_their_pixels(build: Callable[..., Built]) -> None:
    built = build()
    files = list((built.folder / IMAGES_NAME).iterdir())
    content = [path.read_bytes() for path in files]
    assert len(files) == 8
    assert len({len(each) for each in content}) == 1
    assert len({path.stat().st_mtime_ns for path in files}) == 1
    assert all(set(path.stem) <= set("0123456789abcdef") and len(path.stem) == 16 for path in files)
    for each in content:
        names = [each[at + 4 : at + 8] for at in chunks(each)]
        assert set(names) == {b"IHDR", b"IDAT", b"IEND"}
        assert each[:33] == content[0][:33]


def chunks(png: bytes) -> list[int]:
    """Give where a PNG's chunks begin."""
    found, at = [], 8
    while at < len(png):
        found.append(at)
        at += 12 + int.from_bytes(png[at : at + 4])
    return found


def test_the_key_tells_where_each_cell_comes_from(build: Callable[..., Built], real: Path, made: Path) -> None:
    built = build(jpeg_quality=None)
    assert stat.S_IMODE(built.key.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in built.key.iterdir()} == {0o600}
    for name, facts in key_of(built)["cells"].items():
        assert facts["folder"] == str({"real": real, "ddim": made}[facts["source"]])
        with Image.open(Path(facts["folder"]) / facts["file_name"]) as source:
            with Image.open(built.folder / IMAGES_NAME / f"{name}.png") as shown:
                assert np.array_equal(source, shown)
            assert facts["pixel_sha256"] == pixel_sha256(source)
        assert (facts["stratum"], facts["abnormality"]) == ("hypersegmentation", "hypersegmentation")


def test_links_hold_tokens_that_the_study_knows_only_by_their_hash(build: Callable[..., Built]) -> None:
    built = build(readers=["anna", "ben"])
    study = served(built)[STUDY_NAME]
    with (built.key / LINKS_NAME).open(newline="") as file:
        links = {row["reader"]: row["link"] for row in csv.DictReader(file)}
    for reader, token in built.tokens.items():
        assert links[reader] == f"http://127.0.0.1:8000/#{token}"
        assert len(token) == 32
        assert token.encode() not in study
        assert token_hash(token).encode() in study


def test_each_reader_sees_every_cell_once_in_an_order_of_its_own(
    build: Callable[..., Built], real: Path, made: Path
) -> None:
    built = build(readers=["anna", "ben"], strata=thesis_strata(real, made, hypersegmentation=10))
    anna, ben = ([entry["images"][0] for entry in order] for order in orders(built).values())
    assert anna != ben
    assert sorted(anna) == sorted(ben) == sorted(key_of(built)["cells"])


def test_repeats_are_of_the_first_third_and_come_in_the_last(
    build: Callable[..., Built], real: Path, made: Path
) -> None:
    built = build(strata=thesis_strata(real, made, hypersegmentation=15), repeats=10)
    shown = [entry["images"][0] for entry in orders(built)["anna"]]
    assert len(shown) == 40
    for name in {name for name in shown if shown.count(name) == 2}:
        first, second = (i for i, each in enumerate(shown) if each == name)
        assert first < 10
        assert second >= 20
    assert len(set(shown)) == 30


def test_practice_comes_first_with_its_truth_and_never_again(build: Callable[..., Built]) -> None:
    built = build(training=2)
    order, cells = orders(built)["anna"], key_of(built)["cells"]
    assert ["truth" in entry for entry in order] == [True] * 4 + [False] * 8
    for entry in order:
        (name,) = entry["images"]
        assert cells[name]["practice"] == ("truth" in entry)
        assert entry.get("truth", "") in ("", "real" if cells[name]["source"] == "real" else "synthetic")
    assert len({entry["images"][0] for entry in order}) == 12


def test_pairs_are_of_one_stratum_and_lie_either_way(build: Callable[..., Built], real: Path, made: Path) -> None:
    strata = thesis_strata(real, made, hypersegmentation=12, dohle_bodies=12)
    built = build(question="which_is_real", strata=strata)
    cells, order = key_of(built)["cells"], orders(built)["anna"]
    assert len(order) == 24
    lefts: Counter[tuple[str, str]] = Counter()
    for entry in order:
        left, right = (cells[name] for name in entry["images"])
        assert left["stratum"] == right["stratum"]
        assert {left["source"], right["source"]} == {"real", "ddim"}
        lefts[left["stratum"], left["source"]] += 1
    assert set(lefts.values()) == {6}, "of each stratum as many are real on the left as on the right"


def test_sides_are_balanced_without_the_pairs_that_come_again(
    build: Callable[..., Built], real: Path, made: Path
) -> None:
    built = build(
        question="which_is_real",
        strata=thesis_strata(real, made, hypersegmentation=12),
        repeats=4,
        readers=list("abcdef"),
    )
    cells = key_of(built)["cells"]
    for order in orders(built).values():
        first = {tuple(sorted(entry["images"])): entry["images"][0] for entry in reversed(order)}
        assert sum(cells[left]["source"] == "real" for left in first.values()) == 6


def test_of_an_odd_number_of_pairs_neither_side_is_always_the_one_with_more(
    build: Callable[..., Built], real: Path, made: Path
) -> None:
    built = build(
        question="which_is_real",
        strata=thesis_strata(real, made, hypersegmentation=3),
        readers=list("abcdefghijklmnop"),
    )
    cells = key_of(built)["cells"]
    lefts = {sum(cells[entry["images"][0]]["source"] == "real" for entry in order) for order in orders(built).values()}
    assert lefts == {1, 2}


def test_a_seed_draws_the_same_cells_but_no_name_order_or_token(real: Path, made: Path, tmp_path: Path) -> None:
    config = ReaderStudy.from_dict(
        {"title": "Cells", "strata": thesis_strata(real, made, hypersegmentation=12), "readers": ["anna"], "seed": 7}
    )
    one, two = Built(config, tmp_path / "one"), Built(config, tmp_path / "two")
    other = Built(ReaderStudy.from_dict({**config.to_dict(), "seed": None}), tmp_path / "three")
    drawn = [[facts["file_sha256"] for facts in key_of(built)["cells"].values()] for built in (one, two, other)]
    assert drawn[0] == drawn[1]
    assert sorted(drawn[0]) != sorted(drawn[2])
    assert key_of(one)["cells"].keys().isdisjoint(key_of(two)["cells"])
    shown = [
        [key_of(built)["cells"][entry["images"][0]]["file_sha256"] for entry in orders(built)["anna"]]
        for built in (one, two)
    ]
    assert shown[0] != shown[1]
    assert one.tokens != two.tokens
    assert isinstance(key_of(other)["seed"], int)


# -- what is refused --------------------------------------------------------------------------------------------------


def test_sources_of_different_sizes_are_refused_and_nothing_is_left(real: Path, tmp_path: Path) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    for i in range(8):
        pixels = np.kron(a_cell(np.random.default_rng(i)), np.ones((2, 2, 1), np.uint8))
        write_png(folder / f"{i}.png", pixels)
    strata = {"cells": {"real": {"folder": str(real), "number": 4}, "ddim": {"folder": str(folder), "number": 4}}}
    config = ReaderStudy.from_dict({"title": "Cells", "strata": strata, "readers": ["anna"]})
    with pytest.raises(ValueError, match=f"real of cells {SIDE} x {SIDE}.*real ones by `wbc prepare --size`"):
        build_study(config, tmp_path / "study", tmp_path / "key")
    assert {path.name for path in tmp_path.iterdir()} == {"large"}


def test_too_few_cells_are_told(build: Callable[..., Built], real: Path, made: Path) -> None:
    with pytest.raises(ValueError, match=r"26 cells of .*real are wanted for hypersegmentation .*there are 25"):
        build(strata=thesis_strata(real, made, hypersegmentation=25), training=1)


def test_a_synthetic_cell_among_the_real_ones_is_refused(build: Callable[..., Built], made: Path) -> None:
    with pytest.raises(ValueError, match="trained model"):
        build(strata=thesis_strata(made, made, hypersegmentation=4))


def test_another_address_changes_the_links_and_no_token(build: Callable[..., Built]) -> None:
    built = build(readers=["anna", "ben"])
    change_address(built.key, "https://study.example/")
    lines = (built.key / LINKS_NAME).read_text().splitlines()
    assert lines == ["reader,link", *(f"{name},https://study.example/#{t}" for name, t in built.tokens.items())]
    assert (built.key / LINKS_NAME).stat().st_mode & 0o777 == 0o600
    for odd in ("study.example", "https://", "https://x.example/#top", "https://x.example/?a=1", "javascript:alert(1)"):
        with pytest.raises(ValueError, match="must begin with http:// or https:// and a host"):
            change_address(built.key, odd)
    assert (built.key / LINKS_NAME).read_text().splitlines() == lines
    (built.key / LINKS_NAME).write_text("reader,link\nanna,nothing\n")
    with pytest.raises(ValueError, match="holds no links"):
        change_address(built.key, "https://study.example/")
    with pytest.raises(FileNotFoundError, match="There are no links"):
        change_address(built.folder, "https://study.example/")


def test_a_build_that_is_stopped_leaves_nothing(real: Path, made: Path, tmp_path: Path) -> None:
    config = tmp_path / "study.yaml"
    strata = thesis_strata(real, made, hypersegmentation=4)
    config.write_text(yaml.safe_dump({"title": "Cells", "strata": strata, "readers": ["anna"]}))
    code = """if True:
        import sys, wbc_diffusers.readers.build as build
        from wbc_diffusers.cli import main
        build.flush_tree = lambda folder: (print("writing", flush=True), sys.stdin.read())
        main()
    """
    command = [sys.executable, "-c", code, "readers", "build", "--config", str(config)]
    places = ["--out", str(tmp_path / "place" / "study"), "--key", str(tmp_path / "place" / "key")]
    with subprocess.Popen([*command, *places], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert list((tmp_path / "place").iterdir())
        process.terminate()
        assert process.wait(60) == 143
    assert list((tmp_path / "place").iterdir()) == []


@pytest.mark.parametrize(("study", "key"), [("a", "a"), ("a", "a/key"), ("key/a", "key")])
def test_a_key_in_what_is_served_is_refused(real: Path, made: Path, tmp_path: Path, study: str, key: str) -> None:
    config = ReaderStudy.from_dict(
        {"title": "Cells", "strata": thesis_strata(real, made, hypersegmentation=4), "readers": ["anna"]}
    )
    with pytest.raises(ValueError, match="must not hold the key"):
        build_study(config, tmp_path / study, tmp_path / key)


def test_a_folder_that_holds_something_is_left_alone(build: Callable[..., Built], tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "answers.sqlite").write_text("precious")
    with pytest.raises(FileExistsError, match="holds something"):
        build()
    assert (tmp_path / "study" / "answers.sqlite").read_text() == "precious"
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize("mode", ["I;16", "F", "I"])
def test_cells_that_no_screen_shows_as_they_are_are_refused(
    build: Callable[..., Built], made: Path, tmp_path: Path, mode: str
) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(np.full((SIDE, SIDE), 300 + i, np.int32)).convert(mode).save(folder / f"{i}.tif")
    strata = {"cells": {"real": {"folder": str(folder), "number": 4}, "ddim": {"folder": str(made), "number": 4}}}
    with pytest.raises(ValueError, match=r"is of mode .*prepare it as 8-bit colours|bit"):
        build(strata=strata)


def test_a_study_that_cannot_be_placed_leaves_no_key(
    build: Callable[..., Built], tmp_path: Path, monkeypatch: Any
) -> None:
    replace = Path.replace

    def fails(self: Path, target: Path) -> Path:
        if target.name == "study":
            raise OSError("no space")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="no space"):
        build()
    assert [path.name for path in tmp_path.iterdir() if path.name != "key"] == []
    assert not (tmp_path / "key").exists()


# -- what would let readers guess -------------------------------------------------------------------------------------


def test_a_balanced_study_of_cells_that_look_alike_has_no_risks(
    build: Callable[..., Built], real: Path, made: Path
) -> None:
    assert build(strata=thesis_strata(real, made, hypersegmentation=20)).risks == []


def test_uneven_shares_are_told(build: Callable[..., Built], real: Path, made: Path) -> None:
    strata = thesis_strata(real, made, hypersegmentation=12)
    strata["hypersegmentation"]["ddim"]["number"] = 4
    (risk,) = build(strata=strata).risks
    assert "75.0% of the cells are real" in risk


@pytest.mark.parametrize(
    "text",
    [
        "Half of these cells are synthetic.",
        "You will see 8 cells, 4 of them synthetic.",
        "Four of them are synthetic.",
        "About 30 % are synthetic.",
        "An equal number of both.",
    ],
)
def test_a_text_that_tells_the_share_is_told(build: Callable[..., Built], text: str) -> None:
    (risk,) = build(instructions=text).risks
    assert "who knows that can count" in risk


def test_the_instructions_of_a_language_are_looked_at_too(build: Callable[..., Built], tmp_path: Path) -> None:
    texts = load_texts("en")
    texts["instructions_real_or_synthetic"] = "50 % davon sind künstlich."
    (tmp_path / "de.yaml").write_text(yaml.safe_dump(texts), encoding="utf-8")
    (risk,) = build(language=str(tmp_path / "de.yaml")).risks
    assert "texts say '50 %'" in risk


def test_other_words_tell_nothing(build: Callable[..., Built]) -> None:
    assert build(instructions="There are cells of 3 patients; take at least one minute for each.").risks == []


def test_cells_of_a_generator_that_nothing_marks_as_such_are_told(
    build: Callable[..., Built], real: Path, tmp_path: Path
) -> None:
    unmarked = write_source(tmp_path / "unmarked", {"hypersegmentation": 8}, synthetic=False, seed=9)
    risks = build(strata=thesis_strata(real, unmarked, hypersegmentation=8)).risks
    words = "Of 8 cells of ddim in hypersegmentation 8 don't say in their file or metadata that a model made them"
    assert any(words in risk for risk in risks)


def test_a_stratum_of_a_generator_that_points_at_other_cells_is_told(
    build: Callable[..., Built], real: Path, made: Path, tmp_path: Path
) -> None:
    strata = thesis_strata(real, made, hypersegmentation=8, dohle_bodies=8)
    others = write_source(tmp_path / "others", {"dohle_bodies": 8}, synthetic=False, seed=9)
    strata["dohle_bodies"]["ddim"]["folder"] = str(others)
    told = [risk for risk in build(strata=strata).risks if "don't say" in risk]
    assert len(told) == 1
    assert told[0].startswith("Of 8 cells of ddim in dohle_bodies 8 don't say")


def test_a_generated_file_among_prepared_real_cells_is_refused(
    build: Callable[..., Built], real: Path, made: Path, tmp_path: Path
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(real, mixed)
    with (mixed / "metadata.csv").open(newline="") as file:
        rows = [{**row, "pixel_sha256": f"{number:064x}"} for number, row in enumerate(csv.DictReader(file))]
    with (mixed / "metadata.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    shutil.copy(made / "hypersegmentation-0003.png", mixed / "hypersegmentation-0003.png")
    with pytest.raises(ValueError, match=r"is to give real cells, but .*0003\.png was made by a trained model"):
        build(strata=thesis_strata(mixed, made, hypersegmentation=25))


def test_a_copy_of_a_real_cell_is_told(build: Callable[..., Built], real: Path, tmp_path: Path) -> None:
    copies = write_source(tmp_path / "copies", {"hypersegmentation": 25}, synthetic=True, seed=1)
    risks = build(strata=thesis_strata(real, copies, hypersegmentation=25)).risks
    assert any("25 pairs of cells are copies" in risk for risk in risks)


def test_a_brighter_border_is_told(build: Callable[..., Built], real: Path, tmp_path: Path) -> None:
    bright = write_source(tmp_path / "bright", {"hypersegmentation": 25}, synthetic=True, seed=9, level=170)
    risks = build(strata=thesis_strata(real, bright, hypersegmentation=20)).risks
    assert any("border pixels' brightness alone tells the kinds" in risk for risk in risks)


def test_border_figures_are_of_the_outermost_pixels_alone() -> None:
    pixels = np.full((12, 12, 3), 100, np.uint8)
    pixels[2:-2, 2:-2] = 17
    figures = dict(zip(BORDER_FIGURES, border_figures(Image.fromarray(pixels)), strict=True))
    assert figures["brightness"] == 100
    assert (
        figures["scatter"] == figures["step to the next pixels"] == figures["brightness against the next pixels"] == 0
    )
    assert figures["values that end in 0"] == 1
    pixels[1:-1, 1:-1] = 17
    figures = dict(zip(BORDER_FIGURES, border_figures(Image.fromarray(pixels)), strict=True))
    assert figures["brightness against the next pixels"] == 83


@pytest.mark.parametrize("quality", [75, 90, 95])
def test_no_program_tells_real_cells_from_real_ones_that_were_encoded_anew(
    pbc_dir: Path, tmp_path: Path, quality: int
) -> None:
    """Half of some real cells are saved as JPEG with metadata; before they are served, anybody can tell them."""
    names = np.random.default_rng(0).permutation(sorted(pbc_dir.rglob("*.jpg")))[:600]
    kept, anew = tmp_path / "kept", tmp_path / "anew"
    for folder in (kept, anew):
        folder.mkdir()
    for i, name in enumerate(names):
        with Image.open(name) as image:
            small = image.convert("RGB").resize((64, 64), Image.Resampling.LANCZOS)
        if i % 2:
            small.save(anew / f"{i}.jpg", quality=quality, comment="by a model", dpi=(72, 72))
        else:
            write_png(kept / f"{i}.png", small)
    strata = {"cells": {"real": {"folder": str(kept), "number": 300}, "ddim": {"folder": str(anew), "number": 300}}}
    built = Built(ReaderStudy.from_dict({"title": "Cells", "strata": strata, "readers": ["anna"], "seed": 0}), tmp_path)
    cells = key_of(built)["cells"]
    as_served = [(built.folder / IMAGES_NAME / f"{name}.png").read_bytes() for name in cells]
    before = [(Path(facts["folder"]) / facts["file_name"]).read_bytes() for facts in cells.values()]
    truth = [facts["source"] == "real" for facts in cells.values()]
    assert told_apart(before, truth) > 0.99
    assert told_apart(as_served, truth) < 0.5 + 2.6 * np.sqrt(1 / (6 * 300))
    assert [risk for risk in built.risks if "say in their file or metadata that a model" not in risk] == []


def told_apart(files: list[bytes], truth: list[bool]) -> float:
    """Give how often a program that looks at files alone tells them apart, for cells that it was not fitted on."""
    features = np.array([file_figures(file) for file in files])
    judge = RandomForestClassifier(200, random_state=0)
    return float(roc_auc_score(truth, cross_val_predict(judge, features, truth, cv=5, method="predict_proba")[:, 1]))
