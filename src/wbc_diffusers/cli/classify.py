"""`wbc classify`: does it help a classifier?"""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer


def classify(
    config: Annotated[str, typer.Option(help="Study: a YAML file, or a name such as thesis-hypersegmentation.")],
    out: Annotated[Path, typer.Option(help="Folder of the study; a stopped one goes on in it.")],
    data: Annotated[str | None, typer.Option(help="Prepared folder; the study's own if left out.")] = None,
    generated: Annotated[
        list[str] | None,
        typer.Option(help="FOLDER=MODEL: synthetic cells, and the model that made them; in place of the study's own."),
    ] = None,
    scale: Annotated[float | None, typer.Option(help="Multiplies all the study's numbers of images.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Trainings at a time, each on one core or GPU.")] = 1,
) -> None:
    """Train classifiers with and without synthetic cells, and say whether these help."""
    if find_spec("sklearn") is None:
        raise ValueError("There is no scikit-learn, which a study needs: pip install 'wbc-diffusers[classify]'.")

    from wbc_diffusers.data.sources import shown
    from wbc_diffusers.shelves import find_entry
    from wbc_diffusers.study.config import load_study
    from wbc_diffusers.study.study import PAGE_NAME, run_study
    from wbc_diffusers.study.words import findings

    sets = None if generated is None else [_set_of(each) for each in generated]
    study = load_study(find_entry(config, "training/studies", ".yaml"), data=data, generated=sets, scale=scale)
    record = run_study(study, out, processes, say=lambda line: typer.echo(line, err=True))
    for line in findings(record):
        typer.echo(line)
    typer.echo(f"Wrote {shown(out / PAGE_NAME)}.")


def _set_of(text: str) -> dict[str, str]:
    """Read FOLDER=MODEL, where the names of both may have a = too."""
    parts = text.split("=")
    cuts = [("=".join(parts[:i]), "=".join(parts[i:])) for i in range(1, len(parts))]
    wanted = [(folder, model) for folder, model in cuts if folder and model]
    if not wanted:
        raise ValueError(f"--generated {text!r}: wanted FOLDER=MODEL, such as synthetic=model")
    folder, model = next((cut for cut in wanted if Path(cut[0]).is_dir()), wanted[0])
    return {"folder": folder, "model": model}
