"""Single layers anew: from their configuration, and with every bit of their state."""

import warnings
from collections.abc import Mapping
from typing import Any

import keras

from bnadapt.errors import SurgeryError
from bnadapt.surgery.kinds import is_keras_own, target_of
from bnadapt.surgery.tree import layers_within, own_weights


def is_reusable(layer: keras.Layer) -> bool:
    """Whether two networks can use one object: it has no state and is none of Keras' own, cheap to make anew."""
    plain = (
        is_keras_own(layer)
        and not isinstance(layer, keras.layers.Lambda)
        and not layer._flatten_layers(False)
    )
    return not layer.variables and not plain


def fresh_input(layer: keras.layers.InputLayer) -> keras.layers.InputLayer:
    """An input like that one, for another network."""
    fresh = keras.layers.InputLayer.from_config(layer.get_config())
    fresh.output.name = layer.output.name  # that of an unnamed input is not the layer's
    return fresh


def copy_layer(
    layer: keras.Layer, path: str, *, linear: bool = False, settings: Mapping[str, Any] | None = None
) -> keras.Layer:
    """The layer anew from its configuration, without its state; its activation is carried as an object.

    Args:
        layer: the original, which is not changed.
        path: the layer's name in messages.
        linear: leave out the activation, and the activity regularizer with it.
        settings: to change in the configuration; of a ``TimeDistributed``, in that of the layer that it holds.

    Raises:
        SurgeryError: the configuration does not give such a layer.
    """
    activation = vars(layer).get("activation")
    carried = activation is not None and not isinstance(activation, keras.Layer)
    others = {type(each).__name__: type(each) for each in layers_within(layer) if not is_keras_own(each)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of lambdas in the configuration, which is not stored
            config = layer.get_config()
        if carried and "activation" in config:
            config["activation"] = "linear"
        (config["layer"]["config"] if isinstance(layer, keras.layers.TimeDistributed) else config).update(
            settings or {}
        )
        with keras.saving.CustomObjectScope(others):
            copy = type(layer).from_config(config)
    except Exception as error:
        raise SurgeryError(
            f"the layer '{path}' ({type(layer).__name__}) cannot be made anew from its configuration: "
            f"{error}. Give its class a get_config that holds every argument of __init__, and register it and what it "
            "uses with keras.saving.register_keras_serializable"
        ) from error
    copy.name = layer.name
    if carried:
        copy.activation = activation
    if linear:
        inner = target_of(copy)
        assert inner is not None, path
        inner.activation = keras.activations.linear
        copy.activity_regularizer = None
    return copy


def copy_state(original: keras.Layer, copy: keras.Layer, path: str) -> None:
    """Every bit of a built layer's state: through Keras' own hooks first, which renew what layers cache."""
    pairs = list(zip(original.variables, copy.variables, strict=False))
    same = len(original.variables) == len(copy.variables) and all(
        old.shape == new.shape and old.dtype == new.dtype for old, new in pairs
    )
    if not same:
        raise SurgeryError(
            f"the layer '{path}' ({type(original).__name__}) has other variables when made anew from its "
            f"configuration: {_shapes(original)} became {_shapes(copy)}"
        )
    for old_layer, new_layer in zip(layers_within(original), layers_within(copy), strict=True):
        if own_weights(old_layer):
            store: dict[str, Any] = {}
            old_layer.save_own_variables(store)
            new_layer.load_own_variables(store)
    for old, new in pairs:
        new.assign(old)


def _shapes(layer: keras.Layer) -> str:
    return ", ".join(f"{weight.name} {tuple(weight.shape)}" for weight in layer.variables) or "none"
