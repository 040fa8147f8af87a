"""Scorers that run in environments of their own: scripts with their requirements, each started as a process."""
