"""The shelf of this repository: for each recipe its pipeline folder without weights, and its card.

`python -m wbc_diffusers.hub.shelf` in a checkout writes `pipelines/` and `model_cards/` anew from `training/recipes/`.
"""

import json
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from wbc_diffusers.hub.card import Statement, build_card
from wbc_diffusers.shelves import find_entry, shelf
from wbc_diffusers.training.ddim import DDIMTask
from wbc_diffusers.training.gan import GANTask
from wbc_diffusers.training.recipe import ClassifierRecipe, DDIMRecipe, GANRecipe, Recipe
from wbc_diffusers.training.recipe_files import load_recipe
from wbc_diffusers.training.task import Task

_NUMBERS = re.compile(r"\[[\s\d.,eE+-]+\]")
_PBC = "PBC, Acevedo et al. 2020, doi 10.17632/snkd93bnjr.1"
_TRIED_ON = {"ours-64": _PBC, "ours-gan-64": _PBC}
_NOTES = "Of this configuration no weights are published, and nothing was measured of it."
_SHOWN = "What models of this recipe showed on real cells is in docs/results.md and docs/gan.md of wbc-diffusers."
_NEVER_TRAINED = "No model of this recipe was trained to its end by wbc-diffusers."


def names() -> list[str]:
    """The recipes of generators, and so the pipelines and cards, by name; a classifier is no pipeline."""
    paths = shelf("training/recipes").glob("*.yaml")
    return sorted(path.stem for path in paths if not isinstance(load_recipe(path), ClassifierRecipe))


def start(name: str, place: Path) -> Task:
    """Make the models of a recipe with random weights; one for fine-tuning starts from its base, written to `place`.

    Raises:
        FileNotFoundError: If there is no such recipe.
    """
    path = find_entry(name, "training/recipes", ".yaml")
    recipe = load_recipe(path)
    if recipe.fine_tuning:
        base = place / _base(recipe)
        task = start(base.name, place)
        task.save(task.models, base, {"schema_version": 1})
        recipe = load_recipe(path, {"pretrained": str(base)})
    if isinstance(recipe, GANRecipe):
        return GANTask(recipe)
    assert isinstance(recipe, DDIMRecipe)
    return DDIMTask(recipe)


def write_configuration(name: str, folder: Path) -> None:
    """Write the pipeline folder of a recipe as its training would, without weights, code and manifest."""
    with TemporaryDirectory() as place:
        task, whole = start(name, Path(place)), Path(place) / "whole"
        task.save(task.models, whole, {"schema_version": 1})
        for path in (whole / "model_index.json", *sorted(whole.glob("*/*config.json"))):
            target = folder / path.relative_to(whole)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_compact(path.read_text(encoding="utf-8")), encoding="utf-8")


def card_of(name: str, folder: Path) -> str:
    """The card of a pipeline folder of the shelf."""
    recipe = load_recipe(find_entry(name, "training/recipes", ".yaml"))
    ours = name.startswith("ours")
    said = Statement(
        licence="apache-2.0",
        dataset=_TRIED_ON.get(name, "your own") if ours else "your own; the thesis's, of CellaVision, is not public",
        dataset_licence="CC BY 4.0" if name in _TRIED_ON else "that of your data",
        base_model=_base(recipe) if recipe.fine_tuning else None,
        notes=f"{_NOTES} {_SHOWN if name in _TRIED_ON else _NEVER_TRAINED}",
    )
    return build_card(folder, said=said).content


def write_shelf(root: Path) -> None:
    """Write all pipeline folders and cards under a folder, usually the repository's."""
    (root / "model_cards").mkdir(exist_ok=True)
    for name in names():
        write_configuration(name, root / "pipelines" / name)
        (root / "model_cards" / f"{name}.md").write_text(card_of(name, root / "pipelines" / name), encoding="utf-8")


def _base(recipe: Recipe) -> str:
    """The recipe of the model that a recipe for fine-tuning starts from."""
    return f"{recipe.kind}-base"


def _compact(text: str) -> str:
    """JSON with each list of numbers on one line: a noise schedule has a thousand."""
    return _NUMBERS.sub(lambda found: json.dumps(json.loads(found.group())), text)


if __name__ == "__main__":
    write_shelf(Path(sys.argv[1]) if len(sys.argv) > 1 else shelf("training").parent)
