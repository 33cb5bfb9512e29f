"""Features are those of torch-fidelity, each image's once, whatever is cached and however many processes work."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_fidelity import calculate_metrics
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from wbc_diffusers.evaluation import encoders, features
from wbc_diffusers.evaluation.distances import frechet, kernel
from wbc_diffusers.evaluation.encoders import EncoderError, load_encoder
from wbc_diffusers.evaluation.features import features_of
from wbc_diffusers.evaluation.images import Processing, read_set

Cells = dict[int, np.ndarray]
Write = Callable[..., Path]


@pytest.fixture(scope="session")
def lite() -> Any:
    return load_encoder("efficientnet-lite0")


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A file of random weights in the format of Inception's, and the start of its SHA-256."""
    import hashlib
    from unittest.mock import patch

    class StopError(Exception):
        """Ends the construction where the weights would be read."""

    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    made: dict[str, Any] = {}

    def keep(self: torch.nn.Module, state: Any, *_: Any, **__: Any) -> None:
        made["state"] = self.state_dict()
        raise StopError

    torch.manual_seed(0)
    torch.save({}, path)
    with patch.object(FeatureExtractorInceptionV3, "load_state_dict", keep), pytest.raises(StopError):
        FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    torch.save(made["state"], path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()[:8]


@pytest.mark.slow
def test_inception_gives_the_fid_and_kid_of_torch_fidelity(
    cells: Cells, folder: Write, inception_file: tuple[Path, str]
) -> None:
    path, sha256 = inception_file
    first, second = folder("a", [cells[i] for i in range(20)]), folder("b", [cells[i] for i in range(40, 62)])
    encoder = load_encoder("inception-v3", inception_weights=path, sha256=sha256)
    found = [features_of(read_set(f, "real"), encoder, Processing(48)) for f in (first, second)]
    theirs = calculate_metrics(
        input1=str(first), input2=str(second), cuda=False, fid=True, kid=True, kid_subset_size=20, verbose=False,
        cache=False, feature_extractor_weights_path=str(path), samples_shuffle=False,
    )  # fmt: skip
    assert frechet(*found) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert kernel(*found) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3, abs=1e-6)
    assert (encoder.named("fd"), encoder.named("kd"), encoder.named("coverage")) == ("fid", "kid", "coverage")


def test_only_inception_gives_a_fid(lite: Any) -> None:
    assert lite.named("fd") == "fd_efficientnet_lite0"
    assert lite.named("kd") == "kd_efficientnet_lite0"


def test_weights_that_are_others_are_refused_before_anything_is_unpickled(
    tmp_path: Path, inception_file: tuple[Path, str]
) -> None:
    path, sha256 = inception_file
    with pytest.raises(EncoderError, match=f"begins with {sha256}, not 6726825d"):
        load_encoder("inception-v3", inception_weights=path)

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    evil = tmp_path / "evil.pth"
    with evil.open("wb") as file:
        pickle.dump({"a": Evil()}, file)
    with pytest.raises(EncoderError, match="not the file of Inception's weights"):
        load_encoder("inception-v3", inception_weights=evil)
    with pytest.raises(EncoderError, match="holds more than weights"):
        load_encoder("inception-v3", inception_weights=evil, sha256="")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(EncoderError, match="cannot be read"):
        load_encoder("inception-v3", inception_weights=tmp_path / "none.pth")


def test_weights_that_cannot_be_downloaded_are_told_with_both_ways_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(encoders, "URL_INCEPTION_V3", "http://127.0.0.1:9/weights-6726825d.pth")  # nothing listens
    with pytest.raises(EncoderError, match=r"--inception-weights FILE, or take another encoder, such as --encoder"):
        load_encoder("inception-v3")
    assert not list(tmp_path.rglob("*.pth*"))


def test_a_cached_file_of_other_weights_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / encoders.URL_INCEPTION_V3.rpartition("/")[2]).write_bytes(b"half a download")
    with pytest.raises(EncoderError, match="not the file of Inception's weights"):
        load_encoder("inception-v3")


def test_dinobloom_reads_weights_in_the_format_of_dinov2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import timm

    network = timm.create_model("vit_small_patch14_dinov2", img_size=224, num_classes=0)
    torch.manual_seed(1)
    state = {k: torch.randn_like(v) * 0.02 for k, v in network.state_dict().items()}
    # The names of the original: timm has none for the token of masked patches.
    path = tmp_path / "pytorch_model_s.bin"
    torch.save({**state, "mask_token": torch.zeros(1, 384)}, path)
    asked: list[tuple[str, str]] = []

    def fetch(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(path)

    monkeypatch.setattr(encoders, "hf_hub_download", fetch)
    encoder = load_encoder("dinobloom-s")
    assert asked == [("MarrLab/DinoBloom", "pytorch_model_s.bin")]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    network.load_state_dict(state)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.inference_mode():
        expected = network.eval().double()(x)
    np.testing.assert_allclose(encoder(pixels), expected.numpy(), rtol=1e-3, atol=1e-4)
    assert encoder.named("fd") == "fd_dinobloom_s"


def test_unknown_encoders_are_told_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"no encoder 'inception': take one of inception-v3, dinov2"):
        load_encoder("inception")


def test_a_cache_gives_back_the_same_bits_and_knows_what_belongs_to_what(
    cells: Cells, folder: Write, lite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "CPU_BATCH", 8)
    images = read_set(folder("a", [cells[i] for i in range(20)] + [cells[2]]), "real")
    plain = features_of(images, lite, Processing(48))
    assert plain.shape == (21, 1280)
    np.testing.assert_array_equal(plain[2], plain[20])
    counted: list[int] = []

    def counting(pixels: np.ndarray) -> Any:
        counted.append(len(pixels))
        return type(lite).__call__(lite, pixels)

    class Counting:
        name, fingerprint, device = lite.name, lite.fingerprint, lite.device
        __call__ = staticmethod(counting)

    cache = tmp_path / "cache.sqlite"
    few = read_set(folder("few", [cells[i] for i in range(21)][::-1]), "real")
    features_of(few, Counting(), Processing(48), cache=cache)
    assert counted == [8, 8, 8]
    again = features_of(images, Counting(), Processing(48), cache=cache)
    assert counted == [8, 8, 8]  # all from the cache
    np.testing.assert_array_equal(again, plain)
    features_of(images, Counting(), Processing(36, 0.75), cache=cache)
    assert len(counted) == 6  # other pixels are another key


def test_features_that_are_no_numbers_are_refused(lite: Any) -> None:
    class Broken:
        name, device = lite.name, lite.device

        def __call__(self, pixels: np.ndarray) -> np.ndarray:
            return np.array([[np.nan, 0]] + [[0, 0]] * (len(pixels) - 1), np.float32)

    with pytest.raises(EncoderError, match="efficientnet-lite0 gives features that are no numbers"):
        features.encode(Broken(), np.zeros((9, 48, 48, 3), np.uint8))


SCRIPT = """
import sys, time
from pathlib import Path
import numpy as np
from wbc_diffusers.evaluation.encoders import load_encoder
from wbc_diffusers.evaluation.features import features_of
from wbc_diffusers.evaluation.images import Processing, read_set
from wbc_diffusers.generation import process_state
state = process_state()
images, encoder = read_set(Path(sys.argv[1]), "real"), load_encoder("efficientnet-lite0")
if state.process_index:
    time.sleep(3)  # it finds in the cache what the other one has already computed
found = features_of(images, encoder, Processing(48), state=state, cache=Path(sys.argv[3]))
np.save(f"{sys.argv[2]}-{state.process_index}.npy", found)
"""


@pytest.mark.slow
def test_two_processes_give_what_one_gives(cells: Cells, folder: Write, lite: Any, tmp_path: Path) -> None:
    images = folder("a", [cells[i] for i in range(70)])
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run(
        [*launcher, script, images, tmp_path / "out", tmp_path / "cache"], check=True, env=environment, timeout=900
    )
    one = features_of(read_set(images, "real"), lite, Processing(48))
    for process in range(2):
        np.testing.assert_allclose(np.load(tmp_path / f"out-{process}.npy"), one, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(np.load(tmp_path / "out-0.npy"), np.load(tmp_path / "out-1.npy"))
