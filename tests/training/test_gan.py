"""Training of the GAN: losses, turns, frozen layers, snapshots, collapse, resuming."""

import errno
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from wbc_diffusers import WBCGANPipeline
from wbc_diffusers.training import engine
from wbc_diffusers.training.checkpoints import CheckpointError
from wbc_diffusers.training.ddim import DDIMTask
from wbc_diffusers.training.diff_augment import NUMBERS
from wbc_diffusers.training.gan import GANTask, discriminator_loss, generator_loss, squared_gradient
from wbc_diffusers.training.recipe import GANRecipe
from wbc_diffusers.training.trained import set_up

EVERYTHING: dict[str, Any] = {
    "max_train_steps": 9,
    "train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "discriminator": {"depth": 4, "kernel_size": 4, "spectral_norm": True},
    "loss": "hinge",
    "r1_weight": 0.5,
    "diff_augment": "color,translation,cutout",
    "discriminator_updates": 2,
    "discriminator_learning_rate": 2e-3,
    "ema_decay": 0.9,
    "lr_scheduler": "cosine",
    "random_flip": True,
    "random_turn": True,
    "checkpoint_every": 3,
    "validation_images": 4,
    "validate_every": 2,
    "sample_images": 2,
    "sample_every": 4,
    "snapshot_every_epochs": 1.0,
}
"""All that could make a resumed run differ."""

PARTS = ("generator", "discriminator")


@pytest.fixture(scope="module")
def make(trainer: Any) -> Callable[..., Any]:
    """Give a maker of trainers of a GAN: make(recipe, output, resume=None)."""
    return lambda *arguments, **options: trainer(*arguments, **{"task": GANTask, **options})


@pytest.fixture(scope="module")
def base(make: Any, small_gan: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a trained base model."""
    output = tmp_path_factory.mktemp("base") / "run"
    assert make(small_gan(), output).run()
    return output


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def sigmoid(x: Any) -> Any:
    return 1.0 / (1.0 + np.exp(-x))


def test_losses_equal_the_formulas_of_the_papers() -> None:
    real, fake = np.array([1.5, -0.3, 0.2]), np.array([-2.0, 0.7, 1.1])
    given = torch.from_numpy(real), torch.from_numpy(fake)
    thesis = -np.mean(np.log(sigmoid(real))) - np.mean(np.log(1 - sigmoid(fake)))
    hinge = np.mean(np.maximum(0, 1 - real)) + np.mean(np.maximum(0, 1 + fake))
    assert discriminator_loss(*given, "minimax").item() == pytest.approx(thesis)
    assert discriminator_loss(*given, "non_saturating").item() == pytest.approx(thesis)
    assert discriminator_loss(*given, "hinge").item() == pytest.approx(hinge)
    wanted = {"minimax": np.log(1 - sigmoid(fake)), "non_saturating": -np.log(sigmoid(fake)), "hinge": -fake}
    for kind, values in wanted.items():
        assert generator_loss(given[1], kind).item() == pytest.approx(np.mean(values))


def test_r1_is_the_squared_length_of_the_gradient_and_can_be_trained_on() -> None:
    images = torch.randn(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    penalty = squared_gradient(((images**2) * weight).sum(dim=(1, 2, 3)), images)
    by_hand = (2 * images * weight).square().sum() / 5
    assert penalty.item() == pytest.approx(by_hand.item())
    (slope,) = torch.autograd.grad(penalty, weight)
    torch.testing.assert_close(slope, (8 * images.square() * weight).sum(0) / 5)


def test_r1_is_weighed_by_half_its_weight(make: Any, small_gan: Any, tmp_path: Path) -> None:
    networks = {"discriminator": {"depth": 4, "kernel_size": 4, "norm_type": "none"}}
    losses = {}
    for weight in (0.0, 3.0):
        ours = make(small_gan(r1_weight=weight, **networks), tmp_path / str(weight))
        batch = ours._to_device(next(ours.feed.batches(0)))
        losses[weight] = ours.task.loss("discriminator", ours.task.models, batch).item()
        assert not batch["image"].requires_grad
        images = batch["image"].requires_grad_()
        slopes = torch.autograd.grad(ours.task.discriminator(images).logits.sum(), images)[0]
    penalty = 1.5 * slopes.square().sum(dim=(1, 2, 3)).mean().item()
    assert losses[3.0] - losses[0.0] == pytest.approx(penalty, rel=1e-4)


def test_each_network_sees_latents_of_its_own_from_each_images_noise(make: Any, small_gan: Any, tmp_path: Path) -> None:
    ours = make(small_gan(), tmp_path / "run")
    batch = next(ours.feed.batches(0))
    assert batch["noise"].shape == (4, 2 * 8 + 3 * NUMBERS)
    latents, uniform = ours.task._draws(batch)
    assert torch.equal(torch.cat([latents["discriminator"], latents["generator"]], dim=1), batch["noise"][:, :16])
    rest = torch.cat(list(uniform.values()), dim=1)
    assert ((rest > 0) & (rest < 1)).all()
    torch.testing.assert_close(torch.special.ndtri(rest.double()).float(), batch["noise"][:, 16:], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "turns"),
    [
        ({}, {"generator": "1111", "discriminator": "1111"}),
        ({"discriminator_updates": 2}, {"generator": "1010", "discriminator": "1111"}),
        ({"generator_updates": 3}, {"generator": "1111", "discriminator": "1001"}),
    ],
)
def test_each_network_is_trained_when_it_is_its_turn_and_the_other_stays(
    make: Any, small_gan: Any, tmp_path: Path, options: dict[str, int], turns: dict[str, str]
) -> None:
    ours = make(small_gan(**options), tmp_path / "run")
    batches, seen = ours.feed.batches(0), dict.fromkeys(PARTS, "")
    weights = {name: [k for k, _ in ours.trained[name].bare.named_parameters()] for name in PARTS}
    for _ in range(4):
        before = {name: state(ours.trained[name].bare) for name in PARTS}
        losses = ours.update(batches)
        ours.step += 1
        for name in PARTS:
            changed = moved(before[name], state(ours.trained[name].bare)) & set(weights[name])
            assert changed in (set(), set(weights[name]))
            assert bool(changed) == (name in losses)
            seen[name] += str(int(bool(changed)))
    assert seen == turns


def test_the_generators_update_leaves_no_gradient_with_the_discriminator(
    make: Any, small_gan: Any, tmp_path: Path
) -> None:
    ours = make(small_gan(), tmp_path / "run")
    micro = [ours._to_device(next(ours.feed.batches(0)))]
    ours._update_model("generator", micro)
    assert all(p.grad is None and p.requires_grad for p in ours.trained["discriminator"].bare.parameters())


def test_both_have_their_learning_rates(make: Any, small_gan: Any, log_of: Any, tmp_path: Path) -> None:
    recipe = small_gan(max_train_steps=1, learning_rate=0.25, discriminator_learning_rate=0.5, log_every=1)
    assert make(recipe, tmp_path / "run").run()
    row = log_of(tmp_path / "run")[0]
    assert (row["learning_rate/generator"], row["learning_rate/discriminator"]) == (0.25, 0.5)
    assert {"loss/generator", "loss/discriminator"} < row.keys()


@pytest.mark.parametrize(
    ("options", "frozen_blocks"),
    [
        ({}, set()),
        ({"frozen_layers": 1, "freeze_generator_norms": True}, {0}),
        ({"frozen_layers": 1, "freeze_from": "output", "freeze_generator_norms": True}, {1}),
    ],
)
def test_fine_tuning_moves_all_but_what_is_frozen(
    make: Any, small_gan: Any, base: Path, published: Any, tmp_path: Path, options: Any, frozen_blocks: set[int]
) -> None:
    recipe = small_gan(fine_tuning=True, pretrained=str(base), generator={}, discriminator={}, **options)
    assert make(recipe, tmp_path / "run").run()
    before = {name: published(base, name) for name in PARTS}
    after = {name: published(tmp_path / "run", name) for name in PARTS}
    kept = {f"blocks.{block}." for block in frozen_blocks}
    assert moved(before["discriminator"], after["discriminator"]) == {
        name for name in before["discriminator"] if not any(name.startswith(block) for block in kept)
    }
    norms = {name for name in before["generator"] if name.startswith("norms.")}
    assert {name.rsplit(".", 1)[1] for name in norms} >= {"weight", "bias", "running_mean", "running_var"}
    assert moved(before["generator"], after["generator"]) == before["generator"].keys() - (
        norms if options.get("freeze_generator_norms") else set()
    )
    manifest = json.loads((tmp_path / "run" / "training_manifest.json").read_text())
    assert len(manifest["parents"]) == 1


def test_frozen_norms_are_in_evaluation_mode_in_the_training_itself(
    make: Any, small_gan: Any, base: Path, tmp_path: Path
) -> None:
    recipe = small_gan(pretrained=str(base), generator={}, discriminator={}, frozen_layers=2)
    ours = make(recipe, tmp_path / "run")
    ours.update(ours.feed.batches(0))
    modes = [module.training for module in ours.trained["discriminator"].bare.blocks.modules()]
    assert not any(modes)
    assert all(module.training for module in ours.trained["generator"].bare.norms)


@pytest.mark.parametrize(
    "stop_at", [2, 4]
)  # the first at the update of a snapshot, which a run that is stopped leaves out
def test_a_resumed_run_ends_with_the_same_bits(
    make: Any, small_gan: Any, published: Any, log_of: Any, tmp_path: Path, stop_at: int
) -> None:
    recipe = small_gan(**EVERYTHING)
    assert make(recipe, tmp_path / "whole").run()
    first = make(recipe, tmp_path / "parts")
    update = first.update

    def stopping(batches: Any) -> Any:
        first.stop.given = first.step == stop_at
        return update(batches)

    first.update = stopping
    assert not first.run()
    assert first.step == stop_at + 1
    assert make(recipe, tmp_path / "parts", "latest").run()
    for part in PARTS:
        assert moved(published(tmp_path / "whole", part), published(tmp_path / "parts", part)) == set()
        for epoch in ("snapshots/epoch-0001", "snapshots/epoch-0002", "snapshots/epoch-0003"):
            whole, parts = (published(tmp_path / run / epoch, part) for run in ("whole", "parts"))
            assert moved(whole, parts) == set()
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in log_of(tmp_path / p)] for p in ("whole", "parts")
    ]
    assert [row for row in rows[0] if "validation/variety" in row] == [
        row for row in rows[1] if "validation/variety" in row
    ]


def test_snapshots_are_whole_pipelines_of_their_epochs(
    make: Any, small_gan: Any, published: Any, tmp_path: Path
) -> None:
    # 24 images in batches of 4: an epoch is 6 updates.
    recipe = small_gan(max_train_steps=12, snapshot_every_epochs=0.5, sample_images=2)
    assert make(recipe, tmp_path / "run").run()
    assert make(small_gan(max_train_steps=6, snapshot_every_epochs=1.0), tmp_path / "whole").run()
    assert [folder.name for folder in (tmp_path / "whole" / "snapshots").iterdir()] == ["epoch-0001"]
    folders = sorted((tmp_path / "run" / "snapshots").iterdir())
    assert [folder.name for folder in folders] == [f"epoch-000{n}" for n in ("0.50", "1.00", "1.50", "2.00")]
    steps = [json.loads((f / "training_manifest.json").read_text())["training"]["steps"] for f in folders]
    assert steps == [3, 6, 9, 12]
    for folder in folders:
        assert (folder / "samples.png").is_file()
        assert len(WBCGANPipeline.from_pretrained(folder)(batch_size=2).images) == 2
    for part in PARTS:
        assert moved(published(folders[-1], part), published(tmp_path / "run", part)) == set()
        assert moved(published(folders[0], part), published(tmp_path / "run", part))


def test_a_snapshot_leaves_the_averages_in_the_layout_that_they_are_computed_in(
    make: Any, small_gan: Any, tmp_path: Path
) -> None:
    ours = make(small_gan(max_train_steps=2, snapshot_every_epochs=0.1), tmp_path / "run")
    assert ours.run()
    for trained in ours.trained.values():
        strides = [[v.stride() for v in m.state_dict().values()] for m in (trained.bare, trained.average.model)]
        assert strides[0] == strides[1]


def test_snapshots_of_tenths_come_at_their_updates(make: Any, small_gan: Any, tmp_path: Path) -> None:
    # 24 images in batches of 2: a tenth of an epoch is 1.2 updates.
    recipe = small_gan(max_train_steps=30, train_batch_size=2, snapshot_every_epochs=0.1)
    ours = make(recipe, tmp_path / "run")
    found = {}
    for step in range(1, 31):
        if (folder := ours.publisher.snapshot_folder(step)) is not None:
            found[folder.name] = step
    assert found == {f"epoch-{tenths / 10:07.2f}": -(-12 * tenths // 10) for tenths in range(1, 26)}


def test_a_snapshot_that_does_not_fit_costs_no_update(
    make: Any, small_gan: Any, published: Any, tmp_path: Path
) -> None:
    recipe = small_gan(max_train_steps=9, snapshot_every_epochs=1.0, checkpoint_every=100, sample_images=2)
    assert make(recipe, tmp_path / "whole").run()
    ours = make(recipe, tmp_path / "run")
    (tmp_path / "run" / "snapshots").write_text("no folder")
    with pytest.raises(CheckpointError, match=r"epoch-0001 could not be written .* last good .* is .*checkpoint-6"):
        ours.run()
    (tmp_path / "run" / "snapshots").unlink()
    assert make(recipe, tmp_path / "run", "latest").run()
    assert (tmp_path / "run" / "snapshots" / "epoch-0001" / "samples.png").is_file()
    for folder in ("", "snapshots/epoch-0001"):
        for part in PARTS:
            whole, parts = (published(tmp_path / run / folder, part) for run in ("whole", "run"))
            assert moved(whole, parts) == set()


def test_a_sheet_that_does_not_fit_leaves_nothing(
    make: Any, small_gan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: Any, **__: Any) -> None:
        path.write_bytes(b"half a sheet")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(engine, "write_png", full)
    assert make(small_gan(snapshot_every_epochs=0.5, sample_images=2), tmp_path / "run").run()
    assert [p.name for p in tmp_path.glob("run/snapshots/*")] == ["epoch-0000.50"]
    assert not list(tmp_path.glob("run/**/*.png"))


def test_the_generators_average_is_published_and_the_discriminator_as_it_is(
    make: Any, small_gan: Any, published: Any, tmp_path: Path
) -> None:
    networks = {"discriminator": {"depth": 4, "kernel_size": 4, "norm_type": "none"}}
    for decay in (0.0, 0.9):
        output = tmp_path / str(decay)
        assert make(small_gan(ema_decay=decay, max_train_steps=6, **networks), output).run()
        weights = [load_file(path) for path in sorted((output / "checkpoints/checkpoint-6").glob("model*.safetensors"))]
        trained = {part: next(w for w in weights if w.keys() == published(output, part).keys()) for part in PARTS}
        assert moved(published(output, "discriminator"), trained["discriminator"]) == set()
        assert bool(moved(published(output, "generator"), trained["generator"])) == (decay > 0)


def test_images_that_no_longer_differ_are_warned_of_with_the_measure(
    make: Any, small_gan: Any, log_of: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    generator = {"depth": 8, "kernel_size": 4, "latent_dim": 8, "norm_type": "none"}
    recipe = small_gan(max_train_steps=2, validate_every=1, validation_images=8, generator=generator)
    caplog.set_level(logging.WARNING)
    assert make(recipe, tmp_path / "alive").run()
    assert "collapsed" not in caplog.text
    ours = make(recipe, tmp_path / "collapsed")
    for network in (ours.trained["generator"].bare, ours.trained["generator"].average.model):
        nn.init.zeros_(network.linear_in.weight)
    assert ours.run()
    found = [row["validation/variety"] for row in log_of(tmp_path / "collapsed") if "validation/variety" in row]
    assert len(found) == 2
    assert max(found) < 0.01
    assert "Generated images differ 0.00 times as much from their nearest as real ones do (8 of each" in caplog.text


def test_without_a_validation_split_training_images_show_a_collapse(
    make: Any, small_gan: Any, cells: Path, log_of: Any, tmp_path: Path
) -> None:
    shutil.copytree(cells / "train", tmp_path / "cells" / "train")
    recipe = small_gan(max_train_steps=1, validation_images=8)
    ours = make(recipe, tmp_path / "run", source=tmp_path / "cells")
    assert ours.feed.in_words().startswith("Training on 24 images, validation on some of them, as they are")
    assert ours.run()
    assert any("validation/variety" in row for row in log_of(tmp_path / "run"))


def test_real_images_with_twins_are_warned_of_instead_of_a_measure(
    make: Any, small_gan: Any, cells: Path, log_of: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cells" / "train").mkdir(parents=True)
    for i in range(4):
        shutil.copy(cells / "train" / "00.png", tmp_path / "cells" / "train" / f"{i}.png")
    assert make(small_gan(max_train_steps=1, validation_images=4), tmp_path / "run", source=tmp_path / "cells").run()
    assert "most of the 4 real images" in caplog.text
    assert not any("validation/variety" in row for row in log_of(tmp_path / "run"))


def test_bf16_trains_and_publishes_float32(make: Any, small_gan: Any, published: Any, tmp_path: Path) -> None:
    seen = []

    class Watching(GANTask):
        def loss(self, phase: str, models: Any, batch: Any) -> Tensor:
            for network in (self.generator.up_out, self.discriminator.blocks[0].conv):
                network.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
            return super().loss(phase, models, batch)

    recipe = small_gan(mixed_precision="bf16", r1_weight=1.0, diff_augment="color", max_train_steps=1)
    assert make(recipe, tmp_path / "run", task=Watching).run()
    assert set(seen) == {torch.bfloat16}
    assert {v.dtype for v in published(tmp_path / "run", "generator").values() if v.is_floating_point()} == {
        torch.float32
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"discriminator_updates": 2, "generator_updates": 2}, "leave one of them at 1"),
        ({"r1_weight": 1.0, "compile": True}, "its second derivatives don't go with"),
        ({"r1_weight": 1.0, "mixed_precision": "fp16"}, "Set no or bf16, and compile false"),
        ({"r1_weight": -1.0}, "r1_weight is -1.0; it must be 0 or more"),
        ({"class_column": "abnormality"}, "A GAN has no classes"),
        ({"frozen_layers": 1}, "would freeze random weights: give a model to start from by --pretrained"),
        ({"freeze_generator_norms": True}, "would freeze random weights"),
        ({"generator": {"_depth": 8}}, "generator doesn't fit WBCGenerator: it has no _depth"),
        ({"discriminator": {"depth": 0}}, "recipe's discriminator doesn't fit WBCDiscriminator: depth=0"),
        ({"generator": {"depth": 2**40}}, "recipe's generator doesn't fit WBCGenerator: .*can't allocate memory"),
        ({"gradient_checkpointing": True}, "A GAN has no gradient checkpointing"),
        ({"loss": "wasserstein"}, "loss is 'wasserstein'; it must be one of minimax, non_saturating, hinge"),
        ({"frozen_layers": 3}, "frozen_layers=3, but the discriminator has 2 of them"),
        (
            {"resolution": 32, "generator": {"sample_size": 16, "depth": 8}},
            "sample_size=16, and the recipe resolution=32",
        ),
        ({"generator": {"width": 3}}, "generator doesn't fit WBCGenerator: .*width"),
        ({"discriminator": {"in_channels": 1}}, "images have 3"),
        ({"resolution": 18}, "sample_size=18"),
        ({"fine_tuning": True}, "is for fine-tuning: give the model to start from by --pretrained"),
        ({"diff_augment": "zoom"}, "diff_augment holds zoom"),
    ],
)
def test_what_does_not_fit_is_told(small_gan: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GANTask(small_gan(**changes))


def test_a_pretrained_model_keeps_its_build_and_needs_its_discriminator(
    small_gan: Any, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"generator differs from .* in depth: take it out"):
        GANTask(small_gan(pretrained=str(base), generator={"depth": 16}, discriminator={}))
    pipe: Any = WBCGANPipeline.from_pretrained(base)
    WBCGANPipeline(generator=pipe.generator).save_pretrained(tmp_path / "half")
    shutil.copytree(base, tmp_path / "removed")
    shutil.rmtree(tmp_path / "removed" / "discriminator")
    for half in ("half", "removed"):
        with pytest.raises(ValueError, match="has no discriminator"):
            GANTask(small_gan(pretrained=str(tmp_path / half), generator={}, discriminator={}))


def test_a_model_of_the_other_kind_is_told(
    make: Any, small: Any, small_gan: Any, trainer: Any, base: Path, tmp_path: Path
) -> None:
    assert trainer(small(max_train_steps=1), tmp_path / "ddim").run()
    with pytest.raises(ValueError, match=r"ddim is a WBCDDIMPipeline, and the recipe trains a WBCGANPipeline: give"):
        GANTask(small_gan(pretrained=str(tmp_path / "ddim"), generator={}, discriminator={}))
    with pytest.raises(ValueError, match=r"is a WBCGANPipeline, and the recipe trains a WBCDDIMPipeline: give"):
        DDIMTask(small(pretrained=str(base), model={}))


def test_a_stream_has_no_epochs_for_snapshots(make: Any, small_gan: Any, cells: Path, tmp_path: Path) -> None:
    recipe: GANRecipe = small_gan(streaming=True, snapshot_every_epochs=1.0, max_train_steps=2)
    with pytest.raises(ValueError, match="set the recipe's snapshot_every_epochs null"):
        make(recipe, tmp_path / "run")


def test_a_second_derivative_that_torch_does_not_have_on_several_gpus_is_refused_before_the_training(
    small_gan: Any,
) -> None:
    several: Any = SimpleNamespace(num_processes=2, device=torch.device("meta"))
    with pytest.raises(ValueError, match=r"discriminator has r1_weight and batch norm.*norm_type none"):
        set_up(GANTask(small_gan(r1_weight=0.5)), "discriminator", several, 9)
    for changes in ({}, {"r1_weight": 0.5, "discriminator": {"depth": 4, "kernel_size": 4, "norm_type": "none"}}):
        with pytest.raises(AttributeError, match="prepare"):  # it comes as far as accelerate
            set_up(GANTask(small_gan(**changes)), "discriminator", several, 9)
