"""Opens a model of the comparison, of whatever kind it is."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from leanlens.evaluate.image_models.spec import ENDPOINT, LENS, ModelSpec, kind_of_index
from leanlens.evaluate.suite import ImageModel
from leanlens.hub import locate_weights
from leanlens.machine import forget_peak_memory
from leanlens.plan.options import LoadOptions

_LOADING = ("device", "dtype", "quant", "offload", "compile")


def open_image_model(
    spec: ModelSpec,
    load: LoadOptions | None = None,
    *,
    steps: int | None = None,
    cfg: float | None = None,
    reason: str = "off",
    system_prompt: str | None = None,
    choose: Callable[..., Any] | None = None,
    count_flop: bool = True,
) -> ImageModel:
    """Open a model.

    Args:
        spec: what `--model` said; its settings come before the other arguments.
        load: device, dtype and so on.
        steps, cfg: the model's own without them.
        reason: the word of the reasoner that rewrites the prompts of a leanlens model, "off", or the address of a
            language model that does.
        system_prompt: of that language model: a name or a file.
        choose: settles what `load` leaves open, as `leanlens.pipeline.auto.choose_model` does, which is the default.
        count_flop: count the operations of a diffusers pipeline, for which it draws one more image.

    Raises:
        ValueError: a model that cannot be opened, or a setting that it does not have.
        OSError: it is not on this machine and cannot be downloaded.
    """
    load = load or LoadOptions()
    kind = resolve_kind(spec)
    spec.require_known_keys(kind)
    forget_peak_memory()  # that of the model before is not this one's
    if kind == LENS:
        return _lens(spec, load, steps, cfg, reason, system_prompt, choose)
    if reason != "off":
        raise ValueError(f"invalid reason {reason!r} for {spec.name}: it has no reasoner; expected off")
    if kind == ENDPOINT:
        from leanlens.evaluate.image_models.images_endpoint import ImagesEndpoint

        return ImagesEndpoint(spec)
    from leanlens.evaluate.image_models.diffusers_pipeline import DiffusersModel

    common = {name: value for name, value in (("steps", steps), ("cfg", cfg)) if value is not None}
    return DiffusersModel(replace(spec, options=common | spec.options), load.device, load.dtype, count_flop)


def resolve_kind(spec: ModelSpec) -> str:
    """The kind of a model; the model_index.json of a repository is downloaded for it.

    Raises:
        DownloadError: it could not be downloaded.
    """
    found = spec.kind
    if found is not None:
        return found
    revision = {name: spec.options[name] for name in ("revision",) if name in spec.options}
    return kind_of_index(locate_weights(spec.source, "model_index.json", **revision))


def _lens(
    spec: ModelSpec,
    load: LoadOptions,
    steps: int | None,
    cfg: float | None,
    reason: str,
    system_prompt: str | None,
    choose: Callable[..., Any] | None,
) -> ImageModel:
    from leanlens.evaluate.image_models.lens import LensModel
    from leanlens.pipeline.auto import choose_model
    from leanlens.pipeline.open import open_model
    from leanlens.reason import reasoner_of_model
    from leanlens.reason.reasoner import is_address, reasoner_at

    given = spec.options
    reason = given.get("reason", reason)
    load = replace(load, **{name: given[name] for name in _LOADING if name in given})
    steps, cfg = given.get("steps", steps), given.get("cfg", cfg)
    choice = (choose or choose_model)(spec.source, load, num_inference_steps=steps, guidance_scale=cfg)
    asked = reasoner_at(reason, system_prompt) if is_address(reason) else reasoner_of_model(choice.model, reason)
    return LensModel(
        open_model(choice.model, options=choice.options),
        spec.name,
        asked,
        steps,
        cfg,
        negative=given.get("negative", ""),
        size=given.get("size"),
        loras=spec.loras,
        tokens=given.get("tokens"),
    )
