"""Runs the `leanlens` command as `python -m leanlens`."""

from leanlens.cli.main import run

if __name__ == "__main__":
    run()
