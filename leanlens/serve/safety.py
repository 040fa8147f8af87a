"""The operator's filters on prompts, before drawing, and on images, before they are stored."""

from typing import Any

from PIL import Image

from leanlens.score.protocol import Failed, Scorer
from leanlens.score.safety import WORDS, PromptWords, picture_scorer
from leanlens.serve.errors import APIError
from leanlens.serve.settings import ServerSettings


class SafetyFilter:
    """The filters that `--safety` turns on.

    Args:
        settings: the operator's.

    Raises:
        ValueError: a word list or a scorer that cannot be used.
    """

    def __init__(self, settings: ServerSettings):
        self.words = PromptWords(settings.safety_words or WORDS) if settings.safety in ("prompt", "all") else None
        self.scorer: Scorer | None = None
        if settings.safety in ("picture", "all"):
            self.scorer = picture_scorer(settings.safety_scorer)
        self.threshold = settings.safety_threshold

    def check_prompt(self, prompt: str) -> None:
        """Raise for a prompt that the filter rejects.

        Raises:
            APIError: of kind unsafe.
        """
        found = self.words.find(prompt) if self.words is not None else None
        if found is not None:
            raise APIError("unsafe", f"prompt holds {found!r}, which this server's safety filter rejects", "prompt")

    def check_picture(self, image: Image.Image, prompt: str) -> dict[str, Any] | None:
        """The record of the filters that an image passed; None without filters.

        Raises:
            APIError: of kind unsafe.
        """
        picture = None
        if self.scorer is not None:
            score = self.scorer([image], [prompt])[0]
            for value in score.values():
                if isinstance(value, Failed):  # never shown as safe
                    raise ValueError(f"safety scorer {self.scorer.name} could not judge the image: {value.reason}")
            known = [float(value) for value in score.values() if isinstance(value, int | float)]
            if not known:
                raise ValueError(f"safety scorer {self.scorer.name} gave no value")
            if min(known) < self.threshold:
                raise APIError("unsafe", "the picture was drawn and held back by this server's safety filter")
            picture = {"filter": self.scorer.name, "safe": round(min(known), 4), "threshold": self.threshold}
        prompts = None if self.words is None else {"filter": self.words.name, "list": self.words.digest}
        return None if picture is None and prompts is None else {"prompt": prompts, "picture": picture}
