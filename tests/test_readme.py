"""What the README shows as Python works as it stands."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

IMAGES = np.random.default_rng(0).normal(0.2, 1, (64, 8, 8, 1)).astype("float32")


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    stem = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(4, 3, activation="relu", name="conv0")], name="stem"
    )
    inputs = keras.Input((8, 8, 1))
    features = layers.Conv2D(6, 3, activation="relu", name="conv1")(stem(inputs))
    features = layers.Conv2D(6, 3, activation="relu", name="conv2")(features)
    features = layers.GlobalAveragePooling2D()(features)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(features))


def test_the_library_example_does_what_its_comments_say(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", (project / "README.md").read_text("utf-8"), re.DOTALL)
        if "import bnadapt" in block
    ]
    monkeypatch.chdir(tmp_path)
    names = {"model": network(), "images": IMAGES, "target_images": 2 * IMAGES + 1}
    exec(example, names)
    expected = names["model"].predict(IMAGES, verbose=0)
    for name in ("adapted", "again"):
        np.testing.assert_array_equal(names[name].predict(IMAGES, verbose=0), expected)
    np.testing.assert_allclose(names["deployed"].predict(IMAGES, verbose=0), expected, atol=1e-5)
    assert not [each for each in names["deployed"].layers if isinstance(each, layers.BatchNormalization)]
    np.testing.assert_allclose(np.sum(names["probabilities"], axis=-1), 1, rtol=1e-5)
    assert (tmp_path / "target.patch").stat().st_size < 10_000
    printed = capsys.readouterr().out
    for part in ("2 sites", "excluded by 'stem/.*'", "gamma, beta", "2 of 2 batch normalization layers fold"):
        assert part in printed
