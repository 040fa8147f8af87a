"""From a person's prompt to the caption that a model was trained on, as a record with the original."""

from leanlens.reason.reasoner import Ask, Reasoner, reason_request, reasoner_for

__all__ = ["Ask", "Reasoner", "reason_request", "reasoner_for"]
