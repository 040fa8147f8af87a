"""Opens the models of `leanlens evaluate`, each as a column of the comparison."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from leanlens.cli.auto import settle
from leanlens.cli.say import say
from leanlens.files import read_json
from leanlens.plan.options import LoadOptions

if TYPE_CHECKING:
    from leanlens.evaluate.image_models.spec import ModelSpec
    from leanlens.evaluate.suite import ImageModel, Suite


def columns_of(
    specs: "list[ModelSpec]", words: list[str], system_prompt: str | None = None
) -> "list[tuple[str, ModelSpec, str]]":
    """Name, model and word of rewriting of each column.

    Args:
        words: off, default or an address of a language model.
        system_prompt: of that language model.

    Raises:
        ValueError: a word that is not known or is given twice, or a model that has no reasoner.
    """
    from leanlens.cli.reason import reasoner_at_address
    from leanlens.reason import reasoner_of_model
    from leanlens.reason.reasoner import is_address

    if system_prompt is not None and not any(map(is_address, words)):
        reasoner_at_address("off", system_prompt)
    found = []
    for spec in specs:
        for index, word in enumerate(words):
            if word in words[:index]:
                raise ValueError(f"reason {word!r} is given twice; give off, default or both")
            if is_address(word) and spec.kind == "lens":
                asked = reasoner_at_address(word, system_prompt)
                short = word if asked is None else asked.endpoint.model.rsplit("/", 1)[-1]
            elif word != "off" and (spec.kind != "lens" or reasoner_of_model(spec.source, word) is None):
                raise ValueError(f"invalid reason {word!r} for {spec.source}: it has no reasoner; expected off")
            else:
                short = word
            name = spec.name if len(words) == 1 else short if len(specs) == 1 else f"{spec.name}, {short}"
            found.append((name, spec, word))
    return found


def opener_of(
    spec: "ModelSpec",
    name: str,
    word: str,
    load: LoadOptions,
    steps: int | None,
    cfg: float | None,
    system_prompt: str | None = None,
) -> "Callable[[], ImageModel]":
    """What opens the model of a column."""

    def opened() -> "ImageModel":
        from leanlens.evaluate.image_models.open import open_image_model

        return open_image_model(
            replace(spec, name=name), load, steps=steps, cfg=cfg, reason=word, system_prompt=system_prompt,
            choose=lambda model, options, **drawing: settle(model, options, say, **drawing),
        )  # fmt: skip

    return opened


def openers_elsewhere(
    columns: "list[tuple[str, ModelSpec, str]]",
    devices: list[str],
    load: LoadOptions,
    steps: int | None,
    cfg: float | None,
) -> "dict[str, list[Callable[[], ImageModel]]]":
    """Name of a column -> what opens its model on each device after the first, in a process of its own.

    An endpoint, and a model whose device is given with it, are drawn by one process.
    """
    from leanlens.evaluate.image_models.open import open_image_model

    return {
        name: [
            partial(
                open_image_model, replace(spec, name=name), replace(load, device=device), steps=steps, cfg=cfg,
                reason=word, count_flop=False,
            )
            for device in devices[1:]
        ]
        for name, spec, word in columns
        if spec.kind != "endpoint" and "device" not in spec.options
    }  # fmt: skip


def folders_of(texts: list[str], suite: "Suite", seeds: int, seed: int) -> "list[Callable[[], ImageModel]]":
    """What opens the columns of images that were drawn elsewhere. They are read now, before anything is drawn.

    Raises:
        ValueError: no such folder, one without an image for these prompts, or two of one name.
    """
    from leanlens.evaluate.image_models.image_folder import ImageFolder, parse_folders

    folders = [ImageFolder(path, suite.items, name, seeds, seed) for name, path in parse_folders(texts)]
    return [partial(_as_it_is, folder) for folder in folders]


def _as_it_is(model: "ImageModel") -> "ImageModel":
    return model


def require_own_names(names: list[str]) -> None:
    """Raise a ValueError if two columns of a comparison, or a column and another's control, have the same name."""
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ValueError(f"two models are named {name!r}; give each its own, as in NAME=MODEL or NAME=FOLDER")
        if name.endswith(", control"):
            raise ValueError(f"invalid name {name!r}: expected one without ', control', which names rows of controls")


def references_of(
    suite: "Suite", spec: "ModelSpec", load: LoadOptions, real: bool, reconstruction: bool
) -> "list[Callable[[], ImageModel]]":
    """What opens the columns of true pictures."""
    from leanlens.evaluate.image_models.true_pictures import Reconstruction, TruePictures
    from leanlens.pipeline.open import open_model

    def reconstructed() -> "ImageModel":
        return Reconstruction(open_model(spec.source, options=load), suite.items)

    shown: list[Callable[[], ImageModel]] = [reconstructed] if reconstruction else []
    return [*shown, *([lambda: TruePictures(suite.items)] if real else [])]


def own_size(spec: "ModelSpec") -> int:
    """The base of a model's canvas in pixels."""
    from leanlens.hub import locate
    from leanlens.presets import PRESETS, is_made

    if spec.kind == "lens" and not is_made(spec.source):
        config = locate(spec.source) / "vae" / "config.json"
        if config.is_file():
            return int(read_json(config)["sample_size"])
    return PRESETS[spec.source].base_resolution if spec.source in PRESETS else 1024
