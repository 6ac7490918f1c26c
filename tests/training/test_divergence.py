"""A loss that is no number: at which step, since when, in which layer, and what the network holds afterwards."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from interruptions import Interrupting
from small_stages import network_with_batch_norm, plain_network, train

from bnadapt.array_file import read
from bnadapt.config import StageSettings
from bnadapt.data.splits import ArraySplit, Splits
from bnadapt.evaluation.results import Epoch
from bnadapt.normalization.proof import fingerprint
from bnadapt.training.checkpoint import MAGIC, Checkpoint
from bnadapt.training.divergence import DivergedError
from bnadapt.training.pace import batches
from tests.digits import digit_splits


@pytest.fixture(scope="module")
def splits() -> Splits:
    return digit_splits(train=200, validation=50)  # four steps of 50 an epoch


def float_split(name: str, split: Any, spoil: Callable[[np.ndarray], None]) -> ArraySplit:
    images, labels = zip(*split.examples.as_numpy_iterator(), strict=True)
    values = np.stack(images).astype("float32")
    spoil(values)
    return ArraySplit(name, values, np.stack(labels))


def chain(*layers: keras.Layer) -> keras.Model:
    head = keras.layers.Dense(10, name="head")
    network = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), *layers, head])
    random = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dense):
            layer.kernel.assign(random.normal(0, 0.1, layer.kernel.shape))
    return network


def diverge(
    network: keras.Model, splits: Splits, how: StageSettings, message: str, **changes: Any
) -> DivergedError:
    with pytest.raises(DivergedError, match=message) as caught:
        train(network, splits, how, **changes)
    return caught.value


@pytest.mark.fault(
    "training: a learning rate that makes the loss NaN",
    "stops; names step, layer, cause and setting; the network has its initial weights again",
)
def test_a_rate_that_is_too_high_is_told_with_step_layer_and_key(splits: Splits) -> None:
    network = network_with_batch_norm()
    start = fingerprint(network)
    error = diverge(
        network,
        splits,
        StageSettings(epochs=3, optimizer="sgd", learning_rate=1e12),
        r"^stage adapt: the loss is (nan|inf) at step \d+ \(epoch 1/3\)\. It began with the .* in step \d+.*\. "
        r"Lower schedule\.adapt\.learning_rate \(now 1e\+12\), or look for broken images\. The network has the weights "
        r"again that it began with$",
        rate_key="schedule.adapt.learning_rate",
    )
    assert 1 <= error.began <= error.step <= 4
    assert error.layer in {layer.name for layer in network.layers}
    assert error.best_epoch == 0
    assert fingerprint(network) == start


@pytest.mark.fault(
    "training: weights too large for the next step",
    "stops; names the step and the first layer",
)
def test_weights_too_large_for_the_next_step_are_told_by_its_first_layer(splits: Splits) -> None:
    # After the first step the weights are some 1e36, still numbers; times pixels they are none.
    error = diverge(
        chain(keras.layers.Dense(8, name="first")),
        splits,
        StageSettings(epochs=1, optimizer="sgd", learning_rate=1e35),
        r"at step 2 \(epoch 1/1\)\. It began with the outputs of first \(Dense\) in step 2: .* from finite weights and "
        r"inputs of at most 255 .*Lower learning_rate \(now 1e\+35\)",
        from_logits=True,
    )
    assert (error.layer, error.step, error.began) == ("first", 2, 2)


@pytest.mark.fault(
    "training: outputs that overflow in a layer",
    "stops; names the step and the layer, says that the learning rate is not the cause",
)
def test_the_first_layer_that_overflows_is_named(splits: Splits) -> None:
    # Pixels of 255 times 1e3 are numbers; e to the power of them is none.
    network = chain(
        keras.layers.Rescaling(1e3, name="grown"),
        keras.layers.Activation("exponential", name="explodes"),
        keras.layers.ReLU(name="after"),
    )
    error = diverge(
        network,
        splits,
        StageSettings(train=["head"], epochs=1),
        r"the loss is nan at step 1 \(epoch 1/1\)\. It began with the outputs of explodes \(Activation\) in step 1: "
        r"\d+ of 3200 values are not finite, from finite weights and inputs of at most 2\.55e\+05 \(float32 ends at "
        r"3\.4e\+38\)\. The learning rate is not the cause: look at the network",
        from_logits=True,
    )
    assert (error.layer, error.step, error.began) == ("explodes", 1, 1)


@pytest.mark.fault(
    "training: outputs that overflow in a layer",
    "also inside a nested network",
)
@pytest.mark.slow
def test_also_inside_a_nested_network_and_a_raw_operation(splits: Splits) -> None:
    inner_inputs = keras.Input((64,))
    inner = keras.Model(inner_inputs, keras.ops.log(inner_inputs - inner_inputs), name="inner")
    inputs = keras.Input((8, 8, 1))
    network = keras.Model(inputs, keras.layers.Dense(10, name="head")(inner(keras.layers.Flatten()(inputs))))
    message = r"the outputs of inner/log\S* \(Log\) in step 1: 3200 of 3200"
    error = diverge(network, splits, StageSettings(epochs=1), message, from_logits=True)
    assert error.layer.startswith("inner/log")


@pytest.mark.fault(
    "data: NaN in one image of a batch",
    "stops at its step, names the class of the image; the weights stay finite",
)
@pytest.mark.parametrize("activation", ["relu", pytest.param("tanh", marks=pytest.mark.slow)])
def test_a_pixel_that_is_no_number_is_found_in_the_batch_of_its_step(splits: Splits, activation: str) -> None:
    def spoil(images: np.ndarray) -> None:
        images[17, 3, 3] = np.nan

    train_split = float_split("train", splits.train, spoil)
    broken = replace(splits, train=train_split, unlabelled=train_split)
    steps = [bool(np.isnan(images).any()) for images, _ in batches(train_split, 50, seed=3, first=0, steps=4)]
    step = steps.index(True) + 1
    network = chain(keras.layers.Dense(8, activation=activation))
    error = diverge(
        network,
        broken,
        StageSettings(epochs=2),
        rf"It began with 1 of the 50 images of step {step}, which hold NaN or infinity "
        rf"\(class {splits.train.labels()[17]}\)\. Look at those images\.",
        from_logits=True,
    )
    # TensorFlow's relu makes 0 of NaN: then the loss is a number, and only the weights are none.
    what = "weights are no numbers after step" if activation == "relu" else f"the loss is nan at step {step} "
    assert what in str(error)
    assert (error.began, error.layer, error.best_epoch) == (step, "", 0)
    assert all(np.isfinite(values).all() for values in network.get_weights())


def weights_that_break(splits: Splits, looks: int, **settings: Any) -> tuple[DivergedError, keras.Model]:
    """In the step after the third look a layer's weights explode, by a rate that is raised just before it."""

    def raise_rate(epoch: Epoch) -> None:
        if epoch.number == 3:
            network.optimizer.learning_rate = 3e38

    network = chain(keras.layers.Dense(8, name="first"))
    how = StageSettings(
        train=["first"], steps=9, looks=looks, optimizer="sgd", learning_rate=1e-9, **settings
    )
    message = (
        r"It began with the change of first/\w+ in step \d, from a gradient of at most [\d.e+]+\. Lower learn"
    )
    return diverge(network, splits, how, message, on_epoch=raise_rate, from_logits=True), network


@pytest.mark.fault(
    "training: weights that become NaN after some looks",
    "stops; names the step; the network has its best weights again, bit-identical",
)
@pytest.mark.parametrize("keep", ["best", pytest.param("last", marks=pytest.mark.slow)])
def test_weights_that_break_are_told_with_the_step(splits: Splits, keep: str) -> None:
    error, network = weights_that_break(splits, 9, keep=keep)
    assert "weights are no numbers after step 4/9" in str(error)
    assert (error.step, error.began, error.layer, error.best_epoch) == (4, 4, "first", 3)
    assert "its weights of step 3/9 again, the best so far" in str(error)
    # To the last bit.
    same = chain(keras.layers.Dense(8, name="first"))
    how = StageSettings(train=["first"], steps=3, looks=3, optimizer="sgd", learning_rate=1e-9, keep="last")
    train(same, splits, how, from_logits=True)
    assert list(fingerprint(network).values()) == list(fingerprint(same).values())


@pytest.mark.slow
def test_also_where_the_loss_of_the_next_step_says_so(splits: Splits) -> None:
    error, _ = weights_that_break(splits, 4)  # looks after 3, 5, 7 and 9 steps: the third one raises the rate
    assert "the loss is nan at step 9/9" in str(error)
    assert (error.step, error.began, error.layer, error.best_epoch) == (9, 8, "first", 3)


@pytest.mark.slow
def test_a_weight_that_was_no_number_from_the_start(splits: Splits) -> None:
    network = chain(keras.layers.Dense(8, name="first"))
    network.get_layer("first").bias.assign(np.full(8, np.inf))
    error = diverge(
        network,
        splits,
        StageSettings(train=["head"], epochs=1),
        r"It began with first/bias, which is not finite before the first step\. The learning rate is not the cause",
        from_logits=True,
    )
    assert (error.began, error.layer) == (0, "first")


@pytest.mark.fault(
    "training: a gradient that overflows",
    "stops; names the variable and the step",
)
def test_a_gradient_that_overflows_is_told_with_its_variable(splits: Splits) -> None:
    # The outputs are 0 and the loss is finite; the gradient is that of the loss, some 1e3, times inputs of 1e38.
    keras.utils.set_random_seed(0)
    head = keras.layers.Dense(10, name="head", kernel_initializer="zeros")
    network = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Rescaling(1e36, name="huge"), head]
    )
    error = diverge(
        network,
        splits,
        StageSettings(epochs=1, optimizer="sgd", learning_rate=1.0),
        r"It began with the gradient of head/kernel in step 1, which is not finite though the loss was "
        r"2\.3e\+03\. Lower",
        class_weights=dict.fromkeys(range(10), 1e3),
        from_logits=True,
    )
    assert (error.began, error.layer) == (1, "head")


@pytest.mark.slow
def test_a_loss_that_is_no_number_though_all_outputs_are(splits: Splits) -> None:
    network = chain(keras.layers.Rescaling(0.0), keras.layers.Dense(4, name="wide"))
    network.get_layer("head").bias.assign([3e38, -3e38, *np.zeros(8)])
    error = diverge(
        network,
        splits,
        StageSettings(train=["wide"], epochs=1),
        r"It began with the loss itself in step 1: the network's outputs are finite, at most 3e\+38\.",
        from_logits=True,
    )
    assert error.layer == ""


@pytest.mark.slow
def test_what_regularizers_add_is_told_apart(splits: Splits) -> None:
    network = chain(keras.layers.Dense(4, name="wide", kernel_regularizer=keras.regularizers.L2(1e38)))
    network.get_layer("wide").kernel.assign(np.full((64, 4), 1e3))
    message = "It began with what regularizers add to the loss in step 1: every layer's outputs are finite"
    diverge(network, splits, StageSettings(train=["wide"], epochs=1), message, from_logits=True)


@pytest.mark.fault(
    "training: a loss that is NaN after a fit was gone on with",
    "the same message as undisturbed",
)
@pytest.mark.slow
def test_resumed_it_says_the_same(splits: Splits, tmp_path: Path) -> None:
    how = StageSettings(steps=9, looks=3, optimizer="sgd", learning_rate=1e6)
    path = tmp_path / "fit.checkpoint"
    messages = []
    for display in (Interrupting(), Interrupting(step=0)):  # the second one does not begin anew
        with pytest.raises(DivergedError) as caught:
            train(network_with_batch_norm(), splits, how, checkpoint=path, every_steps=1, display=display)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.slow
def test_neither_looks_nor_files_come_from_the_steps_taken_again(splits: Splits, tmp_path: Path) -> None:
    path = tmp_path / "fit.checkpoint"
    seen: list[int] = []
    network = plain_network()

    def raise_rate(epoch: Epoch) -> None:
        seen.append(epoch.number)
        if epoch.number == 2:
            network.optimizer.learning_rate = 3e38

    how = StageSettings(train=["dense2"], steps=8, looks=4, optimizer="sgd", learning_rate=1e-3)
    diverge(network, splits, how, "(at|after) step [56]/8", on_epoch=raise_rate, checkpoint=path)
    assert seen == [1, 2]
    assert Checkpoint(path, read(path, MAGIC)[0]["identity"]).read().step == 4


@pytest.mark.fault(
    "training: a validation loss that is NaN",
    "a warning with the epoch; that epoch is never kept",
)
def test_a_validation_loss_that_is_no_number_is_never_the_best(splits: Splits) -> None:
    network = chain(keras.layers.Dense(8, name="first"), keras.layers.BatchNormalization(name="norm"))
    layer = network.get_layer("norm")

    def spoil(epoch: Epoch) -> None:
        # Training normalizes with batches and does not see it; the next look does.
        layer.moving_variance.assign(np.full(8, np.nan if epoch.number == 2 else 1.0))

    layer.moving_variance.assign(np.full(8, np.nan))  # so the first look is none either
    with pytest.warns(UserWarning, match="the validation loss is nan at epoch 1/") as caught:
        trained = train(network, splits, StageSettings(epochs=4), on_epoch=spoil, from_logits=True)
    told = [str(each.message) for each in caught if "validation loss" in str(each.message)]
    assert [text.split(",")[0] for text in told] == [
        f"stage adapt: the validation loss is nan at epoch {number}/4" for number in (1, 3)
    ]
    losses = [look.val_loss for look in trained.history]
    assert [bool(np.isnan(loss)) for loss in losses] == [True, False, True, False]
    assert trained.kept_epoch == int(np.nanargmin(losses)) + 1


@pytest.mark.slow
def test_where_no_look_has_a_number_there_is_nothing_to_choose_by(splits: Splits) -> None:
    def spoil(images: np.ndarray) -> None:
        images[4] = np.nan

    broken = replace(splits, validation=float_split("validation", splits.validation, spoil))
    network = chain(keras.layers.Dense(8, name="first"))
    message = (
        r"no validation loss is a number, the last one is nan\. It began with validation images that hold NaN or "
        r"infinity\. Look at those images"
    )
    with pytest.warns(UserWarning, match="the validation loss is nan at epoch 1/") as caught:
        error = diverge(network, broken, StageSettings(epochs=2), message, from_logits=True)
    assert error.best_epoch == 0
    assert sum("the validation loss is nan at epoch 1/2" in str(each.message) for each in caught) == 1
    assert not any("at epoch 2/2" in str(each.message) for each in caught)
