"""What a classifier says of a set of images, in memory and as a file."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wbc_diffusers.training.files import write_whole

FIELDS = ("labels", "probabilities", "names", "groups")
TOLERANCE = 1e-5
"""By how much the probabilities of an image may miss 1: a softmax in float32 misses it by less, float16 by more."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a classifier says of N images.

    Take the softmax in float64: in float32 a confident one makes ties, which no threshold can part.

    Attributes:
        labels: Class of each image, int64 (N,): 0 is normal, all others are abnormal (of three, grade 1 and grade 2).
        probabilities: float64 (N, C), those of an image sum to 1.
        names: Name of each image, each once: by them two classifiers' predictions are seen to be of the same images.
        groups: Patient or slide of each image; "" where it is unknown: such an image is its own group.

    Raises:
        ValueError: If the fields don't fit together, or hold what no classifier can say.
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    names: tuple[str, ...]
    groups: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = self.probabilities.shape
        if len(shape) != 2 or shape[0] < 1 or shape[1] < 2:
            raise ValueError(f"probabilities are {shape}, but must be (N, C) of one image and two classes or more")
        for name in ("labels", "names", "groups"):
            found = np.shape(getattr(self, name))
            if found != shape[:1]:
                raise ValueError(f"{name} are {found}, but must be {shape[:1]}: one for each row of the probabilities")
        if self.labels.dtype.kind not in "iu" or self.probabilities.dtype.kind != "f":
            kinds = f"{self.labels.dtype} and {self.probabilities.dtype}"
            raise ValueError(f"labels and probabilities are {kinds}, but must be whole and floating-point numbers")
        object.__setattr__(self, "labels", self.labels.astype(np.int64))
        object.__setattr__(self, "probabilities", self.probabilities.astype(np.float64))
        self._check_values()

    def _check_values(self) -> None:
        classes = self.probabilities.shape[1]
        outside = (self.labels < 0) | (self.labels >= classes)
        if outside.any():
            first = int(outside.argmax())
            raise ValueError(
                f"the label of {self.names[first]!r} is {self.labels[first]}, but there are probabilities of "
                f"{classes} classes: labels must be 0 to {classes - 1}"
            )
        # Written so that what is no number is wrong, too.
        wrong = ~((self.probabilities >= 0).all(axis=1) & (abs(self.probabilities.sum(axis=1) - 1) <= TOLERANCE))
        if wrong.any():
            first = int(wrong.argmax())
            raise ValueError(
                f"the probabilities of {self.names[first]!r} are {self.probabilities[first].tolist()}, but must be 0 "
                "or more and sum to 1: give the softmax of the logits, in float64"
            )
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise ValueError(f"{twice!r} is the name of several images: give each its own, such as its path")

    @property
    def abnormal(self) -> NDArray[np.bool_]:
        """Which images are abnormal (N,)."""
        return self.labels > 0

    @property
    def abnormal_groups(self) -> int:
        """How many groups hold abnormal images: as many of these as are independent."""
        return len(np.unique(self.group_numbers[self.abnormal]))

    @property
    def scores(self) -> NDArray[np.float64]:
        """How abnormal each image looks (N,): the probability of all classes but the normal one."""
        # Not 1 - p: that rounds away what tells images apart of which a classifier is sure that they are normal.
        return np.minimum(self.probabilities[:, 1:].sum(axis=1), 1.0)

    @property
    def decided(self) -> NDArray[np.int64]:
        """The most probable class of each image (N,)."""
        return self.probabilities.argmax(axis=1)

    @property
    def group_numbers(self) -> NDArray[np.int64]:
        """The number of each image's group (N,), from 0 on; each image of which none is known has its own."""
        own = [
            f"group {group}" if group else f"image {name}" for group, name in zip(self.groups, self.names, strict=True)
        ]
        return np.unique(own, return_inverse=True)[1]

    def save(self, path: Path) -> None:
        """Write them to an .npz file, whole or not at all.

        Raises:
            OSError: If it cannot be written.
        """
        content = BytesIO()
        np.savez_compressed(
            content,
            labels=self.labels,
            probabilities=self.probabilities,
            names=np.array(self.names),
            groups=np.array(self.groups),
        )
        write_whole(path, content.getvalue())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            OSError: If there is no such file, or it cannot be read.
            ValueError: If it is damaged or another kind of file.
        """
        content = BytesIO(path.read_bytes())
        try:
            with np.load(content, allow_pickle=False) as file:
                labels, probabilities, names, groups = (file[name] for name in FIELDS)
            return cls(labels, probabilities, tuple(names.tolist()), tuple(groups.tolist()))
        # Of a damaged file numpy, zipfile and zlib raise almost anything.
        except Exception as error:
            raise ValueError(
                f"{path} holds no predictions ({error}): it is damaged or another kind of file; remove it and let the "
                "classifier predict again."
            ) from error
