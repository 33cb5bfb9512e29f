"""Output folders become whole at once, whatever killed runs left beside them, or are refused before the work."""

import errno
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from wbc_diffusers.data.output import check_output, make_way, whole_folder


@pytest.mark.parametrize("name", ["out", "k[1]", "a*?"])
def test_what_a_killed_process_of_the_same_number_left_is_in_nobodys_way(tmp_path: Path, name: str) -> None:
    left = tmp_path / f".{name}.partial-{socket.gethostname()}-{os.getpid()}"
    left.mkdir()
    (left / "half.png").write_bytes(b"half")
    other = tmp_path / f".other.partial-{socket.gethostname()}-{os.getpid()}"
    other.mkdir()
    (tmp_path / name).mkdir()
    with whole_folder(tmp_path / name) as folder:
        (folder / "whole.png").write_bytes(b"whole")
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {
        other.name, name, f"{name}/whole.png"
    }  # fmt: skip


def test_a_link_is_followed_to_the_folder_it_names(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "empty").symlink_to(tmp_path / "disk")
    (tmp_path / "dangling").symlink_to(tmp_path / "new" / "place")
    for link, place in (("empty", "disk"), ("dangling", "new/place")):
        with whole_folder(check_output(tmp_path / link)) as folder:
            (folder / "whole.png").write_bytes(b"whole")
        assert (tmp_path / link).is_symlink()
        assert [path.name for path in (tmp_path / place).iterdir()] == ["whole.png"]


def test_an_empty_folder_stays_as_it_was_where_the_work_fails(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o750)
    before = (tmp_path / "out").stat()
    with pytest.raises(RuntimeError, match="no"), whole_folder(tmp_path / "out"):
        raise RuntimeError("no")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert ((tmp_path / "out").stat().st_ino, (tmp_path / "out").stat().st_mode) == (before.st_ino, before.st_mode)


@pytest.fixture(params=["disk", "same disk"])
def mounted(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Give an empty folder with another disk, or a folder of the same disk, mounted on it."""
    place, other = tmp_path / "mounted", tmp_path / "other"
    place.mkdir()
    other.mkdir()
    what = ["-t", "tmpfs", "tmpfs"] if request.param == "disk" else ["--bind", str(other)]
    if subprocess.run(["mount", *what, str(place)], capture_output=True).returncode:
        pytest.skip("only root may mount")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_mount_point_is_refused_before_the_work_and_a_folder_in_it_works(mounted: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"a mount point cannot; name a new folder in it, such as {mounted / 'cells'}"
    ):
        make_way(check_output(mounted))
    worked = False
    with pytest.raises(ValueError, match="cannot be replaced"), whole_folder(mounted):
        worked = True
    assert not worked
    with whole_folder(check_output(mounted / "cells")) as folder:
        (folder / "whole.png").write_bytes(b"whole")
    assert (mounted / "cells" / "whole.png").exists()


def test_a_path_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"output ~nosuchuser/x: .*home.*; give the whole path of a new or empty folder"
    ):
        check_output(Path("~nosuchuser/x"))


def test_an_output_that_cannot_be_made_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file" / "out", tmp_path / ("n" * 250), tmp_path / "file" / "a" / "b"):
        with pytest.raises(OSError, match=r"output folder .* cannot be made \(.*\); name another"), whole_folder(out):
            pytest.fail("the work began")


def test_a_disk_that_runs_full_is_told_with_the_folder(tmp_path: Path) -> None:
    def run_full() -> None:
        with whole_folder(tmp_path / "out") as folder:
            (folder / "a").write_text("x")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"out: No space left .* nothing was kept"):
        run_full()
    assert not list(tmp_path.iterdir())


def test_an_output_in_any_of_the_sources_is_refused(tmp_path: Path) -> None:
    sources = [tmp_path / name for name in ("real", "generated")]
    for source in sources:
        source.mkdir()
    for source in sources:
        with pytest.raises(ValueError, match=f"lies in the source .*{source.name}"):
            check_output(source / "out", *sources)
    assert check_output(tmp_path / "out", *sources) == (tmp_path / "out").resolve()
