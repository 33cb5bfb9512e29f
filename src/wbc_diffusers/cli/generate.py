"""`wbc generate`: a folder of synthetic cells from a model."""

from pathlib import Path
from typing import Annotated

import typer


def generate(
    model: Annotated[str, typer.Argument(help="Pipeline folder, or hub id.")],
    num: Annotated[int, typer.Option(help="Number of images.")],
    out: Annotated[Path, typer.Option(help="Folder for the images; a stopped run goes on in it.")],
    seed: Annotated[int, typer.Option(help="Seed of the first image; the next ones follow.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Denoising steps of a diffusion model; 20 if left out.")] = None,
    solver: Annotated[
        str | None,
        typer.Option(help="ddim, dpm++, dpm++_sde, unipc, heun, euler, euler_a or ddpm; the model's own if left out."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images made at once, in each process.")] = 16,
    eta: Annotated[
        float | None, typer.Option(help="Noise added by each step: 0 is DDIM, 1 is DDPM; 0 if left out.")
    ] = None,
    truncation: Annotated[float | None, typer.Option(help="Largest value of a GAN's noise, such as 1.5.")] = None,
    contrast: Annotated[float | None, typer.Option(help="Contrast sharpening; the thesis took 20.")] = None,
    class_name: Annotated[str | None, typer.Option("--class", help="Class, for a model with classes.")] = None,
    mixed_precision: Annotated[str, typer.Option(help="no, bf16 or fp16.")] = "no",
) -> None:
    """Make synthetic cells; under `accelerate launch -m wbc_diffusers generate ...` on every device."""
    from diffusers.utils import logging
    from rich.progress import Progress, TimeRemainingColumn

    from wbc_diffusers.generation import generate as run
    from wbc_diffusers.generation import process_state

    # Else it says of every swapped scheduler that it ignores the options of the class before.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    state = process_state()
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    with Progress(*columns, disable=not state.is_main_process) as progress:

        def report(done: int, total: int) -> None:
            task = progress.task_ids[0] if progress.task_ids else progress.add_task("images")
            progress.update(task, completed=done if total else 1, total=max(total, 1))

        made = run(
            model,
            out,
            num,
            seed=seed,
            steps=steps,
            solver=solver,
            batch_size=batch_size,
            eta=eta,
            truncation=truncation,
            contrast=contrast,
            class_name=class_name,
            mixed_precision=mixed_precision,
            report=report,
        )
    who = f"Process {state.process_index} of {state.num_processes} made" if state.num_processes > 1 else "Made"
    typer.echo(f"{who} {made} images in {out}.")
