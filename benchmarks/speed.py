"""Images a second of training and sampling, beside diffusers' own U-Net of as many parameters, in one run.

    uv run python benchmarks/speed.py --out speed.json

The contestants take turns, round by round, so that whatever else the machine does meets all of them. Figures are
medians over the rounds, and what counts are the ratios. Overheads are medians of each round's own ratio.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from torch import nn

from wbc_diffusers import R2AttnUNet, SigmoidDDIMScheduler, WBCDDIMPipeline
from wbc_diffusers.data.phantom import render_folder
from wbc_diffusers.training.ddim import DDIMTask
from wbc_diffusers.training.engine import Trainer
from wbc_diffusers.training.recipe import DDIMRecipe

STEPS = 20
VARIANTS: dict[str, dict[str, Any]] = {
    "recurrent_residual (thesis)": {},
    "residual, conditioned (ours-64)": {
        "block_type": "residual",
        "block_out_channels": (32, 64, 128, 256, 256),
        "condition_blocks": True,
    },
}


def parameters_of(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def equal_unet(size: int, parameters: int) -> UNet2DModel:
    """diffusers' U-Net of four levels whose width brings it nearest to a number of parameters."""

    def make(width: int) -> UNet2DModel:
        return UNet2DModel(
            sample_size=size,
            block_out_channels=(width, 2 * width, 4 * width, 4 * width),
            down_block_types=("DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=8,
        )

    widths = range(8, 129, 8)
    return make(min(widths, key=lambda width: abs(parameters_of(make(width)) - parameters)))


def timed(work: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def in_turns(contestants: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each contestant, round by round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, work in contestants.items():
            taken = timed(work, device)
            if number:
                seconds[name].append(taken)
    return seconds


def overhead(whole: list[float], bare: list[float]) -> float:
    """Share by which the whole takes longer than the bare work, the median over the rounds."""
    return statistics.median(w / b for w, b in zip(whole, bare, strict=True)) - 1.0


@torch.no_grad()
def sampling(size: int, batch: int, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Samples a second of our pipeline and of diffusers', and what bare forward passes would take."""
    rows = []
    for name, options in VARIANTS.items():
        ours = R2AttnUNet(size, **options).eval().to(device, memory_format=torch.channels_last)
        theirs = equal_unet(size, parameters_of(ours)).eval().to(device)
        fast = equal_unet(size, parameters_of(ours)).eval().to(device, memory_format=torch.channels_last)
        pipe = WBCDDIMPipeline(unet=ours, scheduler=SigmoidDDIMScheduler())
        stock = {
            label: DDIMPipeline(unet=unet, scheduler=DDIMScheduler(timestep_spacing="trailing"))
            for label, unet in (("diffusers", theirs), ("diffusers, channels-last", fast))
        }
        for each in (pipe, *stock.values()):
            each.set_progress_bar_config(disable=True)
        x = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
        variance = torch.full((batch,), 0.5, device=device)

        def bare(unet: R2AttnUNet = ours, x: torch.Tensor = x, variance: torch.Tensor = variance) -> None:
            for _ in range(STEPS):
                unet(x, variance)

        def sample(pipeline: Any) -> None:
            pipeline(batch_size=batch, num_inference_steps=STEPS, output_type="np")

        contestants: dict[str, Callable[[], Any]] = {"ours": partial(sample, pipe), "bare": bare}
        contestants |= {label: partial(sample, each) for label, each in stock.items()}
        seconds = in_turns(contestants, rounds, device)
        row = {
            "work": "sampling, 20 steps",
            "size": size,
            "model": name,
            "parameters": parameters_of(ours),
            "diffusers_parameters": parameters_of(theirs),
            "images_per_second": {k: batch / statistics.median(v) for k, v in seconds.items()},
            "not_the_network": overhead(seconds["ours"], seconds["bare"]),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


class EngineUpdates:
    """Updates of the real engine on a real folder: reading, augmentation, noise, EMA and logging included."""

    def __init__(
        self, folder: Path, size: int, batch: int, options: dict[str, Any], total: int, precision: str
    ) -> None:
        recipe = DDIMRecipe(
            resolution=size,
            model=options,
            loss="l2",
            train_batch_size=batch,
            max_train_steps=total,
            random_flip=True,
            random_turn=True,
            mixed_precision=precision,
        )
        output = Path(tempfile.mkdtemp(dir=folder))
        self.trainer = Trainer(DDIMTask(recipe), recipe, str(folder / "cells"), output / "run")
        self.batches = self.trainer.feed.batches(0)

    def __call__(self, updates: int) -> None:
        for _ in range(updates):
            losses = self.trainer.update(self.batches)
            self.trainer.step += 1
            if self.trainer.step % self.trainer.recipe.log_every == 0:
                self.trainer.mean_losses({name: [loss] for name, loss in losses.items()})


def training(size: int, batch: int, rounds: int, updates: int, precision: str, device: torch.device) -> list[Any]:
    """Training images a second of the engine, of its bare network, and of diffusers' U-Net as a bare network."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        render_folder(folder / "cells", 256, size, seed=0)
        for name, options in VARIANTS.items():
            engine = EngineUpdates(folder, size, batch, options, (rounds + 1) * updates, precision)
            ours = R2AttnUNet(size, **options).to(device, memory_format=torch.channels_last)
            theirs = equal_unet(size, parameters_of(ours)).to(device)
            fast = equal_unet(size, parameters_of(ours)).to(device, memory_format=torch.channels_last)
            contestants: dict[str, Callable[[], Any]] = {
                "ours": partial(engine, updates),
                "bare": bare_updates(ours, size, batch, updates, precision, device, channels_last=True),
                "diffusers": bare_updates(theirs, size, batch, updates, precision, device, channels_last=False),
                "diffusers, channels-last": bare_updates(
                    fast, size, batch, updates, precision, device, channels_last=True
                ),
            }
            seconds = in_turns(contestants, rounds, device)
            row = {
                "work": f"training, {'fp32' if precision == 'no' else precision}",
                "size": size,
                "model": name,
                "parameters": parameters_of(ours),
                "diffusers_parameters": parameters_of(theirs),
                "images_per_second": {k: batch * updates / statistics.median(v) for k, v in seconds.items()},
                "not_the_network": overhead(seconds["ours"], seconds["bare"]),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def bare_updates(
    unet: nn.Module, size: int, batch: int, updates: int, precision: str, device: torch.device, *, channels_last: bool
) -> Callable[[], None]:
    """Forward, backward and optimiser step on one batch that is already there."""
    optimizer = torch.optim.AdamW(unet.parameters(), 3e-4, fused=True)
    x = torch.randn(batch, 3, size, size, device=device)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    own = isinstance(unet, R2AttnUNet)
    timestep = torch.full((batch,), 0.5, device=device) if own else torch.full((batch,), 500, device=device)

    def work() -> None:
        for _ in range(updates):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                prediction = unet(x, timestep, return_dict=False)[0].float()
            (prediction - x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the figures")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 192])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precisions", nargs="+", default=["no"], help="of training: no, bf16")
    parser.add_argument("--batches", type=int, nargs="+", default=[20, 4], help="images at once, for each size")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[Any] = []
    for size, batch in zip(options.sizes, options.batches, strict=True):
        rows += sampling(size, batch, options.rounds, device)
        for precision in options.precisions:
            rows += training(size, batch, options.rounds, 4, precision, device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    about = {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__, "batches": options.batches}
    options.out.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
