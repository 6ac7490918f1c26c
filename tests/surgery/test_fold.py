"""What folds, what stays and why; insertion and folding undo each other."""

import keras
import numpy as np
import pytest
from keras import layers
from networks_to_fold import apart, batch_norms, kept, scattered
from zoo import ZOO, outputs, pixels, same

from bnadapt.errors import SurgeryError
from bnadapt.normalization.proof import fingerprint
from bnadapt.normalization.statistics import calibrate
from bnadapt.surgery.fold import Fold, Folds, find_folds, fold_batch_norm
from bnadapt.surgery.graph import layer_paths
from bnadapt.surgery.insert import insert_batch_norm
from bnadapt.surgery.rebuild import rebuild
from bnadapt.surgery.sites import find_sites

STAYS = {}


def stays(reason, name="bn"):
    """Register a network of which one batch normalization stays, with a part of the reason."""

    def register(build):
        STAYS[build.__name__] = (build, name, reason)
        return build

    return register


def bn(**settings):
    return layers.BatchNormalization(name="bn", **settings)


@stays("the output of 'd' also goes to 'add'")
def several_consumers():
    i = keras.Input((4,))
    x = layers.Dense(4, name="d")(i)
    return keras.Model(i, layers.Add(name="add")([bn()(x), x]))


@stays("the output of 'd' is also an output of its model")
def output_as_well():
    i = keras.Input((4,))
    x = layers.Dense(4, name="d")(i)
    return keras.Model(i, [x, layers.ReLU()(bn()(x))])


@stays("the output of 'd' also goes to 'd'")
def used_again_by_the_layer_itself():
    d = layers.Dense(4, name="d")
    i = keras.Input((4,))
    x = d(i)
    return keras.Model(i, layers.Add()([layers.ReLU()(bn()(x)), d(x)]))


@stays("not backward: it follows Add 'add', which is no linear layer; not forward: it goes to ReLU 're_lu'")
def behind_a_sum():
    i = keras.Input((4,))
    x = layers.Add(name="add")([layers.Dense(4)(i), i])
    return keras.Model(i, layers.Dense(2)(layers.ReLU(name="re_lu")(bn()(x))))


@stays("it goes to Concatenate 'joined', together with other values")
def before_concatenation():
    i = keras.Input((4,))
    return keras.Model(i, layers.Dense(2)(layers.Concatenate(name="joined")([bn()(layers.ReLU()(i)), i])))


@stays("it follows the activation of 'd'; not forward: 'bn' is an output of its model")
def output_of_an_activation():
    i = keras.Input((4,))
    return keras.Model(i, bn()(layers.Dense(4, activation="relu", name="d")(i)))


@stays("not forward: 'dropout' is an output of its model")
def output_behind_dropout():
    i = keras.Input((4,))
    return keras.Model(i, layers.Dropout(0.1, name="dropout")(bn()(layers.ReLU()(i))))


@stays("it follows 1 of 2 calls of 'shared'; not forward: it goes to 1 of 2 calls of 'shared'")
def some_calls_of_a_shared_layer():
    shared = layers.Dense(4, name="shared")
    i = keras.Input((4,))
    return keras.Model(i, layers.ReLU()(shared(bn()(shared(i)))))


@stays("its calls follow different layers")
def different_layers():
    both = bn()
    i = keras.Input((4,))
    x = layers.ReLU()(both(layers.Dense(4, name="d")(i)))
    return keras.Model(i, layers.ReLU()(both(layers.Dense(4, name="e")(x))))


@stays("it goes to UpSampling2D 'larger', whose bilinear interpolation is not followed")
def interpolated():
    i = keras.Input((4, 4, 3))
    x = layers.UpSampling2D(2, interpolation="bilinear", name="larger")(bn()(layers.ReLU()(i)))
    return keras.Model(i, layers.Dense(2)(x))


@stays("it goes to 1 of 2 calls of 'shared'")
def shared_layer_behind():
    shared = layers.Dense(4, name="shared")
    i = keras.Input((4,))
    return keras.Model(i, layers.Add()([shared(bn()(layers.ReLU()(i))), shared(i)]))


@stays("it arrives at 'shared' in different ways")
def different_ways():
    shared = layers.Dense(4, name="shared")
    i = keras.Input((3, 4))
    x = bn()(layers.ReLU()(i))
    return keras.Model(i, [shared(x), shared(layers.GlobalAveragePooling1D()(x))])


@stays("it follows the model 'inner': a border between models")
def behind_a_model():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4)], name="inner")
    i = keras.Input((4,))
    return keras.Model(i, layers.ReLU()(bn()(inner(i))))


@stays("it goes to the model 'inner': a border between models")
def before_a_model():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4)], name="inner")
    i = keras.Input((4,))
    return keras.Model(i, inner(bn()(layers.ReLU()(i))))


@stays("it follows an input of its model; not forward: 'inner/bn' is an output of its model", "inner/bn")
def alone_in_a_model():
    inner = keras.Sequential([keras.Input((4,)), bn()], name="inner")
    i = keras.Input((4,))
    return keras.Model(i, layers.Dense(2)(inner(layers.Dense(4)(i))))


@stays("it renormalizes (renorm=True)")
def renormalizing():
    i = keras.Input((4,))
    return keras.Model(i, layers.ReLU()(bn(renorm=True)(layers.Dense(4)(i))))


@stays("it is called with training=True, and normalizes with the batch")
def in_training_mode():
    i = keras.Input((4,))
    return keras.Model(i, layers.ReLU()(bn()(layers.Dense(4)(i), training=True)))


@stays("it follows Dropout 'always', which is no linear layer")
def behind_dropout_that_is_always_active():
    i = keras.Input((4,))
    x = layers.Dropout(0.5, name="always")(layers.Dense(4)(i), training=True)
    return keras.Model(i, layers.ReLU()(bn()(x)))


@stays("it is called with a mask that is not that of its input")
def own_mask():
    i, mask = keras.Input((3, 4)), keras.Input((3,), dtype="bool")
    x = bn()(layers.Dense(4)(i), mask=mask)
    return keras.Model([i, mask], layers.ReLU()(x))


@stays("it goes to GlobalAveragePooling1D 'average', together with other values")
def pooling_with_another_mask():
    i, mask = keras.Input((3, 4)), keras.Input((3,), dtype="bool")
    x = layers.GlobalAveragePooling1D(name="average")(bn()(layers.ReLU()(i)), mask=mask)
    return keras.Model([i, mask], layers.Dense(2)(x))


@stays("it goes to GlobalAveragePooling1D 'average', where a mask decides which positions count")
def masked_pooling():
    i = keras.Input((5,), dtype="int32")
    x = bn()(layers.Embedding(7, 4, mask_zero=True)(i))
    return keras.Model(i, layers.Dense(2)(layers.GlobalAveragePooling1D(name="average")(x)))


@stays("it turns float32 into float16")
def another_type():
    i = keras.Input((4,))
    x = layers.BatchNormalization(dtype="mixed_float16", name="bn")(layers.Dense(4)(i))
    return keras.Model(i, layers.ReLU()(x))


class OwnNormalization(layers.BatchNormalization):
    pass


class OwnDense(layers.Dense):
    pass


@stays("OwnNormalization is a class of its own")
def own_class():
    i = keras.Input((4,))
    return keras.Model(i, layers.ReLU()(OwnNormalization(name="bn")(layers.Dense(4)(i))))


@stays("it follows 'd', and OwnDense is a class of its own")
def own_class_before():
    i = keras.Input((4,))
    return keras.Model(i, layers.ReLU()(bn()(OwnDense(4, name="d")(i))))


@stays("it follows SpectralNormalization 'spectral', which is no linear layer")
def in_a_wrapper():
    i = keras.Input((4,))
    x = layers.SpectralNormalization(layers.Dense(4), name="spectral")(i)
    return keras.Model(i, layers.ReLU()(bn()(x)))


@stays("it is inside another layer, which is not opened", "steps/bn")
def inside_a_wrapper():
    i = keras.Input((3, 4))
    return keras.Model(i, layers.TimeDistributed(bn(), name="steps")(layers.Dense(4)(i)))


@stays("it varies along another axis than the channels of 'd'")
def another_axis_behind():
    i = keras.Input((3, 4))
    return keras.Model(i, layers.ReLU()(bn(axis=1)(layers.Dense(4, name="d")(i))))


@stays("it varies along another axis than the channels of 'd'")
def another_axis_before():
    i = keras.Input((3, 4))
    return keras.Model(i, layers.Dense(4, name="d")(bn(axis=1)(layers.ReLU()(i))))


@stays("it varies along another axis than the channels of MaxPooling1D 'pool'")
def another_axis_of_a_pooling():
    i = keras.Input((4, 4))
    return keras.Model(i, layers.Dense(4)(layers.MaxPooling1D(2, name="pool")(bn(axis=1)(layers.ReLU()(i)))))


@stays("scale and shift vary over the steps of 'steps'")
def another_axis_over_steps():
    i = keras.Input((3, 4))
    x = layers.TimeDistributed(layers.Dense(4), name="steps")(bn(axis=1)(layers.ReLU()(i)))
    return keras.Model(i, x)


@stays("the kernel of EinsumDense 'e' does not vary along the axis 'b'")
def another_axis_of_an_einsum():
    i = keras.Input((3, 4))
    return keras.Model(i, layers.ReLU()(bn(axis=1)(layers.EinsumDense("abc,cd->abd", (3, 5), name="e")(i))))


@stays("the bias of EinsumDense 'e' does not vary along the axes that it would need")
def bias_of_an_einsum():
    i = keras.Input((3, 4))
    x = layers.EinsumDense("abc,bcd->abd", (3, 5), bias_axes="d", name="e")(i)
    return keras.Model(i, layers.ReLU()(bn(axis=1)(x)))


@stays("EinsumDense 'e' mixes samples: 'ab,bc->ca'")
def mixed_samples():
    i = keras.Input((4,), batch_size=3)
    x = layers.EinsumDense("ab,bc->ca", 3, name="e")(i)
    return keras.Model(i, layers.ReLU()(bn()(x)))


@stays("it goes to Flatten 'flat', and not all sizes of (None, 4) are known")
def unknown_sizes():
    i = keras.Input((None, 4))
    x = layers.Flatten(name="flat")(bn()(layers.ReLU()(i)))
    return keras.Model(i, layers.Dense(2)(layers.Reshape((12,))(x)))


@stays("an operation uses a weight of 'd' directly")
def kernel_used_directly():
    i = keras.Input((4,))
    d = layers.Dense(4, name="d")
    x = layers.ReLU()(bn()(d(i)))
    return keras.Model(i, keras.ops.matmul(x, d.kernel))


@stays("an operation uses a weight of 'bn' directly")
def statistics_used_directly():
    i = keras.Input((4,))
    one = bn()
    x = layers.ReLU()(one(layers.Dense(4, name="d")(i)))
    return keras.Model(i, keras.ops.multiply(x, one.moving_mean))


@stays("it follows 'd', whose kernel has LoRA factors")
def low_rank_factors():
    i = keras.Input((4,))
    d = layers.Dense(4, name="d")
    x = d(i)
    d.enable_lora(2)
    return keras.Model(i, layers.ReLU()(bn()(x)))


def built(name):
    build, where, reason = STAYS[name]
    keras.utils.set_random_seed(1)
    return scattered(build()), where, reason


def inputs_of(model):
    random = np.random.default_rng(0)
    made = []
    for tensor in model.inputs:
        shape = (tensor.shape[0] or 6, *(size or 3 for size in tensor.shape[1:]))
        values = random.normal(0, 1, shape) if "float" in tensor.dtype else np.arange(np.prod(shape)) % 3
        made.append(values.reshape(shape).astype(tensor.dtype))
    return made if len(made) > 1 else made[0]


@pytest.mark.parametrize("name", STAYS)
def test_what_stays_has_its_reason_and_keeps_the_function(name):
    model, where, reason = built(name)
    folds = find_folds(model)
    assert reason in folds.staying[where]
    assert where not in [fold.batch_norm for fold in folds]
    folded = fold_batch_norm(model)
    if name not in ("in_training_mode", "behind_dropout_that_is_always_active"):
        assert apart(model, folded, inputs_of(model)) < 1e-5
    assert len(batch_norms(folded)) == len(batch_norms(model)) - len(folds)


def test_what_is_not_finite_stays():
    i = keras.Input((4,))
    model = scattered(keras.Model(i, layers.ReLU()(bn()(layers.Dense(3, name="d")(i)))))
    model.get_layer("bn").moving_variance.assign([1, -2, 1])
    assert "its weights give no finite scale and shift" in find_folds(model).staying["bn"]


def test_what_would_overflow_stays():
    i = keras.Input((4,), dtype="float16")
    x = layers.Dense(3, dtype="float16", name="d")(i)
    x = layers.BatchNormalization(dtype="mixed_float16", name="bn")(x)
    model = scattered(keras.Model(i, layers.ReLU(dtype="float16")(x)))
    model.get_layer("bn").gamma.assign([1, 1e6, 1])
    assert "the weights of 'd' would overflow float16" in find_folds(model).staying["bn"]


def test_a_shift_that_stays_ends_the_way_of_the_one_before():
    i = keras.Input((6, 6, 2))
    x = layers.BatchNormalization(name="first")(layers.ReLU()(i))
    x = layers.BatchNormalization(name="second")(layers.AveragePooling2D(2)(x))
    model = scattered(keras.Model(i, layers.Conv2D(2, 3, padding="same", name="conv")(x)))
    folds = find_folds(model)
    assert list(folds) == [Fold("second", "forward", ("conv",), shift=True)]
    assert "it goes to BatchNormalization 'second', which is no linear layer" in folds.staying["first"]
    assert apart(model, fold_batch_norm(model), pixels(6, 6, 2)) < 1e-5


def two():
    i = keras.Input((4,))
    x = layers.BatchNormalization(name="one")(layers.Dense(4, name="d")(i))
    x = layers.BatchNormalization(name="two")(layers.Activation("tanh", name="tanh")(x))
    x = layers.BatchNormalization(name="three")(layers.ReLU(name="relu")(layers.Dense(2, name="e")(x)))
    return scattered(keras.Model(i, layers.Activation("tanh", name="end")(x)))


def test_folds_print_one_line_each():
    i = keras.Input((4, 2))
    model = scattered(
        keras.Model(i, layers.Conv1D(2, 3, padding="same", name="conv")(bn()(layers.ReLU()(i))))
    )
    assert repr(find_folds(model)) == (
        "1 of 1 batch normalization layers fold\n  bn  forward into conv; a shift by constants stays"
    )
    folds = find_folds(two())
    first, *others, last = repr(folds).splitlines()
    assert first == "2 of 3 batch normalization layers fold"
    assert others == ["  one    backward into d", "  two    forward into e"]
    assert last.startswith(
        "  three  stays: not backward: it follows ReLU 'relu', which is no linear layer; not"
    )
    assert repr(Folds([Fold("bn", "identity", ())])).endswith("\n  bn  left out: changes nothing")


def test_folds_are_a_sequence():
    folds = find_folds(two())
    assert len(folds) == 2
    assert folds[0] == Fold("one", "backward", ("d",))
    assert folds[:1] == Folds([folds[0]], folds.staying)
    assert folds == find_folds(two())
    assert folds != Folds(list(folds))
    assert folds != Folds(list(folds)[:1], folds.staying)


def test_some_of_the_folds():
    model = two()
    folds = find_folds(model)
    before = fingerprint(model)
    for chosen, left in (
        (folds[:1], ["two", "three"]),
        ([folds[1]], ["one", "three"]),
        ([], ["one", "two", "three"]),
    ):
        folded = fold_batch_norm(model, chosen)
        assert batch_norms(folded) == left
        assert apart(model, folded, pixels(4)) < 1e-6
    assert fingerprint(model) == before


def test_folds_of_another_network_are_refused():
    model = two()
    with pytest.raises(SurgeryError, match="no batch normalization 'bn'; it has: one, two, three"):
        fold_batch_norm(model, [Fold("bn", "backward", ("d",))])
    with pytest.raises(SurgeryError, match="'three' cannot be folded backward: it follows ReLU 'relu'"):
        fold_batch_norm(model, [Fold("three", "backward", ("e",))])
    with pytest.raises(SurgeryError, match="'one' cannot be folded identity: it changes what passes"):
        fold_batch_norm(model, [Fold("one", "identity", ())])
    with pytest.raises(SurgeryError, match="'one' cannot be folded backward: it is folded already"):
        fold_batch_norm(model, [find_folds(model)[0]] * 2)
    with pytest.raises(SurgeryError, match="the fold of 'one' was found in another network, or with other"):
        fold_batch_norm(model, [Fold("one", "backward", ("e",))])


def test_subclassed_models_are_refused():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(SurgeryError, match="subclassed type Own"):
        find_folds(Own())
    with pytest.raises(SurgeryError, match="subclassed type Own"):
        fold_batch_norm(Own())


def kinds(model):
    return [(path, type(layer)) for path, layer in layer_paths(model).items()]


QUICK_AFTER = (
    "channels_first", "einsum", "existing_batch_norm", "half_precision", "nested_twice", "residual", "sequential",
    "shared_across_models", "time_distributed",
)  # fmt: skip
# Before insertion and folding neither: Keras loses layers that models share, and refuses the code of lambdas.
NOT_STORED = {"lambdas", "shared_across_models"}
PLACEMENTS = [(name, "before_activation") for name in sorted(ZOO)] + [
    pytest.param(name, "after_activation", marks=[] if name in QUICK_AFTER else pytest.mark.slow)
    for name in sorted(ZOO)
]


@pytest.mark.parametrize(("name", "position"), PLACEMENTS)
def test_folding_undoes_insertion(name, position):
    """At once: the network before, to the last bit. With other weights in the inserted layers: their function."""
    each = ZOO[name]()
    own = len(batch_norms(each.model))
    sites = find_sites(each.model, position)
    widened = insert_batch_norm(each.model, sites)
    original = fold_batch_norm(widened, [f for f in find_folds(widened) if "_inserted_bn" in f.batch_norm])
    assert kinds(original) == kinds(each.model)
    assert fingerprint(original) == fingerprint(each.model)
    assert same(outputs(original, each.inputs), outputs(each.model, each.inputs))
    assert [layer.get_config() for layer in layer_paths(original).values() if name != "lambdas"] == [
        layer.get_config() for layer in layer_paths(each.model).values() if name != "lambdas"
    ]
    assert len(batch_norms(original)) == own

    scattered(widened)
    before = fingerprint(widened)
    folds, folded = find_folds(widened), fold_batch_norm(widened)
    half = name in ("mixed_precision", "half_precision")
    assert apart(widened, folded, each.inputs) < (3e-3 if half else 1e-5)
    assert len(batch_norms(folded)) == len(batch_norms(widened)) - len(folds)
    assert fingerprint(widened) == before
    assert not {id(v) for v in folded.variables} & {id(v) for v in widened.variables}
    if position == "before_activation" and not name.startswith("shared_"):
        assert not [path for path in folds.staying if "_inserted_bn" in path]
    assert getattr(folded, "output_names", None) == getattr(widened, "output_names", None)


@pytest.mark.parametrize("name", sorted(set(ZOO) - NOT_STORED))
def test_a_folded_network_can_be_stored(name, tmp_path):
    each = ZOO[name]()
    widened = scattered(
        insert_batch_norm(each.model, find_sites(each.model, "after_activation", on_input=True))
    )
    folded = fold_batch_norm(widened)
    assert same(outputs(kept(folded, tmp_path), each.inputs), outputs(folded, each.inputs))
    if name != "stateful_input":  # set_weights, other than loading, does not renew what Normalization caches
        assert same(outputs(kept(folded), each.inputs), outputs(folded, each.inputs))


@pytest.mark.parametrize(
    ("name", "ways", "direction"),
    [
        ("shared_layer", {"shared": True}, "backward"),
        ("residual", {"position": None, "on_input": True}, "forward"),
    ],
)
def test_batch_normalization_of_all_calls_and_of_the_input(name, ways, direction):
    each = ZOO[name]()
    widened = scattered(insert_batch_norm(each.model, find_sites(each.model, **ways)))
    folds = find_folds(widened)
    assert [fold.direction for fold in folds] == [direction]
    folded = fold_batch_norm(widened, folds)
    assert batch_norms(folded) == []
    assert set(layer_paths(folded)) - {f"{each.model.layers[0].name}_shift"} == set(layer_paths(each.model))
    assert apart(widened, folded, each.inputs) < 1e-5


@pytest.mark.parametrize("position", ["before_activation", "after_activation"])
@pytest.mark.parametrize("name", ["nested_twice", "residual"])
def test_calibrated_batch_normalization_leaves_every_bit(name, position):
    """Its gamma is no longer 1 and its mean not 0; what counts is that it changes no bit."""
    each = ZOO[name]()
    widened = insert_batch_norm(each.model, find_sites(each.model, position))
    calibrate(widened, [each.inputs])
    assert fingerprint(fold_batch_norm(widened)) == fingerprint(each.model)


def test_an_activation_stays_apart_while_batch_normalization_does():
    each = ZOO["shared_layer"]()
    widened = scattered(insert_batch_norm(each.model, find_sites(each.model)))
    folded = fold_batch_norm(widened)
    assert "shared_inserted_activation" in layer_paths(folded)
    assert same(outputs(folded, each.inputs), outputs(widened, each.inputs))


def test_an_activation_of_the_networks_own_stays_where_it_is():
    i = keras.Input((4,))
    x = layers.BatchNormalization(name="d_bn")(layers.Dense(3, name="d")(i))
    x = layers.Activation("relu", name="d_activation")(x)
    model = scattered(keras.Model(i, layers.Dense(2, name="out")(x)))
    assert list(layer_paths(fold_batch_norm(model))) == ["d", "d_activation", "out"]


@pytest.mark.parametrize("position", ["before_activation", "after_activation"])
def test_an_activation_that_is_called_like_its_layer_stays_where_it_is(position):
    i = keras.Input((4,))
    x = layers.Activation("relu", name="d_activation")(layers.Dense(5, name="d")(i))
    model = scattered(keras.Model(i, layers.Dense(2, name="out")(x)))
    widened = insert_batch_norm(model, find_sites(model, position))
    assert len(batch_norms(widened)) == 1
    folded = fold_batch_norm(widened)
    assert batch_norms(folded) == []
    assert kinds(folded) == kinds(model)
    assert folded.get_layer("d").activation is keras.activations.linear
    assert same(outputs(folded, pixels(4)), outputs(model, pixels(4)))


def test_the_activity_regularizer_goes_back():
    each = ZOO["regularized"]()
    widened = insert_batch_norm(each.model, find_sites(each.model))
    folded = fold_batch_norm(widened)
    each.model(each.inputs), widened(each.inputs), folded(each.inputs)
    np.testing.assert_allclose(sum(folded.losses), sum(each.model.losses), rtol=1e-6)
    assert folded.get_layer("d").activity_regularizer is not None


def test_insertion_into_a_network_with_an_output_behind_the_activation():
    i = keras.Input((4,))
    x = layers.Dense(3, activation="relu", name="d")(i)
    inner = keras.Model(i, x, name="inner")
    model = scattered(keras.Sequential([keras.Input((4,)), inner, layers.Dense(2, name="out")]))
    for position in ("before_activation", "after_activation"):
        widened = insert_batch_norm(model, find_sites(model, position))
        folded = fold_batch_norm(widened)
        assert kinds(folded) == kinds(model)
        assert same(outputs(folded, pixels(4)), outputs(model, pixels(4)))


def with_statistics(model):
    """Batch normalization far from the identity, but not so far that rounding adds up over many layers."""
    random = np.random.default_rng(0)
    for layer in layer_paths(model).values():
        if isinstance(layer, layers.BatchNormalization):
            ranges = {
                "gamma": (0.5, 1.5),
                "beta": (-0.3, 0.3),
                "moving_mean": (-0.3, 0.3),
                "moving_variance": (0.5, 2),
            }
            for weight in layer.weights:
                weight.assign(random.uniform(*ranges[weight.name], weight.shape))
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "folding", "staying"),
    [("ResNet50", 53, 0), ("MobileNetV2", 52, 0), ("EfficientNetV2B0", 59, 0), ("DenseNet121", 59, 62)],
)
def test_published_networks(name, folding, staying):
    """DenseNet normalizes what it has concatenated, before an activation: that stays."""
    build = getattr(keras.applications, name)
    model = with_statistics(
        build(weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None)
    )
    folds = find_folds(model)
    assert (len(folds), len(folds.staying)) == (folding, staying)
    folded = fold_batch_norm(model, folds)
    images = np.random.default_rng(1).normal(0, 1, (4, 64, 64, 3)).astype("float32")
    assert apart(model, folded, images) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("position", "shifts"), [("before_activation", 0), ("after_activation", 12)])
def test_vgg16_with_inserted_batch_normalization(position, shifts):
    model = keras.applications.VGG16(
        weights=None, input_shape=(32, 32, 3), classes=10, classifier_activation=None
    )
    widened = with_statistics(insert_batch_norm(model, find_sites(model, position)))
    folds = find_folds(widened)
    assert (len(folds), sum(fold.shift for fold in folds)) == (15, shifts)
    folded = fold_batch_norm(widened, folds)
    assert folded.count_params() == model.count_params()
    names = [layer.name for layer in folded.layers if not layer.name.endswith("_shift")]
    assert names == [layer.name for layer in model.layers]
    images = np.random.default_rng(1).normal(0, 1, (4, 32, 32, 3)).astype("float32")
    assert apart(widened, folded, images) < 1e-5


def test_a_model_that_holds_nothing_else_keeps_a_layer(tmp_path):
    inner = keras.Sequential([keras.Input((4,)), layers.Identity(name="same")], name="inner")
    i = keras.Input((4,))
    j = keras.Input((4,))
    alone = keras.Model(j, layers.BatchNormalization(name="norm", epsilon=1e-5)(j), name="alone")
    alone.get_layer("norm").moving_variance.assign(np.full(4, np.float32(1) - np.float32(1e-5)))
    model = keras.Model(i, layers.Dense(2, name="out")(layers.Add()([alone(i), inner(i)])))
    folds = find_folds(model)
    assert [(fold.batch_norm, fold.direction) for fold in folds] == [("alone/norm", "identity")]
    folded = fold_batch_norm(model, folds)
    assert batch_norms(folded) == []
    assert same(outputs(folded, pixels(4)), outputs(model, pixels(4)))
    assert [type(layer) for layer in folded.get_layer("alone").layers[1:]] == [layers.Activation]
    for again in (kept(folded), kept(folded, tmp_path), rebuild(folded), fold_batch_norm(folded)):
        assert same(outputs(again, pixels(4)), outputs(model, pixels(4)))


def test_an_activation_without_batch_normalization_before_it_stays_a_layer():
    i = keras.Input((4,))
    x = layers.Activation("relu", name="own_activation")(layers.Dense(4, name="own")(i))
    x = bn()(layers.Dense(3, name="linear")(x))
    model = scattered(keras.Model(i, layers.Dense(2, name="out")(layers.ReLU(name="relu")(x))))
    folded = fold_batch_norm(model)
    assert [layer.name for layer in folded.layers[1:]] == ["own", "own_activation", "linear", "relu", "out"]


def test_an_activation_that_follows_one_call_of_two_stays_a_layer():
    i = keras.Input((4,))
    dense, activation = layers.Dense(4, name="d"), layers.Activation("relu", name="d_inserted_activation")
    norm = layers.BatchNormalization(name="d_inserted_bn")
    x = layers.Add()([activation(norm(dense(i))), norm(dense(i * 2.0)), activation(i * 3.0)])
    model = scattered(keras.Model(i, layers.Dense(2, name="out")(x)))
    folded = fold_batch_norm(model)
    assert batch_norms(folded) == []
    for got, expected in zip(outputs(folded, pixels(4)), outputs(model, pixels(4)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
