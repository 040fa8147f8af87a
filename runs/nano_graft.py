"""A denoiser whose image side is a trained one's and whose text side is random: what a short run starts from that
compares text features. What things look like need not be learnt again; which words mean them is.

    python runs/nano_graft.py RECIPE MODEL OUTPUT_FOLDER [--set A.B=C]...

The text side is the norms and the projection of the features, and in each block the modulation, attention projections,
norms and MLP of the text tokens.
"""

import argparse
from pathlib import Path

from leanlens.config import read_recipe
from leanlens.files import whole_folder
from leanlens.train.config import TrainRecipe
from leanlens.train.denoiser_model import build_denoiser
from leanlens.train.start import start_weights

TEXT_SIDE = ("txt_", "_added_", "to_add_out")  # in the names of its weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("model", help="a run folder, a pipeline folder, a weight file or a preset")
    parser.add_argument("output", type=Path)
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="A.B=C")
    given = parser.parse_args()
    recipe = read_recipe(TrainRecipe, given.recipe, given.changes)
    fresh = build_denoiser(recipe.model, recipe.run.seed)
    trained = start_weights(given.model)
    kept = {name: value for name, value in trained.items() if not any(part in name for part in TEXT_SIDE)}
    own = fresh.state_dict()
    wrong = [name for name, value in kept.items() if name not in own or own[name].shape != value.shape]
    if wrong:
        raise SystemExit(f"{given.model} has another image side than {given.recipe}: {wrong[0]} differs")
    fresh.load_state_dict(own | kept)
    with whole_folder(given.output) as temporary:
        fresh.save_pretrained(temporary)


if __name__ == "__main__":
    main()
