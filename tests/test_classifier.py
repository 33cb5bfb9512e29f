"""A classifier of transformers as a function of samples: what is saved is what transformers reads."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from wbc_diffusers.classifier import Classifier, load_network, new_network, probabilities, read_processor
from wbc_diffusers.data.images import to_sample

NAMES = ["normal", "hypersegmentation"]
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
TINY = {"depth_multiplier": 0.1, "classifier_dropout_prob": 0.0}


@pytest.fixture
def classifier() -> Classifier:
    """Give one with random weights whose statistics have seen some images."""
    torch.manual_seed(0)
    made = Classifier(new_network(NAMES, **TINY), MEAN, STD, 32)
    made.train()
    for _ in range(20):
        made(torch.rand(8, 3, 32, 32) * 2 - 1)
    return made.eval()


@pytest.fixture
def cell() -> Image.Image:
    """Give an image of noise."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def test_transformers_reads_the_folder_and_says_the_same(
    classifier: Classifier, cell: Image.Image, tmp_path: Path
) -> None:
    from transformers import pipeline

    classifier.save(tmp_path)
    told = {each["label"]: each["score"] for each in pipeline("image-classification", model=str(tmp_path))(cell)}
    with torch.no_grad():
        own = probabilities(classifier(torch.from_numpy(to_sample(np.asarray(cell)))[None]))[0]
    assert told == {name: pytest.approx(float(p), abs=1e-5) for name, p in zip(NAMES, own, strict=True)}


def test_a_saved_classifier_is_the_same_one(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(tmp_path)
    again = Classifier.from_pretrained(tmp_path)
    sample = torch.rand(4, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        assert torch.equal(again(sample), classifier(sample))
    assert (again.class_names, again.mean, again.std, again.resolution) == (NAMES, MEAN, STD, 32)


def test_features_are_what_the_last_layer_sees(classifier: Classifier) -> None:
    sample = torch.rand(4, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        features, logits = classifier.features_and_logits(sample)
        assert torch.allclose(classifier.network.classifier(features), logits)
        assert torch.equal(logits, classifier(sample))


def test_images_are_scaled_by_mean_and_deviation_of_values_up_to_one() -> None:
    class Mean(nn.Module):
        def forward(self, pixel_values: torch.Tensor) -> "Mean":
            self.logits = pixel_values.mean((2, 3))
            return self

    grey = torch.full((1, 3, 4, 4), 0.2)  # 0.6 of white
    expected = [(0.6 - m) / s for m, s in zip(MEAN, STD, strict=True)]
    assert Classifier(Mean(), MEAN, STD, 4)(grey)[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_batch_norm_remembers_more_than_the_last_batch() -> None:
    """transformers gives torch TensorFlow's momentum, which means the reverse there."""
    momenta = {m.momentum for m in new_network(NAMES, **TINY).modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta == {0.1}


def test_the_default_is_the_thesis_network() -> None:
    assert new_network(NAMES).config.depth_multiplier == 0.75
    assert new_network(NAMES).config.model_type == "mobilenet_v2"


def test_any_classification_model_can_be_taken(tmp_path: Path) -> None:
    small = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
    resnet = Classifier(new_network(NAMES, model_type="resnet", **small), MEAN, STD, 16).eval()
    resnet.save(tmp_path)
    features, logits = Classifier.from_pretrained(tmp_path).features_and_logits(torch.rand(2, 3, 16, 16))
    assert (features.shape, logits.shape) == ((2, 8), (2, 2))


def test_a_model_of_other_classes_gets_a_new_last_layer_and_one_of_these_keeps_its_own(
    classifier: Classifier, tmp_path: Path
) -> None:
    classifier.save(tmp_path)
    same = load_network(str(tmp_path), NAMES).classifier
    other = load_network(str(tmp_path), ["normal", "grade 1", "grade 2"]).classifier
    assert torch.equal(same.weight, classifier.network.classifier.weight)
    assert other.weight.shape[0] == 3


def test_a_model_of_as_many_other_classes_gets_a_new_last_layer_too(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(tmp_path)
    torch.manual_seed(1)
    other = load_network(str(tmp_path), ["normal", "dohle_bodies"])
    assert not torch.equal(other.classifier.weight, classifier.network.classifier.weight)
    assert other.config.id2label == {0: "normal", 1: "dohle_bodies"}
    body = other.mobilenet_v2.state_dict()
    assert all(torch.equal(value, body[name]) for name, value in classifier.network.mobilenet_v2.state_dict().items())


def test_unknown_options_and_missing_models_are_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no option 'depth_multiplicator'"):
        new_network(NAMES, depth_multiplicator=0.5)
    with pytest.raises(OSError, match=r"cannot be loaded .*give a folder as the recipe's pretrained, or null"):
        load_network(str(tmp_path / "nothing"), NAMES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match="cannot be loaded"):
        Classifier.from_pretrained(tmp_path / "empty")


def test_the_models_own_scaling_is_read(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(tmp_path)
    assert tuple(read_processor(str(tmp_path))["image_mean"]) == MEAN
    (tmp_path / "preprocessor_config.json").unlink()
    assert read_processor(str(tmp_path)) == {}
    assert "image_mean" not in json.loads((tmp_path / "config.json").read_text())


def test_whether_a_model_tells_its_scaling_must_be_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = tmp_path / "models--somebody--cells"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OSError, match=r"How somebody/cells wants its images scaled can't be read .*image_mean"):
        read_processor("somebody/cells")  # nobody answers
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    (cached / ".no_exist" / ("0" * 40)).mkdir(parents=True)
    (cached / ".no_exist" / ("0" * 40) / "preprocessor_config.json").touch()
    assert read_processor("somebody/cells") == {}  # the hub has said before that there is none
    (tmp_path / "broken").mkdir()
    for name in ("preprocessor_config.json", "processor_config.json"):
        (tmp_path / "broken" / name).write_text("{")
        with pytest.raises(OSError, match="can't be read"):
            read_processor(str(tmp_path / "broken"))
        (tmp_path / "broken" / name).unlink()


def test_layers_whose_weights_do_not_fit_are_not_left_random(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(tmp_path)
    with pytest.raises(ValueError, match=r"not those of the model: \d+ of its tensors, such as mobilenet_v2"):
        load_network(str(tmp_path), NAMES, depth_multiplier=0.35)
    file = tmp_path / "model.safetensors"
    tensors = {name: value.clone() for name, value in load_file(file).items()}  # else they lie in what is overwritten
    head = {name: tensors.pop(name) for name in ("classifier.weight", "classifier.bias")}
    save_file(tensors, file, {"format": "pt"})
    assert load_network(str(tmp_path), ["normal", "grade 1", "grade 2"]).classifier.weight.shape[0] == 3
    with pytest.raises(ValueError, match=r"2 of its tensors, such as classifier\.bias"):
        Classifier.from_pretrained(tmp_path)
    counters = [name for name in tensors if name.endswith("num_batches_tracked")]
    assert counters
    save_file({n: v for n, v in {**tensors, **head}.items() if n not in counters}, file, {"format": "pt"})
    load_network(str(tmp_path), NAMES)  # which files of old versions of torch don't have
    removed = next(name for name in tensors if name.endswith("convolution.weight"))
    del tensors[removed]
    save_file({**tensors, **head}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=f"1 of its tensors, such as {removed}"):
        load_network(str(tmp_path), NAMES)
