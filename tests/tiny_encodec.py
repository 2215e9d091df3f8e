"""An EnCodec folder for tests: random weights, the real architecture a few channels wide."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import EncodecConfig as HubConfig
from transformers import EncodecModel


def save_tiny_encodec(folder: Path, seed: int = 0, **settings) -> Path:
    """Hub format, 75 frames a second, codebooks of 16 entries: 5 of them at 1.5 kbit/s, 10 at 3."""
    sizes = {"num_filters": 4, "hidden_size": 8, "codebook_size": 16, "target_bandwidths": [1.5, 3.0]}
    config = HubConfig(**(sizes | settings))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = EncodecModel(config)
        for layer in model.quantizer.layers:
            layer.codebook.embed.normal_(std=0.1)
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder
