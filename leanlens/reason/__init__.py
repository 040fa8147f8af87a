"""Turns a person's prompt into the kind of caption that a model was trained on, and keeps a record of both."""

from typing import TYPE_CHECKING, Any

from leanlens.reason.reasoner import WORDS, Ask, Reasoner, reason_request, reasoner_for, reasoner_of_model

if TYPE_CHECKING:
    from leanlens.reason.scenes import SceneReasoner

__all__ = ["WORDS", "Ask", "Reasoner", "SceneReasoner", "reason_request", "reasoner_for", "reasoner_of_model"]


def __getattr__(name: str) -> Any:
    """Import lazily, because the reasoner reads its tables on import."""
    if name == "SceneReasoner":
        from leanlens.reason.scenes import SceneReasoner

        return SceneReasoner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
