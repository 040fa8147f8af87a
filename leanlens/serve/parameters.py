"""What a client asks for, in the same form for every API."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from leanlens.pipeline.reasoned import Reasoned
from leanlens.pipeline.request import LatentResize
from leanlens.resolution import require_whole_tokens
from leanlens.serve.errors import APIError


@dataclass
class GenerationParameters:
    """What a client asks for. A field that is None takes the model's default.

    Attributes:
        prompt, negative_prompt, width, height, num_inference_steps, guidance_scale, strength: as in `ImageRequest`.
        model: by the library's name.
        seed: of the first image; later images count up. None and -1 are random.
        count: number of images.
        image: the image to start from.
        image_bytes: the file that `image` was read from; without it, `image` is stored as PNG.
        mask: white is repainted; same size as `image`.
        loras: names and scales.
        latent_resize: as in `ImageRequest`; how an image of another size is brought to the size of the result.
        reason: "off" uses the prompt as it is; None and "default" leave the choice to the server.
        fixed: facts that the caption must state: key -> value, as in `leanlens.reason`.
        reasoned: the record of a prompt that a reasoner has already rewritten; it is not rewritten again.
        iteration: images per batch, for clients that count in batches.
        source: sets `image`, `image_bytes` and `mask`. It is called once every other field is valid, so that an
            invalid request costs no decoding.
        identity: a job id chosen by the client, 32 hexadecimal digits.
    """

    prompt: str
    negative_prompt: str = ""
    model: str | None = None
    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    count: int = 1
    image: Image.Image | None = None
    image_bytes: bytes | None = None
    mask: Image.Image | None = None
    strength: float | None = None
    loras: Sequence[tuple[str, float]] = ()
    iteration: int = 1
    source: "Callable[[GenerationParameters], None] | None" = None
    identity: str | None = None
    latent_resize: LatentResize | None = None
    reason: str | None = None
    fixed: Mapping[str, str] = field(default_factory=dict)
    reasoned: Reasoned | None = None

    @property
    def starts_from_image(self) -> bool:
        """Whether an image or a mask is given, or `source` sets them later."""
        return self.image is not None or self.mask is not None or self.source is not None

    def drop_images(self) -> None:
        """Free the decoded image and mask."""
        self.image = self.image_bytes = self.mask = self.source = None


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of a size in the form WIDTHxHEIGHT.

    Raises:
        APIError: another form, or sides that are no multiples of 16; of the field "size".
    """
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text, re.ASCII)
    if match is None:
        raise APIError("invalid", f"invalid size {text[:40]!r}: expected WIDTHxHEIGHT or auto", "size")
    width, height = int(match[1]), int(match[2])
    try:
        require_whole_tokens("width", width)
        require_whole_tokens("height", height)
    except ValueError as error:
        raise APIError("invalid", f"size {text}: {error}", "size") from None
    return width, height
