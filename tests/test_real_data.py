"""The command on real data sets and a real network, where BNADAPT_TEST_DATA names a directory with them."""

from pathlib import Path

import pytest

from tests.command import QUICK
from tests.warm import bnadapt

pytestmark = pytest.mark.slow

ALL_STAGES = ["1_baseline", "2_insert", "3_adapt", "4_finetune", "5_control", "6_evaluate"]


@pytest.mark.parametrize(
    ("arguments", "accuracy"),
    [
        (["data=mnist"], 0.85),
        (["data=fashion_mnist", "placement=after_activation"], 0.7),
        (["data=usps"], 0.8),
        (["data=tfds", "data.name=cmaterdb/bangla"], 0.5),
        (["data@baseline_data=mnist", "data=usps", "baseline_data.train_limit=5000"], 0.3),
    ],
)
def test_a_set_of_tensorflow_datasets(
    arguments: list[str], accuracy: float, real_data: Path, tmp_path: Path
) -> None:
    where = [f"data.dir={real_data / 'tfds'}", "data.train_limit=5000"]
    if "data@baseline_data=mnist" in arguments:
        where.append(f"baseline_data.dir={real_data / 'tfds'}")
    result = bnadapt(*arguments, *where, *QUICK, cwd=tmp_path)
    assert result.code == 0, result.errors
    assert list(result.children()) == ALL_STAGES
    assert result.parent.data.metrics["test_accuracy"] > accuracy
    assert result.children()["2_insert"].data.metrics["largest_output_change_relative"] < 1e-4


def test_a_folder_of_photographs_and_a_pretrained_network(real_data: Path, tmp_path: Path) -> None:
    network = real_data / "weights" / "squeezenet1.1_imagenet_notop" / "squeezenet1.1_imagenet_notop.keras"
    result = bnadapt(
        "data=folder",
        f"data.path={real_data / 'folders' / 'flowers_small'}",
        "data.batch_size=32",
        "model=file",
        f"model.path={network}",
        "baseline.epochs=3",
        "schedule.adapt.epochs=1",
        "schedule.finetune.epochs=1",
        "evaluation.control=false",
        cwd=tmp_path,
    )
    assert result.code == 0, result.errors
    assert "images of various sizes are resized to 227x227 pixels" in result.output
    assert "new head 'head' with 5 classes" in result.output
    assert result.parent.data.metrics["test_accuracy"] > 0.4
    assert result.children()["2_insert"].data.metrics["largest_output_change_relative"] < 1e-4
