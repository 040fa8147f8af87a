"""Prints `train.channel_weights` for a denoiser on the latents of an autoencoder, as JSON. Live.

python runs/nano_channels.py AUTOENCODER_FOLDER [LIBRARY]
"""

import json
import sys
from pathlib import Path

import torch

from leanlens.train.autoencoder_config import CropScenes
from leanlens.train.channel_weights import channel_moves
from leanlens.train.scene_crops import draw_scenes, scaled

PICTURES = 8  # scenes that channels are measured on


def main() -> None:
    folder, *sources = sys.argv[1:]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scenes = CropScenes(num=PICTURES, sources=sources[0] if sources else None)
    print(json.dumps(channel_moves(Path(folder), scaled(draw_scenes(scenes, device)))))


if __name__ == "__main__":
    main()
