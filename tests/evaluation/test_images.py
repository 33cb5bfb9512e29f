"""What is read as a set, what is refused, and that all images go the same way."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wbc_diffusers.evaluation.images import (
    ImageSetError,
    Jpeg,
    Processing,
    batches,
    check_disjoint,
    read_set,
    same_processing,
)

Cells = dict[int, np.ndarray]
Write = Callable[..., Path]


def test_a_set_knows_its_files_sizes_and_hashes(cells: Cells, folder: Write) -> None:
    images = [cells[i] for i in range(25)] + [cells[3]]
    found = read_set(folder("a", images), "real")
    assert [p.name for p in found.paths] == [f"{i:04d}.png" for i in range(26)]
    assert (found.width, found.height, found.jpeg) == (48, 48, None)
    assert found.pixel_hashes[7] == hashlib.sha256(cells[7].tobytes()).hexdigest()
    assert found.hashes[7] == hashlib.sha256(found.paths[7].read_bytes()).hexdigest()
    assert found.repeated == 1


def test_rows_are_chosen_by_their_columns(cells: Cells, folder: Write) -> None:
    out = folder("a", [cells[i] for i in range(44)])
    rows = "".join(f"{i:04d}.png,{i % 2}\n" for i in range(44))
    (out / "metadata.csv").write_text("file_name,grade\n" + rows)
    assert [p.name for p in read_set(out, "real", where=["grade=1"]).paths][:2] == ["0001.png", "0003.png"]
    with pytest.raises(ValueError, match=r"grade=2: no row has that value; the column has 0, 1"):
        read_set(out, "real", where=["grade=2"])
    with pytest.raises(ValueError, match="shape=2: no such column"):
        read_set(out, "real", where=["shape=2"])
    (out / "metadata.csv").write_text("file_name,grade\n" + "".join(f"{i:04d}.png,{i // 30}\n" for i in range(44)))
    with pytest.raises(ImageSetError, match="holds 14 real images with grade=1; at least 20"):
        read_set(out, "real", where=["grade=1"])


@pytest.mark.parametrize("count", [0, 1, 19])
def test_too_few_images_are_told(cells: Cells, folder: Write, count: int) -> None:
    with pytest.raises(ImageSetError, match=f"holds {count} real images; at least 20"):
        read_set(folder("few", [cells[i] for i in range(count)]), "real")


def test_what_is_wrong_with_a_folder_is_told(cells: Cells, folder: Write, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist: give the folder of the generated"):
        read_set(tmp_path / "nowhere", "generated")
    mixed = folder("mixed", [*(cells[i] for i in range(24)), cells[0][:40, :40]])
    with pytest.raises(ImageSetError, match=r"2 sizes \(24 of 48 x 48, 1 of 40 x 40 px\)"):
        read_set(mixed, "real")
    broken = folder("broken", [cells[i] for i in range(24)])
    (broken / "0003.png").write_bytes((broken / "0003.png").read_bytes()[:200])
    (broken / "0005.png").write_bytes(b"")
    with pytest.raises(ImageSetError, match=r"2 of 24 real images .* such as 0003.png: ends before its image does"):
        read_set(broken, "real")
    for split in ("train", "validation"):
        (tmp_path / "prepared" / split).mkdir(parents=True)
        Image.fromarray(cells[0]).save(tmp_path / "prepared" / split / "a.png")
    with pytest.raises(ImageSetError, match="splits train, validation: give one of them"):
        read_set(tmp_path / "prepared", "real")


def test_what_would_be_left_out_is_refused(cells: Cells, folder: Write, tmp_path: Path) -> None:
    images = [cells[i] for i in range(24)]
    elsewhere = folder("elsewhere", images)
    linked = folder("linked", images)
    (linked / "x.png").symlink_to(elsewhere / "0000.png")
    with pytest.raises(ImageSetError, match=r"1 of 25 real images .* such as x.png: path or link that leads out"):
        read_set(linked, "real")
    (linked / "x.png").unlink()
    (linked / "more").symlink_to(elsewhere)
    with pytest.raises(ImageSetError, match="such as more: link to a folder"):
        read_set(linked, "real")
    (linked / "more").unlink()
    (linked / "x.png").symlink_to(linked / "nowhere.png")
    with pytest.raises(ImageSetError, match="1 of 25"):
        read_set(linked, "real")
    rowless = folder("rowless", images)
    (rowless / "metadata.csv").write_text("file_name\n" + "".join(f"{i:04d}.png\n" for i in [*range(22), 3]))
    with pytest.raises(ImageSetError, match=r"2 of 24 .* such as 0022.png: image file without a row"):
        read_set(rowless, "real")
    (rowless / "0022.png").unlink()
    (rowless / "0023.png").unlink()
    assert len(read_set(rowless, "real")) == 22  # a row that stands there twice leaves no image out


def test_files_are_images_by_their_content_too(cells: Cells, folder: Write) -> None:
    out = folder("a", [cells[i] for i in range(22)])
    (out / "0003.png").rename(out / "0003")
    (out / "0004.png").rename(out / "0004.image")
    for name, data in ((".DS_Store", b"Bud1"), ("notes", b"taken on Monday"), ("README.md", b"#"), (".keep", b"")):
        (out / name).write_bytes(data)
    found = read_set(out, "real")
    assert len(found) == 22
    assert [path.name for path in found.paths][3:5] == ["0003", "0004.image"]
    assert found.other_files == (".DS_Store", ".keep", "notes")
    (out / "0005.png").write_bytes(b"taken on Monday")
    with pytest.raises(ImageSetError, match=r"such as 0005.png: not a JPEG"):
        read_set(out, "real")


def test_a_folder_with_images_beside_a_split_or_of_tables_is_refused(cells: Cells, folder: Write) -> None:
    out = folder("a", [cells[i] for i in range(22)])
    (out / "train").mkdir()
    (out / "0000.png").rename(out / "train" / "0000.png")
    with pytest.raises(ImageSetError, match="holds the splits train, and images beside them"):
        read_set(out, "real")
    tables = folder("tables", [])
    (tables / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(ImageSetError, match="Parquet files: turn the real images into image files"):
        read_set(tables, "real")
    with pytest.raises(FileNotFoundError, match="is a file, and no folder"):
        read_set(tables / "train.parquet", "real")


def test_generated_images_are_no_real_ones(cells: Cells, folder: Write) -> None:
    out = folder("made", [cells[i] for i in range(24)], "trainedAlgorithmicMedia")
    with pytest.raises(ImageSetError, match="marked as made by a trained model"):
        read_set(out, "real")
    assert len(read_set(out, "generated", generated=True)) == 24


def test_a_folder_is_not_compared_with_itself_nor_with_one_that_shares_images(cells: Cells, folder: Write) -> None:
    first = read_set(folder("a", [cells[i] for i in range(30)]), "real")
    again = read_set(folder("b", [cells[i] for i in range(30)]), "generated")
    some = read_set(folder("c", [cells[i] for i in range(25, 55)]), "generated")
    check_disjoint(first, read_set(folder("d", [cells[i] for i in range(60, 90)]), "generated"))
    with pytest.raises(ImageSetError, match="are the same"):
        check_disjoint(first, again)
    with pytest.raises(ImageSetError, match="share 5 images"):
        check_disjoint(first, some)


def test_sets_are_brought_to_the_size_of_the_smallest_without_aliasing(cells: Cells, folder: Write) -> None:
    # Stripes one pixel wide vanish in a resize that weighs every pixel, and become others in one that skips some.
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, ::2] = 255
    large = read_set(folder("large", [stripes] * 20), "real")
    small = read_set(folder("small", [cells[i] for i in range(20)]), "generated")
    processing = same_processing([large, small])
    assert processing == Processing(48)
    shown = next(batches(large.paths, processing, 4))
    assert shown.shape == (4, 48, 48, 3)
    assert np.abs(shown[0, :, 4:-4].astype(int) - 127).max() < 12
    np.testing.assert_array_equal(next(batches(small.paths, processing, 1))[0], cells[0])


def test_only_the_middle_is_looked_at_where_that_is_wanted(cells: Cells, folder: Write) -> None:
    one = read_set(folder("a", [cells[i] for i in range(20)]), "real")
    processing = same_processing([one], share=0.75)
    np.testing.assert_array_equal(next(batches(one.paths, processing, 1))[0], cells[0][6:42, 6:42])
    for share in (0.0, 1.5, -1.0):
        with pytest.raises(ImageSetError, match="share"):
            same_processing([one], share=share)
    with pytest.raises(ImageSetError, match="smaller than the size of 64"):
        same_processing([one], size=64)
    with pytest.raises(ImageSetError, match="at least 32 px"):
        same_processing([one], size=16)


def test_lossless_images_are_encoded_as_the_jpeg_files_were(cells: Cells, folder: Write, jpeg_folder: Write) -> None:
    lossless = read_set(folder("png", [cells[i] for i in range(20)]), "generated")
    coded = read_set(jpeg_folder("jpeg", [cells[i] for i in range(20)], 60), "real")
    assert coded.jpeg is not None
    processing = same_processing([coded, lossless])
    assert processing.jpeg == coded.jpeg
    buffer = io.BytesIO()
    Image.fromarray(cells[0]).save(buffer, format="JPEG", quality=60)
    np.testing.assert_array_equal(next(batches(lossless.paths, processing, 1))[0], np.asarray(Image.open(buffer)))
    words = " ".join(processing.in_words([coded, lossless]))
    assert "real images are JPEG files" in words
    assert "48 x 48 px" in words


def test_the_coarsest_encoding_is_taken(cells: Cells, jpeg_folder: Write) -> None:
    fine = read_set(jpeg_folder("fine", [cells[i] for i in range(20)], 95), "real")
    coarse = read_set(jpeg_folder("coarse", [cells[i] for i in range(20)], 30), "generated", generated=True)
    assert same_processing([fine, coarse]).jpeg == coarse.jpeg != fine.jpeg
    assert Processing(48).key != Processing(48, jpeg=Jpeg(((1,) * 64,), 0)).key
