"""Weights laid out for oneDNN: the same sums, noticed when they change, and never stale."""

import gc

import pytest
import torch
from peft import LoraConfig
from torch import nn

from leanlens.models import onednn
from leanlens.models.transformer import LensTransformer2DModel

pytestmark = pytest.mark.skipif(not onednn._can_reorder(), reason="this torch comes without oneDNN")


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(64, 96).requires_grad_(False)


@pytest.fixture
def used(monkeypatch) -> list:
    """One entry for each product that ran on a blocked copy."""
    calls, product = [], torch.ops.mkldnn._linear_pointwise

    class Watched:
        def __getattr__(self, name):
            return getattr(torch._ops._OpNamespace("mkldnn"), name)

        def _linear_pointwise(self, *args):
            calls.append(1)
            return product(*args)

    monkeypatch.setattr(torch.ops, "mkldnn", Watched())
    return calls


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("rows", [(1,), (7,), (2, 33)])
def test_same_product(layer, used, dtype, error, rows):
    layer.to(dtype)
    x = torch.randn(*rows, 64).to(dtype)
    plain = layer(x)
    assert onednn.reorder(layer) == 1
    torch.testing.assert_close(layer(x), plain, rtol=0, atol=error)
    assert used == [1]
    assert isinstance(layer, nn.Linear)
    assert list(layer.state_dict()) == ["weight", "bias"]


def test_no_rows_and_strided_rows(layer):
    x = torch.randn(2, 40, 64)[:, ::2]
    plain = layer(x)
    onednn.reorder(layer)
    torch.testing.assert_close(layer(x), plain, rtol=0, atol=1e-5)
    assert layer(torch.empty(1, 0, 64)).shape == (1, 0, 96)


def test_a_weight_changed_in_place_is_noticed(layer, used):
    onednn.reorder(layer)
    x = torch.randn(3, 64)
    layer.load_state_dict({name: value * 2 for name, value in layer.state_dict().items()})
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias), rtol=0, atol=1e-5)
    assert used == []


def test_cast_and_moved_weights_are_multiplied_plainly(layer, used):
    onednn.reorder(layer)
    layer.double()
    assert layer(torch.randn(3, 64).double()).dtype == torch.float64
    assert used == []


def test_gradients_flow(layer, used):
    onednn.reorder(layer)
    layer.requires_grad_(True)
    layer(torch.randn(3, 64)).sum().backward()
    assert layer.weight.grad is not None
    assert used == []


def test_copies_go_with_their_layers(layer):
    gc.collect()  # what other tests left
    before = len(onednn._ORDERS)
    onednn.reorder(layer)
    assert len(onednn._ORDERS) == before + 1
    onednn.restore(layer)
    assert len(onednn._ORDERS) == before
    assert type(layer) is nn.Linear
    another = nn.Linear(8, 8)
    onednn.reorder(another)
    del another
    gc.collect()
    assert len(onednn._ORDERS) == before


def test_a_fused_adapter_acts_where_layers_are_restored_for_it():
    torch.manual_seed(0)
    model = LensTransformer2DModel(num_layers=1, num_attention_heads=2, enc_hidden_dim=32, selected_layer_index=(0,))
    model.eval().requires_grad_(False)
    inputs = {
        "hidden_states": torch.randn(1, 8, 128),
        "encoder_hidden_states": [torch.randn(1, 3, 32)],
        "timestep": torch.tensor(0.5),
        "img_shapes": [(1, 2, 4)],
    }
    plain = model(**inputs)
    layers = onednn.reorder(model)
    assert layers == sum(type(module) is onednn.ReorderedLinear for module in model.modules()) > 10
    torch.testing.assert_close(model(**inputs), plain, rtol=0, atol=1e-5)
    model.add_adapter(LoraConfig(r=4, target_modules=["img_qkv"], init_lora_weights=False))
    adapted = model(**inputs)
    assert (adapted - plain).norm() > 1e-3
    with onednn.restored(model):
        model.fuse_lora()
    torch.testing.assert_close(model(**inputs), adapted, rtol=0, atol=1e-5)
    assert any(type(module) is onednn.ReorderedLinear for module in model.modules())


def test_compilers_take_the_product_as_it_is(layer):
    onednn.reorder(layer)
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph.forward

    x = torch.randn(5, 64)
    compiled = torch.compile(lambda x: layer(x) * 2, fullgraph=True, backend=keep)
    torch.testing.assert_close(compiled(x), layer(x) * 2)
    assert "reordered_linear" in str(graphs[0].graph)
    torch._dynamo.reset()


def test_nothing_without_onednn(layer, monkeypatch):
    monkeypatch.setattr(onednn, "_can_reorder", lambda: False)
    assert onednn.reorder(layer) == 0
    assert type(layer) is nn.Linear
