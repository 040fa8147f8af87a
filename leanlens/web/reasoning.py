"""Shows how a prompt is understood before it is drawn: facts as chips, the caption, unknown words."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from leanlens.pipeline.reasoned import Reasoned
from leanlens.reason.choose import STYLES
from leanlens.reason.facts import RELATION_WORDS
from leanlens.reason.vocabulary import complete
from leanlens.reason.write import SIZES
from leanlens.scenes.describe import STYLE_PHRASES
from leanlens.scenes.icons import COLORS
from leanlens.scenes.scene import PLAIN_COLORS
from leanlens.serve.errors import APIError
from leanlens.serve.service import ImageService
from leanlens.web.form import Form, has_reasoner, parameters_from
from leanlens.web.scripts import DECIDED, READING, SUGGESTING

PLACES = (
    ("in the upper left", "at the top", "in the upper right"),
    ("on the left", "in the centre", "on the right"),
    ("in the lower left", "at the bottom", "in the lower right"),
)
SUGGESTED = 6
_WORDS = 3  # that the name of a thing may have


def suggestions() -> Any:
    """The row of known things below the prompt."""
    import gradio as gr

    row = '<div class="leanlens"><div class="suggestions" role="toolbar" aria-label="Known things"></div></div>'
    return gr.HTML(row, padding=False, elem_id="suggest", js_on_load=SUGGESTING, server_functions=[suggest])


def reading(service: ImageService) -> tuple[Any, Any]:
    """The switch and, below it, how the prompt is understood.

    Returns:
        The switch, and the hidden field of the choices: the last two fields of `Form`.
    """
    import gradio as gr

    def read(asked: Any) -> dict[str, Any]:
        return read_prompt(asked, service)

    switch = gr.Checkbox(True, label="Rewrite my prompt", container=False, elem_id="reason")
    panel = gr.HTML(
        '<div class="leanlens reading" data-state="empty"></div>', padding=False, elem_id="reading",
        js_on_load=READING, server_functions=[read, suggest], fields=list(Form().__dict__), options=known_values(),
        models=[name for name in service.library.models() if has_reasoner(service, name)],
        isOff=service.settings.reason == "off",
    )  # fmt: skip
    choices = gr.Textbox(visible="hidden", elem_id="choices")
    panel.change(None, None, choices, js=DECIDED, queue=False)
    return switch, choices


class Asked(BaseModel):
    """The fields of `Form` that a reading depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    model: str | None
    aspect: str
    base: float | None
    size: str
    seed: str
    loras: list[str]
    choices: str


def read_prompt(asked: Any, service: ImageService) -> dict[str, Any]:
    """How a prompt is understood, for the page's script.

    Returns:
        state "read", "alone", "absent" or "refused"; a sentence, if there is something to report; and for a prompt that
        is read its facts, unknown words, language, caption and seed.

    Raises:
        ValueError: fields that the page does not send.
    """
    fields = Asked.model_validate(asked).model_dump()
    form = Form(**fields | {"base": fields["base"] and round(fields["base"])})
    try:
        if not has_reasoner(service, form.model):
            return {"state": "absent"}
        request, model = service.reason(parameters_from(form, service))
    except APIError as error:
        return {"state": "refused", "sentence": sentence(error.message)}
    if request.reasoner is None:
        return {"state": "alone", "sentence": "Your prompt is drawn as you wrote it."}
    return shown(request.reasoner, model, request.seed)


def shown(reasoned: Reasoned, model: str, seed: int) -> dict[str, Any]:
    """A record in plain values."""
    unknown = [
        {"word": one.word, "nearest": one.nearest, "sentence": f"{one.sentence(model)}."}
        for one in reasoned.not_understood
    ]
    if reasoned.left_alone:
        said = sentence(f"Your prompt is drawn as you wrote it: {reasoned.left_alone}")
        return {"state": "alone", "sentence": said, "unknown": unknown}
    return {
        "state": "read",
        "facts": [fact.model_dump() for fact in reasoned.facts],
        "unknown": unknown,
        "language": reasoned.language,
        "caption": reasoned.prompt,
        "seed": str(seed),
    }


def suggest(text: Any) -> dict[str, Any]:
    """Names of known things that complete the end of `text`, and how many of its characters they replace."""
    words = text[-80:].split(" ") if isinstance(text, str) else []
    for count in range(min(_WORDS, len(words)), 0, -1):
        typed = " ".join(words[-count:])
        if typed.strip() == typed and len(typed) > 1:
            found = _complete(typed, whole=count == 1)
            if found:
                return {"typed": typed, "names": found}
    return {"typed": "", "names": []}


def _complete(typed: str, whole: bool) -> list[str]:
    """Names for the last words of a prompt; for several words only names that contain them as typed."""
    names = complete(typed, SUGGESTED + 1)
    return [name for name in names if name != typed.lower() and (whole or typed.lower() in name)][:SUGGESTED]


def known_values() -> dict[str, list[list[str]]]:
    """Kind of a fact -> the values that its editor offers, each with a CSS colour or a blank."""
    named = {
        "number": [str(number) for number in range(1, 7)],
        "size": list(SIZES),
        "place": [place for row in PLACES for place in row],
        "relation": list(RELATION_WORDS),
        "style": [STYLE_PHRASES[name] for name in STYLES],
    }
    plain = {kind: [[name, ""] for name in names] for kind, names in named.items()}
    return {**plain, "color": _swatches(COLORS), "background": _swatches(PLAIN_COLORS)}


def _swatches(colors: dict[str, tuple[int, int, int]]) -> list[list[str]]:
    return [[name, "rgb({} {} {})".format(*rgb)] for name, rgb in colors.items()]


def sentence(text: str) -> str:
    """Text as a sentence, with a capital first letter and a full stop."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."
