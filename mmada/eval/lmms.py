"""The adapter for lmms-eval, which measures models that see images (EvolvingLMMs-Lab/lmms-eval, 0.7).

    pip install 'mmada[eval]' lmms-eval
    lmms-eval --model mmada --model_args pretrained=Gen-Verse/MMaDA-8B-MixCoT,think=True --tasks mmbench_en_dev --batch_size 16

It is found by an entry point (lmms_plugin.py). A request is a question with its images, answered as `MMaDA.chat` does; requests of a
batch share forward passes, and each answer equals that of the question alone. Likelihoods and several rounds are refused in a sentence.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from lmms_eval.api.model import lmms
from PIL import Image
from tqdm import tqdm

from mmada.errors import InputError, suggest
from mmada.generation.requests import ChatRequest, Drawing, DrawRequest, EmptyAnswerError, Request
from mmada.hub.checkpoint import DEFAULT_MODEL
from mmada.pipeline import MMaDA

if TYPE_CHECKING:
    from lmms_eval.api.instance import Instance

__all__ = ["LmmsModel"]

_log = logging.getLogger(__name__)
Mode = Literal["understanding", "generation"]
_KNOWN = frozenset({"do_sample", "max_new_tokens", "until", "temperature", "top_p", "top_k"})


class _TaskArguments(NamedTuple):
    """The arguments of a request of the kind `generate_until`."""

    context: str
    settings: Mapping[str, Any]
    doc_to_visual: Any
    doc_id: Any
    task: str
    split: str


class LmmsModel(lmms):  # type: ignore[misc]
    """What --model_args sets:

    pretrained        checkpoint directory, hub name or built-in name
    mode              understanding: answer questions about images; generation: draw what the text says
    think             let the model think first, and leave that out of the answer
    output_image_dir  where drawings are written; an answer of mode=generation is JSON with their paths
    quantize          int8 or int4: matrices in few bits; default: as saved
    seed              of sampling with a temperature and of drawings; a request that a task repeats has another one each time
    ...               any of the checkpoint's defaults: max_new_tokens, threshold, guidance_scale, ... (generation.requests.GenerationConfig)
    Raises InputError for a name that is none of these.
    """

    def __init__(
        self,
        pretrained: str = DEFAULT_MODEL,
        *,
        mode: Mode = "understanding",
        device: str | None = None,
        dtype: str = "auto",
        quantize: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        think: bool = False,
        output_image_dir: str = "mmada_images",
        seed: int = 0,
        **defaults: Any,
    ) -> None:
        super().__init__()
        if mode not in get_args(Mode):
            raise InputError(f"mode={mode!r} is unknown: {suggest(mode, get_args(Mode))}")
        if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
            device = None  # what the harness asks for where nobody said anything
        size = str(batch_size)
        self.batch_size = int(size) if size.isdecimal() else max_batch_size or 16  # "auto" has no meaning without padding
        self.mode, self.think, self.seed, self.output_image_dir = mode, think, seed, Path(output_image_dir)
        self.model = MMaDA.from_pretrained(pretrained, device=device, dtype=dtype, quantize=quantize).use(**defaults)
        self.device = self.model.model.device
        self._left_out: set[str] = set()

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers, cut at the first stop text, or JSON with the path of a drawing. Raises InputError for what is no image."""
        asked = [_TaskArguments(*request.args) for request in requests]
        times: Counter[str] = Counter()
        answers: list[str] = []
        with tqdm(total=len(asked), disable=self.rank != 0, desc="generate_until") as bar:
            for start in range(0, len(asked), self.batch_size):
                group = asked[start : start + self.batch_size]
                seeds = []
                for one in group:
                    key = f"{one.task} {one.split} {one.doc_id}"
                    seeds.append(self.seed + times[key])
                    times[key] += 1
                answers += self._answers(group, seeds)
                bar.update(len(group))
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, answer)
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Raises InputError: no likelihood of a text behind an image is estimated."""
        raise InputError("mmada estimates no likelihoods behind images; use a task whose output_type is generate_until")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Raises InputError: an answer is one turn."""
        raise InputError("mmada answers one turn at a time; use a task whose output_type is generate_until")

    def _answers(self, group: Sequence[_TaskArguments], seeds: Sequence[int]) -> list[str]:
        try:
            results = self.model.run([self._request(one, seed) for one, seed in zip(group, seeds, strict=True)])
        except EmptyAnswerError as error:
            results = error.results
        return [
            self._saved(result, one, seed) if isinstance(result, Drawing) else _cut(result.text, one.settings.get("until") or ())
            for result, one, seed in zip(results, group, seeds, strict=True)
        ]

    def _request(self, one: _TaskArguments, seed: int) -> Request:
        if self.mode == "generation":
            return DrawRequest(one.context, seed=seed)
        for name in sorted(one.settings.keys() - _KNOWN - self._left_out):
            _log.warning("the task's generation setting %s=%r has no meaning here, and is left out", name, one.settings[name])
            self._left_out.add(name)
        num_new = one.settings.get("max_new_tokens")
        params = self.model.planner.text_params(**_sampling(one.settings))
        return ChatRequest(one.context, self._images(one), self.think, None if num_new is None else int(num_new), params, seed)

    def _images(self, one: _TaskArguments) -> list[Image.Image]:
        """What a task shows; None and nothing both mean no image."""
        found = one.doc_to_visual(self.task_dict[one.task][one.split][one.doc_id]) if one.doc_to_visual is not None else None
        for visual in found or ():
            if not isinstance(visual, Image.Image):
                raise InputError(f"task={one.task!r} shows a {type(visual).__name__}; mmada looks at images, not at videos or sounds")
        return list(found or ())

    def _saved(self, drawing: Drawing, one: _TaskArguments, seed: int) -> str:
        """As JSON: what was drawn, and where it was written."""
        self.output_image_dir.mkdir(parents=True, exist_ok=True)
        path = self.output_image_dir / f"{one.task}_{one.split}_{one.doc_id}_{seed}.png".replace("/", "_")
        drawing.image.save(path)
        return json.dumps({"text": drawing.prompt, "images": [str(path)]}, ensure_ascii=False)


def _sampling(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Sampling parameters of a task; without do_sample, the likeliest tokens are taken whatever the temperature is."""
    if not settings.get("do_sample", bool(settings.get("temperature"))):
        return {}
    return {name: settings[name] for name in ("temperature", "top_p", "top_k") if settings.get(name) is not None}


def _cut(text: str, until: str | Sequence[str]) -> str:
    stops = [until] if isinstance(until, str) else until
    ends = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))]
