"""The pipelines as the installed package loads them: from a folder or the hub, by classes it knows, without pickles."""

import logging
import os
from pathlib import Path
from typing import Any, Self

import diffusers
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from huggingface_hub import snapshot_download

from wbc_diffusers.pipelines import pipeline_wbc_ddim, pipeline_wbc_gan
from wbc_diffusers.pipelines.pipeline_wbc_ddim import MANIFEST_NAME, read_manifest, read_object, weight_hashes

logger = logging.getLogger(__name__)


class PretrainedPipeline(DiffusionPipeline):
    """What the installed package adds to a pipeline file that is shipped with checkpoints."""

    training_manifest: dict[str, Any] | None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """Load a pipeline from a folder or from the hub, safetensors only: nothing is ever unpickled.

        Args:
            pretrained_model_name_or_path: A folder, or the name of a repository on the hub.
            kwargs: Further arguments of [`DiffusionPipeline.from_pretrained`], such as `torch_dtype` or `variant`.

        Raises:
            ValueError: If `use_safetensors=False` is asked for, or the folder holds another kind of pipeline, or a
                broken model_index.json or manifest.
            OSError: If there is no pipeline, or its weights are incomplete or not in safetensors.
        """
        if kwargs.get("use_safetensors") is False:
            raise ValueError(f"{cls.__name__} loads safetensors only: leave use_safetensors out, or set it to True.")
        kwargs["use_safetensors"] = True
        name = str(pretrained_model_name_or_path)
        passed = ("cache_dir", "force_download", "local_files_only", "revision", "token")
        folder = _resolve(name, **{option: kwargs[option] for option in passed if option in kwargs})
        index = _read_index(folder, name)
        _check_index(index, folder, name, cls, passed_components=set(kwargs))
        for part in _absent(index, folder, name, cls, passed_components=set(kwargs)):
            kwargs[part] = None
        _refuse_pickles(folder, passed_components=set(kwargs))
        manifest = read_manifest(folder)
        if (
            "scheduler" in _components(cls) - set(kwargs)
            and (solver := _solver_of_diffusers(folder, index)) is not None
        ):
            kwargs["scheduler"] = solver
        if manifest is not None:
            _warn_of_other_weights(folder, manifest)
        pipeline = super().from_pretrained(str(folder), **kwargs)
        pipeline.register_to_config(_name_or_path=name)
        pipeline.training_manifest = manifest
        return pipeline

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """Make a pipeline of the components of another one, its training manifest included.

        Args:
            pipeline: The other pipeline.
            kwargs: Components that replace its own, and further arguments of [`DiffusionPipeline.from_pipe`].
        """
        # diffusers takes over only networks of the very class in __init__'s signature, and ours names the base class.
        parts = {name: part for name, part in pipeline.components.items() if name in _components(cls)}
        networks = {name: part for name, part in parts.items() if isinstance(part, ModelMixin)}
        other = super().from_pipe(pipeline, **{**networks, **kwargs})
        other.training_manifest = getattr(pipeline, "training_manifest", None)
        return other


class WBCDDIMPipeline(PretrainedPipeline, pipeline_wbc_ddim.WBCDDIMPipeline):
    """The diffusion model's pipeline, from `pipeline_wbc_ddim.py`, with the installed package's way of loading."""


class WBCGANPipeline(PretrainedPipeline, pipeline_wbc_gan.WBCGANPipeline):
    """The GAN's pipeline, from `pipeline_wbc_gan.py`, with the installed package's way of loading."""


PIPELINES: dict[str, type[PretrainedPipeline]] = {cls.__name__: cls for cls in (WBCDDIMPipeline, WBCGANPipeline)}
"""The classes that load folders of this package, by the name in model_index.json."""


def load_pipeline(model: str | os.PathLike[str]) -> PretrainedPipeline:
    """Load a pipeline by the class that its model_index.json names.

    Args:
        model: A folder, or the name of a repository on the hub.

    Raises:
        ValueError: If it is a pipeline of another class, or broken.
        OSError: If there is no pipeline, or its weights are incomplete or not in safetensors.
    """
    folder = _resolve(str(model))
    kind = _read_index(folder, str(model)).get("_class_name")
    if not isinstance(kind, str) or kind not in PIPELINES:
        raise ValueError(f"{model} is a {kind}; one of {', '.join(PIPELINES)} is wanted: give another model.")
    pipeline = PIPELINES[kind].from_pretrained(folder)
    pipeline.register_to_config(_name_or_path=str(model))
    return pipeline


def _resolve(name: str, **options: Any) -> Path:
    """The folder of a model: the one of that name, or what the hub gives, in its cache."""
    if Path(name).is_dir():
        return Path(name)
    # diffusers' own download would leave the manifest out, and refuse components of other packages.
    allowed = ["*.json", "*.safetensors"]
    try:
        return Path(snapshot_download(name, allow_patterns=allowed, **options))
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise OSError(
            f"There is no folder {name}, and the hub gave no such model ({reason}): give a pipeline folder, or a hub "
            "id such as somebody/wbc-model."
        ) from error


def _read_index(folder: Path, name: str) -> dict[str, Any]:
    """The model_index.json of a pipeline folder."""
    path = folder / "model_index.json"
    if not path.is_file():
        raise OSError(f"{name} holds no {path.name}: give a pipeline folder, as save_pretrained writes it.")
    return read_object(path)


def _components(cls: type[DiffusionPipeline]) -> set[str]:
    """The names of a pipeline's components, optional ones among them."""
    return set(cls._get_signature_keys(cls)[0])


def _check_index(
    index: dict[str, Any], folder: Path, name: str, cls: type[PretrainedPipeline], passed_components: set[str]
) -> None:
    """Raise ValueError if model_index.json is of a class whose network may be of another kind, or names no class."""
    found = index.get("_class_name")
    if found not in {each.__name__ for each in (cls, *PIPELINES.values()) if issubclass(cls, each)}:
        loader = found if found in PIPELINES else DiffusionPipeline.__name__
        raise ValueError(f"{name} is a {found}, not a {cls.__name__}: load it by {loader}.from_pretrained.")
    for part in sorted(_components(cls) - passed_components):
        place: Any = index.get(part)
        if part in cls._optional_components and place in (None, [None, None]):
            continue
        pair = isinstance(place, list) and len(place) == 2 and all(isinstance(each, str) for each in place)
        if not pair or (place[0] == "diffusers" and not hasattr(diffusers, place[1])):
            raise ValueError(
                f"{folder / 'model_index.json'} says {place!r} of the {part}: a library and a class of it are wanted, "
                'such as ["diffusers", "DDIMScheduler"]. Take it again from where the model came from, or update '
                "diffusers."
            )


def _absent(
    index: dict[str, Any], folder: Path, name: str, cls: type[PretrainedPipeline], passed_components: set[str]
) -> list[str]:
    """The optional components whose folders are missing; raises OSError if another one's is."""
    told = {part for part in _components(cls) - passed_components if index.get(part) not in (None, [None, None])}
    absent = sorted(part for part in told if not (folder / part).is_dir())
    if needed := [part for part in absent if part not in cls._optional_components]:
        raise OSError(f"{name} has no folder {needed[0]}: take it again from where the model came from.")
    return absent


def _solver_of_diffusers(folder: Path, index: dict[str, Any]) -> SchedulerMixin | None:
    """Load the scheduler of a pipeline folder if it is one of diffusers'; None if it is our own.

    Its config holds our schedule's options too. diffusers warns of them, unless it is told whose they are.
    """
    library, name = index["scheduler"]
    if library != "diffusers":
        return None
    solver_class = getattr(diffusers, name)
    config = solver_class.load_config(folder, subfolder="scheduler")
    return solver_class.from_config({**config, "_class_name": "SigmoidDDIMScheduler"})


def _refuse_pickles(folder: Path, passed_components: set[str]) -> None:
    """Raise OSError if a component of a pipeline folder has its weights in pickles only."""
    for component in sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in passed_components):
        pickles = [path for path in sorted(component.iterdir()) if path.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        if pickles and not any(component.glob("*.safetensors")):
            raise OSError(
                f"{component} holds its weights as {pickles[0].name}, a pickle, which could run code when it is read, "
                "and no .safetensors. Convert it where you trust it: load the model there and call save_pretrained."
            )


def _warn_of_other_weights(folder: Path, manifest: dict[str, Any]) -> None:
    """Warn if a weight file is not the one whose hash the manifest holds."""
    known = manifest.get("weights_sha256")
    if not isinstance(known, dict) or not known:
        return
    for name, found in weight_hashes(folder).items():
        if known.get(name, found) != found:
            logger.warning(
                "%s is not the file that %s was written for (its SHA-256 differs), so what that says of the training "
                "may not hold: take both again from where the model came from.",
                folder / name,
                MANIFEST_NAME,
            )
