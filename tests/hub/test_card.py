"""Cards: figures that were measured and of which model, what was not, and nothing that tells about a patient."""

import ast
import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from wbc_diffusers import WBCDDIMPipeline
from wbc_diffusers.cli import main
from wbc_diffusers.evaluation.rows import Row
from wbc_diffusers.hub.card import Statement, build_card
from wbc_diffusers.hub.judged import CardError


def table(card: ModelCard, heading: str) -> dict[str, list[str]]:
    """The rows of the table under a heading, by their first cells."""
    part = card.text.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1, "a row of another width"
    return {row[0]: row[1:] for row in rows[2:]}


def wbc(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(each) for each in arguments])
    return int(left.value.code or 0)


ROW = {field.name: None for field in fields(Row)} | {"encoder": "", "n_real": 20, "n_generated": 20}


def changed(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}), encoding="utf-8")
    return path


def test_measured_figures_stand_in_the_table_and_in_the_metadata(model, judged):
    card = build_card(model, judged, repo_id="lab/neutrophils")
    results = table(card, "Results")
    assert results["Fréchet distance (FID)"] == ["34.5", "31 to 37.9", "17.5 (beside it 41.2)", "320, 1000"]
    assert results["cells with Döhle bodies, by bluish area"] == ["25 %", "22 % to 28 %", "4.0 %", "320, 1000"]
    assert "red" not in " ".join(results)
    name, told = model_index_to_eval_results(card.data.to_dict()["model-index"])
    assert name == "neutrophils"
    assert {each.metric_type: each.metric_value for each in told} == {
        "fid": 34.512,
        "probe_auc_inception_v3": 0.97,
        "share_dohle_bodies": 0.25,
    }
    assert {json.dumps(each.metric_args) for each in told} == {'{"n_real": 320, "n_generated": 1000, "seed": 3}'}
    assert "Images of seeds 10000 to 10999" in card.text
    assert "seed of all draws 3" in card.text


def test_what_was_not_measured_says_so(model, judged):
    card = build_card(model)
    results = table(card, "Results")
    assert len(results) >= 10
    assert {row[0] for row in results.values()} == {"not measured"}
    assert "not measured" in card.text.split("## Copies of training images")[1].split("##")[0]
    assert "model-index" not in card.data.to_dict()
    measured = table(build_card(model, judged), "Results")
    assert measured["kernel distance (KID)"][0] == "not measured"  # null in the evaluation
    assert measured["recall"][0] == "not measured"
    assert "Fréchet distance (FID)" in results


def test_card_is_valid_metadata_and_says_what_the_model_is(model, judged):
    said = Statement(licence="cc-by-4.0", dataset="lab/cells", dataset_licence="CC BY 4.0", notes="Rings in one of 50.")
    card = build_card(model, judged, said, repo_id="lab/neutrophils")
    data = ModelCard(card.content).data.to_dict()  # read again, as the hub does
    assert data["license"] == "cc-by-4.0"
    assert (data["base_model"], data["datasets"], data["library_name"]) == ("lab/base", ["lab/cells"], "diffusers")
    assert {"dohle-bodies", "diffusion", "white-blood-cells"} <= set(data["tags"])
    assert data["metrics"] == ["fid", "probe_auc_inception_v3", "share_dohle_bodies"]
    for words in (
        "Not for diagnosis",
        "abnormality dohle bodies, grade 2",
        'from_pretrained("lab/neutrophils")',
        "Rings in one of 50.",
        "98 % of planted copies were found",
        "At most 1.2 % are copies",
    ):
        assert words in card.text
    assert table(card, "Training data")["images"] == ["321"]
    assert table(card, "Training data")["images of a model that it was fine-tuned from"] == ["3"]
    recipe = table(card, "Recipe")
    assert (recipe["updates done"], recipe["seconds"], recipe["max_train_steps"]) == (["6600"], ["1234.5"], ["6600"])
    assert "num_train_epochs" not in recipe  # the updates decide


def test_nobody_who_says_no_licence_gets_one(model, tmp_path):
    data = build_card(model).data.to_dict()
    assert (data["license"], data["license_name"]) == ("other", "not-stated")
    assert "Not stated" in build_card(model).text.split("## Licence")[1]


def test_gan_has_its_own_words(gan):
    card = build_card(gan)
    assert "a GAN, `WBCGANPipeline`" in card.text
    assert "a collapse to few cells" in card.text
    assert "gan" in card.data.tags


def test_names_of_files_stay_at_home(model, judged):
    text = build_card(model, judged).content
    assert "patient-" not in text
    assert "2 of the real images are its training images." in text
    assert "A \\| note." in text


def test_folder_without_manifest_says_that_nobody_knows(model):
    (model / "training_manifest.json").unlink()
    card = build_card(model)
    assert table(card, "Training data")["images"] == ["not known"]
    assert "There is no training manifest: nobody can look up whether a test image was trained on." in card.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generated_by": None}, "does not say which model its images are of"),
        ({"generated_by": {"revision": "0" * 16}}, "is of images of another model .revision 0{16}, config None"),
        ({"schema_version": 2}, "has schema_version 2, and this version of the package reads evaluations of 1"),
        ({"rows": None}, "is no evaluation as `wbc evaluate` writes it"),
        ({"rows": [{"measure": "fid"}]}, "is no evaluation as `wbc evaluate` writes it"),
        ({"rows": [{**ROW, "measure": "fid", "value": float("nan")}]}, "writes it .fid is nan.: evaluate anew"),
        ({"rows": [{**ROW, "measure": "fid", "value": "34"}]}, "writes it .fid is '34'.: evaluate anew"),
        ({"copies": {}}, "is no evaluation as `wbc evaluate` writes it"),
    ],
)
def test_evaluation_of_another_model_is_refused(model, judged, changes, message):
    with pytest.raises(ValueError, match=message):
        build_card(model, changed(judged, **changes))


@pytest.mark.parametrize(
    ("file", "option", "value"),
    [("scheduler/scheduler_config.json", "prediction_type", "sample"), ("unet/config.json", "recurrence_steps", 1)],
)
def test_evaluation_of_a_model_that_was_built_otherwise_is_refused(model, judged, file, option, value):
    build_card(model, judged)
    built = json.loads((model / file).read_text())
    assert built.get(option) != value
    changed(model / file, **{option: value})
    with pytest.raises(CardError, match="is of images of another model"):
        build_card(model, judged)


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": "x | y\n<script>"},
        {"n_real": "1\n# H"},
        {"n_real": -5},
        {"value": True},
        {"value": 10**400},
        {"measure": None},
    ],
)
def test_figure_that_is_none_is_refused(model, judged, changes):
    rows = json.loads(judged.read_text())["rows"]
    with pytest.raises(ValueError, match="is no evaluation as `wbc evaluate` writes it"):
        build_card(model, changed(judged, rows=[{**rows[0], **changes}]))


def test_names_and_values_are_no_markup(model, judged, tmp_path):
    manifest = json.loads((model / "training_manifest.json").read_text())
    manifest["recipe"] |= {"where": {"abnormality": "x | y\n\n# Evil <script>"}, "name": "a`b", "resolution": "6\n# H"}
    changed(model / "training_manifest.json", recipe=manifest["recipe"])
    folder = model.rename(tmp_path / 'q"); import os #')
    text = build_card(folder, judged).text
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert len([line for line in text.splitlines() if line.startswith("# ")]) == 1
    code = text.split("```python\n")[1].split("```")[0]
    assert "import os #" in ast.parse(code).body[2].value.args[0].value  # all of it is one string


def test_phantoms_are_not_called_real_cells(model, judged):
    sets = json.loads(judged.read_text())["sets"]
    assert "phantoms" not in build_card(model, judged).text
    changed(judged, sets=[{**each, "source_type": "algorithmicMedia"} for each in sets])
    assert "drawn by a program (phantoms): nothing of this was measured on real cells" in build_card(model, judged).text


def test_licence_is_one_that_the_hub_knows_the_form_of():
    with pytest.raises(CardError, match=r"'CC0 1\.0' is no licence as the hub calls them: give its identifier"):
        Statement(licence="CC0 1.0")


def test_name_with_a_slash_is_no_id_of_a_dataset(model):
    data = build_card(model, said=Statement(dataset="PBC, doi 10.17632/snkd93bnjr.1")).data.to_dict()
    assert "datasets" not in data


def test_weights_that_the_manifest_does_not_know_get_no_card(model, tmp_path):
    path = model / "training_manifest.json"
    changed(path, weights_sha256={"unet/diffusion_pytorch_model.safetensors": "ab" * 32})
    with pytest.raises(CardError, match=r"safetensors is not the file that training_manifest.json was written for"):
        build_card(model)
    for cls, options in ((WBCDDIMPipeline, {}), (DiffusionPipeline, {"trust_remote_code": True})):
        # Saved again they have new hashes, but the mark stays.
        cls.from_pretrained(str(model), **options).save_pretrained(tmp_path / cls.__name__)
        WBCDDIMPipeline.from_pretrained(tmp_path / cls.__name__).save_pretrained(tmp_path / "twice")
        for folder in (tmp_path / cls.__name__, tmp_path / "twice"):
            with pytest.raises(CardError, match="or was not when the pipeline was saved"):
                build_card(folder)


def test_weights_that_the_manifest_does_not_name_get_no_card(model):
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(weights, weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    with pytest.raises(CardError, match=r"fp16.safetensors is not among the weights that training_manifest.json names"):
        build_card(model)


def test_command_writes_the_card_and_overwrites_none_unasked(model, judged, tmp_path, capsys):
    notes = tmp_path / "notes.txt"
    notes.write_text("Döhle bodies are too blue.", encoding="utf-8")
    assert wbc("card", model, "--evaluation", judged, "--license", "cc0-1.0", "--notes", notes) == 0
    first = (model / "README.md").read_text(encoding="utf-8")
    assert "Döhle bodies are too blue." in first
    assert ModelCard(first).data.license == "cc0-1.0"
    assert wbc("card", model) == 2
    assert "README.md is there: give --overwrite, or another --out" in capsys.readouterr().err
    assert (model / "README.md").read_text(encoding="utf-8") == first
    assert wbc("card", model, "--overwrite") == 0
    assert "not measured" in (model / "README.md").read_text(encoding="utf-8")
