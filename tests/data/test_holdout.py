from dataclasses import replace

import numpy as np
import pytest

from bnadapt.config import DataSettings
from bnadapt.data.holdout import Share, plan, with_labels
from bnadapt.errors import DataError

SETTINGS = DataSettings(validation_fraction=0.1, test_fraction=0.2)
TRAIN_ONLY = {"train": "train", "validation": None, "test": None}
FIRST_TEN = [32, 42, 57, 62, 71, 72, 80, 89, 90, 91]
TRAIN_AND_TEST = {"train": "train", "validation": None, "test": "test"}


def positions(shares: dict[str, Share]) -> np.ndarray:
    return np.sort(np.concatenate([share.indices for share in shares.values()]))


def test_parts_of_their_own_are_used_wholly_and_in_order() -> None:
    parts = {"train": "train", "validation": "val", "test": "test"}
    shares, notes = plan(parts, {"train": 5, "val": 3, "test": 2}, SETTINGS)
    assert [(share.part, share.indices.tolist()) for share in shares.values()] == [
        ("test", [0, 1]),
        ("val", [0, 1, 2]),
        ("train", [0, 1, 2, 3, 4]),
    ]
    assert notes == []


def test_what_is_missing_is_held_out_from_train() -> None:
    shares, notes = plan(TRAIN_ONLY, {"train": 100}, SETTINGS)
    assert {role: len(share.indices) for role, share in shares.items()} == {
        "test": 20,
        "validation": 10,
        "train": 70,
    }
    assert {share.part for share in shares.values()} == {"train"}
    np.testing.assert_array_equal(positions(shares), np.arange(100))
    for share in shares.values():
        assert np.all(np.diff(share.indices) > 0)
    assert notes == [
        "test: 20 of the 100 images of train, held out at random (data.test_fraction=0.2, data.split_seed=0)",
        "validation: 10 of the 100 images of train, held out at random "
        "(data.validation_fraction=0.1, data.split_seed=0)",
    ]


def test_the_choice_depends_on_the_seed_alone_and_never_changes() -> None:
    first, _ = plan(TRAIN_AND_TEST, {"train": 100, "test": 5}, SETTINGS)
    again, _ = plan(TRAIN_AND_TEST, {"train": 100, "test": 5}, SETTINGS)
    other, _ = plan(TRAIN_AND_TEST, {"train": 100, "test": 5}, replace(SETTINGS, split_seed=1))
    # Written down so that no release of NumPy changes anybody's splits unnoticed.
    assert first["validation"].indices.tolist() == FIRST_TEN
    assert again["validation"].indices.tolist() == FIRST_TEN
    assert other["validation"].indices.tolist() != FIRST_TEN


def test_a_limit_takes_a_part_of_train_that_grows_with_it() -> None:
    whole, _ = plan(TRAIN_AND_TEST, {"train": 100, "test": 5}, SETTINGS)
    few, notes = plan(TRAIN_AND_TEST, {"train": 100, "test": 5}, replace(SETTINGS, train_limit=10))
    more, _ = plan(TRAIN_AND_TEST, {"train": 100, "test": 5}, replace(SETTINGS, train_limit=30))
    assert len(few["train"].indices) == 10
    assert set(few["train"].indices) < set(more["train"].indices) < set(whole["train"].indices)
    np.testing.assert_array_equal(few["validation"].indices, whole["validation"].indices)
    assert few["train"].indices.tolist() != whole["train"].indices[:10].tolist()
    assert notes[-1] == "train: 10 of 90 images, chosen at random (data.train_limit)"


@pytest.mark.parametrize(
    "parts", [TRAIN_AND_TEST, {"train": "train", "validation": "validation", "test": "test"}]
)
def test_a_limit_takes_a_part_of_validation_and_gives_none_of_the_rest_to_train(
    parts: dict[str, str | None],
) -> None:
    sizes = {"train": 100, "validation": 40, "test": 5}
    whole, before = plan(parts, sizes, SETTINGS)
    few, notes = plan(parts, sizes, replace(SETTINGS, validation_limit=3))
    more, _ = plan(parts, sizes, replace(SETTINGS, validation_limit=6))
    assert len(few["validation"].indices) == 3
    assert set(few["validation"].indices) < set(more["validation"].indices) < set(whole["validation"].indices)
    np.testing.assert_array_equal(few["train"].indices, whole["train"].indices)
    assert len(notes) == len(before) + 1
    size = len(whole["validation"].indices)
    assert f"validation: 3 of {size} images, chosen at random (data.validation_limit)" in notes


def test_a_limit_that_does_not_bind_changes_nothing() -> None:
    shares, notes = plan(TRAIN_AND_TEST, {"train": 10, "test": 5}, replace(SETTINGS, train_limit=9))
    assert len(shares["train"].indices) == 9
    assert len(notes) == 1


def test_every_split_gets_an_image_from_a_very_small_set() -> None:
    shares, _ = plan(TRAIN_ONLY, {"train": 3}, SETTINGS)
    assert [len(share.indices) for share in shares.values()] == [1, 1, 1]
    with pytest.raises(DataError, match=r"no images are left for train: train has 2; give more images"):
        plan(TRAIN_ONLY, {"train": 2}, SETTINGS)
    with pytest.raises(DataError, match=r"no images are left for test: test has 0"):
        plan(TRAIN_AND_TEST, {"train": 5, "test": 0}, SETTINGS)


def test_two_roles_may_not_share_a_part() -> None:
    with pytest.raises(
        DataError,
        match=r"data.validation_split and data.test_split are both test: every split needs images of its "
        r"own; parts are written 'test\[:80%\]'",
    ):
        plan({"train": "train", "validation": "test", "test": "test"}, {"train": 5, "test": 5}, SETTINGS)


LABELS = np.repeat([0, 1, 2], [50, 30, 4])
EVERY_SECOND = Share("train", np.arange(0, 84, 2))


def labelled(**settings: object) -> tuple[np.ndarray, list[str]]:
    share, notes = with_labels(EVERY_SECOND, LABELS, DataSettings(**settings))  # type: ignore[arg-type]
    return share.indices, notes


def test_without_a_number_every_label_may_be_used() -> None:
    share, notes = with_labels(EVERY_SECOND, LABELS, DataSettings())
    assert share is EVERY_SECOND
    assert notes == []


def test_more_labels_only_add_images() -> None:
    before: set[int] = set()
    for count in (1, 2, 5, 10):
        indices, _ = labelled(labels_per_class=count)
        assert np.bincount(LABELS[indices]).tolist() == [count, count, min(count, 2)]
        assert np.all(np.diff(indices) > 0)
        assert before < set(indices.tolist()) <= set(EVERY_SECOND.indices.tolist())
        before = set(indices.tolist())
    _, notes = labelled(labels_per_class=5)
    assert notes == [
        "train: labels of 12 of the 42 images (data.labels_per_class=5, data.labels_seed=0); the others serve "
        "statistics only",
        "train: 1 of 3 classes has fewer images than data.labels_per_class=5 (the smallest 2, the largest 25)",
    ]
    _, notes = labelled(labels_per_class=20)
    assert (
        notes[1]
        == "train: 2 of 3 classes have fewer images than data.labels_per_class=20 (the smallest 2, the largest 25)"
    )


@pytest.mark.parametrize(
    ("settings", "notes"),
    [
        (
            {"labels_per_class": 1000},
            [
                "train: every class has fewer images than data.labels_per_class=1000 (the smallest 2, the largest 25): "
                "that is all labels"
            ],
        ),
        (
            {"labels_per_class": 25},  # one class has just as many
            [
                "train: 2 of 3 classes have fewer images than data.labels_per_class=25 (the smallest 2, the largest "
                "25): that is all labels"
            ],
        ),
        ({"labels_fraction": 1.0}, []),
    ],
)
def test_more_labels_than_there_are_is_all_of_them_and_says_how_many(
    settings: dict[str, float], notes: list[str]
) -> None:
    share, found = with_labels(EVERY_SECOND, LABELS, DataSettings(**settings))  # type: ignore[arg-type]
    assert share is EVERY_SECOND
    assert found == notes


def test_a_fraction_is_one_of_each_class_and_never_nothing() -> None:
    indices, notes = labelled(labels_fraction=0.2)
    assert np.bincount(LABELS[indices]).tolist() == [5, 3, 1]
    assert "data.labels_fraction=0.2" in notes[0]
    other, _ = labelled(labels_fraction=0.2, labels_seed=1)
    assert set(other.tolist()) != set(indices.tolist())
