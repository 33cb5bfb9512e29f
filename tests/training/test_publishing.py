"""A judge's word during a training: what is logged, and which pipeline is kept."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wbc_diffusers import WBCDDIMPipeline


@dataclass(frozen=True)
class Verdict:
    figures: dict[str, float]
    score: float


class Scripted:
    """Says scores in turn, and keeps the images that it was shown."""

    count = 3

    def __init__(self, *scores: float) -> None:
        self.scores, self.shown = list(scores), []

    def __call__(self, images: Sequence[Image.Image]) -> Verdict:
        self.shown.append([np.asarray(image) for image in images])
        score = self.scores.pop(0)
        return Verdict({"evaluation/score": score, "evaluation/other": 1.0}, score)


def weights(folder: Path) -> torch.Tensor:
    unet = WBCDDIMPipeline.from_pretrained(folder).unet
    return torch.cat([p.flatten() for p in unet.state_dict().values() if p.is_floating_point()])


def rows(folder: Path) -> dict[int, dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row for row in lines if "evaluation/score" in row}


def test_the_best_pipeline_is_kept_and_every_word_logged(trainer: Any, small: Any, tmp_path: Path) -> None:
    judge = Scripted(5.0, 2.0, 3.0)
    recipe = small(max_train_steps=6, evaluate_every=2, ema_decay=0.0, learning_rate=1e-2, checkpoint_every=2)
    trainer(recipe, tmp_path / "run", judge=judge).run()
    assert {step: row["evaluation/score"] for step, row in rows(tmp_path / "run").items()} == {2: 5.0, 4: 2.0, 6: 3.0}
    best = tmp_path / "run" / "best"
    assert json.loads((best / "score.json").read_text()) == {
        "step": 4, "score": 2.0, "evaluation/score": 2.0, "evaluation/other": 1.0,
    }  # fmt: skip
    manifest = json.loads((best / "training_manifest.json").read_text())
    assert manifest["training"]["steps"] == 4
    # The same training stopped there ends with the same weights.
    trainer(replace(recipe, max_train_steps=4, evaluate_every=None), tmp_path / "short").run()
    assert torch.equal(weights(best), weights(tmp_path / "short"))
    assert not torch.equal(weights(best), weights(tmp_path / "run"))


def test_the_images_are_of_the_same_seeds_each_time(trainer: Any, small: Any, tmp_path: Path) -> None:
    judge = Scripted(1.0, 1.0)
    recipe = small(max_train_steps=2, evaluate_every=1, learning_rate=1e-12, ema_decay=0.0, lr_warmup_steps=0)
    trainer(recipe, tmp_path / "run", judge=judge).run()
    first, second = judge.shown
    assert len(first) == len(second) == 3
    assert first[0].shape == (recipe.resolution, recipe.resolution, 3)
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[0], first[1])


def test_a_resumed_run_knows_its_best(trainer: Any, small: Any, tmp_path: Path) -> None:
    recipe = {"evaluate_every": 2, "checkpoint_every": 2, "ema_decay": 0.0}
    trainer(small(max_train_steps=4, **recipe), tmp_path / "run", judge=Scripted(1.0, 2.0)).run()
    judge = Scripted(1.5, 0.5)
    trainer(small(max_train_steps=8, **recipe), tmp_path / "run", "latest", judge=judge).run()
    assert json.loads((tmp_path / "run" / "best" / "score.json").read_text())["step"] == 8
    # From an earlier checkpoint than the best: that one's later, and no longer of this run.
    judge = Scripted(0.9)
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("*6")
    trainer(small(max_train_steps=8, **recipe), tmp_path / "run", str(checkpoint), judge=judge).run()
    assert json.loads((tmp_path / "run" / "best" / "score.json").read_text())["score"] == 0.9


def test_a_recipe_that_wants_a_judge_needs_one(trainer: Any, small: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a judge"):
        trainer(small(max_train_steps=2, evaluate_every=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_judge_without_a_word_in_the_recipe_is_not_asked(trainer: Any, small: Any, tmp_path: Path) -> None:
    trainer(small(max_train_steps=2), tmp_path / "run", judge=Scripted()).run()
    assert not (tmp_path / "run" / "best").exists()
