"""Training of the diffusion model: base training, and fine-tuning from a pipeline folder (thesis section 4.3)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from wbc_diffusers.data.dataset import Batch
from wbc_diffusers.models.r2_attn_unet import R2AttnUNet
from wbc_diffusers.pipelines import WBCDDIMPipeline
from wbc_diffusers.schedulers.scheduling_sigmoid_ddim import SCHEDULE_OPTIONS, SigmoidDDIMScheduler
from wbc_diffusers.solvers import as_solver, config_with_betas, swapped
from wbc_diffusers.training.engine import Trainer
from wbc_diffusers.training.publishing import Hub, Judge
from wbc_diffusers.training.recipe import DDIMRecipe
from wbc_diffusers.training.task import Task, build, check_options, load_pretrained, manifest_of

VALIDATION_LEVELS = 8


class DDIMTask(Task):
    """A network that learns to undo noise, at every level of a scheduler.

    Args:
        recipe: The recipe; with `pretrained` the network and the schedule start from that pipeline folder.

    Raises:
        ValueError: If a model or scheduler option is unknown, or differs from the pretrained model's.
    """

    def __init__(self, recipe: DDIMRecipe) -> None:
        self.recipe: DDIMRecipe = recipe
        recipe.require_pretrained()
        torch.manual_seed(recipe.seed)
        if recipe.pretrained:
            self.unet, self.scheduler, self.solver, self.parent_manifest = _start_from(recipe, recipe.pretrained)
        else:
            self.unet, self.scheduler = _start_anew(recipe)
            self.solver = self.scheduler
        # Trained by the one, published with the other: what the samples of the training show is what users get.
        self.solver = as_solver(self.solver, recipe.solver)
        self.models: dict[str, nn.Module] = {"unet": self.unet}
        self.num_timesteps = self.scheduler.config.num_train_timesteps
        if recipe.sample_images and recipe.sample_steps > self.num_timesteps:
            raise ValueError(
                f"sample_steps={recipe.sample_steps}, but the schedule has {self.num_timesteps} steps: give that many "
                "or fewer."
            )
        if self.parent_manifest is not None:
            self.class_names = self.parent_manifest["training"].get("classes") or None
        if (recipe.class_column is None) != (self.unet.config.num_class_embeds is None):
            raise ValueError(
                f"class_column is {recipe.class_column}, but the model has num_class_embeds="
                f"{self.unet.config.num_class_embeds}: give both or neither."
            )
        channels = (self.unet.config.in_channels, self.unet.config.out_channels)
        if channels != (3, 3):
            raise ValueError(f"The model has in_channels={channels[0]}, out_channels={channels[1]}: images have 3.")
        if recipe.resolution % self.unet.size_divisor:
            raise ValueError(
                f"resolution={recipe.resolution} does not divide by {self.unet.size_divisor}, which the model's "
                f"{len(self.unet.config.block_out_channels)} levels need: take a multiple."
            )

    def check_classes(self, names: list[str]) -> None:
        """Raise ValueError if the classes are more than the model has."""
        room = self.unet.config.num_class_embeds
        if room is not None and len(names) > room:
            raise ValueError(
                f"class_column {self.recipe.class_column} holds {len(names)} classes ({', '.join(names)}), but the "
                f"model has num_class_embeds={room}: give the model room for all, or choose images by `where`."
            )

    def loss(self, phase: str, models: dict[str, nn.Module], batch: Batch) -> Tensor:
        """Mean error of the prediction over a batch, weighted by noise level where the recipe says so."""
        return self._errors(models["unet"], batch, batch["timestep"]).mean()

    def _errors(self, unet: nn.Module, batch: Batch, timesteps: Tensor) -> Tensor:
        """The error (B,) of each image at timesteps (B,)."""
        image, noise = batch["image"], batch["noise"]
        noisy = self.scheduler.add_noise(image, noise, timesteps)
        alphas = self.scheduler.alphas_cumprod.to(image.device)[timesteps]
        prediction = unet(noisy, 1.0 - alphas, class_labels=batch.get("label"), return_dict=False)[0].float()
        kind = self.scheduler.config.prediction_type
        if kind == "v_prediction":
            target = self.scheduler.get_velocity(image, noise, timesteps)
        else:
            target = noise if kind == "epsilon" else image
        difference = prediction - target
        errors = (difference.abs() if self.recipe.loss == "l1" else difference.square()).mean(dim=(1, 2, 3))
        if self.recipe.snr_gamma is None:
            return errors
        return errors * min_snr_weight(alphas, self.recipe.snr_gamma, kind)

    def validate(self, averages: dict[str, nn.Module], batches: Iterator[Batch]) -> dict[str, float]:
        """Error per noise level, by its signal rate, with the same noise each time."""
        levels = torch.linspace(0, self.num_timesteps - 1, VALIDATION_LEVELS).round().long()
        sums, count = torch.zeros(len(levels)), 0
        for batch in batches:
            count += len(batch["image"])
            for i, level in enumerate(levels):
                timesteps = torch.full((len(batch["image"]),), int(level), device=batch["image"].device)
                sums[i] += self._errors(averages["unet"], batch, timesteps).sum().cpu()
        rates = self.scheduler.alphas_cumprod[levels].sqrt()
        figures = {f"validation/signal_rate_{rate:.3f}": float(s) / count for rate, s in zip(rates, sums, strict=True)}
        return {"validation/mean": sum(figures.values()) / len(figures), **figures}

    def samples(self, averages: dict[str, nn.Module], count: int, batch_size: int) -> list[Image.Image]:
        """Images of seeds 0, 1, ..., the classes in turn."""
        pipe = WBCDDIMPipeline(unet=averages["unet"], scheduler=self.solver)
        pipe.set_progress_bar_config(disable=True)
        classes = self.unet.config.num_class_embeds
        labels = None if classes is None else torch.arange(count) % classes
        images: list[Image.Image] = []
        for first in range(0, count, batch_size):
            seeds = range(first, min(first + batch_size, count))
            sheet: Any = pipe(
                batch_size=len(seeds),
                num_inference_steps=self.recipe.sample_steps,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                class_labels=None if labels is None else labels[first : first + batch_size],
                height=self.recipe.resolution,
                width=self.recipe.resolution,
            )
            images += sheet.images
        return images

    def save(self, averages: dict[str, nn.Module], folder: Path, manifest: dict[str, Any]) -> None:
        """Write the pipeline folder and its manifest."""
        pipe = WBCDDIMPipeline(unet=averages["unet"], scheduler=self.solver)
        pipe.training_manifest = manifest
        pipe.save_pretrained(folder)


def min_snr_weight(alphas: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Weight (B,) of the error at cumulative alphas (B,): min(SNR, gamma) on the image (Hang et al. 2023, section 3.4).

    The error of the noise is the image's times SNR, that of the velocity times SNR + 1.
    """
    snr = alphas / (1.0 - alphas)
    weight = snr.clamp(max=gamma)
    return weight / {"epsilon": snr, "v_prediction": snr + 1.0, "sample": torch.ones_like(snr)}[prediction_type]


def _start_anew(recipe: DDIMRecipe) -> tuple[R2AttnUNet, SigmoidDDIMScheduler]:
    scheduler = build(SigmoidDDIMScheduler, recipe.scheduler, "scheduler")
    options = {"sample_size": recipe.resolution, "trained_betas": scheduler.config.trained_betas, **recipe.model}
    return build(R2AttnUNet, options, "model"), scheduler


def _start_from(
    recipe: DDIMRecipe, pretrained: str
) -> tuple[R2AttnUNet, SigmoidDDIMScheduler, Any, dict[str, Any] | None]:
    """The network of a pipeline, its schedule and solver, changed as the recipe says, and its manifest."""
    pipe = load_pretrained(WBCDDIMPipeline, pretrained)
    scheduler, unused = SigmoidDDIMScheduler.from_config(
        config_with_betas(pipe.scheduler), return_unused_kwargs=True, **recipe.scheduler
    )
    if unknown := sorted(recipe.scheduler.keys() & unused.keys()):
        raise ValueError(f"The recipe's scheduler doesn't fit SigmoidDDIMScheduler: it has no {', '.join(unknown)}.")
    given = sorted(recipe.scheduler.keys() & set(SCHEDULE_OPTIONS))
    if given and scheduler.config.computed_betas is None:
        raise ValueError(
            f"The noise schedule of {pretrained} is given by its betas, which the recipe's {', '.join(given)} would "
            "not change: take it out of the recipe's scheduler, or add trained_betas: null there for a schedule anew."
        )
    if scheduler.config.prediction_type != pipe.scheduler.config.prediction_type:
        raise ValueError(
            f"{pretrained} predicts {pipe.scheduler.config.prediction_type}, the recipe wants "
            f"{scheduler.config.prediction_type}: a model keeps what it predicts; take it out of the recipe."
        )
    own = pipe.unet.config
    check_options(own, {k: v for k, v in recipe.model.items() if k != "dropout"}, "model", pretrained)
    # The network's own schedule serves integer timesteps only, and must be the one that it is published with.
    options = {
        **own,
        **recipe.model,
        "sample_size": recipe.resolution,
        "trained_betas": scheduler.config.trained_betas,
    }
    unet = R2AttnUNet.from_config(options)
    unet.load_state_dict(pipe.unet.state_dict())
    return unet, scheduler, swapped(scheduler, type(pipe.scheduler)), manifest_of(pipe, pretrained)


def train_ddim(
    recipe: DDIMRecipe,
    source: str,
    output: Path,
    resume: str | None = None,
    judge: Judge | None = None,
    hub: Hub | None = None,
) -> bool:
    """Train a diffusion model and write its pipeline folder; False if SIGTERM stopped it after a checkpoint.

    Args:
        recipe: The recipe.
        source: A prepared folder, any folder of images or Parquet files, or a dataset's id.
        output: The pipeline folder to be; holds checkpoints, samples, snapshots and log.jsonl beside it.
        resume: "latest", or a checkpoint's path, to go on with; None starts anew.
        judge: Judges images every `evaluate_every` updates.
        hub: Where the pipeline is published in the end, for a recipe with `push_to_hub`.
    """
    return Trainer(DDIMTask(recipe), recipe, source, output, resume, judge, hub).run()
