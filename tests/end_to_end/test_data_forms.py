"""Every form of data that `mmada data check` accepts is trained on by `mmada train` and asked by `mmada rl`, with the same settings."""

import csv
import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
import yaml
from accelerate.state import AcceleratorState
from PIL import Image
from typer.testing import CliRunner

import mmada.rl.setup
import mmada.train.setup
from mmada.cli import app
from mmada.data import Folder, JsonlReader, RecordError, RecordFormat, SourceLocation, parse
from mmada.data.shard_writer import write_shards
from mmada.errors import InputError
from mmada.rl.config import load as load_rl
from mmada.train.config import load as load_train

pytestmark = pytest.mark.integration

ROWS = [{"instruction": f"Say {word}", "output": word} for word in ("one", "two", "six", "ten")]
RECORDS = [
    {"task": "text", "messages": [{"role": "user", "content": row["instruction"]}], "answer": {"text": row["output"]}} for row in ROWS
]
TURNS = [{"messages": [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]} for row in ROWS]
RENAMED = {"adapter": "instruction", "rename": {"instruction": "q", "output": "a"}}
ASKED = [{"q": row["instruction"], "a": row["output"]} for row in ROWS]
DRAWN = [{"image": f"{i}.png", "caption": f"square {i}"} for i in range(4)]


def png(i):
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), (60 * i, 0, 200)).save(stream, "PNG")
    return stream.getvalue()


def lines(values):
    return "".join(json.dumps(value) + "\n" for value in values)


def jsonl(values, name="my.jsonl"):
    def make(folder):
        (folder / name).write_text(lines(values))
        return folder / name

    return make


def compressed(folder):
    (folder / "my.jsonl.gz").write_bytes(gzip.compress(lines(RECORDS).encode()))
    return folder / "my.jsonl.gz"


def with_pictures(values, where="."):
    def make(folder):
        (folder / where).mkdir(exist_ok=True)
        for i in range(4):
            (folder / where / f"{i}.png").write_bytes(png(i))
        return jsonl(values)(folder)

    return make


def shards(members):
    def make(folder):
        for number in range(2):
            with tarfile.open(folder / f"data-{number}.tar", "w") as tar:
                for i in range(2 * number, 2 * number + 2):
                    for extension, data in members(i):
                        info = tarfile.TarInfo(f"{i:04d}.{extension}")
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))
        return folder / "data-{0..1}.tar"

    return make


def on_disk(folder):
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict({"asked": datasets.Dataset.from_list(ASKED)}).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def parquet(folder):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).to_parquet(str(folder / "rows.parquet"))
    return folder / "rows.parquet"


def parquet_with_images(folder):
    datasets = pytest.importorskip("datasets")
    rows = [{"picture": {"bytes": png(i), "path": None}, "txt": f"square {i}"} for i in range(4)]
    features = datasets.Features({"picture": datasets.Image(), "txt": datasets.Value("string")})
    (folder / "table").mkdir()
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(folder / "table" / "part-0.parquet"))
    return folder / "table"


def table(folder):
    with (folder / "rows.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["q", "a"])
        writer.writeheader()
        writer.writerows(ASKED)
    return folder / "rows.csv"


def listed(folder):
    (folder / "rows.json").write_text(json.dumps(ROWS))
    return folder / "rows.json"


FORMS = {
    "jsonl": (jsonl(RECORDS), "text", {}),
    "jsonl.gz": (compressed, "text", {}),
    "jsonl of another ending": (jsonl(RECORDS, "my.txt"), "text", {"format": "jsonl"}),
    "instruction, renamed": (jsonl(ASKED), "text", RENAMED),
    "messages": (jsonl(TURNS), "text", {"adapter": "messages"}),
    "llava": (
        with_pictures(
            [
                {"image": f"{i}.png", "conversations": [{"from": "human", "value": "<image>\nWhich?"}, {"from": "gpt", "value": str(i)}]}
                for i in range(4)
            ]
        ),
        "understand",
        {"adapter": "llava"},
    ),
    "draw, pictures elsewhere": (with_pictures(DRAWN, "pictures"), "draw", {"adapter": "draw", "images": "pictures"}),
    "describe": (with_pictures(DRAWN), "understand", {"adapter": "describe"}),
    "shards of records": (shards(lambda i: [("json", json.dumps(RECORDS[i]).encode())]), "text", {}),
    "shards of pictures": (
        shards(lambda i: [("png", png(i)), ("txt", f"square {i}".encode())]),
        "draw",
        {"adapter": "draw", "rename": {"image": "jpg|png", "caption": "txt"}},
    ),
    "dataset on disk": (on_disk, "text", {**RENAMED, "split": "asked"}),
    "parquet": (parquet, "text", {"adapter": "instruction"}),
    "folder of parquet, pictures inside": (
        parquet_with_images,
        "draw",
        {"adapter": "draw", "rename": {"image": "picture", "caption": "txt"}},
    ),
    "csv": (table, "text", RENAMED),
    "json list": (listed, "text", {"adapter": "instruction"}),
}


@pytest.fixture(autouse=True)
def _accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def arguments(settings):
    flat = [(f"--{name}", value) for name, value in settings.items() if name != "rename"]
    renames = [("--rename", f"{name}={own}") for name, own in settings.get("rename", {}).items()]
    return [part for pair in [*flat, *renames] for part in pair]


def config(folder, path, settings, **values):
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump({"debug": True, "out": str(folder / "run"), "data": {"path": str(path), **settings}, **values}))
    return file


@pytest.fixture(scope="module")
def start(debug, tmp_path_factory):
    """The debug model as a directory."""
    folder = tmp_path_factory.mktemp("start")
    debug.save_pretrained(folder)
    return folder


def taken(folder, path, task, settings, start):
    """What `mmada train` and `mmada rl` make of the data: rows of a batch, and prompts."""
    job = mmada.train.setup.build_task(load_train(config(folder, path, settings, stage="finetune", model={"start": str(start)})))
    (batch,) = job.batches(0, rank=0, world=1, accumulate=1)
    rl = {"tasks": {task: {"prompts": 2, "rewards": {"brevity": 1.0}}}, "model": {"start": str(start)}}
    asked = mmada.rl.setup.build_task(load_rl(config(folder, path, settings, **rl)))
    return batch, asked.sources[task].take(range(4))


@pytest.mark.parametrize("name", FORMS)
def test_what_is_checked_can_be_trained_on_and_asked(name, start, tmp_path, monkeypatch):
    make, task, settings = FORMS[name]
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path)
    result = CliRunner().invoke(app, ["data", "check", str(path), "--model", str(start), "--json", *arguments(settings)])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["tasks"], report["num_usable"]) == ({task: 4}, 4)
    batch, prompts = taken(tmp_path, path, task, settings, start)
    assert batch.num_rows
    assert len({prompt.text + str(prompt.reference) + str(prompt.record) for prompt in prompts}) == 4
    assert all(prompt.task == task for prompt in prompts)


def test_tokenized_shards_are_checked_trained_on_and_asked(debug, start, tmp_path):
    source = JsonlReader(jsonl(RECORDS)(tmp_path))
    size = (debug.defaults.image_height, debug.defaults.image_width)
    write_shards(source, tmp_path / "codes", image_tokenizer=debug.image_tokenizer, prompts=debug.prompts, size=size)
    assert CliRunner().invoke(app, ["data", "check", str(tmp_path / "codes"), "--model", str(start)]).exit_code == 0
    batch, prompts = taken(tmp_path, tmp_path / "codes", "text", {}, start)
    assert batch.num_rows
    assert {prompt.reference for prompt in prompts} == {"one", "two", "six", "ten"}


PROMPTS = [
    {"task": "text", "messages": [{"role": "user", "content": "Say one"}], "meta": {"extra": {"letters": 3}}},
    {"task": "draw", "messages": [{"role": "user", "content": "a square"}]},
    {"task": "reason_draw", "messages": [{"role": "user", "content": "two squares"}]},
]


def test_prompts_need_no_answer_where_no_reward_does(start, tmp_path, caplog):
    path = jsonl([*PROMPTS, *RECORDS[:1]])(tmp_path)
    strict = CliRunner().invoke(app, ["data", "check", str(path), "--model", str(start)])
    assert strict.exit_code == 1
    assert "answer=None is missing" in strict.output
    lenient = CliRunner().invoke(app, ["data", "check", str(path), "--model", str(start), "--prompts"])
    assert lenient.exit_code == 0, lenient.output
    assert "4 records, 4 can be used" in lenient.output

    def sources(**rewards):
        tasks = {task: {"prompts": 2, "rewards": rewards} for task in ("text", "draw", "reason_draw")}
        settings = load_rl(config(tmp_path, path, {}, tasks=tasks, model={"start": str(start)}))
        return mmada.rl.setup.build_task(settings).sources

    found = sources(brevity=1.0)
    assert {prompt.text for prompt in found["text"].take(range(4))} == {"Say one"}
    assert {prompt.meta.extra.get("letters") for prompt in found["text"].take(range(2))} == {3, None}
    assert found["draw"].take([0])[0].record == "my.jsonl:2"
    assert {prompt.reference for prompt in sources(brevity=1.0, exact=1.0)["text"].take(range(4))} == {"one"}
    assert "no answer, which reward exact compares with 1" in caplog.text


@pytest.mark.parametrize(
    ("adapter", "value"),
    [
        ("instruction", {"instruction": "Say one"}),
        ("messages", {"messages": [{"role": "user", "content": "Say one"}]}),
        ("llava", {"conversations": [{"from": "human", "value": "Say one"}]}),
        ("draw", {"caption": "a square"}),
        ("describe", {"image": "data:image/png;base64,AAAA"}),
    ],
)
def test_every_adapter_reads_prompts_without_answers(adapter, value):
    where = SourceLocation("my.jsonl", 1)
    with pytest.raises(RecordError):
        parse(value, where, pictures=Folder(Path()), record_format=RecordFormat(adapter=adapter))
    record = parse(value, where, pictures=Folder(Path()), record_format=RecordFormat(adapter=adapter, prompts_only=True))
    assert (record.answer, record.image) == (None, None)
    assert record.turns[-1].role == "user"


def test_how_files_are_read_is_said_of_files_alone(tmp_path):
    for values in ({"world": "shapes", "adapter": "draw"}, {"path": "mine.yaml", "rename": {"answer": "t"}}):
        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump({"stage": "finetune", "data": values}))
        with pytest.raises(InputError, match=r"data.format, adapter, rename and images say how one file of records is read"):
            load_train(file)
    with pytest.raises(InputError, match=r"adapter='drow' is unknown: did you mean 'draw'"):
        load_train(config(tmp_path, "my.jsonl", {"adapter": "drow"}, stage="finetune"))


def test_a_damaged_gzip_file_is_told(tmp_path):
    whole = gzip.compress(lines(RECORDS).encode())
    for name, data in (("half.jsonl.gz", whole[:40]), ("none.jsonl.gz", b"{}")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=f"{name}' is no gzip file, or is damaged"):
            JsonlReader(tmp_path / name)
