"""Readers: random access, exact order, exact resume, and every record once whoever reads."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections import Counter
from itertools import islice, pairwise

import pytest
from torch.utils.data import DataLoader, IterableDataset

from mmada.data import Epochs, JsonlReader, RecordError, Stream, TableReader, TableStream, TarReader, select, worker_share
from mmada.data.formats import RecordFormat
from mmada.data.order import DataPosition, permuted
from mmada.data.paths import expand_braces, expand_paths
from mmada.errors import InputError, MissingDependencyError


def text_record(i: int) -> dict[str, object]:
    return {"id": str(i), "task": "text", "answer": {"text": f"text {i}"}}


def write_jsonl(path, values):
    path.write_text("\n".join(json.dumps(value) for value in values) + "\n", encoding="utf-8")
    return path


def write_tar(path, members, *, format=tarfile.USTAR_FORMAT):
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            data = data if isinstance(data, bytes) else (data if isinstance(data, str) else json.dumps(data)).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


# Order.


@pytest.mark.parametrize("n", [*range(1, 40), 64, 65, 1000, 4097])
def test_permuted_is_a_permutation(n):
    assert sorted(permuted(i, n, key=(3, n)) for i in range(n)) == list(range(n))


def test_permuted_depends_on_the_key_and_is_even():
    assert len({tuple(permuted(i, 50, key=(seed, epoch)) for i in range(50)) for seed in range(5) for epoch in range(5)}) == 25
    # Where the first of ten goes, over 3000 keys: chi-squared with 9 degrees of freedom exceeds 33.7 once in 10,000 tests.
    for n, position in [(10, 0), (10, 7)]:
        counts = Counter(permuted(position, n, key=(0, epoch)) for epoch in range(3000))
        assert sum((counts[i] - 300) ** 2 / 300 for i in range(n)) < 33.7
    # Neighbors do not stay neighbors: expected in 2 of 1000 places, more than 12 once in 10 million tests.
    order = [permuted(i, 1000, key=(1,)) for i in range(1000)]
    assert sum(abs(a - b) == 1 for a, b in pairwise(order)) <= 12
    with pytest.raises(InputError, match=r"position=3 must lie in 0\.\.2"):
        permuted(3, 3, key=())


def test_epochs_have_every_record_once_in_new_order():
    epochs = Epochs(range(100), seed=5)
    orders = [[epochs[100 * epoch + i] for i in range(100)] for epoch in range(3)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert orders[1] != [Epochs(range(100), seed=6)[100 + i] for i in range(100)]
    assert [Epochs(range(3), shuffle=False)[i] for i in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert epochs.place(257) == DataPosition(2, 57, 5)
    assert epochs.index(epochs.place(257)) == 257
    with pytest.raises(InputError, match="resume with its own"):
        epochs.index(DataPosition(2, 57, 6))
    with pytest.raises(InputError, match="no record"):
        Epochs([])


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 7])
def test_streams_of_all_ranks_have_every_record_once(num_ranks):
    epochs = Epochs(range(42), seed=1)
    shares = [list(islice(Stream(epochs, rank=rank, num_ranks=num_ranks), 84 // num_ranks)) for rank in range(num_ranks)]
    assert Counter(item for share in shares for item in share) == Counter([*range(42)] * 2)
    together = [item for items in zip(*shares, strict=True) for item in items]
    assert together == [epochs[i] for i in range(84)]


def test_a_stream_is_resumed_by_one_integer_also_with_other_ranks():
    epochs = Epochs(range(42), seed=1)
    whole = [epochs[i] for i in range(120)]
    streams = [Stream(epochs, rank=rank, num_ranks=4) for rank in range(4)]
    read = [next(stream) for _ in range(15) for stream in streams]
    assert {stream.state for stream in streams} == {60}
    resumed = [Stream(epochs, start=streams[0].state, rank=rank, num_ranks=6) for rank in range(6)]
    read += [next(stream) for _ in range(10) for stream in resumed]
    assert read == whole
    with pytest.raises(InputError, match="rank=4 must lie in"):
        Stream(epochs, rank=4, num_ranks=4)


class Workers(IterableDataset):
    def __init__(self, items, count):
        self.items, self.count = items, count

    def __iter__(self):
        rank, num_ranks = worker_share(rank=1, num_ranks=2)
        return islice(Stream(self.items, rank=rank, num_ranks=num_ranks), self.count)


def test_workers_do_not_repeat_each_others_records():
    loader = DataLoader(Workers(Epochs(range(24), seed=1), 6), batch_size=None, num_workers=2)
    epochs = Epochs(range(24), seed=1)
    # Two workers of process 1 of 2: shares 2 and 3 of 4.
    assert sorted(loader) == sorted(epochs[i] for i in range(24) if i % 4 in (2, 3))
    assert worker_share(1, 2) == (1, 2)


# JSON lines.


def test_jsonl_has_random_access_by_line(tmp_path):
    values = [text_record(i) for i in range(20)]
    lines = [json.dumps(value, ensure_ascii=False) for value in values]
    lines[3] = lines[3].replace("text 3", "täxt 3")
    # A byte order mark, blank lines, Windows line ends, no line end at the end.
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([lines[0], "", "  ", *lines[1:]]).encode())
    reader = JsonlReader(tmp_path / "a.jsonl")
    assert len(reader) == 20
    assert [reader[i].id for i in reversed(range(20))] == [str(i) for i in reversed(range(20))]
    assert reader[3].answer == "täxt 3"
    assert reader[0].where.line == 1
    assert reader[1].where.line == 4
    assert [record.id for record in reader] == [str(i) for i in range(20)]
    for index in (-1, 20):
        with pytest.raises(IndexError):
            reader[index]
    assert not list(tmp_path.glob("*.npz"))
    assert pickle.loads(pickle.dumps(reader))[7] == reader[7]


def test_bad_lines_say_which(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"task": "text", "answer": {"text": "a"}}\n{oops\n\xff\n[1]\n' + b"[" * 100_000 + b"\n")
    reader = JsonlReader(file)
    said = {}
    for i in range(1, 5):
        with pytest.raises(RecordError) as caught:
            reader[i]
        said[i] = str(caught.value)
    assert said[1].startswith("a.jsonl:2: the line is not JSON (Expecting property name")
    assert said[2] == "a.jsonl:3: the line is not UTF-8 (byte 1); save the file as UTF-8"
    assert said[3].startswith("a.jsonl:4: the line is a list")
    assert said[4].startswith("a.jsonl:5: the line is n")  # not JSON, or nested too deeply


@pytest.mark.parametrize(
    ("content", "said"), [(None, "does not exist"), (b"", "is empty"), (b" \n\n", "has no line"), (b"\n [{}]", "is one JSON list")]
)
def test_files_that_are_no_json_lines(tmp_path, content, said):
    file = tmp_path / "a.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=said):
        JsonlReader(file)
    with pytest.raises(InputError, match="is not a file"):
        JsonlReader(tmp_path)


def test_an_index_is_kept_beside_its_file_and_made_anew_when_the_file_changes(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", [text_record(i) for i in range(50)])
    first = JsonlReader(file, min_cached_bytes=1)
    cache = tmp_path / "a.jsonl.index.npz"
    stamp = cache.stat().st_mtime_ns
    assert JsonlReader(file, min_cached_bytes=1)[49] == first[49]
    assert cache.stat().st_mtime_ns == stamp
    before = first.fingerprint
    write_jsonl(file, [text_record(i) for i in range(100, 160)])
    changed = JsonlReader(file, min_cached_bytes=1)
    assert (len(changed), changed[59].id) == (60, "159")
    assert changed.fingerprint != before
    cache.write_bytes(b"damaged")
    assert len(JsonlReader(file, min_cached_bytes=1)) == 60
    cache.unlink()
    cache.mkdir()  # cannot be written
    assert len(JsonlReader(file, min_cached_bytes=1)) == 60
    assert not list(tmp_path.glob("*.tmp"))


def test_image_paths_start_from_the_file_or_a_given_folder(tmp_path):
    value = {"task": "draw", "messages": [{"role": "user", "content": "a"}], "answer": {"image": "sub/a.png"}}
    file = write_jsonl(tmp_path / "a.jsonl", [value])
    assert JsonlReader(file)[0].image.source == tmp_path / "sub/a.png"
    assert JsonlReader(file, images="/data")[0].image.source.as_posix() == "/data/sub/a.png"


# Tar shards.


def test_expand_braces():
    assert expand_braces("a") == ["a"]
    assert expand_braces("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expand_braces("{8..10}") == ["8", "9", "10"]
    assert expand_braces("{a,b{0..1}}/{x,y}") == ["a/x", "a/y", "b0/x", "b0/y", "b1/x", "b1/y"]
    for bad in ("{a}", "{3..1}", "{..}", "a{", "{a,b", "{}"):
        with pytest.raises(InputError, match="pattern="):
            expand_braces(bad)


ODD_NAMES = ["a b", "a, b", "a,b", "ñandú 日本", "runs [1]", "{x}", "what? *", "a: b"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_is_a_name_in_every_reader(tmp_path, name):
    """Blanks once divided a path of shards into two."""
    folder = tmp_path / name
    folder.mkdir()
    records = [text_record(i) for i in range(3)]
    write_tar(folder / f"{name}.tar", [(f"{i}.json", record) for i, record in enumerate(records)])
    write_jsonl(folder / f"{name}.jsonl", records)
    readers = [
        TarReader(folder / f"{name}.tar"),
        TarReader(str(folder / f"{name}.tar")),
        TarReader([str(folder / f"{name}.tar")]),
        TarReader(f"{folder}/*.tar"),
        JsonlReader(folder / f"{name}.jsonl"),
        TableReader(folder / f"{name}.jsonl", cache_dir=tmp_path / "cache"),
    ]
    for reader in readers:
        assert [reader[i].answer for i in range(len(reader))] == ["text 0", "text 1", "text 2"]
    stream = TableStream(folder / f"{name}.jsonl", window=1)
    assert [stream[i].answer for i in range(3)] == ["text 0", "text 1", "text 2"]


def test_patterns_name_files(tmp_path):
    for folder in ("part 1", "part 2", "other"):
        (tmp_path / folder).mkdir()
        for name in ("s-00.tar", "s-01.tar"):
            (tmp_path / folder / name).touch()

    def names(*patterns):
        return [str(path.relative_to(tmp_path)) for path in expand_paths([f"{tmp_path}/{pattern}" for pattern in patterns])]

    both = ["part 1/s-00.tar", "part 1/s-01.tar"]
    assert names("part 1/s-*.tar") == names("part 1/s-{00..01}.tar") == names("part 1/s-{00,01}.tar") == names("part 1/s-0?.tar") == both
    assert names("part */s-00.tar") == names("part {1,2}/s-00.tar") == names("part [12]/*0.tar") == ["part 1/s-00.tar", "part 2/s-00.tar"]
    assert names("part 2/s-01.tar", "part 1/s-00.tar") == ["part 2/s-01.tar", "part 1/s-00.tar"]
    assert names("missing.tar") == ["missing.tar"]
    assert names("**/s-00.tar") == ["other/s-00.tar", "part 1/s-00.tar", "part 2/s-00.tar"]
    with pytest.raises(InputError, match=r"no file is named like .*part 3"):
        names("part 3*/s-00.tar")


@pytest.fixture
def shards(tmp_path):
    for shard in range(3):
        members = []
        for i in range(4):
            key = f"train/{shard}-{i}"
            record = {"task": "draw", "messages": [{"role": "user", "content": f"cat {shard}{i}"}], "answer": {"image": "jpg"}}
            members += [(f"{key}.json", record), (f"{key}.jpg", f"pixels {shard}{i}".encode()), (f"{key}.txt", f"a cat {shard}{i}\n")]
        write_tar(tmp_path / f"s-{shard:02d}.tar", [("README", b"no extension"), *members])
    return tmp_path


def test_shards_have_random_access(shards):
    reader = TarReader(f"{shards}/s-{{00..02}}.tar")
    assert len(reader) == 12
    for i in reversed(range(12)):
        record = reader[i]
        assert record.turns[0].text == f"cat {i // 4}{i % 4}"
        assert record.image.source == f"pixels {i // 4}{i % 4}".encode()
        assert record.id == f"train/{i // 4}-{i % 4}"
        assert str(record.where) == f"s-{i // 4:02d}.tar:train/{i // 4}-{i % 4}"
    assert [record.id for record in reader] == [record.id for record in TarReader(f"{shards}/s-*.tar")]
    assert pickle.loads(pickle.dumps(reader))[5] == reader[5]
    described = TarReader(
        f"{shards}/s-01.tar", record_format=RecordFormat(adapter="describe", rename={"image": "png|jpg", "caption": "txt"})
    )
    assert (described[2].answer, described[2].pictures[0].source) == ("a cat 12", b"pixels 12")
    assert TarReader(f"{shards}/s-01.tar", min_cached_bytes=1)[3] == TarReader(f"{shards}/s-01.tar", min_cached_bytes=1)[3]
    assert (shards / "s-01.tar.index.npz").exists()


def test_members_are_found_by_extension_or_name_in_any_folder_and_case(tmp_path):
    def record(name):
        return json.dumps({"task": "draw", "messages": [{"role": "user", "content": "x"}], "answer": {"image": name}}).encode()

    names = ["jpg", "000017.jpg", "000017.JPG", "train/000017.jpg"]
    members = []
    for i, name in enumerate(names):
        members += [(f"train{i}/000017.json", record(name)), (f"train{i}/000017.JPG", b"picture")]
    write_tar(tmp_path / "s.tar", members)
    assert [record.image.source for record in TarReader(f"{tmp_path}/s.tar")] == [b"picture"] * len(names)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_odd_member_names(tmp_path, format):
    long = "d/" * 30 + ("n" * 60 if format == tarfile.USTAR_FORMAT else "ñ" * 150)
    members = [
        ("./a.b/000.seg.PNG", b"1"),
        ("./a.b/000.json", text_record(0)),
        (f"{long}.json", text_record(1)),
        ("c.json", text_record(2)),
    ]
    reader = TarReader(write_tar(tmp_path / "s.tar", [*members, ("c/.hidden", b"x")], format=format))
    assert [record.answer for record in reader] == ["text 0", "text 1", "text 2"]
    value, where, _ = reader.sample(0)
    assert (sorted(value), where.line) == (["json", "seg.png"], "a.b/000")
    assert reader[1].id == "1"


def test_bad_shards(tmp_path, shards):
    for pattern, said in [
        (f"{shards}/s-{{02..05}}.tar", "3 of 4 shards do not exist"),
        (f"{shards}/x-*.tar", "no file is named like"),
        ("https://x.org/{0..3}.tar", "is a URL"),
        ("pipe:curl x", "is a URL or a pipe"),
    ]:
        with pytest.raises(InputError, match=said):
            TarReader(pattern)
    whole = (shards / "s-00.tar").read_bytes()
    for data, said in [
        (whole[:3000], "damaged|truncated"),
        (b"no tar at all" * 100, "not a plain tar"),
        (b"\x1f\x8b" + whole, "not a plain tar"),
    ]:
        (tmp_path / "bad.tar").write_bytes(data)
        with pytest.raises(InputError, match=said):
            TarReader(tmp_path / "bad.tar")
    write_tar(tmp_path / "none.tar", [("README", b"x")])
    with pytest.raises(InputError, match="holds no sample"):
        TarReader(tmp_path / "none.tar")
    drawing = {"task": "draw", "messages": [{"role": "user", "content": "a"}], "answer": {"image": "png"}}
    write_tar(tmp_path / "odd.tar", [("0.json", b"{"), ("1.txt", b"\xff"), ("2.jpg", b"x"), ("3.json", drawing)])
    reader = TarReader(tmp_path / "odd.tar")
    says = [
        "odd.tar:0: the member .json is not JSON",
        "odd.tar:1: the member .txt is not UTF-8",
        "odd.tar:2: the sample has no .json member, only jpg",
        "odd.tar:3: answer.image='png' is no member of the sample '3', which has none",
    ]
    for i, said in enumerate(says):
        with pytest.raises(RecordError) as caught:
            reader[i]
        assert said in str(caught.value)


# Tables.


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    folder = tmp_path_factory.mktemp("table")
    columns = {
        "caption": [f"cat {i}" for i in range(25)],
        "image": [{"bytes": f"pixels {i}".encode(), "path": None} for i in range(25)],
        "label": [i % 2 for i in range(25)],
    }
    features = datasets.Features(
        caption=datasets.Value("string"), image=datasets.Image(), label=datasets.ClassLabel(names=["a tench", "a goldfish"])
    )
    whole = datasets.Dataset.from_dict(columns, features=features)
    whole.save_to_disk(str(folder / "disk"))
    datasets.DatasetDict(train=whole, test=whole.select(range(3))).save_to_disk(str(folder / "splits"))
    for part in range(3):
        whole.shard(3, part, contiguous=True).to_parquet(str(folder / f"p{part}.parquet"))
    return folder


def test_tables_have_random_access_and_stay_undecoded(table, tmp_path):
    reader = TableReader(table / "disk", record_format=RecordFormat(adapter="draw"))
    assert len(reader) == 25
    assert [reader[i].turns[0].text for i in reversed(range(25))] == [f"cat {i}" for i in reversed(range(25))]
    assert reader[3].image.source == b"pixels 3"
    assert str(reader[3].where) == "disk:3"
    named = TableReader(table / "disk", record_format=RecordFormat(adapter="draw", rename={"caption": "label"}))
    assert [named[i].turns[0].text for i in range(2)] == ["a tench", "a goldfish"]
    assert len(TableReader(table / "splits", split="test", record_format=RecordFormat(adapter="draw"))) == 3
    parquet = TableReader(table / "p*.parquet", record_format=RecordFormat(adapter="draw"), cache_dir=tmp_path)
    assert [parquet[i].turns for i in range(25)] == [reader[i].turns for i in range(25)]
    with pytest.raises(IndexError):
        reader[25]
    with pytest.raises(InputError, match=r"split='tset' is not in .* it has train, test"):
        TableReader(table / "splits", split="tset")


def test_nested_tables_hold_native_records(tmp_path):
    datasets = pytest.importorskip("datasets")

    def row(name, picture, think, answer):
        content = [{"type": "image", "image": picture, "text": None}, {"type": "text", "image": None, "text": "What?"}]
        messages = [{"role": "user", "content": content}]
        return {"id": name, "task": "understand", "messages": messages, "think": think, "answer": {"text": answer, "image": None}}

    rows = [
        row("0", {"bytes": b"pixels", "path": None}, None, "a"),
        row("1", {"bytes": None, "path": "sub/0.png"}, {"text": "so", "source": "me"}, "b"),
    ]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "d"))
    reader = TableReader(tmp_path / "d")
    assert [record.target_text for record in reader] == ["a", "<think> so</think> b"]
    assert reader[0].pictures[0].source == b"pixels"
    assert reader[1].pictures[0].source == tmp_path / "d/sub/0.png"


@pytest.mark.parametrize("window", [1, 4, 5, 25, 100])
def test_a_table_is_streamed_in_exact_order_and_resumed(table, window):
    def stream(**state):
        return TableStream(table / "p*.parquet", record_format=RecordFormat(adapter="draw"), window=window, seed=3, **state)

    reader = stream()
    order = [int(reader[i].turns[0].text[4:]) for i in range(60)]
    assert reader.length == 25
    for epoch in (order[:25], order[25:50]):
        assert sorted(epoch) == list(range(25))
        for start in range(0, 25, window):
            assert sorted(epoch[start : start + window]) == list(range(start, min(start + window, 25)))
    assert window == 1 or order[:25] != order[25:50] != sorted(order[25:50])
    # From anywhere, with or without what another stream remembers.
    for at in (0, 7, 12, 24, 25, 37, 55):
        assert int(stream()[at].turns[0].text[4:]) == order[at]
        stopped = stream()
        _ = [stopped[i] for i in range(at + 1)]
        state = json.loads(json.dumps(stopped.state()))
        resumed = stream(state=state)
        assert [int(resumed[i].turns[0].text[4:]) for i in range(at, 60)] == order[at:]
    backwards = stream()
    assert [int(backwards[i].turns[0].text[4:]) for i in (40, 3, 30)] == [order[40], order[3], order[30]]
    ranks = [Stream(stream(), rank=rank, num_ranks=3) for rank in range(3)]
    assert [int(next(one).turns[0].text[4:]) for _ in range(20) for one in ranks] == order


def test_a_resumed_stream_does_not_read_from_the_beginning(table, monkeypatch):
    first = TableStream(table / "p*.parquet", record_format=RecordFormat(adapter="draw"), window=2)
    record = first[20]
    resumed = TableStream(table / "p*.parquet", record_format=RecordFormat(adapter="draw"), window=2, state=first.state())
    monkeypatch.setattr(TableStream, "_start", lambda *_: pytest.fail("began anew"))
    assert resumed[20] == record
    with pytest.raises(InputError, match="window=3 is not that of the state, 2"):
        TableStream(table / "p*.parquet", window=3, state=first.state())


class Streaming(IterableDataset):
    def __init__(self, path):
        self.path = path

    def __iter__(self):
        rank, num_ranks = worker_share()
        items = TableStream(self.path, record_format=RecordFormat(adapter="draw"), window=4)
        return (record.turns[0].text for record in islice(Stream(items, rank=rank, num_ranks=num_ranks), 10))


def test_workers_share_a_streamed_table(table):
    loader = DataLoader(Streaming(table / "p*.parquet"), batch_size=None, num_workers=2)
    assert sorted(loader) == sorted(f"cat {i}" for i in range(20))


def test_tables_that_cannot_be_opened(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    for path in (tmp_path / "a.parquet", tmp_path / "none.parquet"):
        with pytest.raises(InputError, match="cannot be opened"):
            TableReader(path, cache_dir=tmp_path / "cache")
    with pytest.raises(InputError, match="window=0"):
        TableStream(tmp_path, window=0)


def test_without_datasets_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"mmada\[train\]"):
        TableReader(tmp_path)


# Selections.


def test_select_counts_what_it_leaves_out(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", [*(text_record(i) for i in range(6)), {"task": "text"}])
    chosen = select(JsonlReader(file), lambda record: "odd" if int(record.id) % 2 else None)
    assert [record.id for record in chosen] == ["0", "2", "4"]
    assert chosen.dropped == {"odd": 3, "not a record (field)": 1}
    assert len(Epochs(chosen).items) == 3
    for index in (-1, 3):
        with pytest.raises(IndexError):
            chosen[index]
