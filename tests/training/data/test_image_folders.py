from pathlib import Path

import pytest

from tests.training.data.own_data import write_images
from training.data.image_folders import ImageFolder, ImageFolderReader, list_image_folder
from training.data.location import open_location
from training.data.published import DataMissingError
from training.data.rows import Row


def _list(folder: Path) -> ImageFolder:
    return list_image_folder(*open_location(folder))


def _rows(folder: Path) -> list[Row]:
    found = _list(folder)
    return list(ImageFolderReader(open_location(folder)[0], found.in_parts)([file.path for file in found.files]))


def test_a_folder_of_classes_is_one_part(tmp_path: Path) -> None:
    write_images(tmp_path, 6)
    assert _list(tmp_path).labels == ("cat", "dog")
    rows = _rows(tmp_path)
    assert [(row.part, row.label) for row in rows] == [("whole", "cat")] * 3 + [("whole", "dog")] * 3
    assert [row.payload for row in rows] == [(tmp_path / row.name).read_bytes() for row in rows]


def test_rows_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    write_images(tmp_path, 100)
    assert [row.name for row in _rows(tmp_path)] == sorted(row.name for row in _rows(tmp_path))


def test_train_beside_validation_are_parts(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 4)
    write_images(tmp_path / "Validation", 2)
    assert {(row.name.split("/")[0], row.part) for row in _rows(tmp_path)} == {
        ("train", "train"),
        ("Validation", "val"),
    }


def test_a_class_that_is_called_test_makes_no_part(tmp_path: Path) -> None:
    write_images(tmp_path / "x", 2)
    (tmp_path / "x").rename(tmp_path / "test")
    assert {(row.part, row.label) for row in _rows(tmp_path)} == {("whole", "test")}


def test_a_class_folder_may_have_folders(tmp_path: Path) -> None:
    write_images(tmp_path / "cat" / "tabby", 2)
    assert {row.label for row in _rows(tmp_path)} == {"cat"}


def test_an_image_outside_of_all_classes_is_mislabelled(tmp_path: Path) -> None:
    write_images(tmp_path, 2)
    (tmp_path / "stray.jpeg").write_bytes(b"x")
    (stray,) = [row for row in _rows(tmp_path) if row.fault]
    assert (stray.name, stray.fault) == ("stray.jpeg", ("mislabelled", "it lies in no class folder"))


def test_other_files_and_parts_without_classes_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_images(tmp_path / "train", 4)
    write_images(tmp_path / "val", 2)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "unlabelled.png").write_bytes(b"x")
    (tmp_path / "README.txt").write_text("x")
    (tmp_path / "train" / "cat" / "Thumbs.db").write_text("x")
    assert len(_list(tmp_path).files) == 6
    assert "3 files are passed over" in caplog.text


def test_only_classes_to_train_with_are_classes(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 4)
    write_images(tmp_path / "val" / "x", 2)
    assert _list(tmp_path).labels == ("cat", "dog")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(b"x")
    with pytest.raises(DataMissingError, match=r"holds no image in a class folder: put them as CLASS/name\.png"):
        _list(tmp_path)
