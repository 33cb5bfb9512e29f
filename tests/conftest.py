"""Fixtures for all tests: no network, and the real cells where they lie beside the checkout."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_stand_in import HubStandIn

# Set on import, since huggingface_hub and datasets read these when they are first imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
# Code that comes with folders is copied there before it is run, always by the same names: a place for each process.
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="wbc-modules-")
atexit.register(shutil.rmtree, os.environ["HF_MODULES_CACHE"], ignore_errors=True)

# The tests' networks are tiny: on two busy cores, threads that wait for each other made one training step take 5 s, not
# 0.04 s. Set before torch is imported; the commands that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep hub and datasets offline, and the caches of datasets out of the user's home."""
    os.environ.setdefault("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets-cache")))


@pytest.fixture(autouse=True)
def _new_accelerator() -> Iterator[None]:
    """Let every test choose its precision: accelerate keeps the first one of a process."""
    yield
    if (state := sys.modules.get("accelerate.state")) is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    """Start an empty model hub on loopback, for commands in processes of their own."""
    with HubStandIn() as hub:
        yield hub


@pytest.fixture(scope="session")
def pbc_dir() -> Path:
    """Give the folder of PBC granulocytes: WBC_PBC_DIR, else ../shared/data/pbc beside the checkout."""
    place = Path(os.environ.get("WBC_PBC_DIR") or Path(__file__).parents[2] / "shared" / "data" / "pbc")
    if not (place / "metadata.csv").is_file():
        pytest.skip(f"no PBC images in {place}; set WBC_PBC_DIR to their folder")
    return place
