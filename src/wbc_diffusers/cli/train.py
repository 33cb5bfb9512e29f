"""`wbc train`: base training, and fine-tuning with --pretrained."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wbc_diffusers.training.publishing import Hub, Judge
    from wbc_diffusers.training.recipe import Recipe


def train(
    context: typer.Context,
    config: Annotated[str, typer.Option(help="Recipe: a YAML file, or a name such as ours-64 or gan-base.")],
    data: Annotated[str, typer.Option(help="Prepared folder, any image folder or Parquet files, or a dataset's id.")],
    output: Annotated[Path, typer.Option(help="Becomes the pipeline folder; new, or with --resume an earlier run's.")],
    resume: Annotated[str | None, typer.Option(help='"latest", or a checkpoint to go on with.')] = None,
) -> None:
    """Train a model from a recipe, whose every field is an option.

    --pretrained MODEL fine-tunes. Others are --learning-rate 1e-4 or --max-train-steps 500; a run's recipe.yaml lists
    them all, with underscores for dashes.
    """
    from wbc_diffusers.shelves import find_entry
    from wbc_diffusers.training.recipe import ClassifierRecipe, DDIMRecipe, GANRecipe
    from wbc_diffusers.training.recipe_files import load_recipe, parse_overrides

    path = find_entry(config, "training/recipes", ".yaml")
    recipe_class = type(load_recipe(path))
    own = [option for parameter in context.command.params for option in parameter.opts]
    recipe = load_recipe(path, parse_overrides(recipe_class, context.args, own))

    judge, hub = _judge(recipe, data), _hub(recipe)
    match recipe:
        case GANRecipe():
            from wbc_diffusers.training.gan import train_gan

            done = train_gan(recipe, data, output, resume, judge, hub)
        case DDIMRecipe():
            from wbc_diffusers.training.ddim import train_ddim

            done = train_ddim(recipe, data, output, resume, judge, hub)
        case ClassifierRecipe():
            from wbc_diffusers.training.classifier import train_classifier

            done = train_classifier(recipe, data, output, resume)
        case _:
            raise AssertionError(f"no training for a {recipe_class.__name__}")
    if not done:
        if _is_main_process():
            typer.echo(
                f"Stopped by SIGTERM; a checkpoint was written. Go on with --resume latest --output {output}.", err=True
            )
        raise typer.Exit(143)
    if _is_main_process():
        typer.echo(f"Wrote the {'classifier' if recipe.kind == 'classifier' else 'pipeline'} folder {output}.")


def _judge(recipe: "Recipe", data: str) -> "Judge | None":
    """What judges the images of the training, if the recipe wants that."""
    if recipe.evaluate_every is None or not _is_main_process():
        return None
    from wbc_diffusers.evaluation.during import TrainingJudge
    from wbc_diffusers.evaluation.encoders import load_encoder
    from wbc_diffusers.generation import process_state

    encoder = load_encoder(recipe.evaluate_encoder, process_state().device)
    return TrainingJudge(data, recipe.where, recipe.resolution, recipe.evaluate_images, encoder)


def _hub(recipe: "Recipe") -> "Hub | None":
    """Where the pipeline is published, if the recipe wants that."""
    if not recipe.push_to_hub or recipe.hub_model_id is None or not _is_main_process():
        return None
    from wbc_diffusers.hub.publish import HubTarget

    return HubTarget(recipe.hub_model_id, private=recipe.hub_private_repo)


def _is_main_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `wbc train` with the options of the command line, as the scripts under training/ do for accelerate."""
    from wbc_diffusers.cli import main as wbc

    wbc(["train", *(sys.argv[1:] if arguments is None else arguments)])
