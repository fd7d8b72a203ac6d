"""A directory in the format of the recorded numbers with other sizes, heads, grids and seeds. Nothing in it was recorded from published code.

The samplers are the plain loops of plain.py, the rows are put together here from the published layouts, and weights, forward passes and the image
tokenizer are the package's own. So it shows that the tests read every size from their directory, and that two ways of writing a sampler agree. It does not
show that either is right: the recorded numbers do.

python -m tests.golden.families.other_sizes DIRECTORY [SEED]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from mmada.image import VQVAE, PaintedRegion, VQVAEConfig
from mmada.model import Transformer, TransformerConfig

from . import plain
from .plain import CachedRow, MaxLogitCache, Notes


@dataclass
class Directory:
    """What is written: a model with random weights, the small ids, and the numbers."""

    model: Transformer
    ids: dict[str, int | list[int]]
    generator: torch.Generator
    numbers: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def random(cls, ids: dict[str, int | list[int]], *, seed: int, likely: Sequence[int] = (), **sizes: float) -> Directory:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = Transformer(TransformerConfig.from_dict({"max_sequence_length": 512, "mask_token_id": ids["mask"], **sizes})).eval()
            for parameter in model.parameters():
                parameter.data = torch.randn_like(parameter) * 0.2 + (parameter.dim() == 1)
            # The head favors what ends a text, so that the switches for it have something to do.
            model.model.transformer["ff_out"].weight.data[list(likely)] *= 2
        return cls(model, ids, torch.Generator().manual_seed(seed))

    def rows(self, attend: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        return lambda ids: self.model(ids, attend).logits

    def text(self, count: int, *shape: int) -> Tensor:
        """Ids that mean nothing else."""
        return torch.randint(count, shape, generator=self.generator)

    def notes(self) -> Notes:
        return Notes(self.generator)

    def add(self, case: str, notes: Notes | None = None, **numbers: Tensor | Sequence[float]) -> None:
        for name, value in numbers.items():
            tensor = value if isinstance(value, Tensor) else torch.tensor(value)
            self.numbers[f"{case}.{name}"] = tensor.int() if tensor.dtype == torch.long else tensor
        for i, (kind, drawn) in enumerate([] if notes is None else notes.draws):
            self.numbers[f"{case}.draw.{i:03d}.{kind}"] = drawn.int() if drawn.dtype == torch.long else drawn

    def write(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        values = {**self.model.config.to_dict(), "golden_special_ids": self.ids}
        (directory / "config.json").write_text(json.dumps(values))
        save_file({name: tensor.clone() for name, tensor in self.model.state_dict().items()}, directory / "model.safetensors")
        save_file({name: tensor.detach().contiguous().clone() for name, tensor in self.numbers.items()}, directory / "golden.safetensors")


def llada(seed: int) -> Directory:
    """Three rows, grouped keys, more rows of the head than ids, other lengths. `CASE.args`: steps, block length."""
    mask, eos, eot = 160, 151, 163
    made = Directory.random(
        {"mask": mask, "eos": eos, "eot": eot},
        seed=seed,
        likely=(eos, eot),
        d_model=48,
        n_heads=6,
        n_kv_heads=2,
        n_layers=2,
        mlp_hidden_size=80,
        vocab_size=170,
        embedding_size=176,
        rope_theta=10000.0,
    )
    forward, keys = made.text(150, 2, 11), torch.ones(2, 11, dtype=torch.long)
    keys[1, :4] = 0
    made.add("forward", input_ids=forward, logits=made.model(forward).logits)
    made.add("forward_left_padded", attention_mask=keys, logits=made.model(forward, keys).logits)

    prompt = made.text(150, 3, 7)
    given = torch.ones_like(prompt)
    given[0, :2], given[2, :5] = 0, 0
    made.add("text", prompt=prompt)
    cases = {
        "one_block": (10, 10, 10, {}),
        "blocks": (12, 18, 6, {}),
        "uneven": (9, 15, 5, {}),
        "cfg": (6, 10, 5, {"guidance_scale": 1.5}),
        "left_padded": (6, 12, 4, {}),
        "eos_inf": (6, 10, 5, {"logits_eos_inf": eos}),
        "confidence_eos_eot_inf": (7, 14, 14, {"confidence_eos_eot_inf": (eos, eot)}),
        "confidence_eos_eot_inf_temp": (6, 12, 12, {"confidence_eos_eot_inf": (eos, eot), "temperature": 0.7}),
        "temp": (6, 10, 5, {"temperature": 0.7}),
        "random": (6, 10, 5, {"random_remasking": True}),
    }
    for name, (steps, num_new, block_length, changes) in cases.items():
        rows, notes = F.pad(prompt, (0, num_new), value=mask), made.notes()
        attend = F.pad(given, (0, num_new), value=1) if name == "left_padded" else None
        asked = {"mask": mask, "stop": rows.shape[1], "steps": steps, "block_length": block_length, **changes}
        output = plain.blocks_of_text(made.rows(attend), rows, prompt.shape[1], notes, **asked)
        made.add(f"text.{name}", notes, output=output, args=[float(steps), float(block_length)])
        if attend is not None:
            made.add(f"text.{name}", attention_mask=given)

    question, answer = made.text(150, 4), made.text(150, 9)
    made.add("likelihood", prompt=question, answer=answer)
    whole = torch.cat([question, answer])
    for name, scale in (("likelihood", 0.0), ("likelihood_cfg", 0.5)):
        rounds, batch, start, found = 3, 4, len(question), []
        noisy, p_mask = whole.repeat(rounds, batch, 1), torch.ones(rounds, batch, len(whole))
        for one, share in zip(noisy, p_mask, strict=True):
            first = int(made.text(len(answer), 1)) + 1
            counts = torch.linspace(first, first + (batch - 1) * len(answer) / batch, batch).round().int()
            for i, count in enumerate(1 + (counts - 1) % len(answer)):
                order = torch.randperm(len(answer), generator=made.generator)[:count]
                one[i, start + order], share[i] = mask, count / len(answer)
            logits = made.model(one).logits
            if scale:
                blank = one.clone()
                blank[:, :start] = mask
                without = made.model(blank).logits
                logits = without + (scale + 1) * (logits - without)
            is_masked = one == mask
            loss = F.cross_entropy(logits[is_masked], whole.expand_as(one)[is_masked], reduction="none")
            found.append((loss / share[is_masked]).sum() / batch)
        made.add(name, noisy=noisy, p_mask=p_mask, value=[-float(torch.stack(found).mean())])
    return made


FRAMED = {
    "mask": 121,
    "newline": 118,
    "eos": 117,
    "pad": 123,
    "boi": 130,
    "eoi": 131,
    "uncondition": 132,
    "answer_start": 134,
    "answer_end": 135,
    "image_offset": 136,
    "codebook_size": 50,
    "grid": [3, 5],
    "text_gen_length": 9,
}


class Framed:
    """Prompts, images and rows of the two families with framed answers. The source is of another size than what is drawn."""

    def __init__(self, seed: int, *, heads: int) -> None:
        sizes = {"d_model": 16 * heads, "n_heads": heads, "n_kv_heads": heads, "n_layers": 2, "mlp_hidden_size": 72, "vocab_size": 186}
        self.made = Directory.random(dict(FRAMED), seed=seed, **sizes)
        self.ids = {name: value for name, value in FRAMED.items() if isinstance(value, int)}
        self.codes = range(self.ids["image_offset"], self.ids["image_offset"] + self.ids["codebook_size"])
        self.grid, source = (3, 5), (2, 4)
        self.source = torch.randint(len(self.codes), source, generator=self.made.generator)
        sentence, words, tail = self.made.text(110, 4), self.made.text(110, 6), self.made.text(110, 2)
        self.text = torch.cat([sentence, words, tail])
        self.without = torch.cat([sentence, torch.tensor([self.ids["uncondition"]]), tail])
        self.num_tail = len(tail)
        self.made.add("prompt", text_ids=self.text, uncond_ids=self.without, image_codes=self.source.flatten())

    def row(self, *parts: str | Tensor) -> Tensor:
        return torch.cat([torch.tensor([self.ids[part]]) if isinstance(part, str) else part for part in parts])

    def broken(self, grid: Tensor) -> Tensor:
        return F.pad(grid, (0, 1), value=self.ids["newline"]).flatten()

    def image(self, grid: Tensor) -> Tensor:
        return self.row("boi", self.broken(grid), "eoi")

    def with_image(self, prompt: Tensor) -> Tensor:
        return self.row(prompt[:-1], self.image(self.source + self.codes.start), prompt[-1:])

    def answer(self, share: float = 0.0) -> Tensor:
        """An image with so large a share of its codes given, framed as far as the image goes."""
        codes = self.codes.start + torch.randint(len(self.codes), self.grid, generator=self.made.generator)
        given = torch.rand(self.grid, generator=self.made.generator) < share
        return self.row("answer_start", self.image(codes.where(given, self.ids["mask"])))

    def places(self, row: Tensor) -> Tensor:
        """Positions of the codes of the last image."""
        start = int((row == self.ids["boi"]).nonzero()[-1]) + 1
        places = torch.arange(start, start + self.grid[0] * (self.grid[1] + 1)).view(self.grid[0], -1)
        return places[:, :-1].flatten()

    def forward(self) -> None:
        rows = [self.made.text(186, 17), self.made.text(186, 10)]
        batch = F.pad(rows[1], (0, 7))
        logits = self.made.model(torch.stack([rows[0], batch])).logits
        self.made.add("forward", row0=rows[0], row1=rows[1], logits_batch=logits, logits_row1_alone=self.made.model(rows[1][None]).logits)

    def losses(self) -> None:
        mask, rows, labels, num_text = self.ids["mask"], [], [], self.ids["text_gen_length"]
        for i, prompt in enumerate((self.text, self.text[3:])):
            head = self.with_image(prompt)
            image, text = self.answer(share=1.0), self.made.text(110, num_text)
            row = self.row(head, image, text, "answer_end")
            drawn = torch.cat([self.places(row), len(head) + len(image) + torch.arange(num_text)])
            scored = drawn[torch.rand(len(drawn), generator=self.made.generator) < 0.5]
            label = torch.full_like(row, -100)
            label[scored] = row[scored]
            row[scored] = mask
            self.made.add("loss", **{f"row{i}.input_ids": row, f"row{i}.labels": label})
            rows.append(row)
            labels.append(label)
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        x0 = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
        each = F.cross_entropy(self.made.model(padded).logits.transpose(1, 2), x0, reduction="none")
        is_image, scored, t = x0 >= self.codes.start, x0 >= 0, torch.tensor([0.4, 0.8])
        text = each[scored & ~is_image]
        self.made.add("loss", loss=each[scored].mean()[None], interleave_loss=each[scored].mean()[None], t=t)
        self.made.add("loss", image_loss=each[is_image].sum()[None] / (2 * self.grid[0] * self.grid[1]))
        self.made.add("loss", text_loss_no_t=text.mean()[None], text_loss=(text.mean() / t.mean())[None])


def lumina(seed: int) -> Directory:
    framed = Framed(seed, heads=3)
    made, mask, end = framed.made, framed.ids["mask"], torch.tensor([framed.ids["answer_end"]])
    framed.forward()
    framed.losses()

    def draw(name: str, heads: Sequence[Tensor], answer: Tensor, steps: int, temperature: float, *scales: float, cache=None) -> None:
        tail, notes = torch.cat([answer, end]), made.notes()
        rows = [torch.cat([head, tail]) for head in (heads if any(scales) else heads[:1])]
        places, shift = framed.places(rows[0]), [len(rows[0]) - len(row) for row in rows]
        cached = None
        if cache is not None:
            weights, config = made.model.state_dict(), made.model.config
            ratio, warmup, refresh = cache
            sizes = (weights, config.n_heads, config.n_layers, config.rope_theta, config.rms_norm_eps, framed.codes)
            cached = MaxLogitCache([CachedRow(*sizes) for _ in rows], notes, ratio, int(warmup * steps), refresh)
            made.add(name, cache_args=[float(x) for x in cache])

        def passes(step: int, row: Tensor) -> list[Tensor]:
            whole = [torch.cat([head, row[len(rows[0]) - len(tail) :]]) for head, _ in zip(heads, rows, strict=False)]
            if cached is None:
                notes.trace.append(row.clone())
                notes.computed += [len(one) for one in whole]
                answers = [made.model(one[None]).logits[0, :, framed.codes.start : framed.codes.stop] for one in whole]
            else:
                answers = cached.run(step, whole)
            return [one[places - by] for one, by in zip(answers, shift, strict=True)]

        drawn = plain.lumina_image(
            passes, rows[0], places, notes, ids=framed.codes, mask=mask, steps=steps, temperature=temperature, scales=scales
        )
        made.add(name, notes, args=[float(steps), temperature, *scales], image_ids=drawn[places][None], trace=torch.stack(notes.trace))
        if not name.startswith("i2i"):
            made.add(name, rows_computed=torch.tensor(notes.computed))

    empty = framed.answer()
    words = [framed.text, framed.without]
    made.add("t2i", input_ids=torch.cat([framed.text, empty, end])[None], uncond_ids=framed.without[None])
    draw("t2i_greedy_nocfg", words, empty, 7, 0.0, 0.0)
    draw("t2i_greedy", words, empty, 5, 0.0, 3.5)
    draw("t2i_noise", words, empty, 4, 0.8, 3.5)
    painted = framed.answer(share=0.4)
    made.add("t2i_paint", input_ids=torch.cat([framed.text, painted, end])[None])
    draw("t2i_paint", words, painted, 4, 0.0, 3.5)
    draw("t2i_cache", words, empty, 10, 0.0, 3.5, cache=(0.6, 0.2, 3))
    draw("t2i_cache_high", words, empty, 12, 0.0, 3.5, cache=(0.9, 0.3, 4))

    sources = [framed.with_image(framed.text), framed.with_image(framed.without), framed.text]
    made.add("i2i", input_ids=torch.cat([sources[0], empty, end])[None], uncond_text=sources[1][None], uncond_image=sources[2][None])
    draw("i2i_greedy", sources, empty, 5, 0.0, 2.0, 3.0)
    draw("i2i_greedy_img_only", sources, empty, 5, 0.0, 0.0, 3.0)
    draw("i2i_noise", sources, empty, 4, 0.8, 2.0, 3.0)

    (height, width), image = framed.source.shape, framed.image(framed.source + framed.codes.start)
    twice = framed.broken(image[: height * width].view(height, width))
    layouts = {"mmu": framed.row(framed.text[:-1], twice, framed.text[-1:]), "mmu_correct_layout": sources[0]}
    for kind, head in layouts.items():
        row = framed.row(head, "answer_start", torch.full((12,), mask), "answer_end")
        start = len(head) + 1
        made.add(kind, input_ids=row[None], code_start=[start])
        for name, steps, block_length, scale in (
            ("one_block", 12, 12, 0.0),
            ("blocks", 6, 6, 0.0),
            ("uneven", 6, 4, 0.0),
            ("cfg", 6, 4, 1.5),
        ):
            output = plain.blocks_of_text(
                made.rows(),
                row[None],
                start,
                made.notes(),
                mask=mask,
                stop=start + 12,
                steps=steps,
                block_length=block_length,
                guidance_scale=scale,
                dtype=torch.float64,
            )
            made.add(f"{kind}.{name}", output=output, args=[float(steps), float(block_length)])
    return made


def parallel_a(seed: int) -> Directory:
    framed = Framed(seed, heads=2)
    made, num_text = framed.made, framed.ids["text_gen_length"]
    framed.forward()
    framed.losses()
    for total, steps in ((10, 10), (9, 13), (9, 4), (200, 7)):
        made.add("transfer", **{f"{total}.{steps}": torch.tensor([plain.revealed(total, steps)])})

    def row(answer: Tensor) -> Tensor:
        return framed.row(framed.with_image(framed.text), answer, torch.full((num_text,), framed.ids["mask"]), "answer_end")

    prefixes = [framed.with_image(framed.without), framed.text]
    whole, painted = row(framed.answer()), row(framed.answer(share=0.4))
    codes = framed.places(whole)
    texts = torch.arange(len(whole) - 1 - num_text, len(whole) - 1)
    made.add("parallel", input_ids=whole[None], uncond_text=prefixes[0][None], uncond_image=prefixes[1][None])
    made.add("parallel", starts=[int(codes[0]), int(texts[0]), len(whole) - 1])
    made.add("greedy_paint", input_ids=painted[None])
    cases: dict[str, tuple[float, ...]] = {
        "greedy": (10, 5, 0.0, 0.0, 0.0, 0.0),
        "greedy_both_cfg": (10, 6, 0.0, 0.0, 2.0, 3.0),
        "greedy_fast": (4, 4, 0.0, 0.0, 2.0, 3.0),
        "greedy_img_cfg": (10, 5, 0.0, 0.0, 0.0, 3.0),
        "greedy_paint": (8, 5, 0.0, 0.0, 0.0, 3.0),
        "noise": (10, 5, 0.9, 0.0, 0.0, 3.0),
        "noise_both": (5, 3, 0.9, 0.6, 2.0, 3.0),
    }
    for name, (steps, image_steps, image_temperature, text_temperature, text_scale, image_scale) in cases.items():
        notes = made.notes()
        found, drawn = plain.parallel_a(
            made.rows(),
            painted if name == "greedy_paint" else whole,
            prefixes,
            texts,
            codes,
            notes,
            ids=framed.codes,
            mask=framed.ids["mask"],
            text_steps=int(steps),
            num_image_steps=int(image_steps),
            image_temperature=image_temperature,
            text_temperature=text_temperature,
            text_scale=text_scale,
            image_scale=image_scale,
        )
        arguments = [steps, image_steps, image_temperature, text_temperature, text_scale, image_scale]
        made.add(name, notes, args=[float(x) for x in arguments], image_codes=drawn, trace=torch.stack(notes.trace))
        made.add(name, text_ids=found[found != framed.ids["mask"]])
    return made


def parallel_m(seed: int) -> Directory:
    """The source has fewer codes than what is drawn; rows of the head lie behind the codes."""
    ids = {"mask": 290, "bos": 280, "eos": 281, "soi": 282, "eoi": 283, "interleave": 284, "image_offset": 300, "codebook_size": 40}
    ids |= {"num_vq_tokens": 18, "max_text": 14, "text_steps": 15, "image_steps": 5}
    sizes = {"d_model": 40, "n_heads": 5, "n_kv_heads": 1, "n_layers": 2, "mlp_hidden_size": 64, "vocab_size": 347}
    made = Directory.random(dict(ids), seed=seed, **sizes)
    forward, keys = made.text(347, 3, 13), torch.ones(3, 13)
    keys[0, :5] = 0
    made.add("forward", input_ids=forward, logits=made.model(forward).logits)
    made.add("forward_soft", attention_mask=keys, logits=made.model(forward, keys.bool(), mask_value=-1.0).logits)
    made.add("schedule", image_steps=torch.tensor(plain.image_steps(15, 5)), image_steps_60_9=torch.tensor(plain.image_steps(60, 9)))

    source, words = made.text(40, 12), made.text(270, 5)
    frame = {name: torch.tensor([value]) for name, value in ids.items()}
    begin, finish = (frame["interleave"], frame["soi"]), (frame["eoi"], frame["bos"])
    guided = torch.cat([*begin, source + 300, *finish, words, frame["eos"]])
    other = torch.cat([*begin, torch.zeros_like(source), *finish, frame["eos"], frame["eos"].expand(len(words))])
    made.add("parallel", image_codes=source, instruction=words, input_ids=guided, uncond_input_ids=other)
    answer = torch.cat([frame["soi"], frame["mask"].expand(18), *finish, frame["mask"].expand(13)])
    codes, texts = len(guided) + 1 + torch.arange(18), len(guided) + 20 + torch.arange(14)
    rows = (torch.cat([guided, answer]), torch.cat([other, answer]))
    cases = {
        "greedy": (15, 5, {"text_scale": 2.5, "image_scale": 4.0}),
        "greedy_notextcfg": (15, 5, {"text_scale": 0.0, "image_scale": 3.5}),
        "greedy_onlytextcfg": (15, 5, {"text_scale": 1.5, "image_scale": 0.0}),
        "noise": (15, 5, {"text_scale": 2.5, "image_scale": 4.0, "image_temperature": 1.0}),
        "noise_text": (7, 4, {"text_scale": 0.0, "image_scale": 2.0, "image_temperature": 0.5, "text_temperature": 0.6}),
    }
    for name, (steps, image_steps, settings) in cases.items():
        notes = made.notes()
        sizes = {"ids": range(300, 340), "mask": 290, "text_steps": steps, "num_image_steps": image_steps}
        found, drawn = plain.parallel_m(made.rows(), rows, texts, codes, notes, **sizes, **settings)
        made.add(name, notes, text_ids=found[None], image_codes=drawn[None], trace=torch.stack(notes.trace))
    return made


def write_vqvae(directory: Path, seed: int) -> None:
    """A tokenizer of four levels, that is of 8 x 8 pixels a code, and what it makes of random pictures."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = VQVAEConfig(
            block_out_channels=(6, 9, 12, 15),
            layers_per_block=1,
            latent_channels=5,
            num_vq_embeddings=FRAMED["codebook_size"],
            norm_num_groups=3,
        )
        images = VQVAE(sizes).eval()
        images.quantize.embedding.weight.data.normal_()
        pixels, picture = torch.rand(3, 3, 24, 40), (torch.rand(32, 24, 3) * 255).round().byte()
    (directory / "vqvae_config.json").write_text(json.dumps(images.config.to_dict()))
    save_file(images.state_dict(), directory / "vqvae.safetensors")
    made, latent = images(pixels), images.latent(pixels)
    grid = images.encode((picture.permute(2, 0, 1)[None] / 255).float())[0] + FRAMED["image_offset"]

    def broken(codes: Tensor) -> Tensor:
        return F.pad(codes, (0, 1), value=FRAMED["newline"]).flatten()

    row = torch.tensor([FRAMED["boi"], *broken(grid).tolist(), FRAMED["eoi"]])
    decoded = (made.pixels[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    numbers = {"latent": latent, "pixel_values": pixels, "quantized": images.quantize.vectors(made.codes), "reconstruction": made.pixels}
    numbers |= {"quantizer_loss": made.quantizer_loss[None], "codes": made.codes.flatten(1).int(), "encode_with_breaks.ids": row.int()}
    numbers |= {"decode_to_image_uint8": decoded, "image_uint8": picture}
    for outside, mode in ((False, "inpainting"), (True, "outpainting")):
        for height_share, width_share in ((0.6, 0.75), (1.0, 0.4)):
            region = PaintedRegion(height=32, width=24, height_share=height_share, width_share=width_share, outside=outside)
            ids = grid.masked_fill(region.mask(images.factor), FRAMED["mask"])
            numbers[f"paint.{mode}.{height_share}.{width_share}.ids"] = broken(ids).int()
        shown = region.preview(Image.fromarray(picture.numpy()))
        numbers[f"paint.{mode}.vis_uint8"] = torch.frombuffer(bytearray(shown.tobytes()), dtype=torch.uint8).view(32, 24, 3)
    save_file({name: tensor.detach().contiguous() for name, tensor in numbers.items()}, directory / "vqvae_golden.safetensors")


MAKERS: dict[str, Callable[[int], Directory]] = {
    "llada_8b": llada,
    "lumina_dimoo": lumina,
    "mmada_parallel_a": parallel_a,
    "mmada_parallel_m": parallel_m,
}


@torch.no_grad()
def write(directory: Path, name: str, *, seed: int = 1) -> Path:
    """One family's folder in `directory`."""
    MAKERS[name](seed).write(directory / name)
    if name in ("lumina_dimoo", "mmada_parallel_a"):
        write_vqvae(directory / name, seed)
    return directory


if __name__ == "__main__":
    for name in MAKERS:
        write(Path(sys.argv[1]), name, seed=int(sys.argv[2]) if len(sys.argv) > 2 else 1)
