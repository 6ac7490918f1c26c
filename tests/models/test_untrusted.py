"""Configurations that would load or run something: refused, by name, and nothing of them happens.

Every file is the real thing, as published for the vulnerability that is named beside it.
"""

import base64
import json
import marshal
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from bnadapt.errors import ModelError
from bnadapt.models.load import load_file
from bnadapt.models.untrusted import check_configuration, takes_code_or_files
from tests.models.hostile import (
    code_writing,
    described,
    function,
    network,
    saved,
    with_configuration,
    with_layer,
)

L = keras.layers


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that is there only where hostile code has run."""
    return tmp_path / "harm-was-done"


def refused(path: Path, marker: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_file(path)
    assert not marker.exists()


def marshalled(marker: Path) -> dict[str, Any]:
    code = base64.b64encode(marshal.dumps(code_writing(marker).__code__)).decode()
    return {"class_name": "__lambda__", "config": {"code": code, "defaults": None, "closure": None}}


def test_the_marker_would_be_made(tmp_path: Path, marker: Path) -> None:
    # The proof that the files below are harmful: Keras itself runs the code where it is told to trust it.
    path = with_layer(saved(tmp_path), described("Lambda", function=marshalled(marker)))
    keras.saving.load_model(path, compile=False, safe_mode=False)
    assert marker.exists()


@pytest.mark.fault(
    "attack: a Lambda layer with code (CVE-2024-3660)",
    "refused with the setting that would allow it; nothing runs",
)
def test_lambda_cve_2024_3660(tmp_path: Path, marker: Path) -> None:
    path = with_layer(saved(tmp_path), described("Lambda", function=marshalled(marker)))
    refused(path, marker, "holds the Lambda layer 'hostile', which runs code .* model.allow_lambda=true")


@pytest.mark.fault(
    "attack: a Lambda layer under other names or in a wrapper",
    "refused; nothing runs",
)
@pytest.mark.parametrize(
    "module", ["keras.layers", "keras.src.layers.core.lambda_layer", "keras._tf_keras.keras.layers"]
)
def test_lambda_by_any_of_its_names(module: str, tmp_path: Path, marker: Path) -> None:
    path = with_layer(saved(tmp_path), described("Lambda", module, function=marshalled(marker)))
    refused(path, marker, "Lambda")


@pytest.mark.fault(
    "attack: a Lambda layer under other names or in a wrapper",
    "refused; nothing runs",
)
def test_lambda_within_a_wrapper(tmp_path: Path, marker: Path) -> None:
    inner = described("Lambda", function=marshalled(marker))
    refused(
        with_layer(saved(tmp_path), described("TimeDistributed", layer=inner)), marker, "the Lambda layer"
    )


def test_bare_code_where_an_activation_belongs(tmp_path: Path, marker: Path) -> None:
    path = with_layer(saved(tmp_path), described("Activation", activation=marshalled(marker)))
    refused(path, marker, "it holds a function of its own, which runs code")


@pytest.mark.fault(
    "attack: os.system, exec and others named in a network file",
    "refused; nothing runs",
)
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),  # CVE-2025-1550
        ("builtins", "exec"),
        ("subprocess", "run"),
        ("keras.config", "enable_unsafe_deserialization"),  # CVE-2025-9906
        ("keras.utils", "get_file"),  # CVE-2025-8747
        ("keras.models", "load_model"),
        ("keras.saving", "load_model"),
        ("keras.activations", "get"),
        ("keras.activations", "deserialize"),
        ("builtins", "deserialize"),
        ("keras.preprocessing.image", "load_img"),
        ("keras.src.utils.file_utils", "extract_archive"),  # CVE-2025-12060
        ("keras.src.utils.python_utils", "func_load"),
        ("keras.src.backend.common.global_state", "set_global_attribute"),
        ("keras.utils", "FeatureSpace"),
    ],
)
@pytest.mark.parametrize("as_class", [False, True])
def test_functions_that_are_no_part_of_a_network(
    module: str, name: str, as_class: bool, tmp_path: Path, marker: Path
) -> None:
    entry = described(name, module) if as_class else function(module, name)
    path = with_layer(saved(tmp_path), entry if as_class else described("Activation", activation=entry))
    refused(path, marker, rf"{name}( of {module})?, which (is|this)|no part of a network")


@pytest.mark.parametrize(("module", "name"), [("builtins", "eval"), ("os", "system"), ("os.path", "join")])
def test_functions_of_python_are_named_without_advice(module: str, name: str) -> None:
    layer = described("Activation", activation=function(module, name))
    with pytest.raises(ModelError) as error:
        check_configuration(layer)
    assert str(error.value) == (
        f"it names {module}.{name}, which is no part of a network; the file may have been made to do harm"
    )


def test_a_function_of_somebody_s_own_is_called_a_function() -> None:
    # Keras writes builtins for them, too.
    layer = described("Activation", activation=function("builtins", "my_activation"))
    with pytest.raises(
        ModelError, match=r"needs the function my_activation of .* registers the function, .*FILE\.py"
    ):
        check_configuration(layer)


@pytest.mark.fault(
    "attack: names of layers with control characters, line ends and markup",
    "refused, the name shown escaped",
)
@pytest.mark.parametrize(
    "name",
    [
        "a\nb",
        "a\x1b[2J",
        "a\u202eb",
        "a\0b",
        "\ud800",
        "<img src=x onerror=alert(1)>",
        "a b",
        "a:b",
        "é",
        "a\\b",
    ],
)
def test_names_that_cannot_run_or_be_shown(name: str, tmp_path: Path) -> None:
    path = with_configuration(
        saved(tmp_path), lambda it: it["config"]["layers"][1]["config"].update(name=name)
    )
    with pytest.raises(ModelError) as error:
        load_file(path)
    assert ascii(name) in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2J", "a\u202eb"])
@pytest.mark.parametrize("where", ["name", "config"])
def test_names_of_inputs_that_cannot_be_shown(name: str, where: str) -> None:
    entry = described("InputLayer", batch_shape=[None, 8])
    check_configuration(entry)
    (entry if where == "name" else entry["config"])["name"] = name
    with pytest.raises(ModelError, match="cannot be shown") as error:
        check_configuration(entry)
    assert ascii(name) in str(error.value)


@pytest.mark.parametrize("name", ["_x", "-x", ">x"])
def test_names_that_a_layer_may_have_and_a_network_may_not(name: str, tmp_path: Path) -> None:
    made = network(L.Dense(3, name=name))
    assert load_file(saved(tmp_path, made)).layers[-2].name == name
    made = keras.Sequential([keras.Input((8, 8, 1)), L.Flatten()], name=name)
    with pytest.raises(
        ModelError, match=rf"its network is called '{name}', under which TensorFlow runs nothing"
    ):
        load_file(saved(tmp_path, made))
    with pytest.raises(ValueError, match="is not a valid root scope name"):
        made.predict(np.zeros((1, 8, 8, 1)), verbose=0)
    keras.utils.clear_session()  # Keras leaves the name on top of all that is made afterwards


@pytest.mark.parametrize("name", ["conv2d.1-a_b>c", ".x", "1x"])
def test_names_that_run_stay(name: str, tmp_path: Path) -> None:
    given = keras.Input((8, 8, 1), name="the input: é")  # inputs compute nothing, and may be called anything
    made = keras.Model(given, L.Dense(3, name=name)(given), name=name)
    loaded = load_file(saved(tmp_path, made))
    assert [each.name for each in loaded.layers] == ["the input: é", name]
    assert loaded.predict(np.zeros((1, 8, 8, 1)), verbose=0).shape == (1, 8, 8, 3)


def layers_of_applications() -> list[Any]:
    modules = [module for name, module in sys.modules.items() if name.startswith("keras.src.applications.")]
    return [
        each
        for module in modules
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, L.Layer) and each.__module__ == module.__name__
    ]


def test_layers_that_belong_to_keras_applications_load(tmp_path: Path) -> None:
    kinds = {each.__name__: each for each in layers_of_applications()}
    given = {
        "LayerScale": {"init_values": 0.5, "projection_dim": 2},
        "StochasticDepth": {"drop_path_rate": 0.5},
        "CustomScaleLayer": {"scale": 0.5},
    }
    assert kinds.keys() == given.keys()
    x = start = keras.Input((8, 8, 2))
    for name, kind in kinds.items():
        layer = kind(**given[name])
        x = layer([x, x]) if name == "CustomScaleLayer" else layer(x)
    loaded = load_file(saved(tmp_path, keras.Model(start, x)))
    assert [type(each) for each in loaded.layers[1:]] == list(kinds.values())


def test_a_function_that_a_layer_would_call_while_the_network_is_built(tmp_path: Path, marker: Path) -> None:
    # CVE-2025-9906 called a function of Keras on text, through a layer called on no tensor.
    given = keras.Input((8, 8, 1))
    path = saved(tmp_path, keras.Model(given, L.Activation("relu", name="activation")(given)))

    def change(configuration: dict[str, Any]) -> None:
        configuration["config"]["layers"][1]["inbound_nodes"] = [{"args": [[0.5]], "kwargs": {}}]

    refused(with_configuration(path, change), marker, "calls Activation on nothing that the network computes")


@pytest.mark.fault(
    "attack: a SavedModel in a layer (CVE-2026-1462)",
    "refused; nothing runs",
)
def test_saved_models_in_a_layer_cve_2026_1462(tmp_path: Path, marker: Path) -> None:
    layer = described("TFSMLayer", filepath=str(tmp_path), call_endpoint="serve")
    refused(with_layer(saved(tmp_path), layer), marker, "holds a layer TFSMLayer, which loads code or files")


@pytest.mark.parametrize("name", ["TorchModuleWrapper", "JaxLayer", "FlaxLayer"])
def test_layers_that_hold_programs(name: str, tmp_path: Path, marker: Path) -> None:
    layer = described(name, module="gASVIQAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAZ0b3VjaCBhlIWUUpQu")
    refused(with_layer(saved(tmp_path), {**layer, "module": "keras.layers"}), marker, f"holds a layer {name}")


@pytest.mark.fault(
    "attack: files and addresses named in a network file (CVE-2025-12058)",
    "refused, with the name and the layer",
)
@pytest.mark.parametrize("name", ["StringLookup", "IntegerLookup", "TextVectorization"])
@pytest.mark.parametrize("key", ["vocabulary", "idf_weights"])
@pytest.mark.parametrize("place", ["/etc/passwd", "http://169.254.169.254/latest", "gs://bucket/words.txt"])
def test_vocabularies_in_files_and_at_addresses_cve_2025_12058(
    name: str, key: str, place: str, tmp_path: Path, marker: Path
) -> None:
    layer = described(name, **{key: place})
    refused(with_layer(saved(tmp_path), layer), marker, f"its layer {name} reads {key} from '{place}'")


def test_a_vocabulary_in_the_file_itself_is_fine() -> None:
    words = keras.Sequential([keras.Input((1,), dtype="string"), L.StringLookup(vocabulary=["a", "b"])])
    check_configuration(keras.saving.serialize_keras_object(words))


@pytest.mark.fault(
    "attack: classes of somebody's own in a network file",
    "refused; nothing runs",
)
def test_classes_of_somebody_s_own(tmp_path: Path, marker: Path) -> None:
    layer = described("Mine", "evil", registered="evil>Mine")
    refused(
        with_layer(saved(tmp_path), layer), marker, "needs the class Mine of evil, which is not Keras' own"
    )


def test_a_registered_name_cannot_hide_behind_a_stock_class(tmp_path: Path, marker: Path) -> None:
    @keras.saving.register_keras_serializable("test_untrusted")
    class Harmful(L.Layer):
        def __init__(self, **rest: Any) -> None:
            marker.touch()
            super().__init__(**rest)

    path = with_layer(saved(tmp_path), described("ReLU", registered="test_untrusted>Harmful"))
    refused(path, marker, "needs the class ReLU of keras.layers, which is not Keras' own")
    with keras.saving.custom_object_scope({"relu": Harmful}):
        refused(
            with_layer(saved(tmp_path), described("Activation", activation=function("builtins", "relu"))),
            marker,
            "relu",
        )


def test_types_of_tensorflow_are_not_looked_up(tmp_path: Path, marker: Path) -> None:
    entry = {
        "class_name": "__typespec__",
        "module": "os",
        "spec_name": "x",
        "config": [],
        "registered_name": None,
    }
    refused(with_layer(saved(tmp_path), described("Activation", activation=entry)), marker, "__typespec__")


@pytest.mark.parametrize("name", [None, 3, ["Dense"], {"a": 1}])
def test_names_that_are_none(name: Any, tmp_path: Path, marker: Path) -> None:
    path = with_layer(saved(tmp_path), {**described("Dense"), "class_name": name})
    refused(path, marker, "describes an object by .*, which is no name")


def test_a_configuration_as_deep_as_json_can_be(tmp_path: Path, marker: Path) -> None:
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    with pytest.raises(ModelError, match="nested more than 200 levels deep"):
        check_configuration({"class_name": "Sequential", "module": "keras", "config": deep})


def test_how_a_network_was_compiled_is_not_read(tmp_path: Path, marker: Path) -> None:
    path = with_configuration(
        saved(tmp_path), lambda it: it.update(compile_config={"loss": function("os", "system")})
    )
    assert load_file(path).count_params() > 0
    assert not marker.exists()


def test_what_takes_code_or_files_is_read_off_keras() -> None:
    layers = [each for each in vars(L).values() if isinstance(each, type)]
    assert {each.__name__ for each in layers if takes_code_or_files(each)} == {
        "Lambda",
        "TFSMLayer",
        "TorchModuleWrapper",
        "JaxLayer",
        "FlaxLayer",
    }


STOCK: list[list[keras.Layer]] = [
    [L.SeparableConv2D(2, 3), L.DepthwiseConv2D(3, padding="same"), L.Conv2DTranspose(2, 3)],
    [L.BatchNormalization(), L.LayerNormalization(), L.GroupNormalization(2), L.UnitNormalization()],
    [L.RMSNormalization(), L.SpectralNormalization(L.Conv2D(2, 3)), L.Normalization(mean=0.5, variance=2.0)],
    [L.RandomFlip(), L.RandomRotation(0.1), L.RandomZoom(0.1), L.Rescaling(1 / 255), L.Resizing(8, 8)],
    [L.Dropout(0.3, seed=3), L.SpatialDropout2D(0.2), L.GaussianNoise(0.1), L.ActivityRegularization(0.1)],
    [
        L.PReLU(),
        L.LeakyReLU(),
        L.ELU(),
        L.ReLU(6),
        L.Softmax(),
        L.Activation("gelu"),
        L.Activation(keras.ops.relu),
    ],
    [L.MaxPooling2D(), L.UpSampling2D(), L.ZeroPadding2D(), L.Cropping2D(1), L.Permute((2, 1, 3))],
    [
        L.TimeDistributed(L.Dense(3)),
        L.Reshape((-1, 3)),
        L.Bidirectional(L.GRU(2, return_sequences=True)),
        L.LSTM(2),
    ],
    [
        L.Dense(3, activation=L.ReLU(), dtype="mixed_bfloat16"),
        L.EinsumDense("abcd,de->abce", (None, None, 5)),
    ],
    [
        L.Conv2D(
            2,
            3,
            kernel_regularizer="l2",
            kernel_constraint=keras.constraints.MaxNorm(2),
            kernel_initializer=keras.initializers.HeNormal(keras.random.SeedGenerator(1)),
        )
    ],
]


@pytest.mark.parametrize("layers", STOCK, ids=lambda layers: layers[0].name)
def test_stock_layers_load(layers: list[keras.Layer], tmp_path: Path) -> None:
    made = network(*layers)
    loaded = load_file(saved(tmp_path, made))
    for before, after in zip(made.get_weights(), loaded.get_weights(), strict=True):
        assert (before == after).all()


def test_graphs_with_operations_and_networks_within_networks_load(tmp_path: Path) -> None:
    given = keras.Input((8, 8, 3))
    x = keras.ops.image.resize(keras.ops.relu(given), (4, 4))[:, ::2, ..., :2] * 2 + keras.ops.ones((1,))
    x = L.Reshape((-1, 2))(x)
    x = keras.ops.squeeze(keras.ops.expand_dims(L.MultiHeadAttention(2, 4)(x, x), 1), 1)
    inner = keras.Model(given, L.Concatenate()([x, keras.ops.einsum("abc->abc", x)]))
    inner.compile("adam", "mse", metrics=["accuracy", keras.metrics.F1Score()])
    middle = keras.Sequential([keras.Input((8, 8, 3)), L.RandomFlip(), inner])
    twice = L.Add()([middle(given), middle(L.RandomFlip()(given))])
    model = keras.Model(given, L.Dense(3)(twice))
    model.compile(
        keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 10)), loss=lambda a, b: 0.0
    )
    assert load_file(saved(tmp_path, model)).count_params() == model.count_params()


@pytest.mark.slow
def test_a_network_of_keras_applications_loads(tmp_path: Path) -> None:
    model = keras.applications.MobileNet((32, 32, 3), alpha=0.25, weights=None, classes=3)
    assert load_file(saved(tmp_path, model)).count_params() == model.count_params()
    model = keras.applications.ConvNeXtTiny(weights=None, input_shape=(32, 32, 3), classes=3)
    assert load_file(saved(tmp_path, model)).count_params() == model.count_params()


def test_squeezenet_loads(real_data: Path) -> None:
    name = "squeezenet1.1_imagenet_notop"
    assert load_file(real_data / "weights" / name / f"{name}.keras").count_params() == 722_496


@pytest.mark.fault(
    "attack: code anywhere in a network's configuration",
    "refused",
)
@pytest.mark.parametrize("layers", STOCK[:3], ids=lambda layers: layers[0].name)
def test_harm_is_found_wherever_it_stands(layers: list[keras.Layer]) -> None:
    configuration = json.loads(json.dumps(keras.saving.serialize_keras_object(network(*layers))))
    check_configuration(configuration)
    entries = described_in(configuration)
    assert len(entries) > 10
    for entry in entries:
        before = dict(entry)
        entry.update(module="os", class_name="system", registered_name=None)
        with pytest.raises(ModelError, match=r"names os\.system, which is no part of a network"):
            check_configuration(configuration)
        entry.update(before)


def described_in(value: Any) -> list[dict[str, Any]]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    here = [value] if isinstance(value, dict) and "class_name" in value else []
    return here + [entry for each in inner for entry in described_in(each)]
