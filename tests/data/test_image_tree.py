import shutil
import unicodedata
from pathlib import Path

import pytest

from bnadapt.data.image_tree import read_tree
from bnadapt.errors import DataError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(root: Path, part: tuple[tuple[Path, int], ...]) -> list[tuple[str, int]]:
    return [(path.relative_to(root).as_posix(), label) for path, label in part]


def test_class_folders_without_parts_are_train(tmp_path: Path) -> None:
    touch(tmp_path / "dog" / "b.JPG", tmp_path / "dog" / "a.png", tmp_path / "cat" / "c.webp")
    tree = read_tree(str(tmp_path))
    assert tree.classes == ("cat", "dog")
    assert list(tree.parts) == ["train"]
    assert names(tmp_path, tree.parts["train"]) == [("cat/c.webp", 0), ("dog/a.png", 1), ("dog/b.JPG", 1)]
    assert tree.passed_over == ()


@pytest.mark.parametrize("validation", ["validation", "val"])
def test_parts_are_found_whatever_their_case(tmp_path: Path, validation: str) -> None:
    for part in ("Train", validation, "TEST"):
        touch(tmp_path / part / "a" / "1.png", tmp_path / part / "b" / "1.png")
    tree = read_tree(str(tmp_path))
    assert sorted(tree.parts) == ["test", "train", "validation"]
    assert names(tmp_path, tree.parts["test"]) == [("TEST/a/1.png", 0), ("TEST/b/1.png", 1)]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    touch(tmp_path / "train" / "1.png", tmp_path / "plane" / "1.png", tmp_path / "test" / "1.png")
    tree = read_tree(str(tmp_path))
    assert tree.classes == ("plane", "test", "train")
    assert list(tree.parts) == ["train"]


def test_class_names_of_any_script_are_sorted_by_code_point(tmp_path: Path) -> None:
    for name in ("猫", "собака", "Zebra", "ape", "10", "2"):
        touch(tmp_path / name / "1.png")
    assert read_tree(str(tmp_path)).classes == ("10", "2", "Zebra", "ape", "собака", "猫")


def test_composed_and_decomposed_spellings_are_one_class(tmp_path: Path) -> None:
    for part, form in (("train", "NFC"), ("test", "NFD")):
        touch(tmp_path / part / unicodedata.normalize(form, "é") / "1.png", tmp_path / part / "b" / "1.png")
    tree = read_tree(str(tmp_path))
    assert tree.classes == ("b", unicodedata.normalize("NFC", "é"))
    assert len(tree.parts["test"]) == 2


def test_what_is_no_image_is_passed_over_and_hidden_files_are_not_mentioned(tmp_path: Path) -> None:
    touch(
        tmp_path / "a" / "1.png",
        tmp_path / "a" / "Thumbs.db",
        tmp_path / "a" / ".DS_Store",
        tmp_path / "a" / "deeper" / "2.png",
        tmp_path / ".git" / "3.png",
        tmp_path / "README.txt",
    )
    tree = read_tree(str(tmp_path))
    assert tree.classes == ("a",)
    assert names(tmp_path, tree.parts["train"]) == [("a/1.png", 0)]
    assert tree.passed_over == ("README.txt", "a/Thumbs.db", "a/deeper")


def test_a_folder_beside_the_parts_is_passed_over(tmp_path: Path) -> None:
    touch(tmp_path / "train" / "a" / "1.png", tmp_path / "extra" / "a" / "1.png", tmp_path / "list.csv")
    assert read_tree(str(tmp_path)).passed_over == ("extra", "list.csv")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"data.path=.*gone: .*gone does not exist; make one folder per class"
    ):
        read_tree(str(tmp_path / "gone"))
    touch(tmp_path / "file")
    with pytest.raises(DataError, match=r"file is a file; make one folder per class"):
        read_tree(str(tmp_path / "file"))


def test_images_without_class_folders(tmp_path: Path) -> None:
    touch(tmp_path / "1.png")
    with pytest.raises(DataError, match=r"holds no class folders; make one folder per class: PATH/CLASS"):
        read_tree(str(tmp_path))


def test_a_part_without_class_folders(tmp_path: Path) -> None:
    touch(tmp_path / "train" / "a" / "1.png", tmp_path / "test" / "1.png")
    with pytest.raises(DataError, match=r"test holds no class folders"):
        read_tree(str(tmp_path))


def test_empty_classes_are_all_named(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "1.png", tmp_path / "b" / "notes.txt")
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match=r"no images in b, c; put images \(jpg, jpeg, png, bmp, gif, webp\)"):
        read_tree(str(tmp_path))


def test_every_part_needs_the_same_classes(tmp_path: Path) -> None:
    for part in ("train", "test"):
        touch(tmp_path / part / "a" / "1.png", tmp_path / part / "b" / "1.png")
    shutil.rmtree(tmp_path / "test" / "b")
    with pytest.raises(
        DataError, match=r"test has no folder b, which .*train has; every part needs the same"
    ):
        read_tree(str(tmp_path))
    touch(tmp_path / "test" / "b" / "1.png", tmp_path / "test" / "c" / "1.png")
    with pytest.raises(DataError, match=r"train has no folder c, which .*test has"):
        read_tree(str(tmp_path))


def test_parts_without_train(tmp_path: Path) -> None:
    touch(tmp_path / "test" / "a" / "1.png")
    with pytest.raises(DataError, match=r"there is test but no folder train"):
        read_tree(str(tmp_path))


def test_two_folders_for_one_part(tmp_path: Path) -> None:
    for part in ("train", "val", "validation"):
        touch(tmp_path / part / "a" / "1.png")
    with pytest.raises(DataError, match=r"val and validation both mean validation; keep one of them"):
        read_tree(str(tmp_path))
