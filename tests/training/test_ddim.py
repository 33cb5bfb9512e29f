"""Losses, validation figures, samples, classes and fine-tuning of the diffusion model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from PIL import Image
from torch import nn

from wbc_diffusers import SigmoidDDIMScheduler, WBCDDIMPipeline
from wbc_diffusers.training.ddim import DDIMTask, min_snr_weight


class Constant(nn.Module):
    """Predicts a tenth of its input, whatever the noise."""

    def forward(self, sample: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor]:
        return (0.1 * sample,)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "image": torch.rand(4, 3, 16, 16) * 2 - 1,
        "noise": torch.randn(4, 3, 16, 16),
        "timestep": torch.tensor([0, 300, 700, 999]),
    }


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_losses_are_the_formulas_in_float64(small: Any, batch: Any, kind: str, loss: str) -> None:
    task = DDIMTask(small(scheduler={"prediction_type": kind}, loss=loss))
    ours = task.loss("unet", {"unet": Constant()}, batch)
    gamma = 1 / (1 + np.exp(-3 / 0.6))  # Chen's sigmoid, start 0, end 3, tau 0.6
    t = batch["timestep"].numpy() / 999
    ratio = (gamma - 1 / (1 + np.exp(-3 * t / 0.6))) / (gamma - 0.5)
    signal = (0.01 + 0.94 * np.sqrt(ratio)).reshape(-1, 1, 1, 1)
    noise_rate = np.sqrt(1 - signal**2)
    x, e = batch["image"].double().numpy(), batch["noise"].double().numpy()
    target = {"epsilon": e, "sample": x, "v_prediction": signal * e - noise_rate * x}[kind]
    error = 0.1 * (signal * x + noise_rate * e) - target
    expected = np.abs(error).mean() if loss == "l1" else (error**2).mean()
    assert float(ours) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_min_snr_weights_make_all_predictions_one_loss_of_the_image(small: Any, batch: Any, kind: str) -> None:
    # Whatever a network predicts, it says what the image is; Hang et al. weigh the squared error of that image.
    task = DDIMTask(small(scheduler={"prediction_type": kind}))
    alphas = task.scheduler.alphas_cumprod[batch["timestep"]].double()
    a, s = alphas.sqrt().view(-1, 1, 1, 1), (1 - alphas).sqrt().view(-1, 1, 1, 1)
    x, e = batch["image"].double(), batch["noise"].double()
    noisy = a * x + s * e
    guess = x + 0.1 * torch.randn(x.shape, dtype=torch.float64)  # of the image
    of_noise = (noisy - a * guess) / s
    predicted = {"epsilon": of_noise, "sample": guess, "v_prediction": a * of_noise - s * guess}[kind]
    target = {"epsilon": e, "sample": x, "v_prediction": a * e - s * x}[kind]
    ours = min_snr_weight(alphas, 5.0, kind) * (predicted - target).square().mean(dim=(1, 2, 3))
    expected = (alphas / (1 - alphas)).clamp(max=5.0) * (guess - x).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=0)


def test_the_recipe_turns_the_weights_on(small: Any, batch: Any) -> None:
    plain = DDIMTask(small(loss="l2")).loss("unet", {"unet": Constant()}, batch)
    weighted = DDIMTask(small(loss="l2", snr_gamma=5.0)).loss("unet", {"unet": Constant()}, batch)
    assert not torch.isclose(plain, weighted, rtol=0.01)


def test_validation_figures_are_means_per_level_and_the_same_each_time(
    trainer: Any, small: Any, tmp_path: Path
) -> None:
    run = trainer(small(validation_images=6), tmp_path / "run")
    figures = [
        run.task.validate({"unet": run.trained["unet"].average.model}, run.feed.validation_batches()) for _ in "12"
    ]
    assert figures[0] == figures[1]
    levels = {k: v for k, v in figures[0].items() if k != "validation/mean"}
    assert len(levels) == 8
    assert figures[0]["validation/mean"] == pytest.approx(np.mean(list(levels.values())))
    errors = []
    for batch in run.feed.validation_batches():  # four images and two, the noisiest level
        noisy = 0.01 * batch["image"] + np.sqrt(1 - 0.01**2) * batch["noise"]
        with torch.no_grad():
            predicted = run.trained["unet"].average.model(noisy, 1 - 0.01**2).sample
        errors += (predicted - batch["noise"]).abs().mean(dim=(1, 2, 3)).tolist()
    assert levels["validation/signal_rate_0.010"] == pytest.approx(np.mean(errors), rel=1e-5)


def test_samples_are_those_of_the_published_pipeline_for_the_same_seeds(
    trainer: Any, small: Any, tmp_path: Path
) -> None:
    trainer(small(sample_images=4, sample_steps=3), tmp_path / "run").run()
    sheet = np.asarray(Image.open(tmp_path / "run" / "samples" / "step-0000004.png"))
    pipe = WBCDDIMPipeline.from_pretrained(tmp_path / "run")
    seeds = [torch.Generator().manual_seed(seed) for seed in range(4)]
    images = pipe(batch_size=4, num_inference_steps=3, generator=seeds).images
    for image in images:
        pixels = np.asarray(image).astype(int)
        windows = np.lib.stride_tricks.sliding_window_view(sheet, (16, 16, 3)).astype(int)
        assert np.abs(windows - pixels).max(axis=(-1, -2, -3)).min() <= 1


def test_a_model_of_classes_is_trained_named_and_sampled(trainer: Any, small: Any, tmp_path: Path) -> None:
    model = {"block_out_channels": [4, 8], "num_class_embeds": 3}
    recipe = small(model=model, class_column="abnormality", sample_images=3, sample_steps=1, validation_images=4)
    run = trainer(recipe, tmp_path / "run")
    before = run.task.unet.class_embedding.weight.detach().clone()
    run.run()
    manifest = json.loads((tmp_path / "run" / "training_manifest.json").read_text())
    assert manifest["training"]["classes"] == ["dohle_bodies", "hypersegmentation", "none"]
    assert (run.task.unet.class_embedding.weight != before).any(dim=1).all()
    pipe = WBCDDIMPipeline.from_pretrained(tmp_path / "run")
    same = [torch.Generator().manual_seed(0) for _ in "12"]
    images = pipe(batch_size=2, num_inference_steps=2, generator=same, class_labels=[0, 2], output_type="pt").images
    assert not torch.equal(images[0], images[1])


def test_a_fine_tuned_model_keeps_the_labels_of_its_classes(trainer: Any, small: Any, tmp_path: Path) -> None:
    model = {"block_out_channels": [4, 8], "num_class_embeds": 3}
    trainer(small(model=model, class_column="abnormality", max_train_steps=1), tmp_path / "base").run()
    rare = small(model={}, class_column="abnormality", where={"grade": 2}, pretrained=str(tmp_path / "base"))
    run = trainer(rare, tmp_path / "rare")
    assert set(run.feed.train.labels) == {0, 1}  # alone, these two would be 0 and 1 as well; the third keeps its name
    assert run.feed.class_names == ["dohle_bodies", "hypersegmentation", "none"]
    none = small(model={}, class_column="abnormality", where={"grade": 0}, pretrained=str(tmp_path / "base"))
    assert set(trainer(none, tmp_path / "none").feed.train.labels) == {2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_column": "abnormality"}, "class_column is abnormality, but the model has num_class_embeds=None"),
        ({"model": {"num_class_embeds": 3}}, "class_column is None, but the model has num_class_embeds=3: give both"),
        (
            {"model": {"num_class_embeds": 2, "block_out_channels": [4, 8]}, "class_column": "abnormality"},
            r"holds 3 classes \(dohle_bodies, hypersegmentation, none\), but the model has num_class_embeds=2",
        ),
        ({"model": {"widths": [4]}}, "The recipe's model doesn't fit R2AttnUNet: .*widths"),
        ({"scheduler": {"beta": 1}}, "The recipe's scheduler doesn't fit SigmoidDDIMScheduler: .*beta"),
        (
            {"scheduler": {"prediction_type": "sample"}, "solver": "euler_a"},
            "EulerAncestralDiscreteScheduler can't run this model .*: choose another solver",
        ),
        ({"solver": "dpm"}, "solver='dpm': choose one of ddim"),
        ({"fine_tuning": True}, "The recipe unnamed is for fine-tuning: give the model .* by --pretrained MODEL"),
        ({"model": {"in_channels": 1}}, "in_channels=1, out_channels=3: images have 3"),
        ({"model": {"out_channels": 1}}, "in_channels=3, out_channels=1: images have 3"),
        ({"sample_images": 2, "sample_steps": 1001}, "sample_steps=1001, but the schedule has 1000 steps"),
        ({"resolution": 32}, r"Image .*00\.png has 16 x 16 px, fewer than .* resolution 32, .* set resolution to 16"),
        ({"resolution": 17}, "resolution=17 does not divide by 2, which the model's 2 levels need"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_written(
    trainer: Any, small: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(small(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_fine_tuning_starts_from_the_published_weights_with_the_new_schedule(
    trainer: Any, small: Any, published: Any, tmp_path: Path
) -> None:
    trainer(small(), tmp_path / "base").run()
    recipe = small(model={}, scheduler={"min_signal_rate": 0.008}, pretrained=str(tmp_path / "base"))
    run = trainer(recipe, tmp_path / "rare")
    start = run.trained["unet"].bare.state_dict()
    assert all(torch.equal(start[k], v) for k, v in published(tmp_path / "base").items())
    run.run()
    alphas = WBCDDIMPipeline.from_pretrained(tmp_path / "rare").scheduler.alphas_cumprod
    assert float(alphas[-1].sqrt()) == pytest.approx(0.008, rel=1e-4)


def test_fine_tuning_at_another_resolution_publishes_that_one(trainer: Any, small: Any, tmp_path: Path) -> None:
    trainer(small(max_train_steps=1), tmp_path / "base").run()
    recipe = small(max_train_steps=1, resolution=8, model={}, pretrained=str(tmp_path / "base"))
    trainer(recipe, tmp_path / "rare").run()
    assert WBCDDIMPipeline.from_pretrained(tmp_path / "rare").unet.config.sample_size == 8


def test_the_recipes_solver_is_published_and_handed_down(trainer: Any, small: Any, tmp_path: Path) -> None:
    trainer(small(solver="dpm++_sde"), tmp_path / "base").run()
    recipe = small(model={}, scheduler={"min_signal_rate": 0.02}, pretrained=str(tmp_path / "base"))
    trainer(recipe, tmp_path / "rare").run()
    back = small(model={}, solver="ddim", pretrained=str(tmp_path / "rare"))
    assert isinstance(DDIMTask(back).solver, SigmoidDDIMScheduler)
    for name, lowest in (("base", 0.01), ("rare", 0.02)):
        scheduler = WBCDDIMPipeline.from_pretrained(tmp_path / name).scheduler
        assert isinstance(scheduler, DPMSolverMultistepScheduler)
        assert scheduler.config.algorithm_type == "sde-dpmsolver++"
        assert float(scheduler.alphas_cumprod[-1]) == pytest.approx(lowest**2, rel=1e-4)


def test_fine_tuning_refuses_another_prediction_or_network_and_unknown_options(
    trainer: Any, small: Any, tmp_path: Path
) -> None:
    trainer(small(max_train_steps=1), tmp_path / "base").run()
    base = str(tmp_path / "base")
    with pytest.raises(ValueError, match="predicts epsilon, the recipe wants sample: a model keeps what it predicts"):
        DDIMTask(small(scheduler={"prediction_type": "sample"}, model={}, pretrained=base))
    with pytest.raises(ValueError, match=r"differs from .* in block_out_channels: take it out of the recipe"):
        DDIMTask(small(model={"block_out_channels": [8, 16]}, pretrained=base))
    with pytest.raises(ValueError, match="scheduler doesn't fit SigmoidDDIMScheduler: it has no min_signal_rat"):
        DDIMTask(small(scheduler={"min_signal_rat": 0.008}, model={}, pretrained=base))


def test_fine_tuning_takes_over_the_betas_of_a_scheduler_of_diffusers(trainer: Any, small: Any, tmp_path: Path) -> None:
    trainer(small(max_train_steps=1), tmp_path / "base").run()
    pipe = WBCDDIMPipeline.from_pretrained(tmp_path / "base")
    pipe.scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2")
    pipe.save_pretrained(tmp_path / "base")
    task = DDIMTask(small(model={}, pretrained=str(tmp_path / "base")))
    assert isinstance(task.solver, DDIMScheduler)
    for scheduler in (task.scheduler, task.solver):
        torch.testing.assert_close(scheduler.alphas_cumprod, pipe.scheduler.alphas_cumprod, atol=1e-6, rtol=0)
    bounds = {"min_signal_rate": 0.008}
    with pytest.raises(ValueError, match=r"given by its betas, which the recipe's min_signal_rate would not change"):
        DDIMTask(small(model={}, scheduler=bounds, pretrained=str(tmp_path / "base")))
    anew = DDIMTask(small(model={}, scheduler={**bounds, "trained_betas": None}, pretrained=str(tmp_path / "base")))
    assert float(anew.scheduler.alphas_cumprod[-1].sqrt()) == pytest.approx(0.008, rel=1e-4)
