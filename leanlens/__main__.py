"""`python -m leanlens` is the `leanlens` command."""

from leanlens.cli.main import run

if __name__ == "__main__":
    run()
