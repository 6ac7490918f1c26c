"""Little and unusual data through all stages: few images, odd sizes, four channels, rows, 16 bits, rare classes."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image
from sklearn.datasets import load_iris

from bnadapt.checks.pipeline import contradictions, single_image_mistake
from bnadapt.config import (
    BaselineSettings,
    DataSettings,
    EvaluationSettings,
    ModelSettings,
    PlacementSettings,
    Settings,
    StageSettings,
)
from bnadapt.errors import StageError
from bnadapt.evaluation.scores import score_outputs
from bnadapt.pipeline import Outcome, run_pipeline
from bnadapt.report import look
from tests.warm import bnadapt

TINY_CNN = ModelSettings(kind="cnn", filters=[2, 3], dense=4)
PARTS = {"train": 6, "validation": 3, "test": 5}
MODES = {1: "L", 3: "RGB", 4: "RGBA"}

Run = Callable[..., Outcome]


def folder(root: Path, shape: tuple[int, int, int], parts: dict[str, int], classes: int = 2) -> DataSettings:
    """Noise of another brightness for each class, so many images of each in every part."""
    random = np.random.default_rng(0)
    for part, count in parts.items():
        for label in range(classes):
            place = root / "images" / part / f"class{label}"
            place.mkdir(parents=True)
            for number in range(count):
                image = np.clip(random.normal(60 + 80 * label, 30, shape), 0, 255).astype("uint8")
                image = image[..., 0] if shape[2] == 1 else image
                Image.fromarray(image, MODES[shape[2]]).save(place / f"{number}.png")
    return DataSettings(source="folder", path=str(root / "images"), batch_size=4)


def table(root: Path) -> DataSettings:
    """Iris, with a column that is the same everywhere."""
    rows, labels = load_iris(return_X_y=True)
    with (root / "iris.csv").open("w", newline="", encoding="utf-8") as file:
        written = csv.writer(file)
        written.writerow(["sepal length", "sepal width", "petal length", "petal width", "constant", "class"])
        written.writerows(
            [*row, 7, ("setosa", "versicolor", "virginica")[label]]
            for row, label in zip(rows, labels, strict=True)
        )
    return DataSettings(source="table", path=str(root / "iris.csv"), batch_size=16)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def pipeline(data: DataSettings, model: ModelSettings = TINY_CNN, **changes: Any) -> Outcome:
        values: dict[str, Any] = {
            "baseline": BaselineSettings(epochs=2),
            "schedule": {
                "adapt": StageSettings(train=["batch_norm"], epochs=1),
                "finetune": StageSettings(epochs=1),
            },
            "progress": "none",
        }
        return run_pipeline(Settings(data=data, model=model, **(values | changes)), tmp_path / "out")

    return pipeline


def moving(train: str) -> StageSettings:
    return StageSettings(train=[train], epochs=1, normalize="moving")


def report(directory: Path) -> str:
    return (directory / "out" / "report.md").read_text(encoding="utf-8")


def require_whole(outcome: Outcome, directory: Path) -> None:
    """Every stage ended with scores that are numbers, and the network that is kept loads in Keras and computes."""
    assert [each.name for each in outcome.results] == ["baseline", "insert", "adapt", "finetune", "control"]
    for each in outcome.results:
        assert each.validation is not None
        assert each.test is not None
        assert np.isfinite(
            [each.validation.loss, each.test.loss, each.test.accuracy, each.test.macro_f1]
        ).all()
    kept = keras.saving.load_model(directory / "out" / "best.keras")
    assert np.isfinite(np.asarray(kept(np.zeros((1, *kept.input_shape[1:]), "float32")))).all()
    assert "Missing, because it could not be drawn" not in report(directory)


@pytest.mark.fault(
    "odd: vector data, mixed precision, a constant column",
    "all stages with finite scores; the kept network loads in Keras and serves",
)
def test_rows_of_numbers_go_through_all_stages(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = run(
        table(tmp_path),
        ModelSettings(widths=[8], precision="mixed_float16"),
        baseline=BaselineSettings(epochs=6, learning_rate=0.01),
        placement=PlacementSettings(on_input=True),
    )
    require_whole(outcome, tmp_path)
    inserted = outcome.results[1]
    assert inserted.test is not None
    np.testing.assert_array_equal(inserted.test.predicted, outcome.results[0].test.predicted)  # type: ignore[union-attr]
    printed = capsys.readouterr().out
    assert "105 train, 15 validation, 30 test rows of 5 numbers, 3 classes" in printed
    text = report(tmp_path)
    for known in (
        "| size | 5 numbers |",
        "## Classes and rows",
        "| rows | 105 train, 15 validation, 30 test |",
    ):
        assert known in text, known
    assert "pixels" not in text
    assert not (tmp_path / "out" / "plots" / "changed_images.png").exists()
    policies = {
        layer.name: layer.dtype_policy.name
        for layer in keras.saving.load_model(tmp_path / "out" / "models" / "4_finetune.keras").layers
    }
    assert policies["normalization"] == policies["head"] == "float32"
    assert policies["dense1"] == policies["dense1_inserted_bn"] == "mixed_float16"
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    stage = client.search_runs(["1"], "tags.stage = '4_finetune'")[0]
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    try:
        served = mlflow.pyfunc.load_model(f"models:/{stage.outputs.model_outputs[0].model_id}")
        assert served.metadata.get_input_schema().inputs[0].shape == (-1, 5)
        assert np.asarray(served.predict(served.input_example)).shape == (1, 3)
    finally:
        mlflow.set_tracking_uri(None)


@pytest.mark.fault(
    "odd: four channels, 7x5 pixels, batches of one, mixed_bfloat16",
    "all stages with finite scores; the kept network loads in Keras",
)
@pytest.mark.slow
def test_images_with_four_channels_of_an_odd_size_in_steps_of_one_image(run: Run, tmp_path: Path) -> None:
    data = folder(tmp_path, (7, 5, 4), {"train": 3, "validation": 1, "test": 2})
    keras.Sequential(
        [
            keras.Input((7, 5, 4)),
            keras.layers.Conv2D(3, 3, activation="relu", name="conv"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    ).save(tmp_path / "four.keras")
    data.batch_size = 1
    outcome = run(
        data,
        ModelSettings(kind="file", path=str(tmp_path / "four.keras"), precision="mixed_bfloat16"),
        schedule={"adapt": moving("batch_norm"), "finetune": moving("all")},
        # The last batch of the validation images has one, as has each of the test images.
        evaluation=EvaluationSettings(batch_size=1),
    )
    require_whole(outcome, tmp_path)
    assert "6 train, 2 validation, 4 test" in report(tmp_path)
    assert "| size | 7x5x4 |" in report(tmp_path)
    assert [each.steps for each in outcome.results] == [0, 0, 6, 6, 12]


@pytest.mark.fault(
    "odd: 8x8, 1x1, 1x17 and 1000x700 pixels, one and three channels, one image of each class",
    "all stages with finite scores; the kept network loads in Keras",
)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "parts", "classes"),
    [
        ((8, 8, 1), {"train": 1, "validation": 1, "test": 1}, 2),
        ((8, 8, 3), {"train": 1, "validation": 1, "test": 2}, 3),
        ((1, 1, 1), {"train": 5, "validation": 1, "test": 3}, 2),
        ((1, 17, 3), PARTS, 2),
        ((700, 1000, 3), {"train": 4, "validation": 2, "test": 2}, 2),
    ],
    ids=["two images", "one of each class", "one pixel", "one row of pixels", "large"],
)
def test_few_images_and_odd_sizes(
    shape: tuple[int, int, int], parts: dict[str, int], classes: int, run: Run, tmp_path: Path
) -> None:
    data = folder(tmp_path, shape, parts, classes)
    require_whole(run(data, placement=PlacementSettings(on_input=True)), tmp_path)


@pytest.mark.fault(
    "small: last batches of one image in every stage",
    "all stages with finite scores; the kept network loads in Keras",
)
@pytest.mark.slow
def test_the_last_batches_may_have_one_image(run: Run, tmp_path: Path) -> None:
    data = folder(tmp_path, (8, 8, 1), PARTS)
    data.batch_size, data.labels_per_class = 5, 3  # 12 training images for the statistics, 6 with labels
    outcome = run(data, ModelSettings(widths=[4]), evaluation=EvaluationSettings(batch_size=5))
    require_whole(outcome, tmp_path)
    assert [each.steps for each in outcome.results] == [2, 0, 1, 1, 2]


@pytest.mark.fault(
    "small: one training image",
    "refused where batches are normalized, with what would work",
)
@pytest.mark.slow
def test_one_training_image_is_refused_where_batches_are_normalized(run: Run, tmp_path: Path) -> None:
    data = folder(tmp_path, (8, 8, 1), PARTS)
    data.train_limit = 1
    with pytest.raises(
        StageError,
        match=r"there is one training image: .* take more \(data.train_limit\), or schedule.adapt.normalize=moving "
        r"schedule.finetune.normalize=moving$",
    ):
        run(data)


@pytest.mark.parametrize(
    ("images", "train", "normalize", "refused"),
    [
        (1, ["all"], "batch", True),
        (1, ["upper 50%"], "batch", True),
        (1, ["head", "biases"], "batch", False),
        (1, ["2 per channel"], "batch", False),
        (1, ["statistics"], "batch", False),
        (1, ["all"], "moving", False),
        (2, ["all"], "batch", False),
    ],
)
def test_only_what_normalizes_batches_needs_more_than_one_image(
    images: int, train: list[str], normalize: str, refused: bool
) -> None:
    how = StageSettings(train=train, normalize=normalize)
    mistake = single_image_mistake(Settings(schedule={"adapt": how}), images)
    assert (mistake is not None) == refused
    settings = Settings(schedule={"adapt": how}, data=DataSettings(name="digits", batch_size=images))
    found = [each for each in contradictions(settings) if "batch_size=1" in each]
    assert found == (
        [
            "data.batch_size=1: batch normalization on batch statistics needs more than one image per step; take "
            "data.batch_size=16 or more, or schedule.adapt.normalize=moving"
        ]
        if refused
        else []
    )


@pytest.mark.fault(
    "odd: classes 1 to 1000",
    "seen in the report; balanced weights find more of it",
)
@pytest.mark.slow
def test_a_rare_class_is_seen_in_the_report(tmp_path: Path) -> None:
    """One row of a thousand is of the second class; with weights it is found again."""
    random = np.random.default_rng(0)
    for part, counts in (("train", (2000, 2)), ("validation", (300, 3)), ("test", (400, 4))):
        with (tmp_path / f"{part}.csv").open("w", newline="") as file:
            written = csv.writer(file)
            written.writerow(["a", "b", "class"])
            for name, count, centre in zip(("common", "rare"), counts, (0.0, 1.5), strict=True):
                written.writerows([*row, name] for row in random.normal(centre, 0.7, (count, 2)))
    recalls = {}
    for weights in ("none", "balanced"):
        done = bnadapt(
            "data=table", f"data.path={tmp_path}", f"data.class_weights={weights}", "model.widths=[8]",
            "baseline.epochs=6", "baseline.learning_rate=0.01", "schedule.adapt.epochs=1",
            "schedule.finetune.epochs=2", cwd=tmp_path,
        )  # fmt: skip
        assert done.code == 0, done.errors
        (page,) = (each for each in tmp_path.glob("outputs/*/*/report.md") if done.run_id in each.read_text())
        text = page.read_text(encoding="utf-8")
        assert "macro F1" in text
        (line,) = (each for each in text.splitlines() if each.startswith("| rare | 4 |"))
        recalls[weights] = float(line.rstrip(" |").rpartition("|")[2].removesuffix("%"))
    assert recalls["balanced"] > recalls["none"]


@pytest.mark.fault(
    "data: a thousand classes in the report",
    "the table names the worst twenty (asserted of the table alone)",
)
def test_the_table_of_many_classes_begins_with_those_that_are_never_right() -> None:
    scores = look_of(np.repeat(np.arange(1000), 2), wrong=[7, 900])
    (found,) = look.class_table(scores)
    assert found.title == "20 classes with the lowest recall of finetune"
    assert len(found.rows) == look.CLASSES_LISTED
    assert [row[0] for row in found.rows[:2]] == ["类 7", "类 900"]
    assert found.rows[0][1:] == ("2", "0.00 %")


def look_of(labels: np.ndarray, wrong: list[int]) -> look.Look:
    outputs = np.eye(1000)[np.where(np.isin(labels, wrong), labels - 1, labels)]
    names = [f"类 {number}" for number in range(1000)]
    return look.Look("finetune", "baseline", names, labels, score_outputs(outputs, labels, from_logits=False))
