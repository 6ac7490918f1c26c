"""The table of a policy: what it says, and that it stays readable."""

import keras
import numpy as np
from networks import cnn

from bnadapt.normalization.policy import BATCH_NORM, train_only
from bnadapt.normalization.switches import switch_batch_norm
from bnadapt.normalization.table import LayerPolicy, describe_policy, policy_table

SMALL = """\
layer               type                trains        parameters  normalizes  statistics
conv                Conv2D              -             0 of 76     -           -
conv_inserted_bn    BatchNormalization  gamma, beta   8 of 16     batch       stay
conv2               Conv2D              -             0 of 185    -           -
conv2_inserted_bn   BatchNormalization  gamma, beta   10 of 20    batch       move
hidden              Dense               -             0 of 486    -           -
hidden_inserted_bn  BatchNormalization  -             0 of 24     moving      stay
out                 Dense               kernel, bias  21 of 21    -           -
39 of 828 parameters train; the statistics of 1 of 3 batch normalization layers move"""


def test_a_line_per_layer():
    model = cnn()
    train_only(model, [BATCH_NORM, "out"])
    switch_batch_norm(model, "conv_.*", statistics="stay")
    switch_batch_norm(model, "hidden_.*", affine=False, statistics="stay", normalize="moving")
    assert policy_table(describe_policy(model)) == SMALL


def row(path, kind="Conv2D", trains=(), trainable=0, frozen=10, mode="", statistics=""):
    return LayerPolicy(path, kind, trainable, frozen, mode, statistics, trains)


def norm(path, statistics="move"):
    return row(path, "BatchNormalization", ("gamma", "beta"), 8, 8, "batch", statistics)


def test_layers_that_repeat_share_lines_and_none_is_lost():
    rows = [row("stem", "Dense")]
    rows += [each for i in range(30) for each in (row(f"c{i}"), norm(f"n{i}"))]
    rows += [norm("n30", "stay"), row("c30"), row("c31"), row("head", "Dense", ("kernel",), 5, 0)]
    lines = policy_table(rows).splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "layer",
        "stem",
        "c0 (+29)",
        "n0 (+29)",
        "n30",
        "c30 (+1)",
        "head",
        "253 of 831 parameters train; the statistics of 30 of 31 batch normalization layers move",
    ]
    assert "240 of 480" in lines[3]
    assert "0 of 300" in lines[2]


def test_forty_layers_are_listed_one_by_one():
    rows = [row(f"c{i}") for i in range(40)]
    assert len(policy_table(rows).splitlines()) == 42
    assert len(policy_table([*rows, row("c40")]).splitlines()) == 3


def test_a_large_network_fits_a_page():
    model = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=10)
    train_only(model, BATCH_NORM)
    rows = describe_policy(model)
    assert sum(each.trainable + each.frozen for each in rows) == model.count_params()
    assert sum(each.trainable for each in rows) == sum(
        int(np.prod(each.shape)) for each in model.trainable_variables
    )
    lines = policy_table(rows).splitlines()
    assert len(rows) == 107
    assert len(lines) < 40
    assert max(map(len, lines)) <= 100


def test_long_paths_are_cut_in_the_middle():
    path = "backbone/" + "block/" * 20 + "conv"
    lines = policy_table(
        [norm(path), row("out", "Dense", tuple(f"weight_{i}" for i in range(9)), 9, 0)]
    ).splitlines()
    assert max(map(len, lines)) == 100
    assert lines[1].startswith("backbon...ock/block/conv  BatchNormalization  gamma, beta")
    assert "weigh..., weight_8  9 of 9" in lines[2]
    assert policy_table([]).splitlines()[0].split()[0] == "layer"
