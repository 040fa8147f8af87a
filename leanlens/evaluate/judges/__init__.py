"""Judges: images and what was asked for to judgements, one file per kind of judge."""
