"""Pipeline folders and repositories of both kinds: what is saved, loaded, refused and warned of."""

import hashlib
import json
import logging
import shutil
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import DDIMPipeline, DiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

from wbc_diffusers import (
    R2AttnUNet,
    SigmoidDDIMScheduler,
    WBCDDIMPipeline,
    WBCDiscriminator,
    WBCGANPipeline,
    WBCGenerator,
)
from wbc_diffusers.pipelines import load_pipeline, pipeline_wbc_ddim, pipeline_wbc_gan, pretrained

NETWORKS = {WBCDDIMPipeline: "unet", WBCGANPipeline: "generator"}
WEIGHTS = "diffusion_pytorch_model.safetensors"
SOLVERS = (
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "HeunDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DDPMScheduler",
    "DDIMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
)


def tiny_ddim() -> WBCDDIMPipeline:
    torch.manual_seed(0)
    return WBCDDIMPipeline(R2AttnUNet(sample_size=16, block_out_channels=(8, 16)).eval(), SigmoidDDIMScheduler())


def tiny_gan() -> WBCGANPipeline:
    torch.manual_seed(0)
    generator = WBCGenerator(sample_size=16, latent_dim=10, depth=16).eval()
    return WBCGANPipeline(generator, WBCDiscriminator(sample_size=16, depth=4).eval())


@pytest.fixture(params=[tiny_ddim, tiny_gan], ids=["ddim", "gan"])
def pipe(request: pytest.FixtureRequest):
    return request.param()


@pytest.fixture
def folder(pipe, tmp_path: Path) -> Path:
    pipe.save_pretrained(tmp_path / "pipeline")
    return tmp_path / "pipeline"


@pytest.fixture
def diffusion_folder(tmp_path: Path) -> Path:
    tiny_ddim().save_pretrained(tmp_path / "pipeline")
    return tmp_path / "pipeline"


def network(pipe) -> torch.nn.Module:
    return pipe.components[NETWORKS[type(pipe)]]


def weights(folder: Path, pipe) -> Path:
    return folder / NETWORKS[type(pipe)] / WEIGHTS


def sample(pipe, *seeds: int) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 4} if type(pipe).__name__ == "WBCDDIMPipeline" else {}
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipe(len(seeds), generator=generators, output_type="pt", **options).images


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Images of the same weights; where these lie in memory decides how their products are rounded."""
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def weights_in(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.safetensors")
    }


# Two files and one package.


def test_both_shipped_files_hold_the_same_text_where_they_say_so():
    marker = "    # From here on the files of both pipelines hold the same text: neither can import from the other.\n"
    ddim, gan = (Path(module.__file__).read_text(encoding="utf-8") for module in (pipeline_wbc_ddim, pipeline_wbc_gan))
    assert ddim.count(marker) == gan.count(marker) == 1
    assert ddim.partition(marker)[2] == gan.partition(marker)[2]
    assert "def save_pretrained" in ddim.partition(marker)[2]
    for constant in ("MANIFEST_NAME", "OUTPUT_TYPES"):
        assert getattr(pipeline_wbc_ddim, constant) == getattr(pipeline_wbc_gan, constant)


def test_installed_pipelines_are_the_shipped_ones():
    for installed, shipped in (
        (WBCDDIMPipeline, pipeline_wbc_ddim.WBCDDIMPipeline),
        (WBCGANPipeline, pipeline_wbc_gan.WBCGANPipeline),
    ):
        assert issubclass(installed, shipped)
        assert installed.__name__ == shipped.__name__


def test_folder_of_the_shipped_class_is_that_of_the_installed_one(pipe, folder, tmp_path):
    shipped = {WBCDDIMPipeline: pipeline_wbc_ddim.WBCDDIMPipeline, WBCGANPipeline: pipeline_wbc_gan.WBCGANPipeline}
    shipped[type(pipe)](**pipe.components).save_pretrained(tmp_path / "shipped")
    assert weights_in(tmp_path / "shipped") == weights_in(folder)
    assert (tmp_path / "shipped" / "model_index.json").read_text() == (folder / "model_index.json").read_text()


# Code that is shipped, and who runs it.


def test_folder_ships_the_code_of_its_classes(pipe, folder):
    index = json.loads((folder / "model_index.json").read_text())
    file, name = index["_class_name"]
    shipped = {WBCDDIMPipeline: pipeline_wbc_ddim, WBCGANPipeline: pipeline_wbc_gan}[type(pipe)]
    assert (file, name) == (Path(shipped.__file__).stem, type(pipe).__name__)
    assert (folder / f"{file}.py").read_bytes() == Path(shipped.__file__).read_bytes()
    for part, component in pipe.components.items():
        code = Path(sys.modules[type(component).__module__].__file__)
        assert index[part] == [code.stem, type(component).__name__]
        assert (folder / part / code.name).read_bytes() == code.read_bytes()
    assert index["auto_map"] == {"AutoModel": ".".join(index[NETWORKS[type(pipe)]])}
    compiled = type(pipe).from_pipe(pipe, **{NETWORKS[type(pipe)]: torch.compile(network(pipe))})
    assert compiled.to_json_string() == pipe.to_json_string()


@pytest.mark.parametrize("trusted", [False, True])
def test_folder_saved_again_is_the_same_to_the_last_byte(pipe, folder, tmp_path, trusted):
    cls, options = (DiffusionPipeline, {"trust_remote_code": True}) if trusted else (type(pipe), {})
    cls.from_pretrained(str(folder), **options).save_pretrained(tmp_path / "again")
    first, again = (
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in (folder, tmp_path / "again")
    )
    assert again.keys() == first.keys()
    assert [str(name) for name in first if again[name] != first[name]] == []
    assert all(str(tmp_path).encode() not in content for content in again.values())  # tells nothing about the user


def test_installed_class_runs_no_code_of_the_folder_and_tells_where_it_differs(pipe, folder, tmp_path, caplog):
    type(pipe).from_pretrained(folder)
    assert "differs from the file of that name" not in caplog.text
    files = sorted(folder.rglob("*.py"))
    assert len(files) == 3
    for path in files:
        path.write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n" + path.read_text())
    assert_same(sample(type(pipe).from_pretrained(folder), 1), sample(pipe, 1))
    assert not (tmp_path / "ran").exists()
    for path in files:
        assert f"{path} differs from the file of that name in wbc-diffusers" in caplog.text
    for options in ({"trust_remote_code": True}, {"custom_pipeline": str(files[0])}):
        with pytest.raises(ValueError, match="never runs code that came with a checkpoint: leave trust_remote_code"):
            type(pipe).from_pretrained(folder, **options)
    assert not (tmp_path / "ran").exists()
    DiffusionPipeline.from_pretrained(str(folder), trust_remote_code=True)
    assert (tmp_path / "ran").exists()


def test_shipped_code_that_is_run_again_leaves_what_was_loaded_before_alone(pipe, folder):
    # diffusers runs the code of each local folder in the same module, so that its classes become others.
    before = DiffusionPipeline.from_pretrained(str(folder), trust_remote_code=True)
    DiffusionPipeline.from_pretrained(str(folder), trust_remote_code=True)
    assert_same(sample(before, 1), sample(pipe, 1))


def test_subclass_may_register_parts_of_its_own(diffusion_folder, tmp_path):
    class Refined(WBCDDIMPipeline):
        def __init__(self, unet, scheduler, refiner):
            super().__init__(unet, scheduler)
            self.register_modules(refiner=refiner)

    pipe = tiny_ddim()
    refined = Refined(pipe.unet, pipe.scheduler, tiny_ddim().unet)
    assert set(refined.components) == {"unet", "scheduler", "refiner"}
    assert json.loads(refined.to_json_string())["refiner"] == ["r2_attn_unet", "R2AttnUNet"]
    refined.save_pretrained(tmp_path / "refined")
    assert (tmp_path / "refined" / "refiner" / "r2_attn_unet.py").is_file()
    assert type(Refined.from_pretrained(tmp_path / "refined").refiner) is R2AttnUNet


def test_pipeline_without_its_network_can_be_shown_and_saved(diffusion_folder, tmp_path):
    pipe = WBCDDIMPipeline.from_pretrained(diffusion_folder, unet=None)
    assert "WBCDDIMPipeline" in repr(pipe)
    pipe.save_pretrained(tmp_path / "without")
    assert "auto_map" not in json.loads((tmp_path / "without" / "model_index.json").read_text())


def test_class_of_no_file_is_told_when_it_is_saved(tmp_path, caplog):
    own = type("Mine", (WBCDDIMPipeline,), {"__module__": "__main__"})
    own(tiny_ddim().unet, tiny_ddim().scheduler).save_pretrained(tmp_path)
    assert "Mine'> is defined in no file that could be shipped" in caplog.text
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == "Mine"


def test_files_of_others_in_the_folder_are_left_alone(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("[1, 2]")
    tiny_ddim().save_pretrained(tmp_path)
    assert (tmp_path / "other" / "config.json").read_text() == "[1, 2]"
    assert "_name_or_path" not in json.loads((tmp_path / "unet" / "config.json").read_text())


def test_manifest_that_is_no_longer_to_be_had_is_told(pipe, folder, tmp_path, caplog):
    (folder / "training_manifest.json").write_text(json.dumps({"schema_version": 1}), encoding="utf-8")
    trusted = DiffusionPipeline.from_pretrained(str(folder), trust_remote_code=True)
    shutil.rmtree(folder)
    trusted.save_pretrained(tmp_path / "later")
    assert f"The training manifest of {folder} can't be had (it is no longer there)" in caplog.text
    assert not (tmp_path / "later" / "training_manifest.json").exists()


def test_saved_code_is_what_was_run_though_another_load_put_other_code_in_its_place(pipe, folder, tmp_path):
    own = DiffusionPipeline.from_pretrained(str(folder), trust_remote_code=True)
    shutil.copytree(folder, tmp_path / "changed")
    for path in (tmp_path / "changed").rglob("*.py"):
        path.write_text(path.read_text() + "\n# changed\n")
    DiffusionPipeline.from_pretrained(str(tmp_path / "changed"), trust_remote_code=True)
    own.save_pretrained(tmp_path / "own")
    for path in folder.rglob("*.py"):
        assert (tmp_path / "own" / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_component_of_an_own_class_is_shipped_and_never_run_unasked(diffusion_folder, tmp_path, monkeypatch):
    (tmp_path / "own_unet.py").write_text(
        "from diffusers import ModelMixin\nfrom wbc_diffusers import R2AttnUNet\nclass OwnUNet(R2AttnUNet): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import own_unet

    pipe = WBCDDIMPipeline.from_pretrained(
        diffusion_folder, unet=own_unet.OwnUNet.from_pretrained(diffusion_folder, subfolder="unet")
    )
    pipe.save_pretrained(tmp_path / "own")
    assert (tmp_path / "own" / "unet" / "own_unet.py").read_bytes() == (tmp_path / "own_unet.py").read_bytes()
    with pytest.raises(ValueError, match=r"unet of .* is a OwnUNet, which this package doesn't know.*: give unet="):
        WBCDDIMPipeline.from_pretrained(tmp_path / "own")
    given = own_unet.OwnUNet.from_pretrained(tmp_path / "own", subfolder="unet")
    assert_same(sample(WBCDDIMPipeline.from_pretrained(tmp_path / "own", unet=given), 1), sample(pipe, 1))
    trusted = DiffusionPipeline.from_pretrained(str(tmp_path / "own"), trust_remote_code=True)
    assert type(trusted.unet).__name__ == "OwnUNet"
    assert_same(sample(trusted, 1), sample(pipe, 1))


# Saved and loaded.


def test_saved_pipeline_gives_the_same_images(pipe, folder):
    loaded = type(pipe).from_pretrained(folder)
    assert_same(sample(loaded, 1, 2), sample(pipe, 1, 2))
    assert {name: type(part) for name, part in loaded.components.items()} == {
        name: type(part) for name, part in pipe.components.items()
    }
    assert not network(loaded).training
    assert loaded.name_or_path == str(folder)


def test_weights_are_saved_in_safetensors_only(pipe, folder, tmp_path):
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".json", ".py", ".safetensors"}
    assert weights(folder, pipe).is_file()
    for arguments in ({"safe_serialization": False}, {"use_flashpack": True}):
        with pytest.raises(ValueError, match=f"{type(pipe).__name__} is saved in safetensors only"):
            pipe.save_pretrained(tmp_path / "other", **arguments)
    assert not (tmp_path / "other").exists()


def test_variant_is_saved_and_loaded(pipe, tmp_path):
    pipe.to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    loaded = type(pipe).from_pretrained(tmp_path, variant="fp16", torch_dtype=torch.float16)
    assert network(loaded).dtype == torch.float16
    assert torch.equal(*(next(iter(network(each).parameters())) for each in (loaded, pipe)))
    assert_same(sample(loaded, 1), sample(pipe, 1))


def test_discriminator_may_be_absent(tmp_path):
    pipe = tiny_gan()
    WBCGANPipeline(pipe.generator).save_pretrained(tmp_path / "without")
    pipe.save_pretrained(tmp_path / "with")
    index = json.loads((tmp_path / "without" / "model_index.json").read_text())
    del index["discriminator"]  # as a writer of its own may leave it
    for changed in (False, True):
        if changed:
            (tmp_path / "without" / "model_index.json").write_text(json.dumps(index))
        for cls, options in ((WBCGANPipeline, {}), (DiffusionPipeline, {"trust_remote_code": True})):
            loaded = cls.from_pretrained(str(tmp_path / "without"), **options)
            assert loaded.discriminator is None
            assert_same(sample(loaded, 1), sample(pipe, 1))
    (tmp_path / "with" / "discriminator" / WEIGHTS).unlink()
    assert WBCGANPipeline.from_pretrained(tmp_path / "with", discriminator=None).discriminator is None
    with pytest.raises(OSError, match=r"with.discriminator holds no \.safetensors"):
        WBCGANPipeline.from_pretrained(tmp_path / "with")
    for part in ("discriminator", "generator"):
        shutil.rmtree(tmp_path / "with" / part)
        if part == "discriminator":
            assert_same(sample(WBCGANPipeline.from_pretrained(tmp_path / "with"), 1), sample(pipe, 1))
    with pytest.raises(OSError, match="has no folder generator: take it again"):
        WBCGANPipeline.from_pretrained(tmp_path / "with")


def test_swapped_scheduler_and_passed_components_survive_the_folder(tmp_path):
    pipe = tiny_ddim()
    swapped = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    WBCDDIMPipeline(pipe.unet, swapped).save_pretrained(tmp_path)
    loaded = WBCDDIMPipeline.from_pretrained(tmp_path)
    assert isinstance(loaded.scheduler, diffusers.DPMSolverMultistepScheduler)
    torch.testing.assert_close(loaded.scheduler.alphas_cumprod, pipe.scheduler.alphas_cumprod, atol=1e-6, rtol=0)
    passed = WBCDDIMPipeline.from_pretrained(tmp_path, scheduler=pipe.scheduler)
    assert passed.scheduler is pipe.scheduler


def test_swapping_the_scheduler_of_a_loaded_pipeline_goes_without_a_warning(diffusion_folder, caplog, monkeypatch):
    scheduler = WBCDDIMPipeline.from_pretrained(diffusion_folder).scheduler
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="diffusers")
    for name in SOLVERS:
        getattr(diffusers, name).from_config(scheduler.config)
    assert not caplog.records
    diffusers.DDIMScheduler.from_config({**scheduler.config, "no_such_option": 1})
    assert caplog.records


def test_folder_with_a_swapped_scheduler_loads_without_a_warning(tmp_path, caplog, monkeypatch):
    pipe = tiny_ddim()
    solver = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, algorithm_type="sde-dpmsolver++")
    WBCDDIMPipeline(pipe.unet, solver).save_pretrained(tmp_path)
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="diffusers")
    caplog.clear()
    loaded = WBCDDIMPipeline.from_pretrained(tmp_path).scheduler
    assert not caplog.records
    assert loaded.config.algorithm_type == "sde-dpmsolver++"
    assert loaded.config.noise_schedule == pipe.scheduler.config.noise_schedule  # for a change of its bounds
    diffusers.DPMSolverMultistepScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    assert caplog.records  # what diffusers says of itself


def test_gan_loads_and_saves_without_a_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    tiny_gan().save_pretrained(tmp_path / "with")
    WBCGANPipeline(tiny_gan().generator).save_pretrained(tmp_path / "without")
    for place in (tmp_path / "with", tmp_path / "without"):
        WBCGANPipeline.from_pretrained(place)
    assert not caplog.records


def test_repository_is_fetched_without_pickles(pipe, folder, monkeypatch):
    asked = {}

    def fetch(repository: str, **options) -> str:
        asked.update(options, repository=repository)
        return str(folder)

    monkeypatch.setattr(pretrained, "snapshot_download", fetch)
    loaded = type(pipe).from_pretrained("somebody/cells", revision="v2")
    assert {name: asked.pop(name) for name in ("repository", "revision")} == {
        "repository": "somebody/cells",
        "revision": "v2",
    }
    assert asked == {"allow_patterns": ["*.json", "*.safetensors", "*.py"], "ignore_patterns": ["*.*.safetensors"]}
    assert loaded.name_or_path == "somebody/cells"


# Which class.


def test_folder_or_repository_loads_by_the_class_that_it_names(pipe, folder, monkeypatch):
    (folder / "training_manifest.json").write_text(json.dumps({"schema_version": 1}), encoding="utf-8")
    monkeypatch.setattr(pretrained, "snapshot_download", lambda *given, **options: str(folder))
    for name in (folder, "somebody/cells"):
        loaded = load_pipeline(name)
        assert type(loaded) is type(pipe)
        assert loaded.name_or_path == str(name)
        assert loaded.training_manifest == {"schema_version": 1}
        assert_same(sample(loaded, 1), sample(pipe, 1))


def test_wrong_class_names_the_right_one(pipe, folder):
    (other,) = set(NETWORKS) - {type(pipe)}
    right, wrong = type(pipe).__name__, other.__name__
    with pytest.raises(ValueError, match=f"is a {right}, not a {wrong}: load it by {right}.from_pretrained"):
        other.from_pretrained(folder)


def test_folder_of_another_kind_is_refused(tmp_path):
    # Its network would take our noise variances for step numbers, and give noise without an error.
    unet = diffusers.UNet2DModel(
        8, block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)
    )
    DDIMPipeline(unet, diffusers.DDIMScheduler()).save_pretrained(tmp_path / "other")
    for cls in NETWORKS:
        with pytest.raises(ValueError, match=f"is a DDIMPipeline, not a {cls.__name__}: load it by DiffusionPipeline"):
            cls.from_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="is a DDIMPipeline; one of WBCDDIMPipeline, WBCGANPipeline is wanted: give"):
        load_pipeline(tmp_path / "other")


def test_what_is_no_pipeline_is_refused(pipe, folder):
    for load in (type(pipe).from_pretrained, load_pipeline):
        with pytest.raises(OSError, match=r"holds no model_index.json: give a pipeline folder"):
            load(weights(folder, pipe).parent)
        with pytest.raises(
            OSError, match=r"There is no folder nobody/nothing, and the hub gave no such model \(.+\): give"
        ):
            load("nobody/nothing")


def test_subclass_loads_its_own_folders_and_those_of_its_parent(pipe, folder, tmp_path):
    own = type("OwnPipeline", (type(pipe),), {})
    loaded = own.from_pretrained(folder)
    loaded.save_pretrained(tmp_path / "own")
    assert type(own.from_pretrained(tmp_path / "own")) is type(loaded) is own
    with pytest.raises(ValueError, match="is a OwnPipeline, not a"):
        type(pipe).from_pretrained(tmp_path / "own")


@pytest.mark.parametrize("kind", [["a", "b", "c"], {"a": 1}, 3, None])
def test_index_of_no_class_is_refused(pipe, folder, kind):
    index = {**json.loads((folder / "model_index.json").read_text()), "_class_name": kind}
    (folder / "model_index.json").write_text(json.dumps(index))
    for load in (type(pipe).from_pretrained, load_pipeline):
        with pytest.raises(ValueError, match="is a None"):
            load(folder)


@pytest.mark.parametrize(
    "place",
    [
        "DDIMScheduler",
        ["diffusers"],
        ["diffusers", "utils"],
        ["diffusers", "DDIMPipeline"],
        ["diffusers", "NoSuch"],
        [None, None],
        None,
    ],
)
def test_index_that_names_no_class_is_refused(pipe, folder, place):
    text = (folder / "model_index.json").read_text()
    optional = {"discriminator"} if place in (None, [None, None]) else set()
    for part in pipe.components.keys() - optional:
        (folder / "model_index.json").write_text(json.dumps({**json.loads(text), part: place}))
        with pytest.raises(ValueError, match=rf"model_index.json says .* of the {part}: a library and a class .*Take"):
            type(pipe).from_pretrained(folder)


# What is never read.


def test_pickled_weights_are_refused(pipe, folder):
    with pytest.raises(ValueError, match="loads safetensors only: leave use_safetensors out"):
        type(pipe).from_pretrained(folder, use_safetensors=False)
    weights(folder, pipe).rename(weights(folder, pipe).with_suffix(".bin"))
    with pytest.raises(OSError, match=r"holds its weights as diffusion_pytorch_model.bin, a pickle.*no .safetensors"):
        type(pipe).from_pretrained(folder)


def test_pickle_beside_safetensors_is_never_read(pipe, folder):
    # Not a pickle at all: reading it would fail.
    weights(folder, pipe).with_suffix(".bin").write_bytes(b"not a pickle")
    assert_same(sample(type(pipe).from_pretrained(folder), 1), sample(pipe, 1))


@pytest.mark.parametrize("options", [{}, {"low_cpu_mem_usage": False}])
def test_folder_that_lacks_weights_is_refused(diffusion_folder, options):
    kept = {k: v for k, v in tiny_ddim().unet.state_dict().items() if k != "conv_in.bias"}
    save_file(kept, diffusion_folder / "unet" / WEIGHTS)
    with pytest.raises(OSError, match=r"unet lack conv_in.bias: take them again"):
        WBCDDIMPipeline.from_pretrained(diffusion_folder, **options)


# The training manifest.


def test_training_manifest_is_taken_along(pipe, folder, tmp_path):
    manifest = {"schema_version": 1, "images": ["ab" * 32], "recipe": {"name": "Döhle"}}
    (folder / "training_manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    manifest["weights_sha256"] = weights_in(folder)
    for cls, options in ((type(pipe), {}), (DiffusionPipeline, {"trust_remote_code": True})):
        loaded = cls.from_pretrained(str(folder), **options)
        loaded.save_pretrained(tmp_path / cls.__name__)
        assert json.loads((tmp_path / cls.__name__ / "training_manifest.json").read_text("utf-8")) == manifest
    loaded = type(pipe).from_pretrained(folder)
    (folder / "training_manifest.json").unlink()
    loaded.save_pretrained(tmp_path / "later")
    assert json.loads((tmp_path / "later" / "training_manifest.json").read_text("utf-8")) == manifest


def test_manifest_of_another_precision_holds_the_hashes_of_its_own_files(pipe, folder, tmp_path):
    known = {"schema_version": 1, "weights_sha256": weights_in(folder)}
    (folder / "training_manifest.json").write_text(json.dumps(known), encoding="utf-8")
    type(pipe).from_pretrained(folder).to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    told = json.loads((tmp_path / "half" / "training_manifest.json").read_text("utf-8"))["weights_sha256"]
    assert told == weights_in(tmp_path / "half") != known["weights_sha256"]


@pytest.mark.parametrize("file", ["training_manifest.json", "model_index.json"])
def test_file_that_is_no_json_object_is_named(pipe, folder, file):
    for content, error in ((b"{", "is not JSON"), (b"\xff\xfe", "is not JSON"), (b"[1]", "holds no JSON object")):
        (folder / file).write_bytes(content)
        for load in (type(pipe).from_pretrained, load_pipeline):
            with pytest.raises(ValueError, match=rf"{folder.name}.{file} {error}.*: take it again"):
                load(folder)


def test_weights_that_the_manifest_does_not_know_are_warned_of(pipe, folder, caplog):
    name = f"{NETWORKS[type(pipe)]}/{WEIGHTS}"
    for known, warned in ((weights_in(folder), False), ({}, False), ({"other": "ab"}, False), ({name: "ab"}, True)):
        manifest = {"schema_version": 1, "weights_sha256": known}
        (folder / "training_manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        caplog.clear()
        type(pipe).from_pretrained(folder)
        assert (f"{folder / name} is not the file that training_manifest.json was written for" in caplog.text) == warned


@pytest.mark.parametrize("manifest", [{"schema_version": 2}, {}])
def test_manifest_of_an_unknown_schema_is_refused(pipe, folder, manifest):
    (folder / "training_manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    for load in (type(pipe).from_pretrained, load_pipeline):
        with pytest.raises(ValueError, match=rf"manifest of {folder} has schema_version (2|None), .*: update the pack"):
            load(folder)


def test_folder_without_manifest_gets_none(pipe, folder):
    assert type(pipe).from_pretrained(folder).training_manifest is None
    assert not (folder / "training_manifest.json").exists()


def test_pipeline_is_made_of_another_with_its_manifest(pipe):
    pipe.training_manifest = {"schema_version": 1}
    other = type(pipe).from_pipe(pipe)
    assert other.training_manifest == {"schema_version": 1}
    assert all(other.components[name] is part for name, part in pipe.components.items())


def test_components_passed_to_from_pipe_replace_its_own():
    solver = diffusers.UniPCMultistepScheduler.from_config(tiny_ddim().scheduler.config)
    assert WBCDDIMPipeline.from_pipe(tiny_ddim(), scheduler=solver).scheduler is solver
    assert WBCGANPipeline.from_pipe(tiny_gan(), discriminator=None).discriminator is None
    bare = WBCGANPipeline(tiny_gan().generator)
    assert WBCGANPipeline.from_pipe(bare).generator is bare.generator
    with pytest.raises(ValueError, match=r"expected \['discriminator', 'generator'\]"):
        WBCGANPipeline.from_pipe(tiny_ddim())
