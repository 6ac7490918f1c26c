"""Every architecture of ``keras.applications``, both placements, against what is known about each.

What is known lies in ``golden/``: for each architecture its sites, and how many layers are passed over for
which reason. After a change that is meant, write the files anew and read the difference:

    BNADAPT_WRITE_GOLDEN=1 python -m pytest tests/surgery/test_applications.py -m "slow or not slow"
"""

import gc
import os
import re
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest
from elsewhere import Elsewhere
from zoo import outputs, pixels, same

from bnadapt.normalization.proof import fingerprint
from bnadapt.surgery.graph import calls
from bnadapt.surgery.insert import insert_batch_norm
from bnadapt.surgery.sites import Sites, find_sites
from bnadapt.surgery.tree import layer_tree

GOLDEN = Path(__file__).parent / "golden"
POSITIONS = ("before_activation", "after_activation")
ARCHITECTURES = [name for name in dir(keras.applications) if name[0].isupper()]
QUICK = ("MobileNetV3Small",)
SIZES = {
    "InceptionV3": 75,
    "InceptionResNetV2": 75,
    "Xception": 71,
}


def build(name):
    """The network with logits of ten classes, and statistics that batch normalization cannot ignore."""
    keras.utils.set_random_seed(4)
    size = SIZES.get(name, 32)
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None)
    random = np.random.default_rng(6)
    for weight in model.weights:
        if weight.name in ("gamma", "moving_variance"):
            weight.assign(random.uniform(0.7, 1.3, weight.shape))
        if weight.name in ("beta", "moving_mean", "bias"):
            weight.assign(random.normal(0, 0.1, weight.shape))
    return model, pixels(size, size, 3)


def hashes(model):
    found = fingerprint(model)
    assert len(found) == len(model.weights)
    return found


def described(model):
    """The content of a golden file."""
    before, after = (find_sites(model, position) for position in POSITIONS)
    lines = ["before_activation", *described_sites(before)]
    if described_sites(after) == described_sites(before):
        return "\n".join(["before_activation and after_activation", *lines[1:], ""])
    return "\n".join([*lines, "after_activation", *described_sites(after), ""])


def described_sites(sites: Sites):
    kinds = Counter(
        re.sub(r"^'.*' normalizes", "a layer normalizes", why) for why in sites.passed_over.values()
    )
    calls_of = [",".join(map(str, site.calls)) for site in sites]
    return [
        *(
            f"  {s.layer} {s.layer_type} channels={s.channels} axis={s.axis} calls={numbers} {s.name}"
            for s, numbers in zip(sites, calls_of, strict=True)
        ),
        *(f"  {count} no: {kind}" for kind, count in sorted(kinds.items())),
    ]


def golden(name, text):
    """What the file says; written first where that was asked for."""
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("BNADAPT_WRITE_GOLDEN"):
        file.write_text(text)
    return file.read_text()


def test_every_architecture_has_its_file():
    assert sorted(file.stem for file in GOLDEN.glob("*.txt")) == sorted(ARCHITECTURES)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    with Elsewhere(tmp_path_factory.mktemp("elsewhere")) as process:
        yield process


@pytest.fixture
def _memory():
    """The largest of them have 350 million weights: give back what the test held."""
    yield
    keras.backend.clear_session(free_memory=True)
    gc.collect()


@pytest.mark.usefixtures("_memory")
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ARCHITECTURES]
)
def test_architecture(name, elsewhere):
    model, images = build(name)
    text = described(model)
    assert text == golden(name, text)
    before, expected = hashes(model), outputs(model, images)
    assert np.isfinite(expected[0]).all()
    assert expected[0].std() > 0
    placements = [find_sites(model, position) for position in POSITIONS]
    # without a site, both are the same copy
    for sites in placements if placements[0] else placements[:1]:
        check_insertion(model, sites, images, expected, before, elsewhere)
        gc.collect()


def check_insertion(model, sites, images, expected, before, elsewhere):
    names = [layer.name for layer in model.layers]
    result = insert_batch_norm(model, sites)
    assert same(outputs(result, images), expected)
    # exactly the batch normalization that was asked for
    inserted = {site.name for site in sites}
    found = [call for call in calls(result) if call.operation.name in inserted]
    assert len(found) == len(sites)
    assert all(type(call.operation) is keras.layers.BatchNormalization for call in found)
    # weights, names and structure
    after = hashes(result)
    assert {path: value for path, value in after.items() if path.split("/")[-2] not in inserted} == before
    assert len(after) == len(before) + 4 * len(sites)
    split = {f"{site.layer}_inserted_activation" for site in sites}
    assert [each.name for each in result.layers if each.name not in inserted | split - set(names)] == names
    assert (result.name, type(result)) == (model.name, type(model))
    assert [tensor.name for tensor in result.inputs] == [tensor.name for tensor in model.inputs]
    assert result.output_names == model.output_names
    keras.tree.assert_same_structure(result.input, model.input)
    keras.tree.assert_same_structure(result.output, model.output)
    # the original
    assert hashes(model) == before
    assert [layer.name for layer in model.layers] == names
    assert not {id(each) for each in result.variables} & {id(each) for each in model.variables}
    assert not {id(entry.layer) for entry in layer_tree(result)} & {id(e.layer) for e in layer_tree(model)}
    assert same(elsewhere.outputs(result, images), expected)
