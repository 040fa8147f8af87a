"""Reads the edits of how a prompt is understood, which the browser keeps in a field of the form as JSON."""

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from leanlens.pipeline.request import MAX_SEED
from leanlens.serve.errors import APIError

_MOST = 60_000  # characters


class Choices(BaseModel):
    """Edited and locked facts, key -> value; "" removes a fact.

    Attributes:
        prompt: the prompt of the edits; they apply to no other.
        edits: facts of that prompt.
        locks: facts of every prompt.
        seed: the seed of the choices that the page shows, if the form has no seed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = ""
    edits: dict[str, str] = Field(default_factory=dict)
    locks: dict[str, str] = Field(default_factory=dict)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)

    def fixed(self, prompt: str) -> dict[str, str]:
        """The facts that are set for this prompt."""
        same = self.prompt.split() == prompt.split()
        return {**self.locks, **(self.edits if same else {})}

    def written(self) -> str:
        """The JSON that `read_choices` reads; without the seed, which is chosen anew."""
        return self.model_dump_json(exclude={"seed"})


def read_choices(text: str) -> Choices:
    """The choices in a form; none for a blank text.

    Raises:
        APIError: text of another form.
    """
    if not text.strip():
        return Choices()
    try:
        if len(text) > _MOST:
            raise ValueError
        return Choices.model_validate_json(text)
    except (ValidationError, ValueError):
        raise APIError("invalid", "the edited facts of this prompt are damaged; reload the page", "choices") from None
