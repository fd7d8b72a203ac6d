"""What AutoProcessor and AutoTokenizer read, written without transformers: the tokenizer with its chat template, and processor_config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmada.canvas import VocabLayout
from mmada.hub.text_tokenizer import TextTokenizer

__all__ = ["save_processor"]


def save_processor(
    directory: Path,
    tokenizer: TextTokenizer,
    *,
    size: tuple[int, int],
    mode: str,
    crops: bool,
    factor: int,
    value_range: tuple[float, float],
    layout: VocabLayout,
    family: str,
    style: Mapping[str, Any],
    template: str | None,
    context: int,
) -> None:
    """Write the text tokenizer with a chat template, and how pictures and prompts are laid out.

    size    (height, width) in pixels that pictures are brought to, as `mode` says
    crops   whether each keeps its shape instead (image/crops.py)
    factor  pixels along the side of one code
    value_range  values of black and white for the image tokenizer
    family  by whose prompts conversations are laid out
    template  chat template, for other tools (hub/chat_template.py); None: the tokenizer's own one stays
    context  most tokens of a row, at which other tools cut
    """
    tokenizer.for_model(template, context=context).save_pretrained(directory, processor_class="MMaDAProcessor")
    image_processor = {
        "crops": crops,
        "factor": factor,
        "height": size[0],
        "image_processor_type": "MMaDAImageProcessor",
        "mode": mode,
        "value_range": list(value_range),
        "width": size[1],
    }
    values = {
        "family": family,
        "image_processor": image_processor,
        "processor_class": "MMaDAProcessor",
        "style": dict(style),
        "vocab_layout": layout.to_dict(),
    }
    (directory / "processor_config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
