"""Train the judge of drawings (mmada/worlds/emoji/measure/judge.py): artwork only, about half an hour on one core.

python scripts/emoji/train_judge.py --minutes 30 --seed 0 --out mmada/worlds/emoji/measure/judge.safetensors
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from mmada.cli.session import check_writable
from mmada.worlds.emoji.measure.benchmark import check_judge
from mmada.worlds.emoji.measure.judge import Judge, training_batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--start", type=Path, help="go on from these weights")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    check_writable(args.out, "out")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    judge = Judge.load(args.start) if args.start else Judge(args.width)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3, weight_decay=0.02)
    start, right = time.time(), {64: 0.0, 32: 0.0}
    batches = training_batches(args.batch, seed=args.seed + (1000 if args.start else 0))
    for step, (pixels, classes, side) in enumerate(batches):
        share = (time.time() - start) / (args.minutes * 60)
        if share >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, step / 200) * (1 - share) + 1e-5
        judge.train()
        logits = judge(pixels)
        loss = F.cross_entropy(logits, classes, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right[side] += 0.02 * (float((logits.argmax(1) == classes).float().mean()) - right[side])
        if step % 200 == 0:
            print(
                f"step {step}  {time.time() - start:.0f} s  loss {loss:.3f}  right {right[64]:.3f} (64 px) {right[32]:.3f} (32 px)",
                flush=True,
            )
    judge.save(args.out)
    print(json.dumps(check_judge(Judge.load(args.out), None, num=1000), indent=1))


if __name__ == "__main__":
    main()
