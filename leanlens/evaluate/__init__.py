"""Evaluation: draws what a model was never shown, scores it, and tabulates the scores with their intervals."""
