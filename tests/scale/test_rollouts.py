"""Rollouts over Ray: those of one process, whoever dies. Starting Ray takes long, so all of it is slow."""

import os
import signal
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mmada.rl.config import load
from mmada.rl.setup import build_task, run
from mmada.scale.rollouts import ray_rollouts

from ..processes import ranks
from ..rl.tiny import Elsewhere
from ..train import starts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ray():
    """A cluster of two nodes on this machine. Each has room for two workers."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    yield ray
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def config(tmp_path):
    values = {**starts.BASE, "tasks": starts.TASKS, "optim": starts.ADAM, "objective": {"updates": 2, "kl_weight": 0.1}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**values, "out": str(tmp_path / "here")}))
    return load(tmp_path / "run.yaml")


def codes(rollouts):
    return [(rollout.seed, rollout.sample.text, *(part.canvas.tokens.tolist() for part in rollout.parts)) for rollout in rollouts]


def test_a_worker_that_dies_is_replaced_and_its_prompts_are_sampled_again(ray, config):
    job = build_task(config)
    prompts, plan = job.sources["text"].take(range(5)), job.config.active[0]
    asked = {"num": 2, "seed": 7, "record": False}
    here = job._rollouts(prompts, plan.decoding, 2, 7, torch.device("cpu"))
    with ray_rollouts(config) as remote:
        first, num_again = remote.begin({}, prompts, plan.decoding, **asked).result()
        assert (codes(first), num_again) == (codes(here), 0)
        os.kill(remote.pids()[0], signal.SIGKILL)
        pending = [remote.begin({}, prompts, plan.decoding, **asked) for _ in range(2)]
        second, num_again = pending[0].result()
        assert (codes(second), num_again) == (codes(here), 3)
        assert codes(pending[1].result()[0]) == codes(here)  # its worker, which replaced the dead one, was not replaced again
        assert remote.num_again in (3, 6)
        changed = {name: p.detach() + 0.5 for name, p in job.module.named_parameters() if name.endswith("ff_out.weight")}
        third, _ = remote.begin(changed, prompts, plan.decoding, **asked).result()
        assert codes(third) != codes(here)


@pytest.mark.parametrize(("rank", "workers"), [(0, 2), (4, 2), (0, 4)])
def test_a_run_with_workers_ends_where_one_process_does(ray, config, tmp_path, rank, workers):
    if rank:
        config = replace(config, lora=replace(config.lora, rank=rank))
    run(config)
    sent = set()
    over_ray = replace(config, rollouts="ray", rollout_workers=workers, out=str(tmp_path / "ray"))
    with ray_rollouts(over_ray) as remote:
        assert len(set(remote.pids())) == workers

        class Remote:
            def begin(self, weights, prompts, decoding, **asked):
                sent.update(weights)
                return remote.begin(weights, prompts, decoding, **asked)

        run(over_ray, remote=Remote())
    here, there = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("here", "ray"))
    assert here.keys() == there.keys()
    assert all(torch.equal(here[name], there[name]) for name in here)
    assert sent
    assert not rank or all(".lora_" in name for name in sent)


def test_rollouts_of_older_weights_are_the_same_whoever_samples_and_whoever_dies(ray, config, tmp_path):
    config, ends = replace(config, steps=8), []  # nothing is earned in the first round, so that its weights are those of the second
    for name in ("once", "killed", "elsewhere"):
        over_ray = replace(config, rollouts="ray", rollout_staleness=1, out=str(tmp_path / name))
        if name == "elsewhere":
            run(over_ray, remote=Elsewhere(build_task(config)))
        else:
            with ray_rollouts(over_ray) as workers:
                if name == "killed":
                    os.kill(workers.pids()[0], signal.SIGKILL)
                run(over_ray, remote=workers)
        ends.append(load_file(tmp_path / name / "model" / "model.safetensors"))
    run(config)
    ends.append(load_file(tmp_path / "here" / "model" / "model.safetensors"))
    assert all(torch.equal(ends[0][name], other[name]) for other in ends[1:3] for name in ends[0])
    assert not all(torch.equal(ends[0][name], ends[3][name]) for name in ends[0])


@pytest.mark.parametrize("staleness", [0, 1])
def test_workers_sample_for_processes_that_share_the_weights(ray, tmp_path, staleness):
    """Workers hold whole models, where each of the two processes that train holds half, of older weights, too."""
    start, log = starts.start(tmp_path / "start"), tmp_path / "log.txt"
    changes = {"rollouts": "ray", "rollout_workers": 2, "rollout_staleness": staleness}
    starts.main(start, tmp_path / "one", ("rl",), changes if staleness else None)
    environ = {"ACCELERATE_USE_FSDP": "true", "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    assert ranks(starts.main, start, tmp_path / "two", ("rl",), changes, env=environ, out=log) == [0, 0], log.read_text()
    one, two = (load_file(tmp_path / number / "rl" / "model" / "model.safetensors") for number in ("one", "two"))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-6
    assert "FSDP2" in log.read_text()
