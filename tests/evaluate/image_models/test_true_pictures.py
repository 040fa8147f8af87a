import numpy as np
import pytest
from PIL import Image

from leanlens.evaluate.image_models.true_pictures import Reconstruction, TruePictures
from leanlens.evaluate.suite import ImageFailed, Item


def item(value):
    return Item("a", "x", size=(64, 64), picture=Image.new("RGB", (64, 64), (value, 0, 0)))


def test_true_pictures_are_shown_as_they_are():
    model = TruePictures([item(3)])
    assert model.draw(item(3), 0).image.tobytes() == item(3).picture.tobytes()
    assert model.identity() != TruePictures([item(4)]).identity()
    with pytest.raises(ImageFailed, match="no true picture"):
        model.draw(Item("b", "y"), 0)


def test_a_reconstruction_comes_from_the_models_autoencoder(toy):
    model = Reconstruction(toy, [item(200)])
    image = model.draw(item(200), 0).image
    assert image.size == (64, 64)
    assert np.asarray(image).std() > 0
    assert model.identity() != TruePictures([item(200)]).identity()
