"""Which layer is which: by name, by order where that is evidence, and refused where nothing is."""

from __future__ import annotations

import numpy as np
import pytest

from evenkeel.dialects._layers import Layer, stored
from evenkeel.errors import InputError
from evenkeel.tools._convert._matching import Side, match_layers, spelled


def conv(name: str, takes: int, gives: int, size: int = 3) -> Layer:
    kernel = stored(np.zeros((size, size, takes, gives), np.float32))
    return Layer(name, "conv", {"kernel": kernel, "bias": stored(np.zeros(gives, np.float32))})


def norm(name: str, channels: int) -> Layer:
    roles = ("weight", "bias", "running_mean", "running_var")
    arrays = {role: stored(np.zeros(channels, np.float32)) for role in roles}
    return Layer(name, "batch_norm", arrays)


def dense(name: str, takes: int, gives: int) -> Layer:
    return Layer(name, "dense", {"kernel": stored(np.zeros((takes, gives), np.float32))})


def chain(*names: str) -> list[Layer]:
    """Two blocks of equal shapes and a head."""
    first, one, second, two, head = names
    return [
        conv(first, 4, 4),
        norm(one, 4),
        conv(second, 4, 4),
        norm(two, 4),
        dense(head, 4 * 9, 2),
    ]


def matched(source, target, *, ordered=(True, True), mapping=None) -> dict[str, tuple[str, str]]:
    sides = Side("a", source, ordered[0]), Side("b", target, ordered[1])
    return {p.source.name: (p.target.name, p.how) for p in match_layers(*sides, mapping)}


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("layer1.0.conv1", "layer1.0.conv1"),
        ("module._orig_mod.bn", "bn"),
        ("encoder/conv", "encoder.conv"),
        ("layers/3", "3"),
    ],
)
def test_names_are_compared_without_what_frameworks_put_in(name, plain):
    assert spelled(name) == plain


def test_equal_names_match_whatever_the_order():
    source = chain("c1", "b1", "c2", "b2", "fc")
    target = chain("module.c1", "module.b1", "module.c2", "module.b2", "module.fc")[::-1]
    assert matched(source, target, ordered=(False, False)) == {
        name: (f"module.{name}", "name") for name in ("c1", "b1", "c2", "b2", "fc")
    }


def test_layers_of_one_name_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"'c', conv .*\n.*in b 'c' is conv"):
        matched([conv("c", 3, 4)], [conv("c", 4, 4)])


def test_a_chain_is_matched_by_its_order():
    found = matched(chain("0", "1", "3", "4", "7"), chain("conv", "n", "conv_1", "n_1", "dense"))
    assert found["3"] == ("conv_1", "order")
    assert found["4"] == ("n_1", "order")


def test_names_that_a_file_sorted_are_put_back_in_order():
    names = ("0", "1", "10", "11", "12")
    source = sorted(chain(*names), key=lambda layer: layer.name)
    target = chain("Conv_0", "BatchNorm_0", "Conv_1", "BatchNorm_1", "Dense_0")[::-1]
    found = matched(source, target, ordered=(False, False))
    assert [found[name][0] for name in names] == [
        "Conv_0",
        "BatchNorm_0",
        "Conv_1",
        "BatchNorm_1",
        "Dense_0",
    ]


def test_sorted_names_without_numbers_prove_no_order():
    source = [conv("alpha", 4, 4), conv("beta", 4, 4)]
    target = [conv("x", 4, 4), conv("y", 4, 4)]
    with pytest.raises(InputError, match="neither names nor order"):
        matched(source, target, ordered=(False, True))
    assert matched(source, target)["beta"] == ("y", "order")


def test_branches_of_equal_shapes_are_refused():
    # Both convolutions take 4 and give 8 channels, as a block and its shortcut do.
    source = [conv("c", 4, 8), norm("n", 8), conv("short", 4, 8), norm("short_n", 8)]
    target = [conv("s", 4, 8), norm("sn", 8), conv("c1", 4, 8), norm("n1", 8)]
    with pytest.raises(InputError, match="neither names nor order"):
        matched(source, target)
    mapping = {"c": "c1", "n": "n1", "short": "s", "short_n": "sn"}
    assert matched(source, target, mapping=mapping)["short_n"] == ("sn", "map")


def test_branches_of_different_shapes_are_told_by_them():
    source = [conv("c", 4, 8), conv("short", 4, 8, 1)]
    target = [conv("s", 4, 8, 1), conv("c1", 4, 8)]
    assert matched(source, target) == {"c": ("c1", "order"), "short": ("s", "order")}


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ([norm("a", 4)], [], "1 of batch_norm .* in a: 'a'"),
        ([], [norm("b", 4)], "1 of batch_norm .* in b: 'b'"),
        ([norm("a", 4)], [norm("b", 5)], "b has 0 that could be meant"),
        ([dense("a", 3, 3)], [conv("b", 3, 3)], "1 of dense"),
    ],
)
def test_a_layer_without_a_counterpart_is_named(source, target, message):
    with pytest.raises(InputError, match=message):
        matched(source, target)


@pytest.mark.parametrize("mapping", [{"no": "n"}, {"a": "no"}, {"a": "n", "b": "n"}])
def test_a_map_that_is_wrong_is_refused(mapping):
    source, target = [norm("a", 4), norm("b", 4)], [norm("n", 4), norm("m", 4)]
    with pytest.raises(InputError, match="got: a map"):
        matched(source, target, mapping=mapping)


def test_a_missing_bias_does_not_prevent_a_match():
    plain = Layer("c", "conv", {"kernel": conv("c", 3, 4).arrays["kernel"]})
    assert matched([plain], [conv("d", 3, 4)]) == {"c": ("d", "order")}
