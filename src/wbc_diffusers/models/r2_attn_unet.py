"""R2AttnUNet: a U-Net of recurrent residual blocks with attention gates, told the noise variance of its input.

This file is shipped with checkpoints: it imports nothing of the package.
"""

import math
import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

BLOCK_TYPES = ("recurrent_residual", "residual", "recurrent", "plain")
NORM_TYPES = ("group", "batch")


def variance_embedding(variance: Tensor, dim: int, max_frequency: float) -> Tensor:
    """Embed noise variances (B,) in [0, 1] as (B, dim): sin and cos of 2 pi v f, in float32.

    The dim / 2 frequencies f run geometrically from 1 to `max_frequency` (thesis section 4.3; the continuous form of
    its section 3.11).
    """
    exponents = torch.linspace(0.0, 1.0, dim // 2, dtype=torch.float32, device=variance.device)
    angles = 2.0 * math.pi * variance.float()[:, None] * max_frequency**exponents
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def make_norm(norm_type: str, channels: int) -> nn.Module:
    """Normalise (B, C, H, W) with group norm of min(8, C/4) groups, or with batch norm."""
    if norm_type == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(max(1, min(8, channels // 4)), channels)


class RecurrentUnit(nn.Module):
    """One shared 3x3 convolution, norm and ReLU, applied `steps` + 1 times, each time to input plus last output.

    Recurrent convolution of R2U-Net (Alom et al. 2018, eq. 1 and 2). (B, C, H, W) to (B, C, H, W). Group norm is
    shared like the convolution; batch norm is one module an application, because the activations of each application
    have statistics of their own, which shared running averages would mix.
    """

    def __init__(self, channels: int, steps: int, norm_type: str) -> None:
        super().__init__()
        self.steps = steps
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norms = nn.ModuleList(
            make_norm(norm_type, channels) for _ in range(steps + 1 if norm_type == "batch" else 1)
        )

    def _apply_once(self, x: Tensor, step: int) -> Tensor:
        norm = self.norms[step if len(self.norms) > 1 else 0]
        return F.relu(norm(self.conv(x)), inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Run the unit on (B, C, H, W)."""
        out = self._apply_once(x, 0)
        for step in range(1, self.steps + 1):
            out = self._apply_once(x + out, step)
        return out


class R2Block(nn.Module):
    """A 1x1 convolution to the block's width, two recurrent units, and (if `residual`) the sum of both.

    R2U-Net's block (Alom et al. 2018, fig. 4d). (B, in_channels, H, W) to (B, out_channels, H, W). With
    `embedding_dim` the embedding (B, embedding_dim) scales and shifts what enters the units, channel by channel
    (FiLM, Perez et al. 2018), starting from no change.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        recurrence_steps: int,
        residual: bool,
        norm_type: str,
        dropout: float,
        embedding_dim: int | None,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.conv_in = nn.Conv2d(in_channels, out_channels, 1)
        self.film = None if embedding_dim is None else nn.Linear(embedding_dim, 2 * out_channels)
        if self.film is not None:
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)
        self.units = nn.ModuleList(RecurrentUnit(out_channels, recurrence_steps, norm_type) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Run the block on features (B, in_channels, H, W) and the embedding (B, embedding_dim)."""
        x = self.conv_in(x)
        h = x
        if self.film is not None:
            scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        h = self.units[1](self.dropout(self.units[0](h)))
        return x + h if self.residual else h


class AttentionGate(nn.Module):
    """Weigh each place of a skip connection by what the decoder is looking for (Oktay et al. 2018, fig. 2).

    Gate g and skip x, both (B, C, H, W): 1x1 convolutions to C/2, sum, ReLU, 1x1 convolution to one channel,
    sigmoid, times x.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = max(1, channels // 2)
        self.gate = nn.Conv2d(channels, width, 1)
        self.skip = nn.Conv2d(channels, width, 1)
        self.weight = nn.Conv2d(width, 1, 1)

    def forward(self, gate: Tensor, skip: Tensor) -> Tensor:
        """Return the weighted skip connection (B, C, H, W)."""
        return skip * torch.sigmoid(self.weight(F.relu(self.gate(gate) + self.skip(skip), inplace=True)))


class UpSample(nn.Module):
    """Nearest-neighbour upsampling by 2, 3x3 convolution, norm and ReLU: (B, C, H, W) to (B, out_channels, 2H, 2W)."""

    def __init__(self, in_channels: int, out_channels: int, norm_type: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = make_norm(norm_type, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Double height and width."""
        return F.relu(self.norm(self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))), inplace=True)


class R2AttnUNet(ModelMixin, ConfigMixin):
    r"""U-Net of recurrent residual blocks with attention gates on its skip connections (thesis sections 3.12 and 4.3).

    Args:
        sample_size: Height and width of the training images, in pixels: one number, or (height, width).
        in_channels: Channels of the noisy image.
        out_channels: Channels of the prediction.
        block_out_channels: Features per level, the first at full resolution; the depth is their number.
        recurrence_steps: Further applications t of each shared convolution, in the recurrent block types.
        block_type: "recurrent_residual" (R2U-Net), "residual", "recurrent" or "plain".
        attention_gates: Whether the skip connections are gated: one answer for all, or one for each, the first at full
            resolution.
        norm_type: "group", or "batch" with statistics of its own for each recurrent application.
        embedding_dim: Dimension of the noise variance's embedding; even.
        embedding_max_frequency: Highest frequency of the embedding.
        num_class_embeds: Number of classes; None for an unconditional model. The class embedding is added to that of
            the variance.
        dropout: Probability of dropout between the two units of each block.
        trained_betas: The betas of the training's noise schedule. With them, integer timesteps are understood, so that
            diffusers' own pipelines can run the model.
        condition_blocks: Whether the embedding also scales and shifts the features of every block, beside entering
            with the image.

    Raises:
        ValueError: If an argument is not one of its allowed values.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ("R2Block", "UpSample", "AttentionGate")
    _repeated_blocks = ("R2Block",)
    _skip_layerwise_casting_patterns = ("norm",)

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] = 192,
        in_channels: int = 3,
        out_channels: int = 3,
        block_out_channels: Sequence[int] = (16, 32, 64, 128, 256),
        recurrence_steps: int = 2,
        block_type: str = "recurrent_residual",
        attention_gates: bool | Sequence[bool] = True,
        norm_type: str = "group",
        embedding_dim: int = 32,
        embedding_max_frequency: float = 1000.0,
        num_class_embeds: int | None = None,
        dropout: float = 0.0,
        trained_betas: Sequence[float] | None = None,
        condition_blocks: bool = False,
    ) -> None:
        super().__init__()
        widths = list(block_out_channels)
        gated = [attention_gates] * (len(widths) - 1) if isinstance(attention_gates, bool) else list(attention_gates)
        self._check(widths, gated, block_type, norm_type, recurrence_steps, embedding_dim)
        if not 0 < embedding_max_frequency < math.inf:
            raise ValueError(f"embedding_max_frequency={embedding_max_frequency}: give a number above 0.")
        self.gradient_checkpointing = False

        steps = recurrence_steps if "recurrent" in block_type else 0
        block_embedding = embedding_dim if condition_blocks else None

        def block(in_width: int, out_width: int) -> R2Block:
            residual = "residual" in block_type
            return R2Block(in_width, out_width, steps, residual, norm_type, dropout, block_embedding)

        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.class_embedding = None if num_class_embeds is None else nn.Embedding(num_class_embeds, embedding_dim)
        self.down_blocks = nn.ModuleList(
            block(before, width) for before, width in zip([widths[0] + embedding_dim, *widths], widths, strict=False)
        )
        self.upsamplers = nn.ModuleList(UpSample(below, width, norm_type) for width, below in pairwise(widths))
        self.gates = nn.ModuleList(
            AttentionGate(width) if gate else nn.Identity() for width, gate in zip(widths, gated, strict=False)
        )
        self.up_blocks = nn.ModuleList(block(2 * width, width) for width in widths[:-1])
        self.conv_out = nn.Conv2d(widths[0], out_channels, 1)

        # Not a buffer: half precision would merge neighbouring variances. The device is named because diffusers may
        # build the model on the meta device.
        self._variances: Tensor | None = None
        if trained_betas is not None:
            betas = torch.tensor(list(trained_betas), dtype=torch.float64, device="cpu")
            if betas.ndim != 1 or not len(betas) or not ((betas >= 0) & (betas <= 1)).all():
                raise ValueError(
                    "trained_betas: give a list of numbers in [0, 1], such as scheduler.config.trained_betas."
                )
            self._variances = (1.0 - torch.cumprod(1.0 - betas, dim=0)).float()

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

    @staticmethod
    def _check(
        widths: list[int], gated: list[bool], block_type: str, norm_type: str, recurrence_steps: int, dim: int
    ) -> None:
        if not widths or min(widths) < 1:
            raise ValueError(f"block_out_channels={widths}: give one positive width per level, such as (16, 32, 64).")
        if block_type not in BLOCK_TYPES:
            raise ValueError(f"block_type={block_type!r}: choose one of {', '.join(BLOCK_TYPES)}.")
        if norm_type not in NORM_TYPES:
            raise ValueError(f"norm_type={norm_type!r}: choose one of {', '.join(NORM_TYPES)}.")
        if len(gated) != len(widths) - 1:
            raise ValueError(
                f"attention_gates has {len(gated)} entries, but {len(widths)} levels have {len(widths) - 1} skip "
                "connections: give one true or false for each, or one for all."
            )
        if recurrence_steps < 0:
            raise ValueError(f"recurrence_steps={recurrence_steps}: give 0 or more.")
        if dim < 4 or dim % 2:
            raise ValueError(f"embedding_dim={dim}: give an even number of at least 4.")
        for width in widths:
            groups = max(1, min(8, width // 4))
            if norm_type == "group" and width % groups:
                raise ValueError(f"block_out_channels: {width} does not divide into {groups} groups for group norm.")

    @property
    def size_divisor(self) -> int:
        """What height and width must be divisible by: 2^(depth - 1)."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    def _noise_variance(self, timestep: Tensor | float | int, batch_size: int, device: torch.device) -> Tensor:
        """Turn a timestep (a number, or a tensor of one or B of them) into float32 noise variances (B,).

        Floats are variances in [0, 1]; integers are steps of the schedule in the config.
        """
        timestep = torch.as_tensor(timestep)
        if timestep.numel() not in (1, batch_size):
            raise ValueError(
                f"R2AttnUNet got {timestep.numel()} timesteps for {batch_size} images: give one for each or for all."
            )
        # Reading a tensor waits for its device, so a batch of timesteps there is not checked: it gives NaN.
        readable = timestep.device.type == "cpu" or timestep.ndim == 0
        integer = not timestep.is_floating_point()
        if integer and self._variances is None:
            raise ValueError(
                "R2AttnUNet got an integer timestep, but its config holds no noise schedule to look it up in. Pass the "
                "noise variance as a float in [0, 1] (1 - alphas_cumprod[timestep]), or build the model with "
                "trained_betas=scheduler.config.trained_betas."
            )
        highest = len(self._variances) - 1 if integer and self._variances is not None else 1
        outside = (timestep < 0) | (timestep > highest)
        if readable and not torch.compiler.is_compiling() and bool(outside.any()):
            kind = "step of its noise schedule" if integer else "noise variance"
            raise ValueError(
                f"R2AttnUNet got timestep {timestep.tolist()}: {'an integer' if integer else 'a float'} is a {kind}, "
                f"and must lie in [0, {highest}]. For a scheduler that emits float timesteps, such as 999.0, use "
                "WBCDDIMPipeline, which turns them into variances."
            )
        if integer and self._variances is not None:
            variance = self._variances.to(timestep.device)[timestep.long().clamp(0, highest)]
        else:
            variance = timestep.float()
        # A compiled graph cannot raise either.
        return variance.masked_fill(outside, torch.nan).to(device).reshape(-1).expand(batch_size)

    def _embed(self, timestep: Tensor | float | int, class_labels: Tensor | None, sample: Tensor) -> Tensor:
        variance = self._noise_variance(timestep, sample.shape[0], sample.device)
        embedding = variance_embedding(variance, self.config.embedding_dim, self.config.embedding_max_frequency)
        embedding = embedding.to(sample.dtype)
        if self.class_embedding is None:
            if class_labels is not None:
                raise ValueError("class_labels were given, but the model has no classes (num_class_embeds is None).")
            return embedding
        if not self._fit(class_labels, len(sample)):
            raise ValueError(
                f"class_labels are needed: the model has {self.config.num_class_embeds} classes. Pass a tensor of "
                f"{len(sample)} integers from 0 to {self.config.num_class_embeds - 1}, not {class_labels}."
            )
        return embedding + self.class_embedding(class_labels.reshape(-1)).to(sample.dtype)

    def _fit(self, class_labels: Tensor | None, batch_size: int) -> TypeGuard[Tensor]:
        """Whether class labels are whole numbers, one or B of them, and in range where that can be read at no cost."""
        if not isinstance(class_labels, Tensor) or class_labels.dtype not in (torch.int32, torch.int64):
            return False
        if class_labels.numel() not in (1, batch_size):
            return False
        if class_labels.device.type != "cpu" or torch.compiler.is_compiling():
            return True  # as with timesteps; there the embedding itself fails
        return bool(((class_labels >= 0) & (class_labels < self.config.num_class_embeds)).all())

    def _run(self, module: nn.Module, *inputs: Tensor) -> Tensor:
        """Apply a module, keeping its activations only where gradient checkpointing is off."""
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            if self.training and self.config.norm_type == "batch":
                raise ValueError(
                    "Gradient checkpointing runs every block twice, so batch norm's running statistics would count "
                    'each batch twice: use norm_type="group", or disable_gradient_checkpointing().'
                )
            return self._gradient_checkpointing_func(module, *inputs)
        return module(*inputs)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """Predict the noise, the image or the velocity of a noisy sample, as trained.

        Args:
            sample: Noisy images (B, in_channels, H, W); H and W divisible by 2^(depth - 1).
            timestep: Noise variance 1 - alphas_cumprod in [0, 1] as a float, or an integer timestep of the schedule in
                the config; one for all images, or a tensor of B.
            class_labels: Integer classes (B,), if the model has classes.
            return_dict: Whether to return an output object rather than a tuple.

        Returns:
            The prediction (B, out_channels, H, W), as `.sample` or in a tuple.

        Raises:
            ValueError: If height or width don't divide, timesteps are too many, too few or out of range, an integer
                timestep comes without a schedule, or class labels don't fit.
        """
        height, width = sample.shape[-2:]
        if height % self.size_divisor or width % self.size_divisor:
            raise ValueError(
                f"R2AttnUNet got images of {height} x {width} pixels: height and width must be divisible by "
                f"{self.size_divisor}, 2^(depth - 1)."
            )
        embedding = self._embed(timestep, class_labels, sample)
        planes = embedding[:, :, None, None].expand(-1, -1, height, width)
        x = torch.cat([self.conv_in(sample), planes], dim=1)

        skips: list[Tensor] = []
        for block in self.down_blocks:
            if skips:
                x = F.max_pool2d(x, 2)
            x = self._run(block, x, embedding)
            skips.append(x)
        skips.pop()

        for skip, upsample, gate, block in reversed(
            list(zip(skips, self.upsamplers, self.gates, self.up_blocks, strict=True))
        ):
            x = self._run(upsample, x)
            # Not asked for AttentionGate: it is another class once diffusers has run a shipped copy of this file again.
            gated = skip if isinstance(gate, nn.Identity) else self._run(gate, x, skip)
            x = self._run(block, torch.cat([gated, x], dim=1), embedding)

        prediction = self.conv_out(x)
        return UNet2DOutput(sample=prediction) if return_dict else (prediction,)
