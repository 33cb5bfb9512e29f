"""Training of the GAN, and fine-tuning with frozen layers (thesis section 4.2; FreezeD, Mo et al. 2020)."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from wbc_diffusers.data.dataset import Batch
from wbc_diffusers.models.wbc_discriminator import WBCDiscriminator
from wbc_diffusers.models.wbc_generator import WBCGenerator
from wbc_diffusers.pipelines import WBCGANPipeline
from wbc_diffusers.training.collapse import COLLAPSED_BELOW, variety
from wbc_diffusers.training.diff_augment import NUMBERS, augment, parse_policy
from wbc_diffusers.training.engine import Trainer
from wbc_diffusers.training.publishing import Hub, Judge
from wbc_diffusers.training.recipe import GANRecipe
from wbc_diffusers.training.task import Task, build, check_options, load_pretrained, manifest_of

logger = logging.getLogger(__name__)


class GANTask(Task):
    """A generator that learns to make what a discriminator, trained beside it, takes for real.

    Args:
        recipe: The recipe; with `pretrained` both networks start from that pipeline folder.

    Raises:
        ValueError: If an option of a network is unknown, differs from the pretrained model's, or doesn't fit.
    """

    validates_on_train = True

    def __init__(self, recipe: GANRecipe) -> None:
        self.recipe: GANRecipe = recipe
        recipe.require_pretrained()
        self.policy = parse_policy(recipe.diff_augment)
        torch.manual_seed(recipe.seed)
        if recipe.pretrained:
            self.generator, self.discriminator, self.parent_manifest = _start_from(recipe, recipe.pretrained)
        else:
            size = {"sample_size": recipe.resolution}
            self.generator = build(WBCGenerator, {**size, **recipe.generator}, "generator")
            self.discriminator = build(WBCDiscriminator, {**size, **recipe.discriminator}, "discriminator")
        _check_sizes(recipe, self.generator, self.discriminator)
        freeze(self.generator, self.discriminator, recipe)
        self.models: dict[str, nn.Module] = {"discriminator": self.discriminator, "generator": self.generator}
        self.latent_dim: int = self.generator.config.latent_dim
        self.noise_size = 2 * self.latent_dim + 3 * NUMBERS

    @property
    def averaged(self) -> set[str]:
        """The generator: the discriminator is only ever trained further."""
        return {"generator"}

    @property
    def gradient_penalised(self) -> set[str]:
        """The discriminator, where it has R1."""
        return {"discriminator"} if self.recipe.r1_weight > 0 else set()

    def learning_rate(self, name: str) -> float:
        """The discriminator's own where it has one."""
        own = self.recipe.discriminator_learning_rate
        return own if name == "discriminator" and own is not None else self.recipe.learning_rate

    def phases(self, step: int) -> list[str]:
        """The discriminator, then the generator, each where it is its turn."""
        turns = {
            "discriminator": step % self.recipe.generator_updates == 0,
            "generator": step % self.recipe.discriminator_updates == 0,
        }
        return [name for name, turn in turns.items() if turn]

    def loss(self, phase: str, models: dict[str, nn.Module], batch: Batch) -> Tensor:
        """Loss of the discriminator or the generator, each on latents of its own."""
        latents, uniform = self._draws(batch)
        generator, discriminator = models["generator"], models["discriminator"]
        if phase == "generator":
            made = generator(latents[phase], return_dict=False)[0].float()
            return generator_loss(self._logits(discriminator, made, uniform["made"]), self.recipe.loss)
        with torch.no_grad():
            made = generator(latents[phase], return_dict=False)[0].float()
        seen = augment(batch["image"], self.policy, uniform["real"]).detach().requires_grad_(self.recipe.r1_weight > 0)
        real_logits = discriminator(seen, return_dict=False)[0].float()
        loss = discriminator_loss(real_logits, self._logits(discriminator, made, uniform["fake"]), self.recipe.loss)
        if self.recipe.r1_weight > 0:
            loss = loss + 0.5 * self.recipe.r1_weight * squared_gradient(real_logits, seen)
        return loss

    def _draws(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Latents (B, latent_dim) of both phases, and uniform numbers (B, NUMBERS) of the three augmentations."""
        first, second, rest = batch["noise"].split([self.latent_dim, self.latent_dim, 3 * NUMBERS], dim=1)
        # Of each image's own noise, so that processes and interruptions don't matter.
        numbers = torch.special.ndtr(rest).chunk(3, dim=1)
        return {"discriminator": first, "generator": second}, dict(zip(("real", "fake", "made"), numbers, strict=True))

    def _logits(self, discriminator: nn.Module, images: Tensor, uniform: Tensor) -> Tensor:
        return discriminator(augment(images, self.policy, uniform), return_dict=False)[0].float()

    def validate(self, averages: dict[str, nn.Module], batches: Iterator[Batch]) -> dict[str, float]:
        """Logits of real and generated images, and how far the generated ones differ; warns where they don't."""
        real: list[Tensor] = []
        made: list[Tensor] = []
        logits: dict[str, list[Tensor]] = {"real": [], "generated": []}
        for batch in batches:
            real.append(batch["image"])
            made.append(averages["generator"](batch["noise"][:, : self.latent_dim], return_dict=False)[0])
            for name, images in (("real", real[-1]), ("generated", made[-1])):
                logits[name].append(averages["discriminator"](images, return_dict=False)[0])
        figures = {f"validation/logit_{name}": float(torch.cat(values).mean()) for name, values in logits.items()}
        count = sum(map(len, real))
        if count < 2:
            return figures
        found = variety(torch.cat(made), torch.cat(real))
        if found is None:
            logger.warning(
                "Whether the generator has collapsed can't be told: most of the %d real images that it is compared to "
                "have a twin among them. `wbc prepare --drop-duplicates` leaves them out.",
                count,
            )
            return figures
        if found < COLLAPSED_BELOW:
            logger.warning(
                "Generated images differ %.2f times as much from their nearest as real ones do (%d of each; this warns "
                "below %.1f): unless the training has only begun, the generator has collapsed. Look at the samples; go "
                "back to an earlier snapshot, and try diff_augment, r1_weight or a lower learning rate.",
                found,
                count,
                COLLAPSED_BELOW,
            )
        return {**figures, "validation/variety": found}

    def samples(self, averages: dict[str, nn.Module], count: int, batch_size: int) -> list[Image.Image]:
        """Images of seeds 0, 1, ..."""
        pipe = WBCGANPipeline(generator=averages["generator"])
        images: list[Image.Image] = []
        for first in range(0, count, batch_size):
            seeds = [torch.Generator().manual_seed(seed) for seed in range(first, min(first + batch_size, count))]
            made: Any = pipe(batch_size=len(seeds), generator=seeds)
            images += made.images
        return images

    def save(self, averages: dict[str, nn.Module], folder: Path, manifest: dict[str, Any]) -> None:
        """Write the pipeline folder and its manifest."""
        pipe = WBCGANPipeline(generator=averages["generator"], discriminator=averages["discriminator"])
        pipe.training_manifest = manifest
        pipe.save_pretrained(folder)


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, kind: str) -> Tensor:
    """-log D(x) - log(1 - D(G(z))), as in the thesis's section 3.9, or hinges (Lim and Ye 2017)."""
    if kind == "hinge":
        return F.relu(1.0 - real_logits).mean() + F.relu(1.0 + fake_logits).mean()
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def generator_loss(fake_logits: Tensor, kind: str) -> Tensor:
    """log(1 - D(G(z))) for "minimax" (thesis section 3.9), -log D(G(z)) for "non_saturating", -logit for "hinge"."""
    if kind == "hinge":
        return -fake_logits.mean()
    return (-F.softplus(fake_logits) if kind == "minimax" else F.softplus(-fake_logits)).mean()


def squared_gradient(logits: Tensor, images: Tensor) -> Tensor:
    """Mean squared length of the gradients of logits (B,) by their images: R1 (Mescheder et al. 2018, equation 9)."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def freeze(generator: WBCGenerator, discriminator: WBCDiscriminator, recipe: GANRecipe) -> None:
    """Freeze what the recipe says: blocks of the discriminator with their norms, and the generator's batch norms.

    Raises:
        ValueError: If that is more than there is, or random weights.
    """
    blocks, count = list(discriminator.blocks), recipe.frozen_layers
    if count > len(blocks):
        raise ValueError(f"frozen_layers={count}, but the discriminator has {len(blocks)} of them: give no more.")
    if (count or recipe.freeze_generator_norms) and not recipe.pretrained:
        raise ValueError(
            f"frozen_layers={count} and freeze_generator_norms={recipe.freeze_generator_norms} would freeze random "
            "weights: give a model to start from by --pretrained, or set them 0 and false."
        )
    for block in blocks[:count] if recipe.freeze_from == "image" else blocks[len(blocks) - count :]:
        block.requires_grad_(False)
    if recipe.freeze_generator_norms:
        generator.norms.requires_grad_(False)


def _check_sizes(recipe: GANRecipe, generator: WBCGenerator, discriminator: WBCDiscriminator) -> None:
    for network in (generator, discriminator):
        size = network.config.sample_size
        if size != recipe.resolution:
            raise ValueError(
                f"The {type(network).__name__} has sample_size={size}, and the recipe resolution={recipe.resolution}: "
                "a GAN makes images of its own size only, so give both the same."
            )
    channels = (generator.config.out_channels, discriminator.config.in_channels)
    if channels != (3, 3):
        raise ValueError(f"The networks have out_channels={channels[0]} and in_channels={channels[1]}: images have 3.")


def _start_from(recipe: GANRecipe, pretrained: str) -> tuple[WBCGenerator, WBCDiscriminator, dict[str, Any] | None]:
    """Both networks of a pipeline, and its manifest."""
    pipe = load_pretrained(WBCGANPipeline, pretrained)
    if pipe.discriminator is None:
        raise ValueError(f"{pretrained} has no discriminator, so it can't be trained further: take one that has it.")
    for network, field in ((pipe.generator, "generator"), (pipe.discriminator, "discriminator")):
        check_options(network.config, getattr(recipe, field), field, pretrained)
    return pipe.generator, pipe.discriminator, manifest_of(pipe, pretrained)


def train_gan(
    recipe: GANRecipe,
    source: str,
    output: Path,
    resume: str | None = None,
    judge: Judge | None = None,
    hub: Hub | None = None,
) -> bool:
    """Train a GAN and write its pipeline folder; False if SIGTERM stopped it after a checkpoint.

    Args:
        recipe: The recipe.
        source: A prepared folder, any folder of images or Parquet files, or a dataset's id.
        output: The pipeline folder to be; holds checkpoints, samples, snapshots and log.jsonl beside it.
        resume: "latest", or a checkpoint's path, to go on with; None starts anew.
        judge: Judges images every `evaluate_every` updates.
        hub: Where the pipeline is published in the end, for a recipe with `push_to_hub`.
    """
    return Trainer(GANTask(recipe), recipe, source, output, resume, judge, hub).run()
