"""From a person's prompt to the caption that a model was trained on, as a record with the original."""

from leanlens.reason.reasoner import WORDS, Ask, Reasoner, reason_request, reasoner_for, reasoner_of_model

__all__ = ["WORDS", "Ask", "Reasoner", "reason_request", "reasoner_for", "reasoner_of_model"]
