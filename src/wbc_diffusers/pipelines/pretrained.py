"""The pipelines as the installed package loads them: from a folder or the hub, by classes it knows, without pickles."""

import logging
import os
import sys
from pathlib import Path
from typing import Any, Self

import diffusers
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from wbc_diffusers import __version__
from wbc_diffusers.data.manifest import check_schema
from wbc_diffusers.models.r2_attn_unet import R2AttnUNet
from wbc_diffusers.models.wbc_discriminator import WBCDiscriminator
from wbc_diffusers.models.wbc_generator import WBCGenerator
from wbc_diffusers.pipelines import pipeline_wbc_ddim, pipeline_wbc_gan
from wbc_diffusers.pipelines.pipeline_wbc_ddim import MANIFEST_NAME, code_of, manifest_for, read_manifest, read_object
from wbc_diffusers.schedulers.scheduling_sigmoid_ddim import SigmoidDDIMScheduler

logger = logging.getLogger(__name__)

HUB_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError, HfHubHTTPError.__mro__[1])
"""What clients of the hub raise; the last is httpx's, which is no OSError, or requests', which is one."""

COMPONENTS: dict[str, type] = {
    cls.__name__: cls for cls in (R2AttnUNet, WBCGenerator, WBCDiscriminator, SigmoidDDIMScheduler)
}
"""The classes that parts are built from, whatever code came with them, by the name in model_index.json."""


class PretrainedPipeline(DiffusionPipeline):
    """What the installed package adds to a pipeline file that is shipped with checkpoints."""

    training_manifest: dict[str, Any] | None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """Load a pipeline from a folder or from the hub: nothing is unpickled, and no code that came with it is run.

        Args:
            pretrained_model_name_or_path: A folder, or the name of a repository on the hub.
            kwargs: Further arguments of [`DiffusionPipeline.from_pretrained`], such as `torch_dtype` or `variant`.

        Raises:
            ValueError: If `use_safetensors=False` or code of the folder is asked for, or the folder holds another kind
                of pipeline, or a model_index.json or manifest that is broken or of an unknown schema.
            OSError: If there is no pipeline, or its weights are incomplete or not in safetensors.
        """
        if kwargs.get("use_safetensors") is False:
            raise ValueError(f"{cls.__name__} loads safetensors only: leave use_safetensors out, or set it to True.")
        if kwargs.pop("trust_remote_code", False) or kwargs.get("custom_pipeline"):
            raise ValueError(
                f"{cls.__name__} never runs code that came with a checkpoint: leave trust_remote_code and "
                "custom_pipeline out, or load it by DiffusionPipeline if you trust that code."
            )
        kwargs["use_safetensors"] = True
        name = str(pretrained_model_name_or_path)
        passed = ("cache_dir", "force_download", "local_files_only", "revision", "token")
        options = {option: kwargs[option] for option in passed if option in kwargs}
        folder = find_folder(name, all_variants=kwargs.get("variant") is not None, **options)
        index = read_index(folder, name)
        _check_index(index, folder, name, cls, passed_components=set(kwargs))
        for part in _absent(index, folder, name, cls, passed_components=set(kwargs)):
            kwargs[part] = None
        _check_weights(folder, cls, passed_components=set(kwargs))
        _warn_of_other_code(folder, cls, index)
        manifest = read_manifest(folder)
        if (
            "scheduler" in components_of(cls) - set(kwargs)
            and (solver := _solver_of_diffusers(folder, index)) is not None
        ):
            kwargs["scheduler"] = solver
        if manifest is not None:
            check_schema(manifest, name)
            manifest = manifest_for(folder, manifest)
            _warn_of_other_weights(folder, manifest)
        pipeline = super().from_pretrained(str(folder), **kwargs)
        pipeline.register_to_config(_name_or_path=name)
        pipeline.training_manifest = manifest
        return pipeline

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """Read model_index.json, with installed classes in the place of the code that the folder ships.

        Args:
            args: Those of [`ConfigMixin.load_config`], which the loader of diffusers calls.
            kwargs: Likewise.
        """
        config = super().load_config(*args, **kwargs)
        return _by_installed(config) if isinstance(config, dict) else (_by_installed(config[0]), *config[1:])

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """Make a pipeline of the components of another one, its training manifest included.

        Args:
            pipeline: The other pipeline.
            kwargs: Components that replace its own, and further arguments of [`DiffusionPipeline.from_pipe`].
        """
        # diffusers takes over only networks of the very class in __init__'s signature, and ours names the base class.
        parts = {name: part for name, part in pipeline.components.items() if name in components_of(cls)}
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
    folder = find_folder(str(model))
    kind = read_index(folder, str(model))["_class_name"]
    if not isinstance(kind, str) or kind not in PIPELINES:
        raise ValueError(f"{model} is a {kind}; one of {', '.join(PIPELINES)} is wanted: give another model.")
    pipeline = PIPELINES[kind].from_pretrained(folder)
    pipeline.register_to_config(_name_or_path=str(model))
    return pipeline


def find_folder(name: str, *, all_variants: bool = False, **options: Any) -> Path:
    """The folder of a model: the one of that name, or what the hub gives, in its cache."""
    if Path(name).is_dir():
        return Path(name)
    # diffusers' own download would leave the manifest out, and ask for trust in the code, which is only compared here.
    allowed = ["*.json", "*.safetensors", "*.py"]
    ignored = None if all_variants else ["*.*.safetensors"]
    try:
        return Path(snapshot_download(name, allow_patterns=allowed, ignore_patterns=ignored, **options))
    except RevisionNotFoundError as error:
        raise OSError(
            f"{name} has no revision {options.get('revision')}: give one of its branches, tags or commits."
        ) from error
    except HUB_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, RepositoryNotFoundError):
            reason = "it knows none, or shows it to others only"
        raise OSError(
            f"There is no folder {name}, and the hub gave no such model ({reason}): give a pipeline folder, or a hub "
            "id such as somebody/wbc-model."
        ) from error


def read_index(folder: Path, name: str) -> dict[str, Any]:
    """The model_index.json of a pipeline folder, with the modules of this package in the place of shipped files.

    Raises:
        OSError: If there is none.
        ValueError: If it is no JSON object.
    """
    return _by_installed(read_raw_index(folder, name))


def read_raw_index(folder: Path, name: str) -> dict[str, Any]:
    """The model_index.json of a pipeline folder as it is; raises as `read_index`."""
    path = folder / "model_index.json"
    if not path.is_file():
        raise OSError(f"{name} holds no {path.name}: give a pipeline folder, as save_pretrained writes it.")
    return read_object(path)


def _by_installed(index: dict[str, Any]) -> dict[str, Any]:
    """A model_index.json as diffusers reads it where no code is shipped: known classes are those of this package."""
    kind: Any = index.get("_class_name")
    named = {"_class_name": kind[1] if is_pair(kind) else kind if isinstance(kind, str) else None}
    for part, place in index.items():
        if not part.startswith("_") and is_pair(place) and place[1] in COMPONENTS:
            named[part] = [COMPONENTS[place[1]].__module__, place[1]]
    return {part: place for part, place in {**index, **named}.items() if part != "auto_map"}


def is_pair(place: Any) -> bool:
    """Whether an entry of model_index.json is a module, or the name of a shipped file, and a class."""
    return isinstance(place, list) and len(place) == 2 and all(isinstance(each, str) for each in place)


def _is_a(found: Any, kind: type) -> bool:
    return isinstance(found, type) and issubclass(found, kind)


def components_of(cls: type[DiffusionPipeline]) -> set[str]:
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
    for part in sorted(components_of(cls) - passed_components):
        place: Any = index.get(part)
        if part in cls._optional_components and place in (None, [None, None]):
            continue
        kind = SchedulerMixin if part == "scheduler" else ModelMixin
        if not is_pair(place) or (place[0] == "diffusers" and not _is_a(getattr(diffusers, place[1], None), kind)):
            raise ValueError(
                f"{folder / 'model_index.json'} says {place!r} of the {part}: a library and a class of it are wanted, "
                'such as ["diffusers", "DDIMScheduler"]. Take it again from where the model came from, or update '
                "diffusers."
            )
        known = place[0] == "diffusers" or place[1] in COMPONENTS
        if not known and ((folder / part / f"{place[0]}.py").is_file() or place[0] not in sys.modules):
            raise ValueError(
                f"The {part} of {name} is a {place[1]}, which this package doesn't know, and it runs no code that came "
                f"with a checkpoint: give {part}=... yourself, or load all of it by DiffusionPipeline.from_pretrained"
                "(..., trust_remote_code=True) if you trust that code."
            )


def _absent(
    index: dict[str, Any], folder: Path, name: str, cls: type[PretrainedPipeline], passed_components: set[str]
) -> list[str]:
    """The optional components whose folders are missing; raises OSError if another one's is."""
    told = {part for part in components_of(cls) - passed_components if index.get(part) not in (None, [None, None])}
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


def _check_weights(folder: Path, cls: type[PretrainedPipeline], passed_components: set[str]) -> None:
    """Raise OSError if a network of a pipeline folder has no weights in safetensors."""
    for part in sorted(components_of(cls) - passed_components):
        place = folder / part
        if not (place / "config.json").is_file() or any(place.glob("*.safetensors")):
            continue
        pickles = [path.name for path in sorted(place.iterdir()) if path.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        there = (
            f"holds its weights as {pickles[0]}, a pickle, which could run code when it is read, and"
            if pickles
            else "holds"
        )
        raise OSError(
            f"{place} {there} no .safetensors. If the model has pickled weights only, convert them where you trust "
            "them: load the model there and call save_pretrained. Else take it again from where it came from."
        )


def _warn_of_other_code(folder: Path, cls: type[PretrainedPipeline], index: dict[str, Any]) -> None:
    """Warn if a folder ships other code of a class than what is installed and used."""
    shipped = next(each for each in reversed(cls.__mro__) if each.__name__ == index["_class_name"] or each is cls)
    installed = {
        part: COMPONENTS[place[1]] for part, place in index.items() if is_pair(place) and place[1] in COMPONENTS
    }
    for part, known in {"": shipped, **installed}.items():
        code = code_of(known)
        path = folder / part / f"{code[0]}.py" if code else folder
        if code and path.is_file() and path.read_bytes() != code[1]:
            logger.warning(
                "%s differs from the file of that name in wbc-diffusers %s, which is used in its place: the images may "
                "differ from those of who made the model. DiffusionPipeline.from_pretrained(..., "
                "trust_remote_code=True) runs the code that came with it.",
                path,
                __version__,
            )


def _warn_of_other_weights(folder: Path, manifest: dict[str, Any]) -> None:
    """Warn if a weight file is not the one whose hash the manifest holds, or was not when the pipeline was saved."""
    for name in manifest.get("weights_changed") or []:
        logger.warning(
            "%s is not the file that %s was written for (its SHA-256 differs), so what that says of the training "
            "may not hold: take both again from where the model came from.",
            folder / name,
            MANIFEST_NAME,
        )
