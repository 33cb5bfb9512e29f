"""An image classifier of transformers as a function of samples, to be trained, saved and asked."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's images, by which most of its classifiers expect theirs to be scaled."""
PREPROCESSOR_NAME = "preprocessor_config.json"

Triple = tuple[float, float, float]


class Classifier(nn.Module):
    """A network that tells classes of cells apart.

    Args:
        network: An image classification model of transformers.
        mean: Of the red, green and blue, in [0, 1], that the network expects its images to be scaled by.
        std: Their standard deviation.
        resolution: Side of the images in pixels.
    """

    def __init__(self, network: Any, mean: Triple, std: Triple, resolution: int) -> None:
        super().__init__()
        self.network, self.resolution = network, resolution
        self.mean, self.std = mean, std

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, by number."""
        labels = self.network.config.id2label
        return [labels[number] for number in range(len(labels))]

    def forward(self, sample: Tensor) -> Tensor:
        """Logits (B, C) of samples (B, 3, H, W) in [-1, 1]."""
        mean, std = (sample.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        logits: Tensor = self.network(pixel_values=((sample + 1.0) / 2.0 - mean) / std).logits
        return logits

    def features_and_logits(self, sample: Tensor) -> tuple[Tensor, Tensor]:
        """What the last linear layer sees (B, D), and what it makes of that (B, C)."""
        seen: list[Tensor] = []
        head = _head(self.network)
        handle = head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].flatten(1)))
        try:
            logits = self(sample)
        finally:
            handle.remove()
        return seen[0], logits

    def save(self, folder: Path) -> None:
        """Write the folder that `from_pretrained` and transformers' own classes and pipelines read."""
        self.network.save_pretrained(folder)
        size = {"height": self.resolution, "width": self.resolution}
        processor = {
            "image_processor_type": "ViTImageProcessor",  # resize, scale, normalise, and no crop
            "do_resize": True, "size": size, "resample": 1, "do_rescale": True, "rescale_factor": 1 / 255,
            "do_normalize": True, "image_mean": list(self.mean), "image_std": list(self.std),
        }  # fmt: skip
        (folder / PREPROCESSOR_NAME).write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Load a classifier that `save` wrote.

        Raises:
            OSError: If there is none.
        """
        network = load_network(str(folder))
        processor = read_processor(str(folder))
        if "image_mean" not in processor or "size" not in processor:
            raise OSError(f"{folder} has no {PREPROCESSOR_NAME}: give the folder of a classifier of `wbc train`.")
        mean, std = processor["image_mean"], processor["image_std"]
        return cls(network, tuple(mean), tuple(std), processor["size"]["height"]).eval()


def load_network(pretrained: str, class_names: Sequence[str] | None = None, **options: Any) -> Any:
    """Load an image classification model of transformers, from a folder or a hub.

    Args:
        pretrained: The folder or id.
        class_names: The classes of a new last layer, unless the model has these already; None keeps the model's.
        options: Options of its configuration that are to be others.

    Raises:
        OSError: If it cannot be had.
        ValueError: If the configuration has no such option, or the weights are not those of all layers but a new last
            one.
    """
    from transformers import AutoConfig, AutoModelForImageClassification

    try:
        config = AutoConfig.from_pretrained(pretrained)
    except (OSError, ValueError) as error:
        raise _unavailable(pretrained, error) from error
    _check_options(config, options, pretrained)
    config.update(options)
    before = list(config.id2label.values())
    if class_names is not None:
        _name_classes(config, class_names)
    try:
        network, loading = AutoModelForImageClassification.from_pretrained(
            pretrained, config=config, ignore_mismatched_sizes=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise _unavailable(pretrained, error) from error
    _check_loaded(network, loading, pretrained, is_new_head=class_names is not None)
    if class_names is not None and before != list(class_names) and len(before) == len(class_names):
        for head in _heads(network):
            head.reset_parameters()  # it fits, but means other classes
    return _with_torch_momentum(network)


def _head(network: Any) -> Any:
    """The last linear layer."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


def _heads(network: Any) -> list[Any]:
    """The linear layers that tell the classes: the last one, and others beside it, as of distilled models."""
    count = network.config.num_labels
    return [module for module in network.modules() if isinstance(module, nn.Linear) and module.out_features == count]


def _check_loaded(network: Any, loading: dict[str, Any], pretrained: str, *, is_new_head: bool) -> None:
    """Raise ValueError if parts of a network got random weights, which transformers only logs; a new head may."""
    random = {key if isinstance(key, str) else key[0] for key in loading["missing_keys"]}
    random |= {key if isinstance(key, str) else key[0] for key in loading["mismatched_keys"]}
    random -= {name for name in random if name.endswith("num_batches_tracked")}  # older files lack what counts only
    if is_new_head:
        new = {id(parameter) for head in _heads(network) for parameter in head.parameters()}
        random -= {name for name, parameter in network.named_parameters() if id(parameter) in new}
    if random:
        raise ValueError(
            f"The weights of {pretrained} are not those of the model: {len(random)} of its tensors, such as "
            f"{min(random)}, are missing or of another shape, and would be random. Leave out options of its "
            "configuration that change its layers, or give pretrained null to train from random weights."
        )


def _unavailable(pretrained: str, error: Exception) -> OSError:
    reason = str(error).splitlines()[0].rstrip(".")
    return OSError(
        f"The classifier {pretrained} cannot be loaded ({reason}): give a folder as the recipe's pretrained, or null "
        "there to train from random weights."
    )


def new_network(class_names: Sequence[str], **options: Any) -> Any:
    """Make an image classification model with random weights, by default the thesis's: MobileNetV2 of width 0.75.

    Raises:
        ValueError: If there is no such model, or the configuration has no such option.
    """
    from transformers import AutoConfig, AutoModelForImageClassification

    options = {"depth_multiplier": 0.75, **options} if "model_type" not in options else options
    kind = options.pop("model_type", "mobilenet_v2")
    _check_options(AutoConfig.for_model(kind), options, kind)
    config = AutoConfig.for_model(kind, **options)
    _name_classes(config, class_names)
    return _with_torch_momentum(AutoModelForImageClassification.from_config(config))


def read_processor(pretrained: str) -> dict[str, Any]:
    """What a model's preprocessor configuration says, empty where it has none.

    Raises:
        OSError: If nobody can say whether it has one, as where the hub does not answer, or it can't be read.
    """
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        found, _ = ImageProcessingMixin.get_image_processor_dict(pretrained)
    except OSError as error:
        if _has_no_processor(pretrained):
            return {}
        reason = str(error).splitlines()[0].rstrip(".")
        raise OSError(
            f"How {pretrained} wants its images scaled can't be read ({reason}): try again, or say it by the recipe's "
            "image_mean and image_std."
        ) from error
    return dict(found)


def _has_no_processor(pretrained: str) -> bool:
    """Whether it is known that a model, whose configuration could not be read, has none."""
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    from wbc_diffusers.pipelines.pretrained import HUB_ERRORS

    if Path(pretrained).is_dir():
        return not any((Path(pretrained) / name).exists() for name in (PREPROCESSOR_NAME, "processor_config.json"))
    try:
        hf_hub_download(pretrained, PREPROCESSOR_NAME)
    except LocalEntryNotFoundError:  # the hub did not answer, but may have said so before
        return try_to_load_from_cache(pretrained, PREPROCESSOR_NAME) is _CACHED_NO_EXIST
    except EntryNotFoundError:
        return True
    except HUB_ERRORS:
        return False
    return False  # it has one, which can't be read


def _check_options(config: Any, options: dict[str, Any], name: str) -> None:
    if unknown := [option for option in options if not hasattr(config, option)]:
        known = ", ".join(sorted(config.to_dict()))
        raise ValueError(f"The model {name} has no option {unknown[0]!r}; its options are {known}.")


def _name_classes(config: Any, class_names: Sequence[str]) -> None:
    config.id2label = dict(enumerate(class_names))
    config.label2id = {name: number for number, name in enumerate(class_names)}


def _with_torch_momentum(network: Any) -> Any:
    """Give batch norm the momentum that is meant where it is TensorFlow's, which is the share of the old average.

    transformers' MobileNetV2 has 0.997, with which torch would forget all batches but the last.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.momentum is not None and module.momentum > 0.5:
            module.momentum = 0.1
    return network


def probabilities(logits: Tensor) -> Tensor:
    """Probabilities (B, C) in float64 of logits (B, C)."""
    return torch.softmax(logits.double(), dim=1)
