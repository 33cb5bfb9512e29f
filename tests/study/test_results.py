"""The record and what is told of it, of predictions whose every figure is known."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wbc_diffusers.pages.tables import as_csv, as_markdown, p_value
from wbc_diffusers.study.arms import folder_of
from wbc_diffusers.study.config import StudyConfig
from wbc_diffusers.study.figures import draw_figures, recall_chart
from wbc_diffusers.study.predictions import Predictions
from wbc_diffusers.study.results import best_without, build_record, read_runs
from wbc_diffusers.study.tables import headers, points, rows, swap_in_words
from wbc_diffusers.study.words import findings

NORMALS, ABNORMALS, SWAPPED = 100, 20, 40
SEEDS = [3, 8]
RECALLS: dict[str, tuple[float, float]] = {
    "real only": (0.1, 0.1),
    "oversampled": (0.4, 0.5),  # the best without, by its mean
    "lucky": (0.6, 0.2),  # it has the best seed
    "synthetic": (0.7, 0.7),
    "harmful": (0.0, 0.0),
    "as good": (0.5, 0.4),
    "below the best": (0.1, 0.1),
    "synthetic, 1 for each real one": (0.4, 0.5),
    "synthetic, 4 for each real one": (1.0, 1.0),
    "oversampled, 20 real": (0.6, 0.6),
    "oversampled, 40 real": (0.8, 0.8),
}
"""Of each arm and seed; an arm of doses with the recall of the curve at 10 is worth nothing more than the base."""
TAKEN = {"synthetic": 20, "synthetic, 1 for each real one": 10, "synthetic, 4 for each real one": 40}
ARMS: dict[str, Any] = {
    "real only": None,
    "oversampled": {"oversample": True},
    "lucky": {"focal_gamma": 1.0},
    "synthetic": {"oversample": True, "synthetic_ratio": [0.0, 2.0]},
    "harmful": {"oversample": True, "synthetic_ratio": [0.5, 2.0]},
    "as good": {"oversample": True, "first": {"synthetic_ratio": [0.0, 1.0]}},
    "below the best": {"synthetic_ratio": [0.0, 1.0]},
}


def said(recall: float, fooled: float = 0.05) -> dict[str, Predictions]:
    """Predictions of test, validation and swap: the threshold is 0.47, and so many abnormal and swapped are above."""
    normals = np.arange(NORMALS) / 200

    def of(normal: Any, abnormal: Any, name: str) -> Predictions:
        scores = np.concatenate([normal, abnormal])
        labels = np.repeat([0, 1], [len(normal), len(abnormal)])
        names = tuple(f"{name} {i}" for i in range(len(scores)))
        return Predictions(labels, np.stack([1 - scores, scores], 1), names, ("",) * len(names))

    def above(count: int, share: float) -> Any:
        return np.where(np.arange(count) < round(share * count), 0.9, 0.1)

    return {
        "test": of(normals, above(ABNORMALS, recall), "test"),
        "validation": of(normals[:20], above(4, 1.0), "validation"),  # all of these are below 0.1
        "swap": of(above(SWAPPED, fooled), above(4, 1.0), "swap"),
    }


def told(arm: str, seed: int) -> dict[str, Any]:
    taken = {"wanted": 50, "passed": 45, "taken": TAKEN.get(arm, 20 if arm in ("harmful", "as good") else 0)}
    none = {"wanted": 0, "passed": 0, "taken": 0}
    stage = {
        "classes": ["normal", "hypersegmentation"],
        "real_images": {"normal": 50, "hypersegmentation": 10},
        "synthetic_images": {"normal": {**none, "taken": taken["taken"] // 4}, "hypersegmentation": taken},
        "steps": 90,
    }
    stages = [stage]
    if arm == "as good":
        stages.append({**stage, "synthetic_images": {"normal": none, "hypersegmentation": none}})
    return {"arm": arm, "seed": seed, "trained_on": stages, "seconds": 5.0, "recipes": []}


def study(**changes: Any) -> StudyConfig:
    return StudyConfig.from_dict(
        {
            "name": "hand-made",
            "data": "data",
            "generated": [{"folder": "made", "model": "model"}],
            "recipe": {"max_train_steps": 90, "sizes": {"train": [50, 10]}, "pretrained": "some/where"},
            "arms": ARMS,
            "dose": {"arm": "synthetic", "ratios": [1, 4], "real_arm": "oversampled", "more_real": [20, 40]},
            "seeds": SEEDS,
            "replicates": 400,
            **changes,
        }
    )


def write_runs(config: StudyConfig, out: Path, fooled: float = 0.05) -> Path:
    for arm in config.all_arms():
        for seed, recall in zip(SEEDS, RECALLS[arm.name], strict=True):
            folder = folder_of(arm, seed, out / "runs")
            folder.mkdir(parents=True)
            for name, predictions in said(recall, fooled if arm.name == "harmful" else 0.05).items():
                predictions.save(folder / f"{name}.npz")
            (folder / "run.json").write_text(json.dumps(told(arm.name, seed)))
    return out


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a study whose arm "harmful" calls 30 of 40 synthetic normal cells abnormal."""
    return write_runs(study(), tmp_path_factory.mktemp("handmade"), fooled=0.75)


@pytest.fixture(scope="module")
def record(out: Path) -> dict[str, Any]:
    """Give its record."""
    facts = {"images": {"test": {"normal": NORMALS, "hypersegmentation": ABNORMALS}}, "generators": []}
    return build_record(study(), read_runs(study(), out), facts)


@pytest.fixture(scope="module")
def arms(record: dict[str, Any]) -> Mapping[str, Any]:
    """Give its arms by name."""
    return {arm["name"]: arm for arm in record["arms"]}


# -- the record ------------------------------------------------------------------------------------------------------


def test_the_reference_is_the_arm_without_synthetic_cells_of_the_highest_mean_recall(
    out: Path, record: dict[str, Any]
) -> None:
    # "oversampled, 40 real" has more, but more real cells than the others too.
    assert best_without(study(), read_runs(study(), out)).arm.name == record["reference"] == "oversampled"


@pytest.mark.parametrize("name", list(RECALLS))
def test_recall_is_the_mean_over_the_seeds_and_its_difference_to_the_reference(arms: Any, name: str) -> None:
    mean, best = np.mean(RECALLS[name]), 0.45
    arm = arms[name]
    found = arm["estimates"]["recall_at_specificity"]
    assert found["value"] == pytest.approx(mean)
    assert arm["means"]["recall_at_specificity"] == pytest.approx(mean)
    assert [each["recall_at_specificity"] for each in arm["seeds"]] == pytest.approx(list(RECALLS[name]))
    assert [each["seed"] for each in arm["seeds"]] == SEEDS
    assert found["low"] <= found["value"] <= found["high"]
    if name == "oversampled":
        assert not {"differences", "mcnemar"} & arm.keys()
        return
    difference = arm["differences"]["recall_at_specificity"]
    assert difference["value"] == pytest.approx(mean - best)
    assert difference["low"] <= difference["value"] <= difference["high"]


def test_mcnemar_is_of_the_abnormal_cells_by_the_mean_of_the_seeds(arms: Any) -> None:
    # Of the reference 8 cells are above in both seeds and 2 in one: 0.5, which is above the threshold of 0.47 too.
    found = arms["synthetic"]["mcnemar"]
    assert [found[key] for key in ("both", "first_only", "second_only", "neither")] == [10, 4, 0, 6]
    assert found["p"] == pytest.approx(2 / 2**4)


def test_confusion_is_the_mean_over_the_seeds_by_the_likeliest_class_and_at_the_specificity(arms: Any) -> None:
    # No normal cell is above 0.5, and the 5 above 0.47 are called abnormal at the specificity.
    assert arms["oversampled"]["confusion"] == [[100, 0], [11, 9]]
    assert arms["oversampled"]["confusion_at_specificity"] == [[95, 5], [11, 9]]


def test_the_threshold_of_the_validation_is_used_on_the_test(arms: Any) -> None:
    # The nineteenth of its twenty normals is at 0.09: of the test's, 0 to 18 are not above.
    means = arms["synthetic"]["means"]
    assert means["specificity_at_validation_threshold"] == pytest.approx(0.19)
    assert means["recall_at_validation_threshold"] == pytest.approx(1.0)


def test_the_swap_tells_which_arm_knows_synthetic_cells_by_their_source(arms: Any) -> None:
    assert arms["harmful"]["swap"]["normal"]["difference"]["value"] == pytest.approx(0.75 - 0.05)
    assert arms["synthetic"]["swap"]["normal"]["difference"]["value"] == pytest.approx(0.0)
    assert arms["harmful"]["swap"]["normal"]["n_synthetic"] == SWAPPED


def test_doses_are_worth_what_the_curve_of_real_cells_says(record: dict[str, Any]) -> None:
    dose = record["dose"]
    assert dose["real_images"] == 10
    curve = {each["real"]: each["recall"]["value"] for each in dose["real_curve"]}
    assert curve == {10: pytest.approx(0.45), 20: pytest.approx(0.6), 40: pytest.approx(0.8)}
    # Half way from 20 to 40 on a logarithmic scale; the recall of 10 is that of the base; 1.0 is more than 40 reach.
    worth = {10: 0.0, 20: 20 * 2**0.5 - 10, 40: 30.0}
    found = {each["synthetic"]: each for each in dose["doses"]}
    assert {n: each["worth"]["value"] for n, each in found.items()} == pytest.approx(worth)
    assert [found[n]["bound"] for n in (10, 20, 40)] == ["", "", "at least"]


def test_sizes_of_the_dose_are_scaled_as_its_images_were(tmp_path: Path) -> None:
    config = study(recipe={"max_train_steps": 90, "sizes": {"train": [50, 10]}, "scale": 0.5})
    record = build_record(config, read_runs(config, write_runs(config, tmp_path)), {})
    assert [each["real"] for each in record["dose"]["real_curve"]] == [5, 10, 20]
    assert record["weights"] == "the pretrained weights of google/mobilenet_v2_0.75_160"


def test_a_record_is_json_and_tells_budget_and_weights(record: dict[str, Any]) -> None:
    assert json.loads(json.dumps(record, allow_nan=False)) == json.loads(json.dumps(record))
    assert (record["updates"], record["weights"]) == (90, "the pretrained weights of some/where")
    assert record["class_names"] == ["normal", "hypersegmentation"]


def test_no_path_to_the_weights_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    config = study(recipe={"max_train_steps": 9, "pretrained": str(tmp_path / "mine")}, dose={})
    record = build_record(config, read_runs(config, write_runs(config, tmp_path / "out")), {})
    assert record["weights"] == "the pretrained weights of mine"
    assert record["dose"] is None


def test_runs_that_are_not_done_are_no_study(tmp_path: Path) -> None:
    write_runs(study(), tmp_path)
    (tmp_path / "runs" / "lucky" / "seed-8" / "run.json").unlink()
    with pytest.raises(OSError, match=r"lucky.seed-8.run\.json"):
        read_runs(study(), tmp_path)


# -- in sentences ----------------------------------------------------------------------------------------------------


def test_findings_say_what_helps_what_harms_and_what_is_not_told_apart(record: dict[str, Any]) -> None:
    enough = {**record, "study": {**record["study"], "seeds": [1, 2, 3, 4, 5]}}
    lines = findings(enough)
    assert lines[0] == (
        "The best arm without synthetic cells is oversampled: recall 45.0 % at 95 % specificity, the mean of 5 seeds."
    )
    cannot_tell = "can be told neither to help nor to harm"
    starts = [
        ("synthetic helps: +25.0 points (", "+25.0 points (", "oversampled, its like."),
        ("harmful harms: -45.0 points (", "-45.0 points (", "oversampled, its like."),
        (f"as good {cannot_tell}: +0.0 points (", "+0.0 points (", "oversampled, its like."),
        # Worse than the best, whom the same images chose, but as good as the same without synthetic cells.
        (f"below the best {cannot_tell}: -35.0 points (", "+0.0 points (", "real only, its like."),
        (
            "harmful tells cells by their source: it calls synthetic normal ones abnormal more often than real ones, "
            "by 70.0 points (",
            "",
            ").",
        ),
        ("10 synthetic cells were worth 0 real ones (", "", ""),
        ("20 synthetic cells were worth 18 real ones (", "", ""),
        ("40 synthetic cells were worth at least 30 real ones (", "", "30 or more)."),
    ]
    for (start, middle, end), line in zip(starts, lines[1:], strict=True):
        assert line.startswith(start)
        assert middle in line[len(start) :]
        assert line.endswith(end)


def test_the_arm_that_a_study_decides_by_comes_first_and_is_said_to_have_been_named(record: dict[str, Any]) -> None:
    assert not any("decides by" in line for line in findings(record))
    named = {**record["study"], "primary": "as good", "seeds": [1, 2, 3, 4, 5]}
    lines = findings({**record, "study": named})
    assert lines[1] == "The study decides by as good, which was named before; the other arms are looked at beside it."
    assert lines[2].startswith("as good can be told neither to help nor to harm: +0.0 points (")
    assert [line.split(" ")[0] for line in lines[3:6]] == ["synthetic", "harmful", "below"]


def test_a_source_is_told_whichever_way_it_misleads(record: dict[str, Any]) -> None:
    arm = next(each for each in record["arms"] if each["name"] == "harmful")
    turned = {**arm, "swap": {"normal": {"difference": {"value": -0.05, "low": -0.08, "high": -0.02}}}}
    lines = findings({**record, "arms": [turned if each is arm else each for each in record["arms"]]})
    told = "it calls synthetic normal ones abnormal less often than real ones, by 5.0 points (2.0 to 8.0)."
    assert [line for line in lines if "their source" in line] == [f"harmful tells cells by their source: {told}"]


def test_a_source_that_the_like_tells_as_well_is_said_to_be_so(record: dict[str, Any]) -> None:
    gap = {"normal": {"difference": {"value": 0.3, "low": 0.2, "high": 0.4}}}
    arms = [{**arm, "swap": gap} if arm["name"] == "oversampled" else arm for arm in record["arms"]]
    (line,) = (line for line in findings({**record, "arms": arms}) if "their source" in line)
    assert line.endswith("points (55.6 to 84.4); but oversampled, which never saw one, has +30.0 there.")


def test_a_like_may_be_an_arm_of_the_dose(tmp_path: Path) -> None:
    config = study(arms={**ARMS, "harmful": {**ARMS["harmful"], "sizes": {"train": [50, 20]}}})
    facts = {"images": {"test": {"normal": NORMALS, "hypersegmentation": ABNORMALS}}, "generators": []}
    record = build_record(config, read_runs(config, write_runs(config, tmp_path, fooled=0.75)), facts)
    (harmful,) = (arm for arm in record["arms"] if arm["name"] == "harmful")
    assert harmful["counterpart"]["name"] == "oversampled, 20 real"
    assert any(line.startswith("harmful tells cells by their source") for line in findings(record))


def test_arms_whose_source_was_not_seen_to_are_named(record: dict[str, Any]) -> None:
    arms = [{**arm, "swap": None} if arm["name"] in ("synthetic", "harmful") else arm for arm in record["arms"]]
    told = "Whether synthetic, harmful tell cells by their source can't be said: no normal synthetic cells were"
    assert any(line.startswith(told) for line in findings({**record, "arms": arms}))


def test_of_few_patients_no_verdict_is_given_and_of_unknown_ones_each_image_counts(record: dict[str, Any]) -> None:
    assert record["judged"] == {"normal": NORMALS, "abnormal": ABNORMALS, "abnormal_groups": 20, "groups_known": 0}
    few = {**record, "judged": {**record["judged"], "abnormal_groups": 9}}
    lines = findings({**few, "study": {**record["study"], "seeds": [1, 2, 3, 4, 5]}})
    assert lines[1].startswith("The abnormal test images are of 9 groups")
    assert not any(word in line for line in lines[2:] for word in ("helps", "harms", "neither", "were worth"))


def test_who_is_better_by_something_else_does_not_help(record: dict[str, Any]) -> None:
    study = {**record["study"], "seeds": [1, 2, 3, 4, 5]}
    arm = next(each for each in record["arms"] if each["name"] == "synthetic")
    alone = {key: value for key, value in arm.items() if key != "counterpart"}
    worse = {"name": "oversampled", "difference": {"value": 0.01, "low": -0.1, "high": 0.12}}
    for changed, told in (
        (arm, "synthetic helps: "),
        (alone, "synthetic is better than the best without, but no arm is the same without synthetic cells: "),
        ({**arm, "counterpart": worse}, "synthetic can be told neither to help nor to harm: "),
    ):
        arms = [changed if each is arm else each for each in record["arms"]]
        assert any(line.startswith(told) for line in findings({**record, "study": study, "arms": arms}))
    beside = findings({**record, "study": {**study, "primary": "harmful"}})
    assert any(line.startswith("synthetic looks as if it helped: ") for line in beside)


def test_generators_that_know_more_or_nothing_of_the_training_images_are_told(record: dict[str, Any]) -> None:
    each = {
        "model": "rare", "more_than_arms": {"normal": 9, "hypersegmentation": 0}, "unknown_start": None,
        "trained_on": {"train": {"n": 5}},
    }  # fmt: skip
    assert findings({**record, "generators": [each]}) == findings(record)
    more = {**each, "more_than_arms": {"normal": 0, "hypersegmentation": 44}}
    assert any(
        line.startswith("rare was trained on 44 hypersegmentation cells more than the arms are")
        for line in findings({**record, "generators": [more]})
    )
    begun = {**each, "unknown_start": "somebody/cells"}
    told = "rare was made from somebody/cells, which has no manifest"
    assert any(line.startswith(told) for line in findings({**record, "generators": [begun]}))
    none = {**each, "trained_on": {"train": {"n": 0}}}
    assert any(line.startswith("rare knows no image of") for line in findings({**record, "generators": [none]}))


def test_of_few_seeds_no_verdict_is_given(record: dict[str, Any]) -> None:
    lines = findings(record)
    assert lines[1] == "With fewer than 5 seeds nothing is said of what helps or harms."
    assert lines[2].startswith("synthetic: +25.0 points (")
    assert not any("helps" in line or "harms" in line for line in lines[2:])
    one = {**record, "study": {**record["study"], "seeds": [1]}}
    assert findings(one)[0].endswith("at 95 % specificity, of a single seed.")


def test_an_arm_is_held_against_the_same_without_synthetic_cells(arms: Any) -> None:
    likes = {name: arm["counterpart"]["name"] for name, arm in arms.items() if "counterpart" in arm}
    assert likes.pop("below the best") == "real only"
    assert set(likes.values()) == {"oversampled"}
    assert likes.keys() == {"synthetic", "harmful", "as good", *(name for name in arms if "for each" in name)}
    assert arms["synthetic"]["counterpart"]["difference"]["value"] == pytest.approx(0.25)
    high = arms["below the best"]["differences"]["recall_at_specificity"]["high"]
    assert high < 0 <= arms["below the best"]["counterpart"]["difference"]["high"]


# -- the table -------------------------------------------------------------------------------------------------------


def test_a_row_holds_the_arm_s_figures(record: dict[str, Any], arms: Any) -> None:
    table = {row[0]: dict(zip(headers(record), row, strict=True)) for row in rows(record)}
    assert list(table) == list(arms)
    row, difference = table["synthetic"], arms["synthetic"]["differences"]["recall_at_specificity"]
    assert (row["real cells"], row["synthetic cells"]) == ("50 + 10", "5 + 20")
    assert (row["recall at 95 % specificity"], row["difference to the best without"]) == ("70.0", "+25.0")
    assert row["95 % interval"] == f"{100 * difference['low']:+.1f} to {100 * difference['high']:+.1f}"
    assert row["McNemar p"] == "0.125"
    assert row["recall, specificity at the validation's threshold"] == "100.0, 19.0"
    assert table["harmful"]["source swap"].startswith("+70.0 (")
    assert table["oversampled"]["difference to the best without"] == "the best without"
    assert table["oversampled"]["McNemar p"] == ""
    assert table["as good"]["synthetic cells"] == "5 + 20"  # of its first training


@pytest.mark.parametrize(
    ("specificity", "words"), [(0.95, "95 %"), (0.975, "97.5 %"), (0.9, "90 %"), (0.999, "99.9 %")]
)
def test_the_specificity_is_told_as_it_is(record: dict[str, Any], specificity: float, words: str) -> None:
    other = {**record, "study": {**record["study"], "specificity": specificity}}
    assert headers(other)[3] == f"recall at {words} specificity"
    assert f"at {words} specificity" in findings(other)[0]
    (axes,) = recall_chart(other).axes
    assert axes.get_xlabel() == f"recall at {words} specificity"


def test_where_a_filter_passed_more_in_one_run_than_in_another_both_are_told(record: dict[str, Any]) -> None:
    arm = next(arm for arm in record["arms"] if arm["name"] == "synthetic")
    first, second = ({"synthetic_images": {"normal": {"taken": 5}, "rare": {"taken": n}}} for n in (20, 12))
    changed = {
        **record,
        "arms": [{**arm, "trained_on": [[{**arm["trained_on"][0][0], **each}] for each in (first, second)]}],
    }
    assert rows(changed)[0][2] == "5 + 12 to 20"


def test_numbers_are_written_as_tables_have_them() -> None:
    assert [points(d) for d in (0.0123, -0.2, 0.0, -0.0001)] == ["+1.2", "-20.0", "+0.0", "+0.0"]
    assert (p_value(0.0009), p_value(0.001), p_value(1.0)) == ("< 0.001", "0.001", "1.000")
    assert swap_in_words(None) == swap_in_words({"abnormal": {}}) == ""


def test_a_table_is_read_back_as_it_was_written() -> None:
    import csv

    head, body = ["arm", "a, b"], [["with, comma", 'with "quotes"'], ["ü", ""]]
    assert list(csv.reader(as_csv(head, body).splitlines())) == [head, *body]
    assert as_markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"


# -- the plots -------------------------------------------------------------------------------------------------------


def lines_of(axes: Any) -> dict[str, tuple[Any, Any]]:
    return {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in axes.get_lines()}


def test_plots_show_the_figures_of_the_record(out: Path, record: dict[str, Any], arms: Any) -> None:
    figures = draw_figures(record, read_runs(study(), out))
    (axes,) = figures["recall"].axes
    assert [text.get_text() for text in axes.get_yticklabels()] == list(arms)
    dots = [line.get_xdata()[0] for line in axes.get_lines() if line.get_marker() == "o"]
    assert dots == pytest.approx([np.mean(RECALLS[name]) for name in arms])

    (axes,) = figures["roc"].axes
    curves = {name: line for name, line in lines_of(axes).items() if name in ARMS}
    assert curves.keys() == ARMS.keys()  # no arm of doses
    for name, (false, true) in curves.items():
        assert np.trapezoid(true, false) == pytest.approx(arms[name]["means"]["auroc"], abs=0.01)

    texts = [axes.texts[3].get_text() for axes in figures["confusion"].axes]
    assert texts == [f"{np.mean(RECALLS[name]):.2f}\n({20 * np.mean(RECALLS[name]):.0f})" for name in ARMS]

    (axes,) = figures["dose"].axes
    assert axes.get_legend_handles_labels()[1] == ["real cells added", "synthetic cells added"]
    real, synthetic = (list(bars[0].get_ydata()) for bars in axes.containers)
    assert (real, synthetic) == (pytest.approx([0.45, 0.6, 0.8]), pytest.approx([0.45, 0.45, 0.7, 1.0]))
    assert [list(bars[0].get_xdata()) for bars in axes.containers] == [[0, 10, 30], [0, 10, 20, 40]]


def test_arms_beyond_the_colours_are_told_apart_by_their_lines(out: Path, record: dict[str, Any]) -> None:
    (axes,) = draw_figures(record, read_runs(study(), out))["roc"].axes
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines() if line.get_label() in ARMS}
    assert len(looks) == len(ARMS)
