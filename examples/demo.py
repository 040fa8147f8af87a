"""What `make demo` runs: one picture with the model inside the package, or with random weights while there is none."""

import sys

import leanlens.hub
from leanlens.cli.main import run

PROMPT = "a red apple and a yellow banana on a blue table"


def main() -> None:
    try:
        leanlens.hub.locate("nano")
        model = "nano"
    except ValueError:
        model = "toy"
        print("No trained model is embedded yet. This draws with random weights of the real classes at toy size:")
        print("the picture is coloured noise, and shows that everything is set up and works.")
    prompt = sys.argv[1] if len(sys.argv) > 1 else PROMPT
    sys.argv = ["leanlens", "generate", prompt, "--model", model, "--seed", "7", "-o", "demo.png"]
    run()


if __name__ == "__main__":
    main()
