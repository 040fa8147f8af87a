import numpy as np
import pytest
import torch

pytest.importorskip("efficientnet_lite_pytorch")

from efficientnet_lite_pytorch import EfficientNet

from leanlens.score.efficientnet import FoldedEfficientNet


def plain(network, x, side):
    """The answers of the unfolded network, layer by layer as its own code has them."""
    x = network._swish(network._bn0(network._conv_stem(x)))
    for block in network._blocks:
        x = block(x)
        if x.shape[2] == side:
            earlier = x
    return network._swish(network._bn1(network._conv_head(x))), earlier


def random_network(name):
    torch.manual_seed(0)
    network = EfficientNet.from_name(name).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    return network


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite2"])
@torch.inference_mode()
def test_the_folded_network_answers_as_the_plain_one(name):
    network = random_network(name)
    x = torch.randn(5, 3, 128, 128)
    folded = FoldedEfficientNet(network, 8)
    for got, wanted in zip(folded(x), plain(network, x, 8), strict=True):
        scale = float(wanted.abs().max())
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, atol=2e-5 * scale)
        assert scale > 0
