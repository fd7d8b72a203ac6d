"""A run over tokenized records at an address, for one rank of several: what it read is written down."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState

from mmada.data import Epochs, TokenizedReader
from mmada.train.file_samples import select_together
from mmada.train.loop import train
from mmada.train.plan import begin
from mmada.train.source import ComponentRows, RecordExamples
from mmada.train.step import DiffusionLoss
from mmada.train.task import BatchPlan, DiffusionTask

from . import tiny

STAGE = tiny.stage("text", batch=4, steps=7)


class Noted:
    """A reader that notes which records were asked for."""

    def __init__(self, reader):
        self.reader, self.read = reader, []

    def __len__(self):
        return len(self.reader)

    def __getitem__(self, index):
        self.read.append(index)
        return self.reader[index]


def fit(address, out, *, stops=False):
    """Train, or go on. Returns the records that were read at the start, and those that were trained on."""
    begin()
    records = Noted(TokenizedReader(address))
    chosen, dropped = select_together(records, lambda record: "a multiple of five" if int(record.id[1:]) % 5 == 0 else None)
    assert dropped == {"a multiple of five": 5}
    searched, records.read = records.read, []
    examples = RecordExamples(Epochs(chosen["text"], seed=3), encode=None)
    rows = {"text": ComponentRows(STAGE.components[0], STAGE, examples, tiny.prompts(), seed=0, num_image_tokens=tiny.NUM_CODES)}
    plan = BatchPlan(stage=STAGE, sources=rows, layout=tiny.LAYOUT, seed=0)
    task = DiffusionTask(plan=plan, module=DiffusionLoss(tiny.model()), held_out={})

    def stop(report):
        if report.step == 3:
            signal.raise_signal(signal.SIGTERM)

    train(task, STAGE.optim, replace(tiny.QUIET), steps=STAGE.steps, out=Path(out), on_step=stop if stops else None)
    return searched, records.read


def main(address, out):
    """Without a stop; and stopped after three steps, and resumed."""
    whole, before, after = fit(address, out / "whole"), fit(address, out / "parts", stops=True), fit(address, out / "parts")
    found = {"searched": whole[0], "whole": whole[1], "before": before[1], "after": after[1]}
    (out / f"read-{os.environ['RANK']}.json").write_text(json.dumps(found))
    assert PartialState().num_processes == int(os.environ["WORLD_SIZE"])
