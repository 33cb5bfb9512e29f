"""Training of the classifier that the synthetic images are for (thesis section 4.4)."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbc_diffusers.classifier import IMAGENET_MEAN, IMAGENET_STD, Classifier, load_network, new_network, read_processor
from wbc_diffusers.data.dataset import Batch
from wbc_diffusers.data.labelled import CLASS_COLUMN, class_numbers, oversample
from wbc_diffusers.data.manifest import MANIFEST_NAME, check_manifest
from wbc_diffusers.training.engine import Trainer
from wbc_diffusers.training.files import file_sha256
from wbc_diffusers.training.recipe import ClassifierRecipe
from wbc_diffusers.training.selection import classes_of, load_real, load_synthetic
from wbc_diffusers.training.task import Task

logger = logging.getLogger(__name__)


class ClassifierTask(Task):
    """A network that learns to tell normal cells from abnormal ones.

    Args:
        recipe: The recipe; `pretrained` is a model of transformers or a folder of an earlier training, null for random
            weights.

    Raises:
        OSError: If the pretrained model cannot be had.
        ValueError: If the model has no such options, or its weights do not fit them.
    """

    last_file = "config.json"
    best_figure = "validation/loss"
    class_column = CLASS_COLUMN
    noise_size = 0

    def __init__(self, recipe: ClassifierRecipe) -> None:
        self.recipe: ClassifierRecipe = recipe
        recipe.require_pretrained()
        self.classes = classes_of(recipe)
        self.class_names: list[str] = self.classes.names
        torch.manual_seed(recipe.seed)
        processor: dict[str, Any] = {}
        if recipe.pretrained:
            network = load_network(recipe.pretrained, self.class_names, **recipe.model)
            self.parent_manifest = _manifest_of(recipe.pretrained)
            if recipe.image_mean is None or recipe.image_std is None:
                processor = read_processor(recipe.pretrained)
        else:
            network = new_network(self.class_names, **recipe.model)
        mean = recipe.image_mean or processor.get("image_mean") or IMAGENET_MEAN
        std = recipe.image_std or processor.get("image_std") or IMAGENET_STD
        self.models: dict[str, nn.Module] = {
            "classifier": Classifier(network, tuple(mean), tuple(std), recipe.resolution)
        }
        self.class_weights: Tensor | None = None
        self.mixup: Any = None
        if recipe.mixup_alpha is not None:
            from torchvision.transforms.v2 import MixUp

            self.mixup = MixUp(alpha=recipe.mixup_alpha, num_classes=recipe.num_classes)
        self.draw_options = {"rand_augment": recipe.rand_augment, "background": recipe.background}

    def load(self, source: str, split: str) -> Any:
        """The images of a split: of train the real and synthetic ones that the recipe asks for, else real ones."""
        import datasets

        recipe = self.recipe
        real = load_real(recipe, source, split)
        counts = np.bincount(class_numbers(real, self.classes), minlength=recipe.num_classes)
        if split != "train":
            if not counts.all():
                raise ValueError(
                    f"There is no {split} image of class {self.class_names[int(np.argmin(counts))]}, and the weights "
                    "are chosen by all classes: split the images anew, or set validation_images 0 to publish the last."
                )
            return real
        synthetic, told = load_synthetic(recipe, real, counts)
        parts = [each for each in (real if recipe.real_images else None, synthetic) if each is not None]
        data = datasets.concatenate_datasets(parts)
        numbers = np.bincount(class_numbers(data, self.classes), minlength=recipe.num_classes)
        if not numbers.all():
            missing = self.class_names[int(np.argmin(numbers))]
            raise ValueError(f"There is no training image of class {missing}: a classifier needs some of each.")
        self.facts = {
            "real_images": {n: int(c) for n, c in zip(self.class_names, counts * recipe.real_images, strict=True)},
            "synthetic_images": told,
        }
        if recipe.class_weights:
            self.class_weights = torch.tensor(numbers.sum() / (len(numbers) * numbers), dtype=torch.float32)
        return oversample(data, self.classes) if recipe.oversample else data

    def loss(self, phase: str, models: dict[str, nn.Module], batch: Batch) -> Tensor:
        """Mean cross-entropy, or focal loss, of a batch, with weights of the classes where the recipe says so."""
        image, target = batch["image"], batch["label"]
        if self.mixup is not None:
            image, target = self.mixup(image, target)
        logits = models["classifier"](image).float()
        return classification_loss(logits, target, self.class_weights, self.recipe.focal_gamma)

    def validate(self, averages: dict[str, nn.Module], batches: Iterator[Batch]) -> dict[str, float]:
        """Cross-entropy and accuracy by class, and their means over the classes: as of the rarer ones oversampled."""
        losses: list[Tensor] = []
        right: list[Tensor] = []
        labels: list[Tensor] = []
        for batch in batches:
            logits = averages["classifier"](batch["image"]).float()
            losses.append(F.cross_entropy(logits, batch["label"], reduction="none").cpu())
            right.append((logits.argmax(1) == batch["label"]).float().cpu())
            labels.append(batch["label"].cpu())
        loss, accuracy, label = torch.cat(losses), torch.cat(right), torch.cat(labels)
        by_class = [(loss[label == k].mean(), accuracy[label == k].mean()) for k in label.unique()]
        means = torch.tensor(by_class).mean(0)
        return {"validation/loss": float(means[0]), "validation/accuracy": float(means[1])}

    def save(self, averages: dict[str, nn.Module], folder: Path, manifest: dict[str, Any]) -> None:
        """Write the folder of the classifier and its manifest."""
        classifier: Any = averages["classifier"]
        classifier.save(folder)
        manifest["weights_sha256"] = {p.name: file_sha256(p) for p in sorted(folder.glob("*.safetensors"))}
        (folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def classification_loss(
    logits: Tensor, target: Tensor, weights: Tensor | None = None, focal_gamma: float | None = None
) -> Tensor:
    """Cross-entropy of logits (B, C) and classes (B,) or shares of classes (B, C), weighted by class; a scalar.

    With a gamma each class's term is multiplied by (1 - p)^gamma (focal loss, Lin et al. 2017, equation 4).
    """
    if target.ndim == 1:
        target = F.one_hot(target, logits.shape[1])
    logs = F.log_softmax(logits, dim=1)
    terms = -target * logs
    if focal_gamma is not None:
        terms = terms * (1.0 - logs.exp()).clamp(min=1e-12) ** focal_gamma  # a root has no finite slope at 0
    if weights is None:
        return terms.sum(1).mean()
    weights = weights.to(logits.device)
    return (terms * weights).sum() / (target * weights).sum()


def _manifest_of(pretrained: str) -> dict[str, Any] | None:
    """The manifest of a classifier that a training wrote; None of any other model."""
    path = Path(pretrained) / MANIFEST_NAME
    if not path.is_file():
        return None
    return check_manifest(json.loads(path.read_text(encoding="utf-8")), pretrained)


def train_classifier(recipe: ClassifierRecipe, source: str, output: Path, resume: str | None = None) -> bool:
    """Train a classifier and write its folder; False if SIGTERM stopped it after a checkpoint.

    The folder holds the weights of the lowest validation loss, or the last ones where there is no validation split.

    Args:
        recipe: The recipe.
        source: A prepared folder, any folder of images or Parquet files, or a dataset's id.
        output: The folder to be; holds checkpoints and log.jsonl beside it.
        resume: "latest", or a checkpoint's path, to go on with; None starts anew.
    """
    return Trainer(ClassifierTask(recipe), recipe, source, output, resume).run()
