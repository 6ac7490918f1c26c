"""Random networks: insertion keeps the function, the weights and the original; calibration keeps the function;
folding keeps the function and undoes insertion."""

import keras
import numpy as np
import pytest
from hypothesis import given
from networks_to_fold import apart, batch_norms
from random_graphs import NETWORKS, POSITIONS, few, grow, many
from zoo import outputs, same, scatter

from bnadapt.normalization.policy import BATCH_NORM, train_only
from bnadapt.normalization.proof import fingerprint
from bnadapt.normalization.statistics import calibrate
from bnadapt.surgery.fold import find_folds, fold_batch_norm
from bnadapt.surgery.graph import calls, layer_paths
from bnadapt.surgery.insert import insert_batch_norm
from bnadapt.surgery.kinds import TARGETS, fused_activation
from bnadapt.surgery.sites import find_sites


def check_insertion(steps, ends, two_inputs, position):
    model = grow(steps, ends, two_inputs)
    random = np.random.default_rng(0)
    data = [random.normal(0, 1, (8, 6, 6, 2)).astype("float32") for _ in model.inputs]
    data = data if two_inputs else data[0]
    expected, before = outputs(model, data), fingerprint(model)
    sites = find_sites(model, position)
    candidates = {call.path for call in calls(model) if isinstance(call.operation, TARGETS)}
    assert candidates == {site.layer for site in sites} | set(sites.passed_over)

    result = insert_batch_norm(model, sites)

    assert same(outputs(result, data), expected)
    assert fingerprint(model) == before
    names = {site.name for site in sites}
    carried = {path: value for path, value in fingerprint(result).items() if path.split("/")[-2] not in names}
    assert carried == before
    inserted = [call for call in calls(result) if call.operation.name in names]
    assert len(inserted) == len(sites)
    if position == "before_activation":
        sources = [call.node.input_tensors[0]._keras_history.operation for call in inserted]
        assert sorted(source.name for source in sources) == sorted(
            site.layer.split("/")[-1] for site in sites
        )
        assert not any(fused_activation(source) for source in sources)
    assert not {id(v) for v in result.variables} & {id(v) for v in model.variables}
    clone = keras.Model.from_config(result.get_config())
    clone.set_weights(result.get_weights())
    assert same(outputs(clone, data), expected)
    if sites:
        assert len(find_sites(result, position)) == 0
        chosen = [call.path for call in inserted]
        calibrate(result, [data], layers=chosen)
        for old, new in zip(expected, outputs(result, data), strict=True):
            assert np.abs(old - new).max() <= 1e-5 * max(float(old.std()), 1.0)
        assert {path.split("/")[-1] for path in train_only(result, BATCH_NORM)} == {"gamma", "beta"}


def check_folding(steps, ends, two_inputs, position):
    """In float64, so that the tolerance leaves no room for mistakes."""
    model = grow(steps, ends, two_inputs, "float64")
    random = np.random.default_rng(0)
    data = [random.normal(0, 1, (4, 6, 6, 2)) for _ in model.inputs]
    data = data if two_inputs else data[0]
    sites = find_sites(model, position)
    widened = insert_batch_norm(model, sites)

    inserted = [
        fold for fold in find_folds(widened) if fold.batch_norm.split("/")[-1] in {s.name for s in sites}
    ]
    original = fold_batch_norm(widened, inserted)
    assert len(inserted) == len(sites)
    assert [(p, type(each)) for p, each in layer_paths(original).items()] == [
        (p, type(each)) for p, each in layer_paths(model).items()
    ]
    assert fingerprint(original) == fingerprint(model)
    assert same(outputs(original, data), outputs(model, data))

    scatter(widened)
    before, expected = fingerprint(widened), outputs(widened, data)
    folds = find_folds(widened)
    folded = fold_batch_norm(widened, folds)
    assert set(batch_norms(folded)) == {path.split("/")[-1] for path in folds.staying}
    assert len(folds) + len(folds.staying) == len(
        {id(c.operation) for c in calls(widened) if isinstance(c.operation, keras.layers.BatchNormalization)}
    )
    assert apart(widened, folded, data) < 1e-9
    assert fingerprint(widened) == before
    assert same(outputs(widened, data), expected)
    assert not {id(v) for v in folded.variables} & {id(v) for v in widened.variables}
    assert len(find_folds(folded)) == 0


@few(25)
@given(*NETWORKS, POSITIONS)
def test_random_networks_with_inserted_batch_normalization(steps, ends, two_inputs, position):
    check_insertion(steps, ends, two_inputs, position)


@few(15)
@given(*NETWORKS, POSITIONS)
def test_random_networks_fold(steps, ends, two_inputs, position):
    check_folding(steps, ends, two_inputs, position)


@pytest.mark.slow
@many(200)
@given(*NETWORKS, POSITIONS)
def test_many_random_networks_with_inserted_batch_normalization(steps, ends, two_inputs, position):
    check_insertion(steps, ends, two_inputs, position)


@pytest.mark.slow
@many(200)
@given(*NETWORKS, POSITIONS)
def test_many_random_networks_fold(steps, ends, two_inputs, position):
    check_folding(steps, ends, two_inputs, position)
