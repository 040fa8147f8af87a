"""Lets people vote on the images of an evaluation, and counts their votes."""
