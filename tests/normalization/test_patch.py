"""Patches: the bits that come back, what is refused, and how little they weigh."""

import errno
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from networks import cnn, images, plain_cnn, residual, scatter

from bnadapt.errors import ModelError, StorageError, SurgeryError
from bnadapt.normalization.patch import apply_patch, save_patch
from bnadapt.normalization.patch_file import MAGIC, read_patch, write_patch
from bnadapt.normalization.policy import BATCH_NORM, HEAD, train_only
from bnadapt.normalization.proof import fingerprint
from bnadapt.normalization.structure import structure_hash
from bnadapt.normalization.switches import batch_norms, switch_batch_norm
from bnadapt.normalization.table import describe_policy
from bnadapt.surgery.head import head_layers, replace_head
from bnadapt.surgery.insert import insert_batch_norm
from bnadapt.surgery.rebuild import rebuild
from bnadapt.surgery.sites import find_sites
from bnadapt.surgery.tree import weights_by_path

DATA = images(7)


def adapt(model: keras.Model, *weights: str) -> keras.Model:
    """Change batch normalization, the head, and the other weights that are named; returns the model."""
    scatter(model)
    values = weights_by_path(model)
    for path in [f"{head}/kernel" for head in head_layers(model)] + list(weights):
        values[path].assign(np.random.default_rng(4).normal(0, 1, values[path].shape))
    return model


def same_bits(first: keras.Model, second: keras.Model, data=DATA) -> None:
    assert fingerprint(first) == fingerprint(second)
    assert structure_hash(first) == structure_hash(second)
    for one, other in zip(
        *(keras.tree.flatten(model(data, training=False)) for model in (first, second)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def inserted(model: keras.Model, position="before_activation", **settings) -> keras.Model:
    result = insert_batch_norm(model, find_sites(model, position), **settings)
    scatter(result)
    return result


@pytest.mark.parametrize("position", ["before_activation", "after_activation"])
def test_a_base_without_batch_normalization_becomes_the_adapted_network(tmp_path, position):
    base = plain_cnn()
    before = fingerprint(base)
    adapted = adapt(inserted(base, position, epsilon=0.003, momentum=0.8))
    save_patch(tmp_path / "a.patch", base, adapted)
    result = apply_patch(base, tmp_path / "a.patch")
    same_bits(result, adapted)
    assert {(each.epsilon, each.momentum) for each in batch_norms(result).values()} == {(0.003, 0.8)}
    assert fingerprint(base) == before
    assert not {id(each) for each in base.variables} & {id(each) for each in result.variables}
    assert not (set(find_sites(base, position)) and base.get_layer("conv") in result.layers)


def test_a_base_with_batch_normalization_serves_many_patches(tmp_path):
    base = residual()
    first, second = rebuild(base), adapt(rebuild(base))
    first.get_layer("bn2").moving_mean.assign([1, 2, 3, 4])
    wider, _ = replace_head(base, 5, name="classes")
    third = adapt(wider)
    for number, adapted in enumerate((first, second, third)):
        save_patch(tmp_path / f"{number}.patch", base, adapted)
    for number, adapted in ((2, third), (0, first), (1, second), (2, third)):
        same_bits(apply_patch(base, tmp_path / f"{number}.patch"), adapted)
    same_bits(apply_patch(first, tmp_path / "1.patch"), second)  # its own statistics do not matter
    with pytest.raises(SurgeryError, match="belongs to another base network: the weights are the same, but"):
        apply_patch(third, tmp_path / "0.patch")


def test_a_head_put_behind_pooled_features(tmp_path):
    base = keras.Sequential([keras.Input((8, 8, 2)), layers.Conv2D(4, 3, activation="relu", name="conv")])
    adapted, _ = replace_head(base, 4)
    adapted = adapt(inserted(adapted))
    save_patch(tmp_path / "a.patch", base, adapted)
    same_bits(apply_patch(base, tmp_path / "a.patch"), adapted)


def test_some_sites_shared_layers_inputs_and_nested_models(tmp_path):
    keras.utils.set_random_seed(1)
    shared = layers.Dense(4, activation="relu", name="shared")
    j = keras.Input((4,))
    block = keras.Model(j, layers.Dense(4, activation="tanh", name="d")(j) + j, name="block")
    i = keras.Input((4,), name="pixels")
    x = block(shared(shared(layers.Dense(4, name="free")(i))))
    base = keras.Model(i, [layers.Dense(2, name="out")(x), layers.Dense(3, name="aux")(x)])
    data = np.random.default_rng(0).normal(0, 1, (5, 4)).astype("float32")
    cases = [
        find_sites(base, exclude="free"),
        find_sites(base, "after_activation", shared=True, on_input=True),
        find_sites(base, None, on_input=True),
        [*find_sites(base, include="free"), *find_sites(base, "after_activation", include="block/d")],
    ]
    for number, sites in enumerate(cases):
        adapted = insert_batch_norm(base, sites)
        assert len(batch_norms(adapted)) == len(sites) > 0
        scatter(adapted)
        for name in ("out", "aux"):
            adapted.get_layer(name).kernel.assign(adapted.get_layer(name).kernel * 1.5)
        save_patch(tmp_path / f"{number}.patch", base, adapted)
        same_bits(apply_patch(base, tmp_path / f"{number}.patch"), adapted, data)


def test_calls_of_a_shared_layer_keep_their_own_batch_normalization(tmp_path):
    shared = layers.Dense(5, activation="relu", name="shared")
    a, b = keras.Input((5,), name="a"), keras.Input((5,), name="b")
    x = layers.Concatenate()([shared(a), shared(shared(b))])  # batch normalization changes their depths
    base = keras.Model([a, b], layers.Dense(2, name="out")(x))
    adapted = inserted(base)
    for path, factor in zip(batch_norms(adapted), (0.5, 1.0, 3.0), strict=True):
        layer = batch_norms(adapted)[path]
        layer.gamma.assign(layer.gamma * factor)
    data = [np.ones((3, 5), "float32"), np.full((3, 5), -1.0, "float32")]
    save_patch(tmp_path / "a.patch", base, adapted)
    same_bits(apply_patch(base, tmp_path / "a.patch"), adapted, data)
    adapted.save(tmp_path / "adapted.keras")
    save_patch(tmp_path / "b.patch", base, keras.models.load_model(tmp_path / "adapted.keras"))
    same_bits(apply_patch(base, tmp_path / "b.patch"), adapted, data)


def test_masks_mixed_precision_and_wrapped_batch_normalization(tmp_path):
    words = np.array([[1, 2, 0], [3, 4, 5]], "int32")
    i = keras.Input((3,), dtype="int32")
    x = layers.Embedding(7, 4, mask_zero=True, name="embed")(i)
    x = layers.TimeDistributed(layers.BatchNormalization(name="inner"), name="steps")(x)
    x = layers.Dense(4, activation="relu", dtype="mixed_bfloat16", name="d")(x)
    base = keras.Model(i, layers.Dense(2, dtype="bfloat16", name="out")(layers.LSTM(3, name="lstm")(x)))
    adapted = inserted(base)
    head = adapted.get_layer("out")
    head.kernel.assign(head.kernel * 3)
    save_patch(tmp_path / "a.patch", base, adapted)
    result = apply_patch(base, tmp_path / "a.patch")
    same_bits(result, adapted, words)
    assert result.get_layer("out").kernel.dtype == "bfloat16"


def test_another_weight_that_differs_is_named_and_nothing_is_written(tmp_path):
    base = plain_cnn()
    adapted = adapt(inserted(base), "hidden/kernel", "hidden/bias")
    with pytest.raises(
        SurgeryError,
        match=r"2 weights of 'sequential.*' that are neither batch normalization's nor the head's differ from "
        r"those of the base: hidden/kernel, hidden/bias\. A patch",
    ):
        save_patch(tmp_path / "a.patch", base, adapted)
    assert list(tmp_path.iterdir()) == []


def test_a_network_built_otherwise_is_refused(tmp_path):
    base = plain_cnn()
    other = keras.models.clone_model(base)
    other.set_weights(base.get_weights())
    other.get_layer("conv").activation = keras.activations.gelu
    with pytest.raises(
        SurgeryError, match="with batch normalization inserted and its head replaced: 'Conv2D conv"
    ):
        save_patch(tmp_path / "a.patch", base, other)
    i = keras.Input((8, 8, 2))
    x = layers.BatchNormalization(name="late")(layers.MaxPooling2D()(base.get_layer("conv")(i)))
    strange = keras.Model(i, layers.Dense(3, name="out")(layers.Flatten()(x)))
    with pytest.raises(SurgeryError, match="'late' follows no layer that a site can name"):
        save_patch(tmp_path / "a.patch", base, strange)
    with pytest.raises(SurgeryError, match="save the whole network"):
        save_patch(tmp_path / "a.patch", base, residual())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("patch") / "a.patch"
    base = plain_cnn()
    adapted = inserted(base)
    save_patch(path, base, adapted)
    return path, base, adapted


def test_another_base_is_refused_with_the_weights_that_differ(made):
    path, base, _ = made
    other = rebuild(base)
    other.get_layer("conv").kernel.assign_add(keras.ops.ones((3, 3, 2, 4)) * 1e-6)
    with pytest.raises(
        SurgeryError, match=r"belongs to another base network: 1 weights differ \(conv/kernel\)"
    ):
        apply_patch(other, path)
    with pytest.raises(
        SurgeryError, match=r"are missing \(conv/kernel, conv/bias, conv2/kernel, .* and 1 more\)"
    ):
        apply_patch(residual(), path)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (
            lambda model: setattr(model.get_layer("conv2"), "activation", keras.activations.sigmoid),
            "Conv2D conv2",
        ),
        (lambda model: setattr(model.get_layer("conv2"), "padding", "same"), "Conv2D conv2"),
        (
            lambda model: setattr(model.get_layer("flatten_x"), "dtype_policy", keras.DTypePolicy("float16")),
            "Flatten",
        ),
    ],
)
def test_a_base_with_the_same_weights_and_other_settings_is_refused(made, change, where):
    path, base, _ = made
    other = rebuild(base)
    flat = next(layer for layer in other.layers if isinstance(layer, layers.Flatten))
    flat.name = "flatten_x"  # names of layers without weights do not matter
    apply_patch(other, path)
    change(other)
    with pytest.raises(
        SurgeryError,
        match="the weights are the same, but the layers or their settings are not: line [0-9]+ of [0-9]+, here "
        f"'{where} .*', was another$",
    ):
        apply_patch(other, path)


def test_keras_versions_are_named_where_they_differ(made, tmp_path):
    path, base, _ = made
    header, weights = read_patch(path, 1 << 20)
    other = rebuild(base)
    other.get_layer("conv2").padding = "same"
    write_patch(tmp_path / "b.patch", {**header, "keras": "3.0.0"}, weights)
    apply_patch(base, tmp_path / "b.patch")
    with pytest.raises(
        SurgeryError, match=rf"\(it was made with Keras 3\.0\.0, this is {keras.__version__}\)$"
    ):
        apply_patch(other, tmp_path / "b.patch")


@pytest.mark.parametrize("kind", [np.array, np.float32, tf.constant])
def test_a_base_with_another_constant_is_refused(tmp_path, kind):
    def base(factor: float) -> keras.Model:
        keras.utils.set_random_seed(1)
        i = keras.Input((4,))
        x = layers.Dense(4, activation="relu", name="d")(ops.multiply(i, kind(factor)))
        return keras.Model(i, layers.Dense(2, name="out")(x))

    save_patch(tmp_path / "a.patch", base(2.0), inserted(base(2.0)))
    apply_patch(base(2.0), tmp_path / "a.patch")
    with pytest.raises(SurgeryError, match=r"settings are not: line 2 of 5, here 'Multiply .*', was another"):
        apply_patch(base(3.0), tmp_path / "a.patch")
    with pytest.raises(SurgeryError, match="head replaced: 'Multiply"):
        save_patch(tmp_path / "b.patch", base(3.0), inserted(base(2.0)))


def with_digest(rest: bytes) -> bytes:
    import hashlib

    return MAGIC + hashlib.sha256(rest).digest() + rest


BROKEN = {
    "empty": (lambda raw: b"", "is no patch: patches are made by save_patch"),
    "foreign": (lambda raw: b"PK\x03\x04" + raw, "is no patch: patches are made by save_patch"),
    "newer": (lambda raw: raw.replace(b"patch 1\n", b"patch 2\n", 1), "is a patch of version 2, and this bnadapt"),
    "cut": (lambda raw: raw[:-1], "is damaged: its checksum is wrong"),
    "longer": (lambda raw: raw + b"0", "is damaged: its checksum is wrong"),
    "a bit": (lambda raw: raw[:-50] + bytes([raw[-50] ^ 1]) + raw[-49:], "is damaged: its checksum is wrong"),
    "huge header": (lambda raw: with_digest(b"\xff" * 9), "is damaged: ValueError a header of"),
    "no JSON": (lambda raw: with_digest((3).to_bytes(8, "little") + b"abc"), "is damaged: JSONDecodeError"),
    "no header": (lambda raw: with_digest((2).to_bytes(8, "little") + b"[]"), "is damaged: TypeError"),
    "no weights": (lambda raw: with_digest((2).to_bytes(8, "little") + b"{}"), "is damaged: KeyError 'weights'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_damaged_or_foreign_file_is_refused(made, tmp_path, kind):
    path, base, _ = made
    change, message = BROKEN[kind]
    (tmp_path / "b.patch").write_bytes(change(path.read_bytes()))
    with pytest.raises(ModelError, match=message):
        apply_patch(base, tmp_path / "b.patch")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"shape": [1 << 40, 1 << 40], "dtype": "float32"}, "is not all there"),
        ({"shape": [-1], "dtype": "float32"}, "is not all there"),
        ({"shape": [2], "dtype": "object"}, "values of type object"),
        ({"shape": [1], "dtype": "float32"}, "4 bytes more than the header tells of"),
        ({"shape": ["x"], "dtype": "float32"}, "is damaged: ValueError"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, entry, message):
    text = json.dumps({"weights": [{"path": "a", **entry}]}).encode()
    (tmp_path / "b.patch").write_bytes(with_digest(len(text).to_bytes(8, "little") + text + b"\0" * 8))
    with pytest.raises(ModelError, match=message):
        read_patch(tmp_path / "b.patch", 10_000)


def test_files_that_cannot_be_read_are_said(made, tmp_path):
    path, base, _ = made
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        apply_patch(base, tmp_path / "none.patch")
    with pytest.raises(ModelError, match="and a patch of this network can have 100 at most"):
        read_patch(path, 100)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header, weights: weights.pop("out/bias"), "it holds other weights: out/bias"),
        (
            lambda header, weights: weights.update({"conv/kernel": weights["out/bias"]}),
            "other weights: conv/kernel",
        ),
        (
            lambda header, weights: weights.update({"out/bias": np.zeros(2, "float32")}),
            r"'out/bias' is float32 \(2,\), not float32 \(3,\)",
        ),
        (lambda header, weights: weights.update({"out/bias": np.zeros(3)}), "'out/bias' is float64"),
        (lambda header, weights: header["sites"].pop(), "does not fit the network"),
        (lambda header, weights: header["sites"][0].update(layer="../conv"), "does not fit the network"),
        (lambda header, weights: header["sites"][0].update(name="a/b"), "does not fit the network"),
        (lambda header, weights: header["sites"][0].update(other=1), "does not fit the network"),
        (lambda header, weights: header.update(settings={"x": {}}), "does not fit the network"),
    ],
)
def test_contents_that_do_not_fit_the_network_are_refused(made, tmp_path, change, message):
    path, base, _ = made
    header, weights = read_patch(path, 1 << 20)
    change(header, weights)
    write_patch(tmp_path / "b.patch", header, weights)
    before = fingerprint(base)
    with pytest.raises(SurgeryError, match=message):
        apply_patch(base, tmp_path / "b.patch")
    assert fingerprint(base) == before


@pytest.mark.parametrize("key", ["head", "sites", "settings", "base", "structure", "lines", "keras"])
def test_a_header_that_lacks_something_is_refused(made, tmp_path, key):
    path, base, _ = made
    header, weights = read_patch(path, 1 << 20)
    write_patch(tmp_path / "b.patch", {**header, key: 3}, weights)
    with pytest.raises(ModelError, match=f"is damaged: its header has no '{key}' as patches have"):
        apply_patch(base, tmp_path / "b.patch")


def test_a_folder_that_is_not_there_is_named(made, tmp_path):
    _, base, adapted = made
    path = tmp_path / "missing" / "a.patch"
    with pytest.raises(ModelError) as raised:
        save_patch(path, base, adapted)
    assert str(raised.value) == (
        f"the patch {path} cannot be written: the folder '{path.parent}' does not exist, make it"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_patch_and_no_draft(made, tmp_path, monkeypatch):
    path, base, adapted = made
    target = tmp_path / "a.patch"
    target.write_bytes(path.read_bytes())

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="cannot be written: No space left on device"):
        save_patch(target, base, adapted)
    monkeypatch.undo()
    assert [each.name for each in tmp_path.iterdir()] == ["a.patch"]
    same_bits(apply_patch(base, target), adapted)


def test_flags_and_switches_are_not_stored(made):
    path, base, adapted = made
    switch_batch_norm(adapted, statistics="stay", normalize="batch")
    save_patch(path, base, adapted)
    rows = describe_policy(apply_patch(base, path))
    assert {row.statistics for row in rows if row.statistics} == {"move"}
    switch_batch_norm(adapted, statistics="move", normalize="batch")


def test_a_patch_of_a_large_network_has_kilobytes(tmp_path):
    keras.utils.set_random_seed(0)
    base = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3), pooling="avg")
    adapted, _ = replace_head(base, 10, append=True)
    adapted = inserted(adapted)
    save_patch(tmp_path / "a.patch", base, adapted)
    stored = 4224 * 4 * 4 + 512 * 10 * 4 + 10 * 4
    assert stored < (tmp_path / "a.patch").stat().st_size < stored + 12_000
    assert base.count_params() * 4 > 500 * stored
    same_bits(apply_patch(base, tmp_path / "a.patch"), adapted, np.ones((1, 32, 32, 3), "float32"))


OTHER_PROCESS = """
import sys
import keras, numpy as np
from bnadapt.normalization.patch import apply_patch
base = keras.models.load_model("base.keras")
for name in sys.argv[1:]:
    np.save(f"{name}.npy", apply_patch(base, f"{name}.patch")(np.load("images.npy"), training=False))
"""


@pytest.mark.slow
def test_another_process_gets_the_same_outputs_from_the_base_file(tmp_path):
    base = plain_cnn()
    base.save(tmp_path / "base.keras")
    np.save(tmp_path / "images.npy", DATA)
    wider, _ = replace_head(base, 5)
    networks = {"one": cnn(), "two": adapt(inserted(wider, "after_activation"))}
    train_only(networks["one"], [BATCH_NORM, HEAD])
    networks["one"].compile(keras.optimizers.Adam(0.05), "mse")
    networks["one"].fit(images(20), np.ones((20, 3)), verbose=0)
    for name, adapted in networks.items():
        save_patch(tmp_path / f"{name}.patch", base, adapted)
    command = [sys.executable, "-c", OTHER_PROCESS, *networks]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, adapted in networks.items():
        outputs = ops.convert_to_numpy(adapted(DATA, training=False))
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), outputs)
