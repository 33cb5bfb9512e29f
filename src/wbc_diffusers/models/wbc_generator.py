"""WBCGenerator: a DCGAN-like generator of cell images, from a noise vector by repeated doubling of a small grid.

This file is shipped with checkpoints: it imports nothing of the package.
"""

import os
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from torch import Tensor, nn

UPSAMPLING_TYPES = ("nearest", "transposed")
NORM_TYPES = ("batch", "none")


@dataclass
class WBCGeneratorOutput(BaseOutput):
    """Output of [`WBCGenerator`].

    Args:
        sample: Images (B, C, H, W) in [-1, 1].
    """

    sample: Tensor


def halvings(sample_size: int) -> tuple[int, int]:
    """The grid that an image size is halved down to, and how often: 192 to 6, five times; 64 and 256 to 4.

    Raises:
        ValueError: If the size is not 4, 5, 6 or 7 times a power of two.
    """
    size, times = sample_size, 0
    while size >= 8 and size % 2 == 0:
        size, times = size // 2, times + 1
    if not 4 <= size < 8 or times == 0:
        raise ValueError(
            f"sample_size={sample_size}: it must be 4, 5, 6 or 7 times a power of two, such as 64, 96, 160, 192 or 256."
        )
    return size, times


def check_numbers(negative_slope: float, **counts: int) -> None:
    """Raise a ValueError unless the slope lies in [0, 1] and each count is a whole number above 0."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name}={count!r}: give a whole number of 1 or more.")
    if counts["kernel_size"] < 2:
        raise ValueError(f"kernel_size={counts['kernel_size']}: give 2 or more; a stride of 2 would skip pixels.")
    if isinstance(negative_slope, bool) or not isinstance(negative_slope, int | float) or not 0 <= negative_slope <= 1:
        raise ValueError(f"negative_slope={negative_slope!r}: give a number from 0 to 1.")


def initialise(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, inputs: int, norm_type: str, slope: float) -> None:
    """Draw normal weights for a layer of which `inputs` values make one output, and set its bias to zero.

    Where batch norm sets the scale, with 0.02 (Radford et al. 2016, section 4). Without, that would take the signal
    away level by level: so that it keeps its scale through leaky ReLU of `slope` (He et al. 2015, section 2.2).
    """
    nn.init.normal_(layer.weight, 0.0, 0.02 if norm_type == "batch" else (2 / (1 + slope**2) / inputs) ** 0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class NearestConv2d(nn.Conv2d):
    """Nearest-neighbour upsampling by 2 and a convolution of stride 1: (B, C, H, W) to twice the size, or one more.

    Computed as the one transposed convolution that equals both, at a third of their arithmetic for a kernel of 6: the
    four copies of a pixel meet neighbouring weights, whose sums are its kernel.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Run both on (B, C, H, W); an even kernel leaves a row and a column too many."""
        kernel = F.pad(self.weight.flip(2, 3).transpose(0, 1), (1, 1, 1, 1))
        kernel = kernel[..., :-1, :] + kernel[..., 1:, :]
        kernel = kernel[..., :-1] + kernel[..., 1:]
        return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=(self.kernel_size[0] - 1) // 2)


class UpBlock(nn.Module):
    """Double height and width: (B, in_channels, H, W) to (B, out_channels, 2H, 2W).

    "nearest" upsamples and convolves at stride 1; "transposed" is one transposed convolution of stride 2, whose kernel
    overlaps unevenly unless its size divides by the stride (Odena et al. 2016).

    Where kernel and stride leave a row and a column too many, `cut_first` drops the first ones, else the last.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, upsampling_type: str, bias: bool, cut_first: bool
    ) -> None:
        super().__init__()
        self.cut_first = cut_first
        self.conv: nn.Conv2d | nn.ConvTranspose2d
        if upsampling_type == "nearest":
            self.conv = NearestConv2d(in_channels, out_channels, kernel_size, bias=bias)
        else:
            padding = (kernel_size - 2) // 2
            self.conv = nn.ConvTranspose2d(in_channels, out_channels, kernel_size, 2, padding, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on (B, in_channels, H, W)."""
        height, width = 2 * x.shape[-2], 2 * x.shape[-1]
        x = self.conv(x)
        return x[..., -height:, -width:] if self.cut_first else x[..., :height, :width]


class WBCGenerator(ModelMixin, ConfigMixin):
    r"""Generator of the GAN baseline (thesis section 4.2; DCGAN, Radford et al. 2016).

    A linear layer turns noise into a grid of `depth` channels. Each level doubles the grid and halves the channels; the
    last one gives the image. Batch norm and leaky ReLU stand between, tanh at the end. The generator that the thesis
    started from (Klang and Carlberg 2020) is `upsampling_type="transposed", kernel_size=5`.

    Args:
        sample_size: Height and width of the images in pixels: 4, 5, 6 or 7 times a power of two.
        latent_dim: Length of the noise vector.
        out_channels: Channels of the images.
        depth: Channels of the first grid; divisible by 2^(levels - 1).
        kernel_size: Of the convolutions.
        upsampling_type: "nearest" or "transposed".
        norm_type: "batch" or "none".
        negative_slope: Of the leaky ReLU.

    Raises:
        ValueError: If an argument is not one of its allowed values.
    """

    _no_split_modules = ("UpBlock",)
    _skip_layerwise_casting_patterns = ("norm",)

    @register_to_config
    def __init__(
        self,
        sample_size: int = 192,
        latent_dim: int = 100,
        out_channels: int = 3,
        depth: int = 1024,
        kernel_size: int = 6,
        upsampling_type: str = "nearest",
        norm_type: str = "batch",
        negative_slope: float = 0.2,
    ) -> None:
        super().__init__()
        check_numbers(
            negative_slope,
            sample_size=sample_size,
            latent_dim=latent_dim,
            out_channels=out_channels,
            depth=depth,
            kernel_size=kernel_size,
        )
        if upsampling_type not in UPSAMPLING_TYPES:
            raise ValueError(f"upsampling_type={upsampling_type!r}: choose one of {', '.join(UPSAMPLING_TYPES)}.")
        if norm_type not in NORM_TYPES:
            raise ValueError(f"norm_type={norm_type!r}: choose one of {', '.join(NORM_TYPES)}.")
        self.grid, levels = halvings(sample_size)
        if depth % 2 ** (levels - 1):
            raise ValueError(
                f"depth={depth} can't be halved at each of {levels} levels of {sample_size} px: take a multiple of "
                f"{2 ** (levels - 1)}."
            )
        widths = [depth // 2**level for level in range(levels)]
        bias = norm_type == "none"  # batch norm takes it away again

        def norm(width: int) -> nn.Module:
            return nn.BatchNorm2d(width) if norm_type == "batch" else nn.Identity()

        def up(level: int, width: int, after: int, bias: bool) -> UpBlock:
            # Each cut moves the image by half a pixel of its level: 8 one way, 4 + 2 + 1 + 0.5 the other.
            return UpBlock(width, after, kernel_size, upsampling_type, bias, cut_first=level > 0)

        self.linear_in = nn.Linear(latent_dim, depth * self.grid**2, bias=bias)
        self.norms = nn.ModuleList(norm(width) for width in widths)
        self.up_blocks = nn.ModuleList(up(i, width, after, bias) for i, (width, after) in enumerate(pairwise(widths)))
        self.up_out = up(levels - 1, widths[-1], out_channels, bias=True)

        initialise(self.linear_in, latent_dim, norm_type, slope=1.0)  # no leaky ReLU before it
        # Of a transposed kernel a quarter meets each output; upsampled, all of it does.
        taps = kernel_size**2 / (4 if upsampling_type == "transposed" else 1)
        for width, block in zip(widths, [*self.up_blocks, self.up_out], strict=True):
            initialise(block.conv, width * taps, norm_type, negative_slope)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, **kwargs: Any) -> Any:
        """Load a network from a folder or from the hub, all of its weights.

        Args:
            pretrained_model_name_or_path: A folder, or the name of a repository on the hub.
            kwargs: Further arguments of [`ModelMixin.from_pretrained`], such as `torch_dtype` or `variant`.

        Raises:
            OSError: If there is no network, or some of its weights are missing: diffusers would leave these at random.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        if missing := sorted(info.get("missing_keys", ())):
            named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise OSError(
                f"The weights in {pretrained_model_name_or_path} lack {named}: take them again from where the model "
                "came from, with the config.json that belongs to them."
            )
        return (model, info) if wants_info else model

    def forward(self, latents: Tensor, return_dict: bool = True) -> WBCGeneratorOutput | tuple[Tensor]:
        """Turn noise into images.

        Args:
            latents: Normal noise (B, latent_dim).
            return_dict: Whether to return an output object rather than a tuple.

        Returns:
            Images (B, out_channels, sample_size, sample_size) in [-1, 1], as `.sample` or in a tuple.

        Raises:
            ValueError: If the noise has another shape.
        """
        if latents.ndim != 2 or latents.shape[1] != self.config.latent_dim:
            raise ValueError(
                f"WBCGenerator got noise of shape {tuple(latents.shape)}: (B, {self.config.latent_dim}) is wanted."
            )
        slope = self.config.negative_slope
        x = self.linear_in(latents).reshape(len(latents), -1, self.grid, self.grid)
        x = F.leaky_relu(self.norms[0](x), slope)
        for block, norm in zip(self.up_blocks, self.norms[1:], strict=True):
            x = F.leaky_relu(norm(block(x)), slope)
        sample = torch.tanh(self.up_out(x))
        return WBCGeneratorOutput(sample=sample) if return_dict else (sample,)
