"""Reference columns of an evaluation: the true pictures, and these after a model's autoencoder."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from leanlens.evaluate.suite import Drawn, ImageFailed, Item
from leanlens.models.vae import decode, encode, token_pixels
from leanlens.pipeline.image import from_pixels, to_pixels
from leanlens.pipeline.opened_model import OpenedModel


class TruePictures:
    """Shows the true picture of each item: how far the judges themselves can be trusted."""

    def __init__(self, items: Sequence[Item], name: str = "real"):
        self.name, self._pictures = name, _digest(items)

    def identity(self) -> dict[str, Any]:
        """See `ImageModel`."""
        return {"kind": "real", "pictures": self._pictures}

    def draw(self, item: Item, seed: int) -> Drawn:
        """See `ImageModel`; the seed changes nothing."""
        return Drawn(_true_picture(item))

    def costs(self) -> dict[str, Any]:
        """See `ImageModel`."""
        return {}

    def close(self) -> None:
        """See `ImageModel`."""


class Reconstruction:
    """Shows the true pictures after a model's autoencoder: the best that any denoiser of this model could do."""

    def __init__(self, opened: OpenedModel, items: Sequence[Item], name: str = "reconstruction"):
        self.opened, self.name, self._pictures = opened, name, _digest(items)

    def identity(self) -> dict[str, Any]:
        """See `ImageModel`."""
        return {
            "kind": "reconstruction",
            "model": self.opened.identity(),
            "run": self.opened.conditions(),
            "pictures": self._pictures,
        }

    def draw(self, item: Item, seed: int) -> Drawn:
        """See `ImageModel`; the seed changes nothing."""
        vae = self.opened.pipeline.vae
        pixels = to_pixels(_true_picture(item)).to(vae.device)
        side = token_pixels(vae)
        with torch.inference_mode():
            tokens = encode(vae, pixels)
            return Drawn(from_pixels(decode(vae, tokens, (pixels.shape[2] // side, pixels.shape[3] // side)), "pil")[0])

    def costs(self) -> dict[str, Any]:
        """See `ImageModel`."""
        return {}

    def close(self) -> None:
        """See `ImageModel`."""
        del self.opened


def _true_picture(item: Item) -> Image.Image:
    if item.picture is None:
        raise ImageFailed("the item has no true picture")
    return item.picture


def _digest(items: Sequence[Item]) -> str:
    """64 hexadecimal digits of all true pictures."""
    found = hashlib.sha256()
    for item in items:
        if item.picture is not None:
            found.update(item.picture.tobytes())
    return found.hexdigest()
