"""Suites: prompts with their official protocol, one file per benchmark."""
