"""Publishing: what is packed, by the real client against a hub on loopback, in processes that are killed too."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from tests.hub.conftest import manifest
from tests.hub_stand_in import HubStandIn, User
from wbc_diffusers import R2AttnUNet, SigmoidDDIMScheduler, WBCDDIMPipeline
from wbc_diffusers.hub.card import Statement
from wbc_diffusers.hub.judged import CardError
from wbc_diffusers.hub.shipment import PublishError, pack
from wbc_diffusers.training.recipe import DDIMRecipe

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
FILES = {
    "README.md",
    "model_index.json",
    "pipeline_wbc_ddim.py",
    "samples.png",
    "scheduler/scheduler_config.json",
    "scheduler/scheduling_sigmoid_ddim.py",
    "training_manifest.json",
    "unet/config.json",
    WEIGHTS,
    "unet/r2_attn_unet.py",
}


class Lab:
    """A hub with two users, and the command line of each."""

    def __init__(self, hub: HubStandIn, place: Path) -> None:
        self.hub, self.place = hub, place
        hub.users |= {"writer": User("ada", ("lab",)), "reader": User("ada", ("lab",), "read"), "other": User("eve")}

    def start(self, *arguments: object, token: str | None = "writer", **environment: str) -> subprocess.Popen[str]:
        variables = self.hub.environment(self.place / "home", token) | {"OMP_NUM_THREADS": "1"} | environment
        return subprocess.Popen(
            [sys.executable, "-m", "wbc_diffusers", *map(str, arguments)],
            env=variables,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def wbc(self, *arguments: object, token: str | None = "writer", **environment: str) -> tuple[int, str, str]:
        process = self.start(*arguments, token=token, **environment)
        out, err = process.communicate(timeout=900)
        return process.returncode, out, err


@pytest.fixture
def lab(hub: HubStandIn, tmp_path: Path) -> Lab:
    return Lab(hub, tmp_path)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sent(hub: HubStandIn) -> int:
    """How many large files were sent, and taken."""
    return sum(each.method == "PUT" and each.status == 200 for each in hub.requests)


# What is packed: no network.


def test_only_what_belongs_to_the_model_is_packed(model, judged):
    before = content(model)
    shipment = pack(model, "lab/cells", judged)
    assert {file.path for file in shipment.files} | set(shipment.made) == FILES | {"evaluation.json"}
    assert shipment.left_out == ["checkpoints", "log.jsonl", "patient-7.png"]
    assert content(model) == before
    for file in shipment.files:
        data = file.content if isinstance(file.content, bytes) else file.content.read_bytes()
        assert b"patient-" not in data
        assert file.size == len(data)
    assert not pack(model, "lab/cells", samples=0).made


def test_sheet_of_samples_carries_its_origin(model, tmp_path):
    (sheet,) = pack(model, "lab/cells", samples=4).made.values()
    (tmp_path / "samples.png").write_bytes(sheet())
    with Image.open(tmp_path / "samples.png") as image:
        assert image.size == (4 * 16 + 3 * 2, 16)
        told = image.info
    assert "trainedAlgorithmicMedia" in told["XML:com.adobe.xmp"]
    assert [told[f"wbc:{key}"] for key in ("seeds", "steps", "model")] == ["0 to 3", "20", "lab/cells"]
    # One that lies there may be of anything.
    (model / "samples.png").write_bytes(b"other")
    assert "samples.png" in pack(model, "lab/cells").made


def test_model_with_classes_is_packed_and_shows_each_of_them(tmp_path):
    recipe = DDIMRecipe(name="ours-64", resolution=16, class_column="abnormality")
    torch.manual_seed(0)
    unet = R2AttnUNet(sample_size=16, block_out_channels=(8, 16), num_class_embeds=2).eval()
    pipe = WBCDDIMPipeline(unet, SigmoidDDIMScheduler())
    pipe.training_manifest = manifest(recipe, training={"classes": ["none", "dohle_bodies"]})
    pipe.save_pretrained(tmp_path / "classes")
    (sheet,) = pack(tmp_path / "classes", "lab/classes", samples=4).made.values()
    with Image.open(io.BytesIO(sheet())) as image:
        pixels, told = np.asarray(image), image.info
    assert told["wbc:classes"] == "none, dohle_bodies"
    seeds = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    second = pipe(2, generator=seeds, class_labels=1, num_inference_steps=20).images[0]
    assert np.abs(pixels[:, 2 * 18 : 2 * 18 + 16].astype(int) - np.asarray(second)).max() <= 1


def test_own_card_is_sent_as_it_is_if_it_agrees_with_the_model(model, judged):
    card = pack(model, "lab/cells", judged).files[0]
    assert isinstance(card.content, bytes)
    own = card.content.decode().replace("# cells", "# Ours")
    assert "# Ours" in own
    (model / "README.md").write_text(own, encoding="utf-8")
    assert pack(model, "lab/cells", judged).files[0].content == model / "README.md"
    cases = (
        (
            own.replace("revision of the weights: `", "revision of the weights: `0"),
            "was made for weights of revision 0",
        ),
        (own.replace('"lab/cells"', '"cells"'), "was made for another name, by which nobody could load lab/cells"),
        (own.replace("34.512", "3.4512"), "The figures on .* are not those of the evaluation"),
        ("no metadata", "has no metadata block"),
        ("---\nlicense: [\n---\n", "can't be read as a card"),
    )
    for text, message in cases:
        assert text != own
        (model / "README.md").write_text(text, encoding="utf-8")
        with pytest.raises(CardError, match=message):
            pack(model, "lab/cells", judged)
    (model / "README.md").write_text(own, encoding="utf-8")
    with pytest.raises(CardError, match="are not those of any evaluation here: give the --evaluation"):
        pack(model, "lab/cells")
    with pytest.raises(CardError, match="what you say of the model would not be on its card: make it anew"):
        pack(model, "lab/cells", judged, said=Statement(licence="mit"))


def test_evaluation_may_be_given_by_its_folder(model, judged, tmp_path):
    (tmp_path / "judged").mkdir()
    judged.rename(tmp_path / "judged" / "evaluation.json")
    assert "evaluation.json" in {file.path for file in pack(model, "lab/cells", tmp_path / "judged").files}


def test_what_is_worth_a_second_thought_is_noted(model, judged):
    assert len(pack(model, "lab/cells").notes) == 2
    assert pack(model, "lab/cells", judged, Statement(licence="mit")).notes == []


@pytest.mark.parametrize("path", ["/home/miller/patient-7", "~/cells", "C:\\cells"])
def test_path_of_the_user_is_not_sent(model, path):
    for file in ("unet/config.json", "scheduler/scheduler_config.json", "model_index.json"):
        before = (model / file).read_text()
        (model / file).write_text(json.dumps({**json.loads(before), "_name_or_path": path}))
        with pytest.raises(PublishError, match=f"{file} tells the path .*, which may tell about you: take it out"):
            pack(model, "lab/cells")
        (model / file).write_text(before)
    WBCDDIMPipeline.from_pretrained(model).save_pretrained(model)
    pack(model, "lab/cells")


def test_weights_of_another_model_in_the_same_folder_are_not_certified(model, tmp_path):
    own = WBCDDIMPipeline.from_pretrained(model)
    own.save_pretrained(model, variant="fp16")  # of the same training: known too
    pack(model, "lab/cells")
    other = WBCDDIMPipeline.from_pretrained(model)
    other.training_manifest = {**other.training_manifest, "recipe": {"name": "another"}}
    other.save_pretrained(tmp_path / "used", variant="fp16")
    own.save_pretrained(tmp_path / "used")
    with pytest.raises(CardError, match=r"fp16.safetensors is not among the weights that training_manifest.json names"):
        pack(tmp_path / "used", "lab/cells")


@pytest.mark.parametrize("name", ["cells", "lab/cells/more", "lab/my cells", "", "lab/", "../x/y"])
def test_what_is_no_name_of_a_repository_is_told_first(name, tmp_path):
    with pytest.raises(PublishError, match="is no name of a repository: give its owner and its name"):
        pack(tmp_path / "nowhere", name)


def test_folder_that_nobody_could_load_is_not_packed(model, tmp_path):
    with pytest.raises(PublishError, match="There is no folder"):
        pack(tmp_path / "nowhere", "lab/cells")
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps({**index, "_class_name": "WBCDDIMPipeline"}))
    with pytest.raises(PublishError, match=r"of the pipeline's class, where the file and the name.*save it again"):
        pack(model, "lab/cells")
    (model / "model_index.json").write_text(json.dumps(index))
    code = (model / "unet" / "r2_attn_unet.py").read_bytes()
    (model / "unet" / "r2_attn_unet.py").unlink()
    with pytest.raises(PublishError, match=r"unet holds no r2_attn_unet.py, so that nobody.*save it again"):
        pack(model, "lab/cells")
    (tmp_path / "secret").write_bytes(code)
    (model / "unet" / "r2_attn_unet.py").symlink_to(tmp_path / "secret")
    with pytest.raises(PublishError, match="is a link that leads out of the folder: put the file itself there"):
        pack(model, "lab/cells")
    (model / WEIGHTS).rename(model / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(PublishError, match=r"holds no weights in safetensors: publish what `wbc train` or"):
        pack(model, "lab/cells")


# To a hub.


@pytest.mark.slow
@pytest.mark.lowest_too
def test_published_model_loads_and_is_what_was_packed(lab, model, judged, tmp_path):
    code, out, err = lab.wbc("publish", model, "lab/cells", "--evaluation", judged, "--license", "cc0-1.0", "--private")
    assert code == 0, err
    assert out.startswith("Published ")
    assert "lab/cells" in out
    assert lab.hub.repos["lab/cells"].private
    files = lab.hub.files("lab/cells")
    assert set(files) - {".gitattributes"} == FILES | {"evaluation.json"}
    for path, data in content(model).items():
        assert files.get(path, data) == data
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "cc0-1.0"
    assert "34.5" in card.text
    assert "![Generated cells](samples.png)" in card.text
    assert not any(b"patient-" in data for data in files.values())
    code, out, err = lab.wbc("generate", "lab/cells", "--num", 1, "--steps", 2, "--out", tmp_path / "out")
    assert code == 0, err
    with Image.open(tmp_path / "out" / "00000000.png") as image:
        assert image.info["wbc:model"] == "lab/cells"


@pytest.mark.slow
def test_dry_run_lists_every_file_with_its_size_and_asks_no_hub(lab, model):
    code, out, err = lab.wbc("publish", model, "lab/cells", "--dry-run", token=None, HF_HUB_OFFLINE="1")
    assert code == 0, err
    rows = {line.split()[0]: line.split(None, 1)[1] for line in out.splitlines() if line.split()[0] in FILES}
    assert rows.keys() == FILES
    assert rows["samples.png"] == "made when sent"
    for path in (WEIGHTS, "model_index.json"):
        assert rows[path] == f"{(model / path).stat().st_size:,}"
    assert "Stays here: checkpoints, log.jsonl, patient-7.png." in out
    assert not lab.hub.requests


SEVERAL = """
import json, os, sys
from wbc_diffusers.cli import main
for token, *arguments in json.loads(sys.argv[1]):
    os.environ.pop("HF_TOKEN", None)
    os.environ.update({"HF_TOKEN": token} if token else {})
    try:
        main(["publish", *arguments, "--samples", "0"])
    except SystemExit as left:
        print("left with", left.code, file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.lowest_too
def test_what_the_hub_refuses_is_told_in_a_line(lab, model):
    lab.hub.put("lab/taken", model)
    before = lab.hub.files("lab/taken")
    cases = [
        (None, ("lab/cells",), "There is no token for the hub: run `hf auth login`, or set HF_TOKEN"),
        ("wrong", ("lab/cells",), "the hub does not know the token"),
        ("reader", ("lab/cells",), "the token may not write there"),
        ("other", ("lab/cells",), "the token may not write there"),
        ("writer", ("lab/taken",), "lab/taken is taken: it holds"),
        ("writer", ("lab/taken", "--update", "--private"), "lab/taken is public, and a private one was asked for"),
    ]
    several = json.dumps([[token, str(model), *arguments] for token, arguments, _ in cases])
    environment = lab.hub.environment(lab.place / "home") | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL, several], env=environment, capture_output=True, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if line.startswith(("wbc: ", "left with"))]
    assert said[1::2] == ["left with 2"] * len(cases), done.stderr
    for line, (_, _, message) in zip(said[::2], cases, strict=True):
        assert message in line
    assert "lab/cells" not in lab.hub.repos
    assert lab.hub.files("lab/taken") == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "the hub could not be reached, or not to the end"),
        ({"HF_HUB_OFFLINE": "1"}, "The hub is switched off by HF_HUB_OFFLINE: unset it"),
    ],
)
def test_hub_that_is_out_of_reach_is_told_in_a_line(lab, model, environment, message):
    code, _, err = lab.wbc("publish", model, "lab/cells", "--samples", 0, **environment)
    assert code == 2
    assert message in err.splitlines()[-1]


@pytest.mark.slow
def test_upload_that_was_killed_goes_on_and_shows_nothing_before(lab, model):
    (model / "samples.png").unlink(missing_ok=True)
    process: subprocess.Popen[str] | None = None

    def kill(method: str, path: str) -> None:
        if method == "POST" and "/commit/" in path and process is not None:
            os.kill(process.pid, signal.SIGKILL)
            raise ConnectionError

    lab.hub.on_request = kill
    process = lab.start("publish", model, "lab/cells")
    process.communicate(timeout=900)
    assert process.returncode == -signal.SIGKILL
    assert set(lab.hub.files("lab/cells")) <= {".gitattributes"}
    weights_sent = [each.path for each in lab.hub.requests if each.method == "PUT"]
    assert weights_sent
    lab.hub.on_request, process = None, None
    code, _, err = lab.wbc("publish", model, "lab/cells")
    assert code == 0, err
    again = [each.path for each in lab.hub.requests if each.method == "PUT"][len(weights_sent) :]
    assert not set(again) & set(weights_sent)
    assert lab.hub.files("lab/cells")[WEIGHTS] == (model / WEIGHTS).read_bytes()


@pytest.mark.slow
def test_weights_that_change_while_they_are_sent_are_not(lab, model):
    script = """
import sys
from pathlib import Path
from wbc_diffusers.hub.publish import publish
from wbc_diffusers.hub.shipment import PublishError, pack
from wbc_diffusers.training.recipe import DDIMRecipe
folder = Path(sys.argv[1])
shipment = pack(folder, "lab/cells", samples=0)
path = folder / "unet" / "diffusion_pytorch_model.safetensors"
path.write_bytes(bytes(len(path.read_bytes())))
try:
    publish(shipment, "lab/cells")
except PublishError as error:
    print(error)
from wbc_diffusers import WBCDDIMPipeline
WBCDDIMPipeline.from_pretrained(sys.argv[2]).save_pretrained(folder, push_to_hub=True, repo_id="lab/pushed")
"""
    shutil.copytree(model, lab.place / "whole")
    environment = lab.hub.environment(lab.place / "home", "writer")
    done = subprocess.run(
        [sys.executable, "-c", script, str(model), str(lab.place / "whole")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{WEIGHTS} was changed after it was checked: say it again." in done.stdout
    assert set(lab.hub.files("lab/cells")) <= {".gitattributes"}
    # diffusers' own way of publishing: what else lies in the folder stays there too.
    assert set(lab.hub.files("lab/pushed")) - {".gitattributes"} == FILES - {"samples.png"}


@pytest.mark.slow
@pytest.mark.parametrize("status", [507, 0])
def test_upload_that_is_cut_off_is_told_in_a_line(lab, model, status):
    def cut(method: str, path: str) -> int | None:
        if method == "PUT" and not status:
            raise ConnectionError
        return status if method == "PUT" else None

    lab.hub.on_request = cut
    code, _, err = lab.wbc("publish", model, "lab/cells", "--samples", 0)
    assert code == 2
    assert "Traceback" not in err
    assert "wbc: lab/cells was not published (" in err
    assert "Say it again later: what the hub has already is not sent twice" in err
    assert set(lab.hub.files("lab/cells")) <= {".gitattributes"}


@pytest.mark.slow
def test_update_replaces_the_model_and_leaves_other_files_and_branches_alone(lab, model):
    others = {
        **{
            path: (model / path).read_bytes()
            for path in ("log.jsonl", "patient-7.png", "checkpoints/random_states_0.pkl")
        },
        "LICENSE": b"free",
        "handler.py": b"",
        "unet/notes.txt": b"x",
        "lora/adapter_config.json": b"{}",
        "lora/adapter.safetensors": b"",
        "docs/config.json": b"{}",
    }
    stale = {"unet/diffusion_pytorch_model.fp16.safetensors": b"old", "training_manifest.json": b'{"old": 1}'}
    old = {**content(model), **others, **stale, "evaluation.json": b"{}"}
    (model / "training_manifest.json").unlink()
    for path, data in old.items():
        (lab.place / "old" / path).parent.mkdir(parents=True, exist_ok=True)
        (lab.place / "old" / path).write_bytes(data)
    lab.hub.put("lab/cells", lab.place / "old")
    before = lab.hub.files("lab/cells")
    options = ["--samples", "0", "--revision", "v2"]
    several = json.dumps(
        [["writer", str(model), "lab/cells", *more] for more in (options, options, [*options, "--update"])]
    )
    environment = lab.hub.environment(lab.place / "home") | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL, several], env=environment, capture_output=True, text=True, check=False
    )
    # A branch that is new is nobody's; once it holds the model, it is taken.
    assert [line for line in done.stderr.splitlines() if line.startswith("left with")] == [
        "left with 0", "left with 2", "left with 0"
    ], done.stderr  # fmt: skip
    now = lab.hub.files("lab/cells", "v2")
    assert {path: now[path] for path in others} == others
    assert now.keys() - others.keys() - {".gitattributes"} == FILES - {"training_manifest.json", "samples.png"}
    assert now[WEIGHTS] == (model / WEIGHTS).read_bytes()
    assert lab.hub.files("lab/cells") == before


@pytest.mark.slow
def test_training_publishes_what_it_wrote_and_asks_first(lab, tmp_path):
    (tmp_path / "cells" / "train").mkdir(parents=True)
    for i in range(4):
        Image.new("RGB", (16, 16), (40 * i, 80, 120)).save(tmp_path / "cells" / "train" / f"{i}.png")
    lab.hub.put("lab/taken", tmp_path / "cells")

    def train(name: str, **environment: str) -> tuple[int, str, str]:
        options = ["--model", "{block_out_channels: [4, 8]}", "--resolution", 16, "--max-train-steps", 2]
        options += ["--train-batch-size", 2, "--num-workers", 0, "--sample-images", 0, "--validation-images", 0]
        options += ["--push-to-hub", "true", "--hub-model-id", name, "--hub-private-repo", "true"]
        where = ["--config", "ours-64", "--data", tmp_path / "cells", "--output", tmp_path / "run"]
        return lab.wbc("train", *where, *options, **environment)

    code, _, err = train("lab/taken")
    assert code == 2
    assert "lab/taken is public, and a private one was asked for" in err.splitlines()[-1]
    assert not list((tmp_path / "run").iterdir())
    code, _, err = train("lab/cells")
    assert code == 0, err
    assert "Published http" in err
    files = lab.hub.files("lab/cells")
    assert files[WEIGHTS] == (tmp_path / "run" / WEIGHTS).read_bytes()
    assert lab.hub.repos["lab/cells"].private
    assert "| updates done | 2 |" in files["README.md"].decode()
