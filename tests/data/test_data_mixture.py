"""Mixtures: exact shares, one integer of state, and recipes that say what they mean."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from mmada.data import Epochs, Stream, WeightedMixture, load_recipe
from mmada.data.jsonl_reader import JsonlReader
from mmada.data.mixture import _CIRCLE, _STEP, DataSource, MixturePart, _num_below, format_of, open_source
from mmada.data.table_reader import TableReader, TableStream
from mmada.data.tar_reader import TarReader
from mmada.errors import InputError, MMaDAError

RECIPES = sorted((Path(__file__).parents[2] / "configs" / "data").glob("*.yaml"))
NATURALS = range(10**9)


def mixture(*weights: float, seed: int = 0) -> WeightedMixture[int]:
    return WeightedMixture({"abcdef"[i]: (NATURALS, weight) for i, weight in enumerate(weights)}, seed=seed)


@pytest.mark.parametrize("start", [0, 12345, _CIRCLE - 1])
def test_points_are_counted_as_if_one_by_one(start):
    points = [(start + j * _STEP) % _CIRCLE for j in range(300)]
    for end in (0, 1, _CIRCLE // 3, _CIRCLE - 1, _CIRCLE):
        for n in (0, 1, 2, 63, 64, 300):
            assert _num_below(end, n, start) == sum(point < end for point in points[:n])
    assert math.gcd(_STEP, _CIRCLE) == 1


@pytest.mark.parametrize("weights", [(1,), (1, 1), (0.6, 0.39, 0.01), (7, 2, 6), (3.5, 5.5, 0.5, 0.5)])
@pytest.mark.parametrize("seed", [0, 1])
def test_each_part_is_read_in_order_and_has_its_share(weights, seed):
    mixed = mixture(*weights, seed=seed)
    read = dict.fromkeys(mixed.names, 0)
    for index in range(3000):
        name, own = mixed.choose(index)
        assert own == read[name]
        read[name] += 1
        if index % 64 == 63:  # the bound holds between blocks; inside one the order is random
            for part, share in mixed.shares.items():
                assert abs(read[part] - (index + 1) * share) < 3
    assert sum(read.values()) == 3000


def test_a_later_start_gives_the_same_items():
    mixed = mixture(0.5, 0.3, 0.2)
    whole = [mixed.choose(i) for i in range(1000)]
    other = mixture(0.5, 0.3, 0.2)
    assert [other.choose(i) for i in range(700, 1000)] == whole[700:]
    assert [mixture(0.5, 0.3, 0.2, seed=1).choose(i) for i in range(1000)] != whole
    far = 10**9 + 7
    for name, share in mixed.shares.items():
        count = next(own for i in range(far, far + 1000) for part, own in [mixed.choose(i)] if part == name)
        assert abs(count - far * share) < 100


@pytest.mark.parametrize("num_ranks", [2, 3, 8, 13, 21, 64])
def test_every_process_has_every_part(num_ranks):
    mixed = mixture(0.5, 0.3, 0.2)
    n = 256 if num_ranks < 64 else 100
    for rank in range(num_ranks):
        counts = Counter(mixed.choose(i * num_ranks + rank)[0] for i in range(n))
        for name, share in mixed.shares.items():
            # of a binomial count five standard deviations; the shares of the processes vary less
            assert abs(counts[name] - n * share) < 5 * math.sqrt(n * share * (1 - share))


def test_mixtures_nest_and_resume_by_one_integer():
    inner = WeightedMixture({"web": (Epochs(range(10), seed=1), 0.02), "chat": (Epochs(range(100, 130), seed=2), 0.98)}, seed=3)
    mixed = WeightedMixture({"text": (inner, 0.6), "look": (Epochs(range(1000, 1007)), 0.4)}, seed=4)
    stream = Stream(mixed)
    whole = [next(stream) for _ in range(500)]
    assert stream.state == 500
    assert [next(s) for s in [Stream(mixed, start=123)] for _ in range(377)] == whole[123:]
    ranks = [Stream(mixed, rank=rank, num_ranks=4) for rank in range(4)]
    assert [next(one) for _ in range(125) for one in ranks] == whole
    counts = Counter("web" if item < 100 else "chat" if item < 1000 else "look" for item in whole)
    assert abs(counts["look"] - 200) <= 2
    assert abs(counts["web"] - 6) <= 2
    # Every part is itself read once an epoch.
    look = [item for item in whole if item >= 1000]
    assert all(sorted(look[i : i + 7]) == list(range(1000, 1007)) for i in range(0, 189, 7))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({}, "is empty"),
        ({"a": (NATURALS, 0)}, "weight=0 of part 'a' must be positive"),
        ({"a": (NATURALS, -1.0)}, "must be positive"),
        ({"a": (NATURALS, math.nan)}, "must be positive"),
        ({"a": (NATURALS, math.inf)}, "must be positive"),
        ({"a": (NATURALS, 1.0), "b": (NATURALS, 1e-15)}, "too far apart"),
    ],
)
def test_bad_mixtures(parts, said):
    with pytest.raises(InputError, match=said):
        WeightedMixture(parts)


def test_no_negative_index():
    with pytest.raises(IndexError):
        mixture(1)[-1]


# Recipes.


def write(folder: Path, name: str, texts: list[str]) -> None:
    (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


def test_a_recipe_opens_as_a_mixture(tmp_path):
    write(tmp_path, "web.jsonl", ["web 0", "web 1"])
    write(tmp_path, "chat.jsonl", [f"chat {i}" for i in range(7)])
    (tmp_path / "r.yaml").write_text(
        """
name: mine
parts:
  - name: text
    weight: 0.9
    parts:
      - {name: web, weight: 0.25, source: {path: web.jsonl, adapter: text, license: ODC-By-1.0}}
      - {name: chat, weight: 0.75, source: {path: chat.jsonl, adapter: text, shuffle: false}}
  - {name: rest, weight: 0.1, source: {path: chat.jsonl, adapter: text}, note: again}
""",
        encoding="utf-8",
    )
    recipe = load_recipe(tmp_path / "r.yaml")
    mixed = recipe.open(tmp_path, seed=1)
    records = [mixed[i] for i in range(640)]
    counts = Counter((record.answer or "")[:3] for record in records)
    assert abs(counts["web"] - 640 * 0.9 * 0.25) <= 3
    assert {record.meta.license for record in records} == {"ODC-By-1.0", None}
    text = recipe["text"].open(tmp_path)
    chats = [text[i].answer for i in range(40) if text[i].answer.startswith("chat")]
    assert chats[:14] == [f"chat {i % 7}" for i in range(14)]
    with pytest.raises(InputError, match="has no part 'txt': did you mean 'text'"):
        recipe["txt"]


BAD_RECIPES = [
    ("name: [", "is not YAML"),
    ("[]", "must be an object with the fields of MixtureConfig"),
    ("parts: []", "name=None of MixtureConfig must be a text"),
    ("name: a\nparts: []", "must have either a source or parts"),
    ("name: a\nabout: 3\nparts: []", "about=3 must be a text"),
    ("name: a\nparts: {}", "must be a list"),
    ("name: a\nparst: []", "unknown field 'parst' of MixtureConfig: did you mean 'parts'"),
    ("name: a\nparts: [{name: b, wieght: 1}]", "unknown field 'wieght' of MixturePart: did you mean 'weight'"),
    ("name: a\nparts: [{name: b, weight: no, source: {path: x.tar}}]", "weight=False of part 'b' must be a positive number"),
    ("name: a\nparts: [{name: b, source: {path: x.tar}}, {name: b, source: {path: y.tar}}]", "two parts of one name"),
    ("name: a\nparts: [{name: b, source: {path: x.tar, adaptor: draw}}]", "unknown field 'adaptor' of DataSource: did you mean 'adapter'"),
    ("name: a\nparts: [{name: b, source: {path: x.tar, adapter: drow}}]", "did you mean 'draw'"),
    ("name: a\nparts: [{name: b, source: {path: x.tar, format: tar}}]", "format='tar' is unknown"),
    ("name: a\nparts: [{name: b, source: {path: x.tar, split: 3}}]", "split=3 of a source has the wrong type; write a text"),
    ("name: a\nparts: [{name: b, source: {path: x.tar, shuffle: 3}}]", "write true or false"),
    ("name: a\nparts: [{name: b, source: {path: x.tar, rename: txt}}]", "write an object such as"),
    ("name: a\nparts: [{name: b, source: {path: x.tar, streaming: true}}]", "streaming=true needs format=datasets"),
    ("name: a\nparts: [{name: b, source: {path: x.tar}, parts: [{name: c, source: {path: y}}]}]", "either a source or parts"),
]


@pytest.mark.parametrize(("text", "said"), BAD_RECIPES, ids=[said[:40] for _, said in BAD_RECIPES])
def test_bad_recipes(tmp_path, text, said):
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert said in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")


def sources(part: MixturePart) -> list[MixturePart]:
    return [part] if part.source else [one for inner in part.parts for one in sources(inner)]


@pytest.mark.parametrize("file", RECIPES, ids=[file.stem for file in RECIPES])
def test_shipped_recipes_are_valid_and_say_where_data_come_from(file):
    recipe = load_recipe(file)
    assert recipe.about
    leaves = [leaf for part in recipe.parts for leaf in sources(part)]
    for leaf in leaves:
        assert leaf.source.license, leaf.name
        assert leaf.note, leaf.name
        assert not Path(leaf.source.path).is_absolute()
        assert leaf.source.format
    with pytest.raises(MMaDAError, match=r"exist|cannot be opened|has no manifest|needs the package datasets"):
        recipe.open(Path("/nowhere"))


def test_recipes_are_shipped_and_documented(tmp_path):
    assert [file.stem for file in RECIPES] == ["example", *(f"published-{stage}" for stage in ("1.1", "1.2", "1.3", "2.1", "2.2"))]
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    assert all(f"../configs/data/{file.name}" in text for file in RECIPES if file.stem != "example")
    (tmp_path / "r.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0], encoding="utf-8")
    assert load_recipe(tmp_path / "r.yaml").name == "mine"


def test_published_shares():
    recipe = load_recipe(next(file for file in RECIPES if file.stem == "published-2.2"))
    assert {part.name: part.weight for part in recipe.parts} == {"draw": 1, "text": 2, "understand": 1}
    assert [part.weight for part in recipe["understand"].parts] == [3.5, 5.5, 0.5, 0.5]
    assert [part.weight for part in recipe["text"].parts] == [0.02, 0.98]


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a.jsonl", "jsonl"), ("a-{0..3}.tar", "webdataset"), ("a.parquet", "datasets"), ("*.csv", "datasets"), (".", "datasets")],
)
def test_format_of(path, expected):
    assert format_of(path) == expected


def test_formats_that_cannot_be_seen(tmp_path):
    with pytest.raises(InputError, match="give format: jsonl, webdataset, datasets, tokenized"):
        format_of("data")
    (tmp_path / "manifest.json").write_text("{}")
    assert format_of(str(tmp_path)) == "tokenized"


def test_open_source_gives_the_reader_of_the_format(tmp_path):
    datasets = pytest.importorskip("datasets")
    write(tmp_path, "a.jsonl", ["a"])
    assert isinstance(open_source(DataSource(path="a.jsonl", adapter="text"), tmp_path), JsonlReader)
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "d"))
    assert isinstance(open_source(DataSource(path="d", adapter="text"), tmp_path), TableReader)
    stream = open_source(DataSource(path="d", adapter="text", format="datasets", streaming=True), tmp_path)
    assert isinstance(stream, TableStream)
    assert [stream[i].answer for i in range(3)] == ["a"] * 3
    with pytest.raises(InputError, match="shards do not exist"):
        open_source(DataSource(path="a.tar"), tmp_path)
    assert TarReader  # the positive case is in test_data_readers
