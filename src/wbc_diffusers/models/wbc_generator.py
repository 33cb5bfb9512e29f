"""WBCGenerator: a DCGAN-like generator of cell images, from a noise vector by repeated doubling of a small grid.

This file is shipped with checkpoints: it imports nothing of the package.
"""

from dataclasses import dataclass
from itertools import pairwise

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
        ValueError: If the size becomes odd before it lies below 8.
    """
    size, times = sample_size, 0
    while size >= 8 and size % 2 == 0:
        size, times = size // 2, times + 1
    if not 4 <= size < 8 or times == 0:
        raise ValueError(
            f"sample_size={sample_size}: it must be 4, 5, 6 or 7 times a power of two, such as 64, 96, 160, 192 or 256."
        )
    return size, times


class UpBlock(nn.Module):
    """Double height and width: (B, in_channels, H, W) to (B, out_channels, 2H, 2W).

    "nearest" upsamples and convolves at stride 1; "transposed" is one transposed convolution of stride 2, whose kernel
    overlaps unevenly unless its size divides by the stride (Odena et al. 2016).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, upsampling_type: str, bias: bool) -> None:
        super().__init__()
        self.nearest = upsampling_type == "nearest"
        if self.nearest:
            self.conv: nn.Module = nn.Conv2d(in_channels, out_channels, kernel_size, padding="same", bias=bias)
        else:
            # Trimmed to exactly twice the size, whether the kernel is odd or even.
            self.conv = nn.ConvTranspose2d(
                in_channels,
                out_channels,
                kernel_size,
                stride=2,
                padding=(kernel_size - 1) // 2,
                output_padding=kernel_size % 2,
                bias=bias,
            )

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on (B, in_channels, H, W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest") if self.nearest else x)


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
        if upsampling_type not in UPSAMPLING_TYPES:
            raise ValueError(f"upsampling_type={upsampling_type!r}: choose one of {', '.join(UPSAMPLING_TYPES)}.")
        if norm_type not in NORM_TYPES:
            raise ValueError(f"norm_type={norm_type!r}: choose one of {', '.join(NORM_TYPES)}.")
        if min(latent_dim, out_channels, kernel_size) < 1 or kernel_size < 2:
            raise ValueError(
                f"latent_dim={latent_dim}, out_channels={out_channels}, kernel_size={kernel_size}: give 1 or more, and "
                "a kernel of 2 or more."
            )
        self.grid, levels = halvings(sample_size)
        if depth < 1 or depth % 2 ** (levels - 1):
            raise ValueError(
                f"depth={depth} can't be halved at each of {levels} levels of {sample_size} px: take a multiple of "
                f"{2 ** (levels - 1)}."
            )
        widths = [depth // 2**level for level in range(levels)]
        bare = norm_type == "batch"  # a bias before batch norm does nothing

        def norm(width: int) -> nn.Module:
            return nn.BatchNorm2d(width) if norm_type == "batch" else nn.Identity()

        self.linear_in = nn.Linear(latent_dim, depth * self.grid**2, bias=not bare)
        self.norms = nn.ModuleList(norm(width) for width in widths)
        self.up_blocks = nn.ModuleList(
            UpBlock(width, after, kernel_size, upsampling_type, bias=not bare) for width, after in pairwise(widths)
        )
        self.up_out = UpBlock(widths[-1], out_channels, kernel_size, upsampling_type, bias=True)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02)  # Radford et al. 2016, section 4

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
