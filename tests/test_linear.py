"""Linear layers through oneDNN: the values and gradients of torch's own, in every shape that layers are given."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from raypo.models.linear import CACHES, KERNELS, Linear, product, use_onednn

SHAPES = [(5, 7), (2, 3, 7), (1, 1, 7), (7,), (0, 7), (2, 0, 7)]


def test_a_product_of_small_numbers() -> None:
    """[[1, 2], [3, 4]] by [[5, 6], [7, 8]]^T: 5 + 12 = 17, 7 + 16 = 23, 15 + 24 = 39, 21 + 32 = 53; and 10 and 20."""
    a, b = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    assert product(a, b).tolist() == [[17.0, 23.0], [39.0, 53.0]]
    assert product(a, b, torch.tensor([10.0, 20.0])).tolist() == [[27.0, 43.0], [49.0, 73.0]]
    assert product(a.t(), b.t()).tolist() == (a.t() @ b).tolist()  # strides are read


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_torch(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    own = nn.Linear(7, 4, bias=bias)
    ours = copy.deepcopy(own)
    use_onednn(ours)
    assert type(ours) is Linear
    given = torch.randn(shape, requires_grad=True)
    same = given.detach().clone().requires_grad_()
    upstream = torch.randn(*shape[:-1], 4)
    (own(given) * upstream).sum().backward()
    (ours(same) * upstream).sum().backward()
    torch.testing.assert_close(ours(same), own(given))
    torch.testing.assert_close(same.grad, given.grad)
    for one, other in zip(ours.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_frozen_weights_and_inputs_get_no_gradient() -> None:
    layer = nn.Linear(3, 2)
    use_onednn(layer)
    layer.weight.requires_grad_(False)
    given = torch.ones(4, 3, requires_grad=True)
    layer(given).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad.tolist() == [4.0, 4.0]
    torch.testing.assert_close(given.grad, layer.weight.sum(0).expand(4, 3))


@pytest.mark.parametrize(("weight", "given"), [(True, False), (False, True)])
def test_only_what_a_gradient_needs_is_held(weight: bool, given: bool) -> None:
    """Beneath an adapter weights are frozen: holding each layer's input would cost what the adapter saves."""
    layer, x = nn.Linear(3, 2, bias=False), torch.ones(4, 3, requires_grad=given)
    use_onednn(layer)
    layer.weight.requires_grad_(weight)
    held: list[tuple[int, ...]] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    assert held == [(4, 3)] * weight + [(2, 3)] * given


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_torchs_own_bitwise(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    own = nn.Linear(7, 4).to(dtype)
    ours = copy.deepcopy(own)
    use_onednn(ours)
    given = torch.randn(5, 7, dtype=dtype)
    assert torch.equal(ours(given), own(given))


def test_layers_inside_are_found_and_their_names_and_weights_stay() -> None:
    """A subclass of somebody else's computes as it did."""

    class Theirs(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 2)), Theirs(2, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    use_onednn(model)
    assert [type(one) for one in model.modules() if isinstance(one, nn.Linear)] == [Linear, Linear, Theirs]
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    """Bitwise: what one response's token becomes must not follow from other tokens of the batch."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 96)
    use_onednn(layer)
    given = torch.randn(50, 64)
    changed = given.clone()
    changed[:20] = torch.randn(20, 64)
    assert torch.equal(layer(given)[20:], layer(changed)[20:])


GROWTH = """
import os, sys
from pathlib import Path
import torch
from torch import nn
from raypo.models.linear import CACHES, product, use_onednn

torch.set_num_threads(1)
use_onednn(nn.Linear(1, 1))
weight, rows = torch.randn(128, 128), torch.randn(700, 128)

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

product(rows, weight)
before = resident()
for length in range(100, 700):
    product(rows[:length], weight)
    product(rows[:length].t(), rows[:length].t())
print(resident() - before, *(os.environ[name] for name in CACHES))
"""


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
def test_rows_of_many_lengths_do_not_fill_the_memory_with_kernels() -> None:
    """1,200 shapes, MiB; with the libraries' own bound of 1,024 it is several times as much. What is set, stays."""

    def grown(**given: str) -> tuple[float, list[str]]:
        environment = {name: value for name, value in os.environ.items() if name not in CACHES} | given
        told = subprocess.run(
            [sys.executable, "-c", GROWTH], env=environment, capture_output=True, text=True, check=True
        )
        mib, *bounds = told.stdout.split()
        return float(mib), bounds

    bounded, bounds = grown()
    own, kept = grown(**dict.fromkeys(CACHES, "1024"))
    assert (bounds, kept) == ([str(KERNELS)] * 2, ["1024"] * 2)
    assert bounded < 100
    assert own > 2 * bounded
