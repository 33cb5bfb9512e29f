"""WBCDDIMPipeline: from noise to images of white blood cells, by any of diffusers' schedulers.

This file is shipped with checkpoints: it imports nothing of the package.
"""

import hashlib
import inspect
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddim_parallel import DDIMParallelScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from diffusers.schedulers.scheduling_tcd import TCDScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from PIL import Image
from torch import Tensor, nn

logger = logging.getLogger(__name__)

MANIFEST_NAME = "training_manifest.json"
OUTPUT_TYPES = ("pil", "np", "pt")
_PUSH_OPTIONS = ("push_to_hub", "repo_id", "commit_message", "private", "token", "create_pr")
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")


def variance_of_sigma(sigma: float) -> float:
    """Noise variance 1 - alphas_cumprod of a sigma = sqrt((1 - alphas_cumprod) / alphas_cumprod)."""
    return sigma**2 / (1.0 + sigma**2)


def variance_of_timestep(timestep: float, alphas_cumprod: Tensor) -> float:
    """Noise variance 1 - alphas_cumprod[timestep]; between two integers, log sigma is interpolated.

    That is how diffusers' own solvers turn sigmas into timesteps (k-diffusion, `sigma_to_t`).
    """
    last = len(alphas_cumprod) - 1
    if not 0 <= timestep <= last:
        raise ValueError(f"The scheduler emitted timestep {timestep}; its noise schedule runs from 0 to {last}.")
    below = math.floor(timestep)
    variances = [1.0 - float(alphas_cumprod[i]) for i in (below, min(below + 1, last))]
    if timestep == below:
        return variances[0]
    # The floor is diffusers': a schedule may start without any noise.
    logs = [0.5 * math.log(max(v, 1e-20) / (1.0 - v)) for v in variances]
    return variance_of_sigma(math.exp(logs[0] + (timestep - below) * (logs[1] - logs[0])))


def predicted_image(prediction: Tensor, sample: Tensor, variance: float, prediction_type: str) -> Tensor:
    """Image (B, C, H, W) that a prediction means for a sample of unit variance (Salimans and Ho 2022, appendix D)."""
    signal_rate, noise_rate = math.sqrt(1.0 - variance), math.sqrt(variance)
    if prediction_type == "epsilon":
        return (sample - noise_rate * prediction) / signal_rate
    if prediction_type == "v_prediction":
        return signal_rate * sample - noise_rate * prediction
    return prediction


class WBCDDIMPipeline(DiffusionPipeline):
    r"""Pipeline that makes images of white blood cells from noise (thesis sections 4.3 and 6.2).

    The network is told the noise variance of its input, whatever the scheduler calls its timesteps, so any scheduler of
    diffusers that is built from the pipeline's own may take its place:
    `pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)`.

    Args:
        unet ([`R2AttnUNet`]):
            Network that predicts the noise, the image or the velocity from a noisy image and its noise variance.
        scheduler ([`SchedulerMixin`]):
            A [`SigmoidDDIMScheduler`], or any scheduler that holds `alphas_cumprod`.
    """

    model_cpu_offload_seq = "unet"
    _callback_tensor_inputs = ["sample"]  # noqa: RUF012 - diffusers reads a list

    def __init__(self, unet: ModelMixin, scheduler: SchedulerMixin) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.training_manifest: dict[str, Any] | None = None
        """What the model was trained on: the `training_manifest.json` of its folder; `save_pretrained` writes it."""
        self._interrupt = False
        self._num_timesteps = 0

    @property
    def interrupt(self) -> bool:
        """Whether the current call is to leave out its remaining steps; a callback may set `pipe._interrupt = True`."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """Number of network evaluations of the current or last call, a last denoising not counted."""
        return self._num_timesteps

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: int = 20,
        eta: float = 0.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        class_labels: int | Sequence[int] | Tensor | None = None,
        contrast: float | None = None,
        latents: Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[..., dict[str, Any]] | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("sample",),
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[list[Image.Image] | np.ndarray | Tensor]:
        r"""Make images from noise.

        Args:
            batch_size (`int`, defaults to 1):
                Number of images.
            num_inference_steps (`int`, defaults to 20):
                Number of denoising steps.
            eta (`float`, defaults to 0.0):
                Share of DDPM's noise that each step adds: 0 is DDIM, 1 is DDPM. Only for schedulers that take it.
            generator (`torch.Generator` or a sequence of them, *optional*):
                Source of all noise. In a sequence each image has its own, and depends on its seed alone.
            class_labels (`int`, sequence of `int` or `torch.Tensor`, *optional*):
                Class of each image, or one for all; needed if, and only if, the network has classes.
            contrast (`float`, *optional*):
                Sharpens the contrast as `image * (contrast / 127 + 1) - contrast` on 0..255; the thesis's value is 20.
            latents (`torch.Tensor`, *optional*):
                Noise of unit variance (B, C, H, W) to start from, instead of drawing it.
            height (`int`, *optional*):
                Height of the images in pixels; the network's `sample_size` by default.
            width (`int`, *optional*):
                Width of the images in pixels; the network's `sample_size` by default.
            output_type (`str`, defaults to `"pil"`):
                `"pil"` for a list of `PIL.Image`, `"np"` for an array (B, H, W, C), `"pt"` for a tensor (B, C, H, W),
                the last two with floats in [0, 1].
            callback_on_step_end (`Callable`, *optional*):
                Called after each step as `callback(pipe, step, timestep, {"sample": sample})`; what it returns under
                `"sample"`, of the same shape, replaces the sample.
            callback_on_step_end_tensor_inputs (sequence of `str`, defaults to `("sample",)`):
                Which tensors the callback is given.
            return_dict (`bool`, defaults to `True`):
                Whether to return an [`~pipelines.ImagePipelineOutput`] rather than a tuple.

        Returns:
            [`~pipelines.ImagePipelineOutput`] or `tuple`: The images, as `.images` or as the tuple's first element.

        Raises:
            ValueError: If an argument, or the scheduler, doesn't fit, or if an image is not finite.

        Example:

        ```py
        >>> import torch
        >>> from wbc_diffusers import WBCDDIMPipeline

        >>> pipe = WBCDDIMPipeline.from_pretrained("path/to/pipeline")  # doctest: +SKIP
        >>> seeds = [torch.Generator().manual_seed(seed) for seed in range(4)]
        >>> images = pipe(batch_size=4, generator=seeds, contrast=20).images  # doctest: +SKIP
        ```
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        generator = self._checked_request(batch_size, generator, contrast, output_type)
        shape = self._image_shape(batch_size, height, width)
        self._check_scheduler(num_inference_steps)
        self._check_tensor_inputs(callback_on_step_end_tensor_inputs)
        step_arguments = self._step_arguments(eta, generator)
        labels = self._labels(class_labels, batch_size)

        # On the CPU, where reading a timestep does not wait for the accelerator.
        self.scheduler.set_timesteps(num_inference_steps, device="cpu")
        if hasattr(self.scheduler, "set_begin_index"):
            # Rounded timesteps may repeat, so that looking the first one up would find a later step.
            self.scheduler.set_begin_index(0)
        sample = self._initial_sample(shape, generator, latents)
        self._num_timesteps = len(self.scheduler.timesteps)
        self._interrupt = False

        for i, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
            if self.interrupt:
                continue
            # 1. predict the noise (or image, or velocity), telling the network its input's noise variance
            model_input = self.scheduler.scale_model_input(sample, t)
            prediction = self._predict(model_input, self._noise_variance(i, t), labels)

            # 2. go to the next cleaner sample
            sample = self.scheduler.step(prediction, t, sample, **step_arguments, return_dict=False)[0]

            if callback_on_step_end is not None:
                tensors = {"sample": sample} if "sample" in callback_on_step_end_tensor_inputs else {}
                changed = (callback_on_step_end(self, i, t, tensors) or {}).get("sample", sample)
                if not isinstance(changed, Tensor) or changed.shape != shape:
                    found = tuple(changed.shape) if isinstance(changed, Tensor) else repr(changed)
                    raise ValueError(
                        f"callback_on_step_end returned {found} as the sample; a tensor of shape {shape} is wanted."
                    )
                sample = changed

        # 3. remove the noise that the scheduler leaves in
        if not self.interrupt:
            sample = self._denoise(sample, labels)

        self._check_finite(sample)
        images = self._to_output((sample / 2 + 0.5).clamp(0, 1), contrast, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _check_finite(self, sample: Tensor) -> None:
        """Raise if a sample (B, C, H, W) is no image: as bytes it would be black, and look like a result."""
        broken = (~sample.isfinite()).flatten(1).any(dim=1)
        if broken.any():
            raise ValueError(
                f"{int(broken.sum())} of {len(sample)} images are not finite (NaN or infinite): see that the network's "
                f"weights and the latents are finite, that the network runs in float32 or bfloat16, and that "
                f"{type(self.scheduler).__name__} can run this schedule (some can't at max_signal_rate=1)."
            )

    def _initial_sample(
        self,
        shape: tuple[int, int, int, int],
        generator: torch.Generator | list[torch.Generator] | None,
        latents: Tensor | None,
    ) -> Tensor:
        """Noise at the scheduler's first level, always float32: half precision would lose the image's small signal."""
        if latents is None:
            noise = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)
        elif latents.shape != shape:
            raise ValueError(
                f"latents has shape {tuple(latents.shape)}; {shape} is wanted: (batch_size, channels, height, width)."
            )
        else:
            noise = latents.to(self._execution_device, torch.float32)
        return noise * float(self.scheduler.init_noise_sigma)

    def _noise_variance(self, index: int, timestep: Tensor) -> float:
        """Noise variance of what the network sees at a step: that of the scheduler's own arithmetic where it shows.

        Solvers with Karras sigmas round or interpolate their timesteps, so these say only about which noise there is.
        """
        scale = self._input_scale(timestep)
        if scale != 1.0:
            return 1.0 - scale**2
        sigmas = getattr(self.scheduler, "sigmas", None)
        if sigmas is not None:
            return variance_of_sigma(float(sigmas[index]))
        return variance_of_timestep(float(timestep), self.scheduler.alphas_cumprod)

    def _input_scale(self, timestep: Tensor) -> float:
        """What the scheduler multiplies samples by for the network: 1, or 1 / sqrt(1 + sigma^2) in sigma space."""
        return float(self.scheduler.scale_model_input(torch.ones(1, dtype=torch.float64), timestep))

    def _predict(self, model_input: Tensor, variance: float, labels: Tensor | None) -> Tensor:
        """Run the network on (B, C, H, W) of one noise variance; float32 comes back."""
        # One value per image, filled in on the device: nothing is copied, and a compiled network is not compiled again.
        variances = torch.full((len(model_input),), variance, dtype=torch.float32, device=model_input.device)
        arguments = {} if labels is None else {"class_labels": labels}
        return self.unet(model_input.to(self.unet.dtype), variances, **arguments, return_dict=False)[0].float()

    def _denoise(self, sample: Tensor, labels: Tensor | None) -> Tensor:
        """Return the predicted image for a sample that the scheduler leaves noisy, and a clean one as it is."""
        variance = self._variance_left()
        if variance <= 0.0:
            return sample
        if self._adds_noise():
            sample = sample * math.sqrt(1.0 - variance)
        return predicted_image(
            self._predict(sample, variance, labels), sample, variance, self.scheduler.config.prediction_type
        )

    def _adds_noise(self) -> bool:
        """Whether samples are image + sigma x noise, rather than a mix of unit variance."""
        return float(self.scheduler.init_noise_sigma) != 1.0

    def _variance_left(self) -> float:
        """Noise variance of the sample after the scheduler's last step."""
        sigmas = getattr(self.scheduler, "sigmas", None)
        if sigmas is not None:
            return variance_of_sigma(float(sigmas[-1]))
        if isinstance(self.scheduler, DDIMScheduler | DDIMParallelScheduler | PNDMScheduler):
            # They step by a whole number of timesteps, so 15 steps out of 1000 end at timestep 0, not beyond it.
            before = int(self.scheduler.timesteps[-1]) - (
                self.scheduler.config.num_train_timesteps // self.scheduler.num_inference_steps
            )
            alphas = self.scheduler.alphas_cumprod
            return 1.0 - float(alphas[before] if before >= 0 else self.scheduler.final_alpha_cumprod)
        if isinstance(self.scheduler, TCDScheduler):
            return 1.0 - float(self.scheduler.alphas_cumprod[0])
        return 0.0

    def _image_shape(self, batch_size: int, height: int | None, width: int | None) -> tuple[int, int, int, int]:
        size = self.unet.config.sample_size
        default_height, default_width = (size, size) if isinstance(size, int) else size
        height = default_height if height is None else height
        width = default_width if width is None else width
        divisor = getattr(self.unet, "size_divisor", 1)
        if (
            not (is_integer(height) and is_integer(width))
            or min(height, width) < 1
            or height % divisor
            or width % divisor
        ):
            raise ValueError(
                f"height={height}, width={width}: both must be positive and divisible by {divisor}, by which the "
                "network shrinks its input."
            )
        return batch_size, self.unet.config.in_channels, height, width

    def _check_scheduler(self, num_inference_steps: int) -> None:
        name, config = type(self.scheduler).__name__, self.scheduler.config
        if getattr(self.scheduler, "alphas_cumprod", None) is None or config.get("use_flow_sigmas"):
            raise ValueError(
                f"{name} has no alphas_cumprod, or does not use it, but the network's noise variance comes from there: "
                "build a scheduler of diffusion (not of flow matching) by from_config(pipe.scheduler.config), such as "
                "DDIMScheduler or DPMSolverMultistepScheduler."
            )
        if config.prediction_type not in PREDICTION_TYPES:
            raise ValueError(
                f"{name} has prediction_type={config.prediction_type!r}: the network can predict one of "
                f"{', '.join(PREDICTION_TYPES)}."
            )
        total = config.num_train_timesteps
        if not is_integer(num_inference_steps) or not 1 <= num_inference_steps <= total:
            raise ValueError(
                f"num_inference_steps={num_inference_steps!r}: give a number from 1 to {total}, the scheduler's "
                "num_train_timesteps."
            )

    def _check_tensor_inputs(self, tensor_inputs: Sequence[str]) -> None:
        unknown = [name for name in tensor_inputs if name not in self._callback_tensor_inputs]
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs holds {unknown}: choose from {self._callback_tensor_inputs}."
            )

    def _step_arguments(self, eta: float, generator: torch.Generator | list[torch.Generator] | None) -> dict[str, Any]:
        """Those of `eta` and `generator` that the scheduler's step takes."""
        if not 0.0 <= eta <= 1.0:
            raise ValueError(f"eta={eta}: give a number from 0 (DDIM) to 1 (DDPM).")
        taken = inspect.signature(self.scheduler.step).parameters
        if eta > 0 and "eta" not in taken:
            raise ValueError(
                f"eta={eta}, but {type(self.scheduler).__name__} has no eta: leave it at 0, or use a DDIM scheduler."
            )
        return {name: value for name, value in (("eta", eta), ("generator", generator)) if name in taken}

    def _labels(self, class_labels: int | Sequence[int] | Tensor | None, batch_size: int) -> Tensor | None:
        """Class labels as a tensor (B,) on the network's device."""
        classes = self.unet.config.get("num_class_embeds")
        if classes is None:
            if class_labels is not None:
                raise ValueError("class_labels were given, but the network has no classes: leave them out.")
            return None
        wanted = f"give one integer from 0 to {classes - 1} for each of the {batch_size} images, or one for all"
        if class_labels is None:
            raise ValueError(f"The network has {classes} classes, but class_labels is None: {wanted}.")
        labels = torch.as_tensor(class_labels).reshape(-1)
        if (
            labels.is_floating_point()
            or labels.dtype == torch.bool
            or len(labels) not in (1, batch_size)
            or ((labels < 0) | (labels >= classes)).any()
        ):
            raise ValueError(f"class_labels={labels.tolist()}: {wanted}.")
        return labels.to(self._execution_device, torch.int64).expand(batch_size)

    # From here on the files of both pipelines hold the same text: neither can import from the other.

    @staticmethod
    def _checked_request(
        batch_size: int,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        contrast: float | None,
        output_type: str,
    ) -> torch.Generator | list[torch.Generator] | None:
        """The generators as diffusers takes them, or ValueError if an argument of a call doesn't fit."""
        if not is_integer(batch_size) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r}: give the number of images, 1 or more.")
        if contrast is not None and not 0 <= contrast < math.inf:
            raise ValueError(f"contrast={contrast}: give 0 or more (the thesis's value is 20), or None for none.")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type={output_type!r}: choose one of {', '.join(OUTPUT_TYPES)}.")
        if generator is None or isinstance(generator, torch.Generator):
            return generator
        if len(generator) != batch_size:
            raise ValueError(
                f"generator is a list of {len(generator)}, but batch_size={batch_size}: give one generator per image, "
                "or a single one for all."
            )
        return list(generator)

    def _to_output(
        self, images: Tensor, contrast: float | None, output_type: str
    ) -> list[Image.Image] | np.ndarray | Tensor:
        """Turn images (B, C, H, W) in [0, 1] into what the caller asked for."""
        if contrast:
            images = sharpen_contrast(images, contrast)
        if output_type == "pt":
            return images
        array = images.cpu().permute(0, 2, 3, 1).numpy()
        return self.numpy_to_pil(array) if output_type == "pil" else array

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], safe_serialization: bool = True, **kwargs: Any
    ) -> None:
        """Save the pipeline as a folder with weights in safetensors, its training manifest included.

        Args:
            save_directory: The folder; made if it doesn't exist.
            safe_serialization: Must stay True.
            kwargs: Further arguments of [`DiffusionPipeline.save_pretrained`], such as `variant` or `push_to_hub`.

        Raises:
            ValueError: If another format than safetensors is asked for.
        """
        if not safe_serialization or kwargs.get("use_flashpack"):
            raise ValueError(
                f"{type(self).__name__} is saved in safetensors only: leave safe_serialization=True and "
                "use_flashpack=False."
            )
        self._there_before = weight_states(Path(save_directory))
        push = {name: kwargs.pop(name) for name in _PUSH_OPTIONS if name in kwargs}
        super().save_pretrained(str(save_directory), safe_serialization=True, **kwargs)
        if push.pop("push_to_hub", False):
            # By way of a folder of its own: what else lies in this one, such as images, is nobody's business.
            repo_id = push.pop("repo_id", Path(save_directory).resolve().name)
            self.push_to_hub(repo_id, variant=kwargs.get("variant"), **push)

    def save_config(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write model_index.json, the code of the classes, and the manifest with the hashes of the weights there.

        `save_pretrained` calls this when it has written the weights, and before it uploads the folder.

        Args:
            save_directory: The folder.
            push_to_hub: Whether to upload the folder.
            kwargs: Further arguments of [`ConfigMixin.save_config`].
        """
        folder = Path(save_directory)
        manifest = self._find_manifest()
        folder.mkdir(parents=True, exist_ok=True)
        if manifest is not None:
            text = json.dumps({**manifest, "weights_sha256": self._hashes_to_tell(folder, manifest)}, indent=1)
            (folder / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")
        for part, (name, code) in self._shipped_code().items():
            (folder / part).mkdir(exist_ok=True)
            (folder / part / f"{name}.py").write_bytes(code)
        for path in (path for part in self._registered() for path in (folder / part).glob("*config.json")):
            # diffusers writes where the part was loaded from, which may tell about the user.
            config = {key: value for key, value in read_object(path).items() if key != "_name_or_path"}
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        super().save_config(str(folder), push_to_hub=push_to_hub, **kwargs)

    def to_json_string(self) -> str:
        """Give model_index.json: it names each class by the file that is shipped, as diffusers loads such code."""
        index = json.loads(super().to_json_string())
        index.pop("_name_or_path", None)
        code = self._shipped_code()
        for part, (name, _) in code.items():
            index[part or "_class_name"] = [name, self._class_of(part).__name__]
        network = self._network_name()
        if network in code:
            index["auto_map"] = {"AutoModel": ".".join(index[network])}  # AutoModel looks here, and for one class only
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    def register_modules(self, **kwargs: Any) -> None:
        """Take over components, and their code: a later load may put other code into the files that it is run from."""
        super().register_modules(**kwargs)
        classes = [self._class_of(part) for part in ("", *kwargs)]
        known = getattr(self, "_code_at_start", {})
        self._code_at_start = known | {cls: code for cls in classes if (code := code_of(cls)) is not None}

    def _registered(self) -> dict[str, Any]:
        """The components so far; diffusers' own `components` raises until all of them are there."""
        return {name: getattr(self, name) for name in self._get_signature_keys(self)[0] if hasattr(self, name)}

    def _network_name(self) -> str | None:
        """The network that makes the images, None where there is none."""
        names = [name for name, part in self._registered().items() if isinstance(part, nn.Module)]
        return next((name for name in names if name not in self._optional_components), None)

    def _class_of(self, part: str) -> type:
        """The class of a component, or that of the pipeline for an empty name."""
        if part:
            component = getattr(self, part)
            return type(getattr(component, "_orig_mod", component))  # of a compiled network
        # A class of the same name further down is the installed package's, which adds its way of loading only.
        return next(cls for cls in reversed(type(self).__mro__) if cls.__name__ == type(self).__name__)

    def _shipped_code(self) -> dict[str, tuple[str, bytes]]:
        """Name and text of the file of each class that isn't diffusers' own, by the folder it is shipped in."""
        classes = {part: self._class_of(part) for part in ("", *self._registered())}
        found = {part: self._code_at_start.get(cls) or code_of(cls) for part, cls in classes.items()}
        for part, cls in classes.items():
            if found[part] is None and cls.__module__.partition(".")[0] not in ("builtins", "diffusers"):
                logger.warning("%s is defined in no file that could be shipped: the folder won't load without it.", cls)
        return {part: code for part, code in found.items() if code is not None}

    def _hashes_to_tell(self, folder: Path, manifest: dict[str, Any]) -> dict[str, str]:
        """Hashes of the weights that were just written, and of others of the same training, such as a variant."""
        before, now = getattr(self, "_there_before", {}), weight_states(folder)
        written = {name for name, state in now.items() if before.get(name) != state}
        earlier = read_manifest(folder) or {}
        own = ("weights_sha256", "weights_changed")
        same = {k: v for k, v in earlier.items() if k not in own} == {k: v for k, v in manifest.items() if k not in own}
        known = earlier.get("weights_sha256") or {} if same else {}
        hashes = weight_hashes(folder)
        return {name: found for name, found in hashes.items() if name in written or known.get(name) == found}

    def _find_manifest(self) -> dict[str, Any] | None:
        """The manifest that came with the pipeline, None if none did; it marks weights that are not those it names."""
        if self.training_manifest is not None or self.name_or_path is None:
            return self.training_manifest
        folder = Path(self.name_or_path)
        if not folder.is_dir():
            # A repository: diffusers' own download of it leaves the manifest out.
            network = getattr(self, self._network_name() or "", None)
            folder = Path(getattr(network, "config", {}).get("_name_or_path") or "").parent
            if folder.parent.name != "snapshots":
                self._warn_of_no_manifest("it is no longer there")
                return None
            cache = folder.parents[2]
            try:
                hf_hub_download(self.name_or_path, MANIFEST_NAME, revision=folder.name, cache_dir=cache)
            except Exception as error:  # whatever a client raises: weights that are written already are worth more
                if not isinstance(error, EntryNotFoundError) or isinstance(error, LocalEntryNotFoundError):
                    self._warn_of_no_manifest(error)
                return None
        manifest = read_manifest(folder)
        return None if manifest is None else manifest_for(folder, manifest)

    def _warn_of_no_manifest(self, reason: object) -> None:
        logger.warning(
            "The training manifest of %s can't be had (%s), so what is saved has none: copy %s there.",
            self.name_or_path,
            reason,
            MANIFEST_NAME,
        )


def code_of(cls: type) -> tuple[str, bytes] | None:
    """Name and text of the file that defines a class; None for diffusers' own classes and those of no such file."""
    file = Path(getattr(sys.modules.get(cls.__module__), "__file__", None) or "")
    if cls.__module__.partition(".")[0] in ("__main__", "diffusers") or file.suffix != ".py" or not file.is_file():
        return None
    return file.stem, file.read_bytes()


def manifest_for(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest, with `weights_changed` where a weight file of the folder is not the one that it was written for.

    A pipeline that is saved again gets new hashes, and would else hide that.
    """
    known: Any = manifest.get("weights_sha256")
    hashes = weight_hashes(folder) if isinstance(known, dict) and known else {}
    changed = [name for name, found in hashes.items() if known.get(name, found) != found]
    return {**manifest, "weights_changed": changed} if changed else manifest


def sharpen_contrast(images: Tensor, contrast: float) -> Tensor:
    """Sharpen images in [0, 1] as the thesis does on 0..255: image x (contrast / 127 + 1) - contrast (section 6.2)."""
    return (images * (contrast / 127.0 + 1.0) - contrast / 255.0).clamp(0.0, 1.0)


def read_manifest(folder: str | os.PathLike[str] | None) -> dict[str, Any] | None:
    """Read the training manifest of a pipeline folder; None if it has none.

    Raises:
        ValueError: If it is no JSON object.
    """
    path = None if folder is None else Path(folder, MANIFEST_NAME)
    return None if path is None or not path.is_file() else read_object(path)


def read_object(path: Path) -> dict[str, Any]:
    """Read a file of a pipeline folder that holds a JSON object, or raise ValueError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): take it again from where the model came from.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object: take it again from where the model came from.")
    return found


def weight_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the weight files of a pipeline folder, by their paths in it."""
    hashes = {}
    for path in sorted(folder.glob("*/*.safetensors")):
        with path.open("rb") as file:
            hashes[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def weight_states(folder: Path) -> dict[str, tuple[int, ...]]:
    """What changes where a weight file of a pipeline folder is written anew, by the paths in it."""
    states = {path.relative_to(folder).as_posix(): path.stat() for path in folder.glob("*/*.safetensors")}
    return {name: (state.st_ino, state.st_mtime_ns, state.st_size) for name, state in states.items()}


def is_integer(value: object) -> bool:
    """Whether a value is an integer, and no bool."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
