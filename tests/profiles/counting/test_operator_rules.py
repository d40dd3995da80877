"""Every handle against the count written down from the operator's definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lavit_deploy.common.errors import ProfileError
from lavit_deploy.kernels import less_attention as kernels
from lavit_deploy.profiles.counting.lavit import LAVIT_MODULES
from lavit_deploy.profiles.counting.trace import trace

sizes = st.integers(1, 5)


class Function(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def counted(function, *shape):
    return trace(Function(function), torch.zeros(shape), LAVIT_MODULES)


@settings(max_examples=25, deadline=None)
@given(batch=sizes, heads=sizes, rows=sizes, inner=sizes, columns=sizes)
def test_a_matrix_times_a_batch_counts_the_batch(batch, heads, rows, inner, columns):
    matrix = torch.zeros(rows, inner)
    found = counted(lambda x: matrix @ x, batch, heads, inner, columns)
    assert found.total == batch * heads * rows * inner * columns


@settings(max_examples=25, deadline=None)
@given(batch=sizes, rows=sizes, inner=sizes, columns=sizes)
def test_a_batch_times_a_matrix_counts_the_batch(batch, rows, inner, columns):
    matrix = torch.zeros(inner, columns)
    assert counted(lambda x: x @ matrix, batch, rows, inner).total == batch * rows * inner * columns


@pytest.mark.parametrize(
    ("function", "shape", "expected"),
    [
        (lambda x: torch.mv(x, torch.zeros(3)), (4, 3), 4 * 3),
        (lambda x: torch.dot(x, x), (7,), 7),
        (lambda x: torch.mm(x, torch.zeros(3, 5)), (4, 3), 4 * 3 * 5),
        (lambda x: torch.bmm(x, torch.zeros(2, 3, 5)), (2, 4, 3), 2 * 4 * 3 * 5),
        (lambda x: torch.addmm(torch.zeros(5), x, torch.zeros(3, 5)), (4, 3), 4 * 3 * 5),
        (
            lambda x: torch.baddbmm(torch.zeros(2, 4, 5), x, torch.zeros(2, 3, 5)),
            (2, 4, 3),
            2 * 4 * 3 * 5,
        ),
        (lambda x: F.linear(x, torch.zeros(6, 3)), (2, 4, 3), 2 * 4 * 3 * 6),
        (
            lambda x: torch.einsum("bhnd, bhmd -> bhnm", x, torch.zeros(2, 3, 7, 5)),
            (2, 3, 4, 5),
            2 * 3 * 4 * 7 * 5,
        ),
    ],
    ids=["mv", "dot", "mm", "bmm", "addmm", "baddbmm", "linear", "einsum"],
)
def test_products_count_output_times_inner_size(function, shape, expected):
    assert counted(function, *shape).total == expected


@settings(max_examples=25, deadline=None)
@given(
    groups=st.integers(1, 3),
    inputs=sizes,
    outputs=sizes,
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    side=st.integers(3, 8),
)
def test_a_convolution_counts_a_filter_for_every_output(
    groups, inputs, outputs, kernel, stride, side
):
    convolution = nn.Conv2d(
        groups * inputs, groups * outputs, kernel, stride, padding=1, groups=groups
    )
    found = trace(convolution, torch.zeros(1, groups * inputs, side, side), LAVIT_MODULES)
    out = (side + 2 - kernel) // stride + 1
    assert found.total == groups * outputs * out**2 * inputs * kernel**2


def test_padding_by_name_is_counted_like_padding_by_number():
    image = torch.zeros(1, 3, 9, 9)
    named = trace(nn.Conv2d(3, 4, 3, padding="same"), image, LAVIT_MODULES)
    assert "_convolution_mode" in named.by_operator
    assert (
        named.total
        == trace(nn.Conv2d(3, 4, 3, padding=1), image, LAVIT_MODULES).total
        == 4 * 81 * 27
    )


def test_a_transposed_convolution_counts_a_filter_for_every_input():
    found = trace(nn.ConvTranspose2d(3, 4, 2, stride=2), torch.zeros(1, 3, 5, 5), LAVIT_MODULES)
    assert found.total == 3 * 25 * 4 * 4


@settings(max_examples=25, deadline=None)
@given(batch=sizes, heads=sizes, queries=sizes, keys=sizes, width=sizes, value_width=sizes)
def test_fused_attention_counts_what_the_eager_form_does(
    batch, heads, queries, keys, width, value_width
):
    key = torch.zeros(batch, heads, keys, width)
    value = torch.zeros(batch, heads, keys, value_width)
    shape = (batch, heads, queries, width)
    fused = counted(lambda q: F.scaled_dot_product_attention(q, key, value), *shape)
    eager = counted(lambda q: (q @ key.transpose(-2, -1)).softmax(-1) @ value, *shape)
    assert fused.total == eager.total
    assert fused.total == math.prod((batch, heads, queries, keys, width + value_width))


def test_an_einsum_without_a_rule_is_refused_not_guessed():
    with pytest.raises(ProfileError, match="only two operands"):
        counted(lambda x: torch.einsum("ab,bc,cd->ad", x, x, x), 3, 3)


@settings(max_examples=10, deadline=None)
@given(batch=sizes, heads=sizes, queries=sizes, keys=sizes, width=sizes)
def test_the_less_attention_operator_counts_what_its_parts_do(batch, heads, queries, keys, width):
    along_queries, along_keys = torch.zeros(queries, queries), torch.zeros(keys, keys)
    constant, values = torch.zeros(queries, keys), torch.zeros(batch, heads, keys, width)

    def fused(scores):
        return kernels.less_attention(scores, along_queries, along_keys, constant, values)

    def eager(scores):
        moved = along_queries @ scores @ along_keys.T + constant
        return moved.softmax(-1) @ values

    shape = (batch, heads, queries, keys)
    found, expected = counted(fused, *shape), counted(eager, *shape)
    assert found.total == expected.total
    assert "less_attention" in found.by_operator
    parts = {place.part: amounts["multiply_adds"] for place, amounts in found.by_place.items()}
    maps = math.prod(shape)
    assert parts["la_transform"] == maps * (queries + keys)
    assert parts["attention_scores_values"] == maps * width


def test_bytes_are_those_of_everything_read_and_written():
    found = counted(lambda x: F.linear(x, torch.zeros(6, 3), torch.zeros(6)), 2, 4, 3)
    read_and_written = 2 * 4 * 3 + (6 * 3 + 6) + 2 * 4 * 6
    assert found.by_operator_and_measure["aten::linear"]["bytes_moved"] == 4 * read_and_written


def test_bytes_of_a_list_are_those_of_its_tensors():
    found = counted(lambda x: torch.cat((x, x, x.double().float()), dim=0), 2, 5)
    assert found.by_operator_and_measure["aten::cat"]["bytes_moved"] == 4 * (3 * 10 + 30)


def test_a_change_of_view_costs_nothing():
    found = counted(lambda x: x.transpose(0, 1).unsqueeze(0).expand_as(torch.zeros(3, 5, 2)), 2, 5)
    assert found.by_module[""]["bytes_moved"] == 0


def test_activations_are_what_products_write_and_elements_what_all_do():
    found = counted(lambda x: F.gelu(F.linear(x, torch.zeros(6, 3))), 4, 3)
    amounts = found.by_module[""]
    assert amounts["activations"] == 4 * 6
    assert amounts["elements"] == 2 * 4 * 6
