"""Output folders become whole at once, whatever killed runs left beside them."""

import os
import socket
from pathlib import Path

from wbc_diffusers.data.output import whole_folder


def test_what_a_killed_process_of_the_same_number_left_is_in_nobodys_way(tmp_path: Path) -> None:
    left = tmp_path / f".out.partial-{socket.gethostname()}-{os.getpid()}"
    left.mkdir()
    (left / "half.png").write_bytes(b"half")
    with whole_folder(tmp_path / "out") as folder:
        (folder / "whole.png").write_bytes(b"whole")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["out", "out/whole.png"]
