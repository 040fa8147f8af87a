"""What `make demo` runs: one picture with the model inside the package, in `out.png`, and what to try next."""

import sys

from leanlens.cli.main import run

PROMPT = "a penguin to the left of a pink cupcake"
NEXT = """
out.png is your picture. Next:
  source .venv/bin/activate
  leanlens generate "a unicorn, 3D" -o unicorn.png
  leanlens generate "a penguin and a snowman on a snowy field" --aspect 16:9 -n 4
  leanlens model words nano          # the 250 things that this small model knows
  leanlens serve                     # a web page, and the same model for ComfyUI, AUTOMATIC1111 and OpenAI clients
  leanlens plan                      # what the full 4-billion-parameter Lens needs, and whether this machine has it"""


def main() -> None:
    prompt = sys.argv[1] if len(sys.argv) > 1 else PROMPT
    sys.argv = ["leanlens", "generate", prompt, "--model", "nano", "--seed", "1", "-o", "out.png"]
    try:
        run()
    except SystemExit as end:
        if end.code:
            raise
    print(NEXT)


if __name__ == "__main__":
    main()
