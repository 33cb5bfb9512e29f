"""Finds recipes and launch configurations by name, in a checkout or in an installed wheel."""

import difflib
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shelf(place: str) -> Path:
    """A folder of the shelves, such as "training/recipes".

    Raises:
        FileNotFoundError: If neither the wheel nor a checkout holds it.
    """
    for root in (_PACKAGE / "shelves", _PACKAGE.parents[1]):
        if (root / place).is_dir():
            return root / place
    raise FileNotFoundError(f"The installed wbc-diffusers holds no {place}: install it again.")


def find_entry(name: str, place: str, suffix: str) -> Path:
    """The file of an entry: a path as it is, or a name such as "ours-64" looked up on its shelf.

    Raises:
        FileNotFoundError: If there is neither such a file nor such an entry; the entries are named.
    """
    path = Path(name)
    if path.is_file():
        return path
    folder = shelf(place)
    if (folder / f"{name}{suffix}").is_file():
        return folder / f"{name}{suffix}"
    names = sorted(p.stem for p in folder.glob(f"*{suffix}"))
    near = difflib.get_close_matches(name, names, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise FileNotFoundError(
        f"There is no file {name}, and no entry of that name; the entries are {', '.join(names)}.{hint}"
    )
