"""Images that a model was trained on are found among those that judge it."""

import json
from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.fft import idctn

from wbc_diffusers.data.manifest import build_manifest
from wbc_diffusers.evaluation.images import read_set
from wbc_diffusers.evaluation.leaks import find_leaks, find_shared, read_manifest

Cells = dict[int, np.ndarray]
Write = Callable[..., Path]


def manifest_of(images: list[np.ndarray], parent: dict | None = None) -> dict:
    import hashlib

    exact = [hashlib.sha256(each.tobytes()).hexdigest() for each in images]
    return build_manifest({}, exact, [str(imagehash.phash(Image.fromarray(each))) for each in images], parent=parent)


def test_exact_and_near_copies_are_found_and_others_are_not(cells: Cells, folder: Write) -> None:
    trained = [cells[i] for i in range(60)]
    blurred = Image.fromarray(cells[5]).filter(ImageFilter.GaussianBlur(1))
    near = [np.asarray(blurred), np.ascontiguousarray(np.rot90(cells[6])), cells[7][:, ::-1], (cells[8] * 0.85)]
    images = read_set(folder("real", [cells[3], *near, *(cells[i] for i in range(60, 100))]), "real")
    found = find_leaks(images, manifest_of(trained))
    assert [p.name for p in found.exact] == ["0000.png"]
    assert [p.name for p in found.near] == ["0001.png", "0002.png", "0003.png", "0004.png"]
    assert (len(found.paths), found.known, found.hashed) == (5, 60, 60)


def test_images_of_the_base_model_count(cells: Cells, folder: Write) -> None:
    base = manifest_of([cells[i] for i in range(30)])
    rare = manifest_of([cells[i] for i in range(30, 40)], parent={**base, "parents": []})
    images = read_set(folder("real", [cells[2], cells[35], *(cells[i] for i in range(50, 80))]), "real")
    assert [p.name for p in find_leaks(images, rare).exact] == ["0000.png", "0001.png"]
    assert find_leaks(images, rare).known == 40


def test_an_old_manifest_without_perceptual_hashes_finds_exact_copies(cells: Cells, folder: Write) -> None:
    manifest = manifest_of([cells[i] for i in range(30)])
    del manifest["image_perceptual_hash"]
    images = read_set(folder("real", [cells[2], *(cells[i] for i in range(50, 80))]), "real")
    found = find_leaks(images, manifest)
    assert (len(found.exact), len(found.near), found.hashed) == (1, 0, 0)
    assert "copies of 30 of them that are not exact could not be looked for" in found.in_words
    assert "look like one" not in found.in_words


def test_training_images_among_the_real_ones_are_found_turned_too(cells: Cells, folder: Write) -> None:
    train = read_set(folder("train", [cells[i] for i in range(40)]), "training")
    turned = np.ascontiguousarray(np.rot90(cells[9])[:, ::-1])
    real = read_set(folder("real", [turned, cells[4], *(cells[i] for i in range(60, 90))]), "real")
    found = find_shared(real, train)
    assert [path.name for path in found.exact] == ["0001.png"]
    assert [path.name for path in found.near] == ["0000.png"]
    assert "0001" not in found.in_words


def test_where_the_files_are_there_a_hash_alone_is_no_copy(cells: Cells, folder: Write) -> None:
    rng = np.random.default_rng(0)
    signs, strengths = rng.permutation(np.repeat([-1.0, 1.0], 32)).reshape(8, 8), 12 ** rng.random((2, 8, 8))
    # The bits of the hash are the signs of the low frequencies, which these two share; what they show is different.
    spectra = np.zeros((2, 48, 48))
    spectra[:, :8, :8] = signs * strengths
    alike = [idctn(spectrum, norm="ortho") for spectrum in spectra]
    drawn = [np.repeat((128 + 35 * each / each.std())[..., None], 3, axis=2).clip(0, 255) for each in alike]
    first, second = ([each, *(cells[i] for i in range(k, k + 20))] for each, k in zip(drawn, (0, 50), strict=True))
    real, train = read_set(folder("real", first), "real"), read_set(folder("train", second), "training")
    assert [path.name for path in find_leaks(real, manifest_of([second[0].astype(np.uint8)])).near] == ["0000.png"]
    assert find_shared(real, train).paths == ()


def test_a_manifest_is_read_from_its_model_or_its_file(tmp_path: Path) -> None:
    manifest = build_manifest({}, ["a" * 64])
    (tmp_path / "training_manifest.json").write_text(json.dumps(manifest))
    assert read_manifest(tmp_path) == read_manifest(tmp_path / "training_manifest.json") == manifest


def test_what_is_no_manifest_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no training_manifest\.json"):
        read_manifest(tmp_path)
    path = tmp_path / "training_manifest.json"
    wrong = ("{", "is not JSON"), ("[" * 100_000, "is not JSON"), ("[]", "schema_version")
    # The record of an evaluation has a version too, and knows no image.
    wrong += ('{"schema_version": 1}', "names no training image"), ('{"schema_version": 1, "rows": []}', "names no")
    for text, words in wrong:
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"image_pixel_sha256": ["A" * 64]}, "64 hexadecimal digits"),
        ({"image_pixel_sha256": [7]}, "has 7 in its image_pixel_sha256"),
        ({"image_pixel_sha256": "a" * 64}, "where a list is wanted"),
        ({"image_perceptual_hash": ["f" * 17]}, "16 hexadecimal digits"),
        ({"image_perceptual_hash": [None]}, "has None in its image_perceptual_hash"),
        ({"parents": ["base"]}, "has 'base' as its parent"),
        ({"parents": [{"image_perceptual_hash": ["-1"]}]}, "has '-1' in its image_perceptual_hash"),
        ({"parents": [{"image_pixel_sha256": None}]}, "has None as its image_pixel_sha256"),
    ],
)
def test_a_broken_manifest_is_told(tmp_path: Path, part: dict, words: str) -> None:
    manifest = build_manifest({}, ["a" * 64])
    (tmp_path / "training_manifest.json").write_text(json.dumps({**manifest, **part}))
    with pytest.raises(ValueError, match=words):
        read_manifest(tmp_path)
