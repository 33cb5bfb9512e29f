"""Where an image comes from, by what its file says: a trained model, a program that draws, or nothing that tells.

What a file says can be lost and forged. A mark tells something, its absence nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from xml.sax.saxutils import unescape

from PIL import Image

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
"""IPTC vocabulary of digital source types, to which the words below belong."""

TRAINED = "trainedAlgorithmicMedia"
"""An image of a trained model."""
WITH_TRAINED = "compositeWithTrainedAlgorithmicMedia"
"""Images of a trained model together with others."""
DRAWN = "algorithmicMedia"
"""An image that a program without training drew."""

_IN_WORDS = {
    TRAINED: "made by a trained model",
    WITH_TRAINED: "made in part by a trained model",
    DRAWN: "drawn by a program without training, such as a phantom",
    "digitalCapture": "a photograph, by what its file says",
}
_SETTING = "wbc:"
_CREATOR = re.compile(
    rb"<(?:\w+:)?CreatorTool>([^<\x00-\x1f\x7f]{1,200})"
    rb"|CreatorTool=\"([^\"<\x00-\x1f\x7f]{1,200})"
    rb"|CreatorTool='([^'<\x00-\x1f\x7f]{1,200})"
)


@dataclass(frozen=True)
class Origin:
    """What an image file says of where it comes from."""

    source_type: str | None
    """Last part of the IPTC digital source type, such as `algorithmicMedia`; None where there is no mark."""
    creator: str | None
    """XMP `CreatorTool`, None where there is none."""
    settings: Mapping[str, str]
    """PNG text of this package, such as `seed` (in the file: `wbc:seed`), in the file's order."""

    @property
    def trained(self) -> bool:
        """Whether the file says that a trained model made the image, or a part of it."""
        return TRAINED.lower() in (self.source_type or "").lower() or says_synthetic(self.settings)

    @property
    def uri(self) -> str | None:
        """The digital source type in full, None where there is no mark."""
        return None if self.source_type is None else DIGITAL_SOURCE_TYPE + self.source_type

    def in_words(self) -> str:
        """What the image is, by its file, for a reader."""
        if self.trained:
            return _IN_WORDS.get(self.source_type or TRAINED, _IN_WORDS[TRAINED])
        source_type = self.source_type or (DRAWN if "phantom" in self.settings else None)
        if source_type is None:
            return "a photograph, or an image that lost its marks: nothing in the file tells"
        return _IN_WORDS.get(source_type, "of the origin that its digital source type names")


def says_synthetic(fields: Mapping[str, str]) -> bool:
    """Whether the metadata of an image calls it synthetic."""
    return fields.get("synthetic", "").strip().lower() in ("true", "1", "yes")


def find_origin(image: Image.Image, data: bytes = b"") -> Origin:
    """Read where an image comes from, wherever that stands: XMP, EXIF, C2PA or PNG text.

    Args:
        image: An open image; of a decoded one, what is left of its metadata counts.
        data: The whole file, where it is at hand.
    """
    # XMP may be UTF-16 (zero bytes between letters); compressed PNG text is only in `info`.
    texts = [v.encode("utf-8", "replace") if isinstance(v, str) else v for v in image.info.values()]
    blob = b"\n".join([data, *(v for v in texts if isinstance(v, bytes))]).replace(b"\0", b"")
    types = [match.decode() for match in re.findall(rb"digitalsourcetype/([A-Za-z]{1,80})", blob)]
    loose = re.search(rb"(?i)[A-Za-z]{0,40}trainedAlgorithmicMedia", blob)
    if loose:
        types.insert(0, loose.group().decode())
    found = _CREATOR.search(blob)
    creator = next(part for part in found.groups() if part).decode("utf-8", "replace") if found else None
    return Origin(
        source_type=types[0] if types else None,
        creator=None if creator is None else unescape(creator, {"&quot;": '"', "&apos;": "'"}),
        settings={
            str(key).removeprefix(_SETTING): str(value)
            for key, value in image.info.items()
            if str(key).startswith(_SETTING) and isinstance(value, str)
        },
    )
