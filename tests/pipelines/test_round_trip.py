"""One folder that loads everywhere: by whom, from where and how often saved, each in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement

from tests.hub_stand_in import HubStandIn, User
from wbc_diffusers import (
    R2AttnUNet,
    SigmoidDDIMScheduler,
    WBCDDIMPipeline,
    WBCDiscriminator,
    WBCGANPipeline,
    WBCGenerator,
)

pytestmark = pytest.mark.slow

NETWORKS = {"WBCDDIMPipeline": "unet", "WBCGANPipeline": "generator"}
KINDS = tuple(NETWORKS)
PLACES = ("folder", "repository")

ROWS = {
    "package": "import wbc_diffusers; pipe = wbc_diffusers.{kind}.from_pretrained(x)",
    "only diffusers": "import diffusers; pipe = diffusers.DiffusionPipeline.from_pretrained(x, trust_remote_code=True)",
    "one part": """
import wbc_diffusers as w
if "{kind}" == "WBCDDIMPipeline":
    pipe = w.{kind}(w.R2AttnUNet.from_pretrained(x, subfolder="unet"),
                    w.SigmoidDDIMScheduler.from_pretrained(x, subfolder="scheduler"))
else:
    pipe = w.{kind}(w.WBCGenerator.from_pretrained(x, subfolder="generator"),
                    w.WBCDiscriminator.from_pretrained(x, subfolder="discriminator"))
""",
    "AutoModel": """
import diffusers
part = diffusers.AutoModel.from_pretrained(x, subfolder="{network}", trust_remote_code=True)
pipe = diffusers.DiffusionPipeline.from_pretrained(x, trust_remote_code=True)
pipe.{network} = part  # diffusers takes no component in the place of one that has code of its own
""",
}
PLAIN = ("only diffusers", "AutoModel")
"""Rows of somebody who has diffusers and torch, and nothing else."""

SAMPLE = """
import json, sys
x, out = sys.argv[1:3]
{load}
import numpy, torch
pipe.set_progress_bar_config(disable=True)
options = {{"num_inference_steps": 4}} if hasattr(pipe, "unet") else {{}}
numpy.save(out + ".npy", pipe(2, generator=torch.Generator().manual_seed(5), output_type="np", **options).images)
if len(sys.argv) > 3:
    pipe.save_pretrained(sys.argv[3])
print(json.dumps({{
    "has_package": "wbc_diffusers" in sys.modules or bool(__import__("importlib.util").util.find_spec("wbc_diffusers")),
    "classes": [type(part).__module__.split(".")[0] for part in (pipe, *pipe.components.values())],
}}))
"""


@dataclass
class World:
    """The folder of a pipeline, the same on a hub, and how commands are run."""

    folders: dict[str, Path]
    hub: HubStandIn
    plain: Path
    place: Path
    runs: int = 0

    def run(
        self, row: str, kind: str, x: str, again: Path | None = None, *, home: Path | None = None, **environment: str
    ):
        """Sample by a row of the table in a fresh process, with an empty cache unless `home` is given."""
        self.runs += 1
        out = self.place / f"run-{self.runs}"
        load = ROWS[row].format(kind=kind, network=NETWORKS[kind])
        script = SAMPLE.format(load=load)
        variables = self.hub.environment(home or self.place / f"home-{self.runs}", "token") | environment
        variables["HF_MODULES_CACHE"] = str(self.place / f"modules-{self.runs}")
        options = []
        if row in PLAIN:
            # Without site-packages: PYTHONPATH alone says what is installed.
            options, variables["PYTHONPATH"] = ["-S"], str(self.plain)
        command = [sys.executable, *options, "-c", script, x, str(out), *([] if again is None else [str(again)])]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, cwd=self.place)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1]), np.load(f"{out}.npy"), done.stderr


def install(folder: Path, *names: str) -> Path:
    """Make a folder like site-packages that holds some distributions and what they need, and nothing else."""
    folder.mkdir()
    wanted, seen = list(names), set()
    while wanted:
        name = wanted.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        found = metadata.distribution(name)
        for top in {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            link = folder / top
            if not link.exists():
                link.symlink_to(found.locate_file(top))
        for line in found.requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(requirement.name)
    return folder


def pipelines() -> dict[str, WBCDDIMPipeline | WBCGANPipeline]:
    torch.manual_seed(0)
    unet = R2AttnUNet(sample_size=16, block_out_channels=(8, 16)).eval()
    generator = WBCGenerator(sample_size=16, latent_dim=10, depth=16).eval()
    made = (
        WBCDDIMPipeline(unet, SigmoidDDIMScheduler()),
        WBCGANPipeline(generator, WBCDiscriminator(sample_size=16, depth=4).eval()),
    )
    return {type(pipe).__name__: pipe for pipe in made}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    place = tmp_path_factory.mktemp("world")
    folders = {}
    with HubStandIn() as hub:
        hub.users["token"] = User("lab")
        for kind, pipe in pipelines().items():
            pipe.training_manifest = {"schema_version": 1, "recipe": {"name": kind}}
            folders[kind] = place / kind
            pipe.save_pretrained(folders[kind])
            hub.put(f"lab/{kind}", folders[kind])
        yield World(folders, hub, install(place / "plain", "diffusers", "torch"), place)


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    images = {}
    for kind, pipe in pipelines().items():
        pipe.set_progress_bar_config(disable=True)
        options = {"num_inference_steps": 4} if kind == "WBCDDIMPipeline" else {}
        images[kind] = pipe(2, generator=torch.Generator().manual_seed(5), output_type="np", **options).images
    return images


def where(world: World, kind: str, place: str) -> str:
    return str(world.folders[kind]) if place == "folder" else f"lab/{kind}"


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", ROWS)
def test_row_gives_the_same_image_and_saves_the_same_folder(world, expected, row, kind, place, tmp_path):
    # A whole pipeline, since two parts that were put together have no manifest.
    again = tmp_path / "again" if row in ("package", "only diffusers") else None
    offline = {"HF_HUB_OFFLINE": "1"} if place == "folder" else {}
    told, images, errors = world.run(row, kind, where(world, kind, place), again, **offline)
    np.testing.assert_allclose(images, expected[kind], atol=1e-6, rtol=0)
    assert told["has_package"] == (row not in PLAIN)
    assert set(told["classes"]) == {"diffusers_modules"} if row in PLAIN else {"wbc_diffusers"}
    assert "could not be fetched" not in errors
    if again is not None:
        first, second = content(world.folders[kind]), content(again)
        assert second.keys() == first.keys()
        assert [path for path in first if second[path] != first[path]] == []


@pytest.mark.parametrize("kind", KINDS)
def test_folder_that_was_saved_again_without_the_package_loads_by_every_row(world, expected, kind, tmp_path):
    world.run("only diffusers", kind, where(world, kind, "repository"), tmp_path / "again")
    world.hub.put(f"lab/{kind}-again", tmp_path / "again")
    for row in ("package", "only diffusers"):  # the files of parts are the same to the last byte, as shown above
        _, images, _ = world.run(row, kind, f"lab/{kind}-again")
        np.testing.assert_allclose(images, expected[kind], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_filled_cache_is_enough_offline(world, expected, kind, tmp_path):
    world.run("package", kind, where(world, kind, "repository"), home=tmp_path)
    before = len(world.hub.requests)
    unreachable = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    for switch in ({"HF_HUB_OFFLINE": "1"}, *([unreachable] if kind == "WBCDDIMPipeline" else [])):
        _, images, _ = world.run("package", kind, where(world, kind, "repository"), home=tmp_path, **switch)
        np.testing.assert_allclose(images, expected[kind], atol=1e-6, rtol=0)
    assert len(world.hub.requests) == before


OPTIONS = """
import os, pathlib, sys, torch, wbc_diffusers as w
from diffusers import EulerDiscreteScheduler
cls, x, first = getattr(w, sys.argv[1]), sys.argv[2], sys.argv[3]
network = sys.argv[4]

def weight(pipe):
    return next(iter(getattr(pipe, network).parameters()))

def refused(**options):
    try:
        cls.from_pretrained(x, **options)
    except (OSError, ValueError) as error:
        return str(error)
    raise AssertionError(f"{options} was taken")

assert "hub gave no such model" in refused(local_files_only=True)
plain = cls.from_pretrained(x)
files = {path.name for path in pathlib.Path(os.environ["HF_HUB_CACHE"]).rglob("*.safetensors")}
assert files == {"diffusion_pytorch_model.safetensors"}, files  # no variant that nobody asked for
half = cls.from_pretrained(x, torch_dtype=torch.float16)
assert weight(half).dtype == torch.float16 and torch.equal(weight(half), weight(plain).half())
variant = cls.from_pretrained(x, variant="fp16", torch_dtype=torch.float16)
assert torch.equal(weight(variant), weight(plain).half() + 1)  # the variant's own weights
assert "no such modeling files" in refused(variant="bf16")
old = cls.from_pretrained(x, revision=first)
assert torch.equal(weight(old) + 1, weight(plain))
assert refused(revision="nowhere") == x + " has no revision nowhere: give one of its branches, tags or commits."
assert torch.equal(weight(cls.from_pretrained(x, local_files_only=True)), weight(plain))
assert "leave use_safetensors out" in refused(use_safetensors=False)
cls.from_pretrained(x, use_safetensors=True)
assert cls.from_pretrained(x, device_map="cpu").hf_device_map == "cpu"
part = getattr(plain, network)
assert getattr(cls.from_pretrained(x, **{network: part}), network) is part
if network == "unet":
    solver = EulerDiscreteScheduler.from_config(plain.scheduler.config)
    assert cls.from_pretrained(x, scheduler=solver).scheduler is solver

class Own(cls):
    pass

assert type(Own.from_pretrained(x)) is Own
"""


@pytest.mark.parametrize("kind", KINDS)
def test_options_of_from_pretrained_hold_for_a_repository(world, kind, tmp_path):
    pipe, network = pipelines()[kind], NETWORKS[kind]
    first = world.hub.put(f"lab/{kind}-options", world.folders[kind])
    with torch.no_grad():
        next(iter(getattr(pipe, network).parameters())).add_(1)
    pipe.save_pretrained(tmp_path / "both")
    with torch.no_grad():
        next(iter(getattr(pipe, network).half().parameters())).add_(1)
    pipe.save_pretrained(tmp_path / "both", variant="fp16")
    world.hub.put(f"lab/{kind}-options", tmp_path / "both")
    variables = world.hub.environment(tmp_path / "home", "token") | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", OPTIONS, kind, f"lab/{kind}-options", first, network],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


BAD = """
import json, sys
from wbc_diffusers.pipelines import load_pipeline
for x in sys.argv[1:]:
    try:
        load_pipeline(x)
        print(json.dumps("loaded"))
    except (OSError, ValueError) as error:
        print(json.dumps(str(error)))
"""


@pytest.mark.lowest_too
def test_bad_repositories_are_refused_or_told(world, tmp_path):
    """Pickled, changed and missing parts, other code, an unknown schema: from a repository, in one process."""
    whole = content(world.folders["WBCDDIMPipeline"])
    weights, manifest = "unet/diffusion_pytorch_model.safetensors", "training_manifest.json"
    changed = bytearray(whole[weights])
    changed[-1] ^= 1
    ran = tmp_path / "ran"
    planted = f"open({str(ran)!r}, 'w')\n".encode()
    bad = {
        "pickled": {**whole, weights.replace(".safetensors", ".bin"): b"pickle", weights: None},
        "changed": {**whole, weights: bytes(changed)},
        "missing": {path: data for path, data in whole.items() if not path.startswith("unet/")},
        "schema": {**whole, manifest: b'{"schema_version": 99}'},
        "code": {**whole, "unet/r2_attn_unet.py": planted + whole["unet/r2_attn_unet.py"]},
        "index": {**whole, "model_index.json": b"{"},
    }
    for name, files in bad.items():
        for path, data in files.items():
            if data is not None:
                (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name / path).write_bytes(data)
        world.hub.put(f"lab/{name}", tmp_path / name)
    variables = world.hub.environment(tmp_path / "home", "token") | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", BAD, *(f"lab/{name}" for name in bad)],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = dict(zip(bad, map(json.loads, done.stdout.splitlines()), strict=True))
    assert "holds no .safetensors" in told["pickled"]
    assert told["changed"] == told["code"] == "loaded"
    assert f"{weights} is not the file that {manifest} was written for" in done.stderr
    assert "r2_attn_unet.py differs from the file of that name in wbc-diffusers" in done.stderr
    assert not ran.exists()
    assert "has no folder unet: take it again" in told["missing"]
    assert "has schema_version 99" in told["schema"]
    assert "model_index.json is not JSON" in told["index"]
    assert not list(tmp_path.glob("modules/**/*.py"))  # nothing was even put where code is run from
