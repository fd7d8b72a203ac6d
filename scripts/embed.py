"""Put trained models into the package, with half-precision weights and one shared image tokenizer.

    python scripts/embed.py runs/emoji/decoder/model mmada-emoji-tokenizer
    python scripts/embed.py runs/emoji/base/model mmada-emoji-base --eight-bits
    python scripts/embed.py runs/emoji/mixcot/model mmada-emoji-mixcot
    python scripts/embed.py runs/emoji/max-0/model mmada-emoji-max --average runs/emoji/max-1/model runs/emoji/max-2/model

Weights are stored as float16 and computed in float32, as config.json says. Training does not determine more than 11 bits.
A transformer has no image tokenizer of its own. Its mmada.json names the shared one, which it must have been trained with.

--eight-bits rounds matrices to float8_e4m3fn (sign, four bits of exponent, three of mantissa) and halves the file.
Use it for a model that others train further, not for the most accurate one.

--average takes the mean with the weights of other runs. Those may be other seeds ("model soups", Wortsman et al. 2022), or the run's
start, which restores what reinforcement learning cost other tasks ("Robust fine-tuning of zero-shot models", Wortsman et al. 2022;
docs/decisions.md).
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from mmada.hub.checkpoint import weight_files

CHECKPOINTS = Path(__file__).parents[1] / "mmada" / "checkpoints"
TOKENIZER = "mmada-emoji-tokenizer"


def read(directory: Path) -> dict[str, torch.Tensor]:
    """All weights of a checkpoint, in one file or several."""
    return {name: tensor for file in weight_files(directory) for name, tensor in load_file(file).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("name")
    parser.add_argument(
        "--average", type=Path, nargs="+", default=[], help="directories, or names of built-in models, with weights of the same shapes"
    )
    parser.add_argument("--eight-bits", action="store_true", help="matrices as float8_e4m3fn instead of float16")
    args = parser.parse_args()
    target = CHECKPOINTS / args.name
    # Everything is read before anything is replaced: what is embedded now may be among what is averaged.
    weights = read(args.source)
    others = [read(other if other.is_dir() else CHECKPOINTS / other) for other in args.average]
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(
            args.source, copy, ignore=shutil.ignore_patterns("image_tokenizer", "adapter", "*.safetensors*"), dirs_exist_ok=True
        )
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(copy, target)
    if others:
        weights = {name: sum((other[name].float() for other in others), tensor) / (1 + len(others)) for name, tensor in weights.items()}

    def rounded(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor.to(torch.float8_e4m3fn) if args.eight_bits and tensor.dim() > 1 else tensor.half()

    kept = {name: rounded(tensor) for name, tensor in weights.items() if not name.startswith("quantize.")}
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    defaults = target / "mmada.json"
    if defaults.exists():
        defaults.write_text(json.dumps(json.loads(defaults.read_text()) | {"image_tokenizer": TOKENIZER}, indent=2) + "\n")
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    difference = max(float((weights[n] - t.to(weights[n].dtype)).abs().max()) for n, t in kept.items() if t.is_floating_point())
    print(f"wrote {target} ({size / 1e6:.1f} MB); largest change of a weight {difference:.1e}")


if __name__ == "__main__":
    main()
