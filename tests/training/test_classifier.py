"""Training of the classifier: losses, the weights that are published, resuming, what is drawn."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import concatenate_datasets
from safetensors.torch import load_file
from torch import Tensor

from tests.shaded import SIDE, SMALL, write_splits
from wbc_diffusers.classifier import Classifier
from wbc_diffusers.data.dataset import CellImages, DrawSpec
from wbc_diffusers.data.loading import load_cells
from wbc_diffusers.training.classifier import ClassifierTask, classification_loss, train_classifier
from wbc_diffusers.training.engine import Trainer
from wbc_diffusers.training.recipe import ClassifierRecipe

EVERYTHING: dict[str, Any] = {
    "max_train_steps": 9,
    "gradient_accumulation_steps": 2,
    "oversample": True,
    "rand_augment": [2, 9],
    "mixup_alpha": 0.4,
    "random_flip": True,
    "random_turn": True,
    "ema_decay": 0.5,
    "lr_scheduler": "cosine",
    "checkpoint_every": 3,
    "keep_checkpoints": 9,
    "validate_every": 2,
}
"""All that could make a resumed run differ."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give splits of 40 normal and 12 abnormal cells, and half as many."""
    return write_splits(tmp_path_factory.mktemp("data") / "cells")


def recipe(**changes: Any) -> ClassifierRecipe:
    return ClassifierRecipe.from_dict({**SMALL, **changes})


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def assert_equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def log_of(folder: Path, figure: str) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row[figure] for row in rows if figure in row}


# -- losses ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def draws() -> tuple[Tensor, Tensor]:
    """Give logits (16, 3) and classes (16,)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, 3, generator=generator), torch.randint(0, 3, (16,), generator=generator)


def test_cross_entropy_with_weights_is_torchs_own(draws: tuple[Tensor, Tensor]) -> None:
    logits, target = draws
    weights = torch.tensor([0.5, 1.0, 4.0])
    for w in (None, weights):
        expected = torch.nn.functional.cross_entropy(logits, target, weight=w)
        assert classification_loss(logits, target, w).item() == pytest.approx(expected.item(), rel=1e-6)


def test_focal_loss_is_the_papers(draws: tuple[Tensor, Tensor]) -> None:
    logits, target = draws
    odds = np.exp(logits.double().numpy())
    p = (odds / odds.sum(1, keepdims=True))[np.arange(16), target.numpy()]
    expected = np.mean(-((1 - p) ** 2.0) * np.log(p))
    assert classification_loss(logits, target, focal_gamma=2.0).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_is_the_papers_for_any_power_and_weight(gamma: float) -> None:
    logits = torch.tensor([[9.0, 0.0], [0.0, 1.0], [-3.0, 2.0]])
    target, weights = torch.tensor([0, 0, 1]), torch.tensor([0.5, 4.0])
    odds = np.exp(logits.double().numpy())
    p = odds[np.arange(3), target] / odds.sum(1)
    w = weights.double().numpy()[target]
    expected = np.sum(w * -((1 - p) ** gamma) * np.log(p)) / np.sum(w)
    assert classification_loss(logits, target, weights, gamma).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_has_a_slope_where_the_network_is_sure(gamma: float) -> None:
    logits = torch.tensor([[60.0, 0.0], [0.0, 60.0], [0.0, 1.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(classification_loss(logits, torch.tensor([0, 0, 1]), None, gamma), logits)
    assert slope.isfinite().all()
    assert slope[0].abs().max() < 1e-6
    assert slope[1].abs().max() > 0.1  # sure, and wrong


def test_mixup_mixes_images_and_classes_by_the_same_share(data: Path) -> None:
    task = ClassifierTask(recipe(mixup_alpha=0.4, class_weights=True))
    task.load(str(data), "train")
    images = torch.rand(8, 3, SIDE, SIDE)
    labels = torch.tensor([0, 1, 0, 0, 1, 0, 1, 1])
    seen: list[Tensor] = []

    class Spy(torch.nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            seen.append(image)
            return image.mean((2, 3))[:, :2]

    torch.manual_seed(3)
    loss = task.loss("classifier", {"classifier": Spy()}, {"image": images, "label": labels})
    partner = images.roll(1, 0)
    share = ((seen[0] - partner) / (images - partner)).median().item()
    assert 0.0 < share < 1.0
    torch.testing.assert_close(seen[0], share * images + (1 - share) * partner, atol=1e-5, rtol=0)
    logits = seen[0].mean((2, 3))[:, :2]
    one, two = (
        torch.nn.functional.cross_entropy(logits, each, weight=task.class_weights) for each in (labels, labels.roll(1))
    )
    # Both have the same classes, and so the same sum of weights.
    assert loss.item() == pytest.approx((share * one + (1 - share) * two).item(), rel=1e-4)


def test_a_mix_of_two_images_has_the_mix_of_their_losses(draws: tuple[Tensor, Tensor]) -> None:
    logits, _ = draws
    one, two = (torch.full((16,), k) for k in (0, 2))
    shares = torch.tensor([[0.3, 0.0, 0.7]]).expand(16, 3)
    expected = 0.3 * classification_loss(logits, one) + 0.7 * classification_loss(logits, two)
    assert classification_loss(logits, shares).item() == pytest.approx(expected.item(), rel=1e-6)


def test_class_weights_make_classes_count_alike(data: Path) -> None:
    task = ClassifierTask(recipe(class_weights=True))
    task.load(str(data), "train")
    assert task.class_weights is not None
    assert task.class_weights.tolist() == pytest.approx([52 / 80, 52 / 24])


def test_the_validation_loss_is_that_of_a_set_whose_rarer_class_was_oversampled(data: Path) -> None:
    task = ClassifierTask(recipe())
    task.models["classifier"].eval()
    rows = task.load(str(data), "validation")
    rare = [i for i, name in enumerate(rows["class"]) if name != "normal"]
    # 20 normal and 6 abnormal images: ten of each class's every image, in threes and tens, are as many.
    balanced = concatenate_datasets([rows.select([i for i in range(26) if i not in rare] * 3), rows.select(rare * 10)])
    spec = DrawSpec(SIDE, 1, noise_size=0)

    def batch(part: Any) -> dict[str, Tensor]:
        images = CellImages(part, spec, 0, "class", task.class_names)
        return torch.utils.data.default_collate([images[0, i] for i in range(len(images))])

    with torch.no_grad():
        told = task.validate(task.models, iter([batch(rows)]))
        whole = batch(balanced)
        expected = torch.nn.functional.cross_entropy(task.models["classifier"](whole["image"]), whole["label"])
    assert told["validation/loss"] == pytest.approx(expected.item(), rel=1e-5)


# -- training --------------------------------------------------------------------------------------------------------


def test_a_classifier_learns_to_tell_dark_cells_from_bright_ones(data: Path, tmp_path: Path) -> None:
    train_classifier(recipe(max_train_steps=24, validate_every=8, oversample=True), str(data), tmp_path / "run")
    test = CellImages(load_cells(str(data), "test"), DrawSpec(SIDE, 1, noise_size=0))
    sample = torch.stack([test[0, i]["image"] for i in range(len(test))])
    with torch.no_grad():
        decided = Classifier.from_pretrained(tmp_path / "run")(sample).argmax(1)
    truth = torch.tensor([name != "none" for name in test.data["abnormality"]])
    assert (decided.bool() == truth).float().mean() > 0.9


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a run with everything that was never stopped."""
    output = tmp_path_factory.mktemp("whole") / "run"
    train_classifier(recipe(**EVERYTHING), str(data), output)
    return output


def test_published_are_the_weights_of_the_lowest_validation_loss(data: Path, tmp_path: Path) -> None:
    # A rate that grows makes the validation worse in the end.
    worse = recipe(max_train_steps=10, learning_rate=9.0, lr_scheduler="constant_with_warmup", lr_warmup_steps=60)
    train_classifier(worse, str(data), tmp_path / "run")
    losses = log_of(tmp_path / "run", "validation/loss")
    best = min(losses, key=lambda step: losses[step])
    train_classifier(replace(worse, max_train_steps=best), str(data), tmp_path / "short")
    assert best < 10, "the run was to get worse"
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "short"))
    assert json.loads((tmp_path / "run" / "score.json").read_text())["step"] == best


@pytest.mark.parametrize("when", ["in its update", "in its validation"])
def test_a_run_told_to_stop_at_its_best_weights_still_publishes_them(data: Path, tmp_path: Path, when: str) -> None:
    worse = recipe(max_train_steps=10, learning_rate=9.0, lr_scheduler="constant_with_warmup", lr_warmup_steps=60)
    train_classifier(worse, str(data), tmp_path / "whole")
    best = json.loads((tmp_path / "whole" / "score.json").read_text())["step"]
    assert best < 10, "the run was to get worse"

    class Told(ClassifierTask):
        updates = 0

        def loss(self, *arguments: Any) -> Tensor:
            self.updates += 1
            if self.updates == best and when == "in its update":
                os.kill(os.getpid(), signal.SIGTERM)
            return super().loss(*arguments)

        def validate(self, *arguments: Any) -> dict[str, float]:
            if self.updates == best and when == "in its validation":
                os.kill(os.getpid(), signal.SIGTERM)
            return super().validate(*arguments)

    assert not Trainer(Told(worse), worse, str(data), tmp_path / "run").run()
    assert train_classifier(worse, str(data), tmp_path / "run", resume="latest")
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    assert log_of(tmp_path / "run", "validation/loss") == log_of(tmp_path / "whole", "validation/loss")


def test_a_finished_classifier_without_checkpoints_is_not_trained_over(data: Path, tmp_path: Path) -> None:
    train_classifier(recipe(max_train_steps=1), str(data), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = weights(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume from"):
        train_classifier(recipe(max_train_steps=1, seed=1), str(data), tmp_path / "run", resume="latest")
    assert_equal(weights(tmp_path / "run"), before)


def test_without_a_validation_split_the_last_weights_are_published(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    train_classifier(recipe(), str(data / "train"), output)
    assert not (output / "best").exists()
    trainer = Trainer(ClassifierTask(recipe()), recipe(), str(data / "train"), output, resume="latest")
    last = trainer.trained["classifier"].average.model.network.state_dict()
    assert_equal(weights(output), {k: v.contiguous() for k, v in last.items()})


def test_the_best_of_a_run_that_was_cut_off_early_is_not_published_by_the_next_one(data: Path, tmp_path: Path) -> None:
    train_classifier(recipe(seed=1), str(data), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "config.json").unlink()  # now it is what a kill before the first checkpoint leaves
    last = recipe(validation_images=0)
    assert train_classifier(last, str(data), tmp_path / "run", resume="latest")
    assert train_classifier(last, str(data), tmp_path / "new")
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "new"))
    assert not (tmp_path / "run" / "best").exists()


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 6])
def test_a_resumed_run_ends_with_the_same_weights(data: Path, whole: Path, step: int, tmp_path: Path) -> None:
    checkpoint = whole / "checkpoints" / f"checkpoint-{step}"
    assert train_classifier(recipe(**EVERYTHING), str(data), tmp_path / "branch", resume=str(checkpoint))
    last = Path("checkpoints") / "checkpoint-9" / "model.safetensors"
    assert_equal(load_file(tmp_path / "branch" / last), load_file(whole / last))


@pytest.mark.parametrize("changes", [{"validate_every": 4}, {"validation_images": 0}])
def test_a_run_that_would_choose_its_weights_otherwise_is_not_gone_on_with(
    data: Path, whole: Path, changes: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = str(whole / "checkpoints" / "checkpoint-3")
    with pytest.raises(ValueError, match=f"trained with another {next(iter(changes))}"):
        train_classifier(recipe(**EVERYTHING | changes), str(data), tmp_path / "branch", resume=checkpoint)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_published_weights(
    data: Path, whole: Path, processes: ForkServerContext, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    wanted = recipe(**EVERYTHING)
    process = processes.Process(target=train_classifier, args=(wanted, str(data), output))
    process.start()
    assert process.pid is not None
    while process.is_alive() and not (output / "checkpoints" / "checkpoint-3").is_dir():
        process.join(0.02)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert train_classifier(wanted, str(data), output, resume="latest")
    assert_equal(weights(output), weights(whole))
    assert json.loads((output / "score.json").read_text()) == json.loads((whole / "score.json").read_text())


def test_a_second_training_starts_from_the_first_ones_weights_and_knows_its_images(data: Path, tmp_path: Path) -> None:
    train_classifier(recipe(max_train_steps=2), str(data), tmp_path / "first")
    second = ClassifierTask(recipe(pretrained=str(tmp_path / "first"), model={}))
    own = {f"network.{k}": v for k, v in weights(tmp_path / "first").items()}
    assert_equal(own, dict(second.models["classifier"].state_dict()))
    train_classifier(second.recipe, str(data), tmp_path / "second")
    manifest = json.loads((tmp_path / "second" / "training_manifest.json").read_text())
    assert [len(each["image_pixel_sha256"]) for each in (manifest, *manifest["parents"])] == [52, 52]
    assert manifest["training"]["real_images"] == {"normal": 40, "hypersegmentation": 12}
    assert list(manifest["weights_sha256"]) == ["model.safetensors"]


def test_grades_apart_are_three_classes(tmp_path: Path) -> None:
    data = write_splits(tmp_path / "cells", grades=(1, 2))
    train_classifier(recipe(grades="apart", max_train_steps=2), str(data), tmp_path / "run")
    names = Classifier.from_pretrained(tmp_path / "run").class_names
    assert names == ["normal", "hypersegmentation 1", "hypersegmentation 2"]


# -- what is drawn ---------------------------------------------------------------------------------------------------


def test_randaugment_changes_an_image_by_its_key_alone(data: Path) -> None:
    rows = load_cells(str(data), "train")
    plain, strong = (CellImages(rows, DrawSpec(SIDE, 1, noise_size=0, rand_augment=r)) for r in (None, (2, 9)))
    state = torch.random.get_rng_state()
    first = [strong[0, i]["image"] for i in range(8)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(image, strong[0, i]["image"]) for i, image in enumerate(first))
    assert any(not torch.equal(image, strong[1, i]["image"]) for i, image in enumerate(first))
    assert any(not torch.equal(image, plain[0, i]["image"]) for i, image in enumerate(first))


def test_validation_images_are_shown_as_they_are(data: Path, tmp_path: Path) -> None:
    drawn = recipe(rand_augment=[2, 9], random_flip=True, random_turn=True, mixup_alpha=0.4)
    feed = Trainer(ClassifierTask(drawn), drawn, str(data), tmp_path / "run").feed
    shown = torch.cat([batch["image"] for batch in feed.validation_batches()])
    rows = load_cells(str(data), "validation")
    plain = {np.asarray(row["image"]).transpose(2, 0, 1).tobytes() for row in rows}
    assert {np.rint((image.numpy() + 1) * 127.5).astype(np.uint8).tobytes() for image in shown} == plain


def test_a_background_is_brought_to_the_wanted_colour(tmp_path: Path) -> None:
    from wbc_diffusers.data.background import estimate_background
    from wbc_diffusers.data.phantom import render_folder

    render_folder(tmp_path / "cells", num=3, size=64, seed=5, abnormality="none", grade=0)
    rows = load_cells(str(tmp_path / "cells"), "train")
    images = CellImages(rows, DrawSpec(64, 1, noise_size=0, background=(240.0, 235.0, 230.0)))
    for i in range(3):
        found = estimate_background(images.pixels(i))
        assert found is not None
        assert found == pytest.approx((240, 235, 230), abs=2)


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"abnormality": "hyper"}, "must be one of hypersegmentation, dohle_bodies, hypergranulation"),
        ({"sizes": {"training": [1, 1]}}, "sizes have training; they go by train, validation, test"),
        ({"sizes": {"train": [1]}}, r"sizes of train are \[1\].*a list of 2 numbers"),
        ({"sizes": {"train": [1, -1]}}, "a list of 2 numbers of 0 or more"),
        ({"grades": "apart", "sizes": {"train": [1, 1]}}, "a list of 3 numbers"),
        ({"synthetic_ratio": [0.0, 1.0]}, "no folders in synthetic"),
        ({"synthetic": ["a"], "synthetic_ratio": [1.0]}, "synthetic_ratio are"),
        ({"real_images": False}, "neither real nor synthetic images"),
        ({"synthetic_filter": {"confidence": 0.5}}, "has no classifier"),
        ({"synthetic_filter": {"classifier": "a", "confident": 1}}, "has confident; its parts are"),
        ({"sample_images": 8}, "can't have sample_images 8"),
        ({"push_to_hub": True, "hub_model_id": "a/b"}, "can't have push_to_hub"),
        ({"mixup_alpha": 0.0}, "must be above 0"),
        ({"oversample": True, "class_weights": True}, "make up for rare classes twice"),
        ({"oversampled": True}, "Did you mean oversample"),
    ],
)
def test_a_recipe_that_means_nothing_is_refused_with_what_would(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        recipe(**changes)


def test_weights_are_not_chosen_by_a_validation_without_one_of_the_classes(data: Path, tmp_path: Path) -> None:
    sizes = {"validation": [10, 0]}
    with pytest.raises(ValueError, match=r"no validation image of class hypersegmentation.*validation_images 0"):
        train_classifier(recipe(sizes=sizes), str(data), tmp_path / "run")
    train_classifier(recipe(sizes=sizes, validation_images=0, max_train_steps=2), str(data), tmp_path / "last")
    assert (tmp_path / "last" / "model.safetensors").is_file()


def test_the_command_trains_one_and_says_so(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    from wbc_diffusers.cli.train import main

    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"kind": "classifier", **SMALL}))
    main_: Callable[[list[str]], None] = main
    with pytest.raises(SystemExit) as done:
        main_(["--config", str(tmp_path / "r.yaml"), "--data", str(data), "--output", str(tmp_path / "run")])
    assert done.value.code in (0, None)
    assert "Wrote the classifier folder" in capsys.readouterr().out
