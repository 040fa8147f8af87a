"""Trains the network of `leanlens/score/segmentation.py`: where one thing of a scene ends and the next begins. Live.

python runs/scene_outlines.py FOLDER [--minutes M] [--num N] [--sources L]
"""

import argparse
from pathlib import Path

from leanlens.train.segmentation import train_segmentation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=40.0, help="of training in all, drawing not counted")
    parser.add_argument("--num", type=int, default=12_000, help="number of scenes")
    parser.add_argument("--sources", default="full", help="library of drawings")
    given = parser.parse_args()
    train_segmentation(given.folder, given.minutes, given.num, given.sources)


if __name__ == "__main__":
    main()
