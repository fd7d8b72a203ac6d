"""deploy/slurm and deploy/kubernetes: the commands are ones that the real programs take, and a run survives the death of a process."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .. import processes
from ..lazy import later
from ..processes import free_ports

yaml = later("yaml")
load_file = later("safetensors.torch", "load_file")
DEPLOY = Path(__file__).parents[2] / "deploy"
SCRIPT = DEPLOY / "slurm" / "train.sbatch"
PROGRAMS = Path(sys.executable).parent
TINY = """
stage: {name: tokenizer, batch: 4, steps: 24, optim: {warmup: 2}}
out: out
data: {world: shapes, held_out: 2, num_samples: 1, size: 64}
net: {ch: 8, encoder_num_res_blocks: [1, 1], decoder_num_res_blocks: [1, 1], z_channels: 6, patch: 4}
loop: {save_every: 4, log_every: 1, eval_every: 0, sample_every: 0, prefetch: 0}
"""


def parsed(words):
    """Values that the command line reads from the words after `mmada`. Fails as the command would."""
    from mmada.cli import command_line

    command = __import__("typer").main.get_command(command_line())
    with command.make_context("mmada", list(words)) as context:
        name, verb, rest = command.resolve_command(context, context._protected_args + context.args)
        with verb.make_context(name, rest, parent=context) as inner:
            return name, inner.params


def launched(words):
    """What torchrun reads from its words, and the words for the module."""
    from torch.distributed.run import get_args_parser

    read = get_args_parser().parse_args(list(words))
    assert (read.module, read.training_script) == (True, "mmada")
    return read, read.training_script_args


# A large epsilon: Adam otherwise turns the last bit of a vanishing gradient into a step of full size.
SMALL = """
debug: true
stage: {name: base, optim: {name: adamw, lr: 1.0e-3, eps: 1.0e-3, ema: 0.0}}
data: {world: shapes}
loop: {prefetch: 0}
net: {patch: 4, encoder_ch_mult: [1, 2], decoder_ch_mult: [1, 2]}
defaults: {max_new_tokens: 32, max_thinking_tokens: 32, block_length: 16, image_height: 32, image_width: 32, image_steps: 2}
"""


@pytest.fixture
def cluster(tmp_path):
    """A folder with the programs of SLURM that the script calls: srun runs a command as the one node of a job does."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in {"scontrol": "echo localhost; echo other", "srun": 'exec "$@"'}.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    path = f"{programs}:{PROGRAMS}:{os.environ['PATH']}"
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "localhost", "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2"}
    root = str(DEPLOY.parent)
    return programs, {**os.environ, **job, "PATH": path, "PYTHONPATH": root, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def test_bash_reads_the_script():
    assert subprocess.run(["bash", "-n", SCRIPT], check=False).returncode == 0
    assert not SCRIPT.stat().st_mode & stat.S_ISUID
    options = re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", SCRIPT.read_text(), re.MULTILINE)
    assert {"nodes", "ntasks-per-node", "gpus-per-node", "time", "signal"} <= {name for name, _ in options}
    assert len(options) + 1 == SCRIPT.read_text().count("\n#SBATCH")  # and --requeue


def test_the_script_starts_one_run_over_all_nodes(cluster, tmp_path):
    programs, env = cluster
    (programs / "srun").write_text('#!/bin/bash\nprintf "%q " "$@"\n')
    run = {**env, "SLURM_NNODES": "4", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_ID": "71234"}
    done = subprocess.run(["bash", SCRIPT, "train", "a b.yaml", "loop.keep=3"], env=run, capture_output=True, text=True, check=True)
    program, *words = shlex.split(done.stdout)
    read, rest = launched(words)
    assert program == "torchrun"
    assert (read.nnodes, read.nproc_per_node, read.max_restarts, read.rdzv_id) == ("4", "8", 3, "71234")
    assert read.rdzv_endpoint == "localhost:31234"
    verb, values = parsed(rest)
    assert (verb, str(values["config"]), values["settings"]) == ("train", "a b.yaml", ["loop.keep=3"])
    other = subprocess.run(["bash", SCRIPT, "rl", "c.yaml", "group=4"], env=run, capture_output=True, text=True, check=True)
    verb, values = parsed(launched(shlex.split(other.stdout)[1:])[1])
    assert (verb, str(values["config"]), values["settings"]) == ("rl", "c.yaml", ["group=4"])
    for words in ([], ["train"], ["a.yaml", "loop.keep=3"]):
        assert subprocess.run(["bash", SCRIPT, *words], env=run, capture_output=True, check=False).returncode == 2


def objects(name):
    return {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text())}


REQUIRED = {
    "Service": ("v1", ("ports", "selector")),
    "Job": ("batch/v1", ("template", "completions", "parallelism")),
    "Deployment": ("apps/v1", ("template", "selector", "replicas")),
    "RayJob": ("ray.io/v1", ("entrypoint", "rayClusterSpec")),
    "RayService": ("ray.io/v1", ("serveConfigV2", "rayClusterConfig")),
}


def pods(value):
    """The templates of pods inside an object."""
    if isinstance(value, dict):
        if "containers" in value.get("spec", {}):
            yield value
        for inner in value.values():
            yield from pods(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pods(inner)


@pytest.mark.parametrize("name", sorted(path.name for path in (DEPLOY / "kubernetes").iterdir()))
def test_manifests_have_what_their_kinds_need(name):
    for kind, one in objects(name).items():
        version, fields = REQUIRED[kind]
        assert one["apiVersion"] == version
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", one["metadata"]["name"])
        assert set(fields) <= one["spec"].keys()
        for pod in pods(one):
            volumes = {volume["name"] for volume in pod["spec"].get("volumes", ())}
            for container in pod["spec"]["containers"]:
                assert {"name", "image"} <= container.keys()
                assert {mount["name"] for mount in container.get("volumeMounts", ())} == volumes
                assert all(isinstance(entry.get("value", ""), str) for entry in container.get("env", ()))


def test_the_pods_of_a_run_find_each_other():
    found = objects("train-job.yaml")
    job, service = found["Job"], found["Service"]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["torchrun"]
    read, rest = launched(container["args"])
    name, place = job["metadata"]["name"], pod["subdomain"]
    assert read.rdzv_endpoint == f"{name}-0.{place}:{service['spec']['ports'][0]['port']}"
    assert service["spec"]["selector"] == {"job-name": name}
    assert (place, service["spec"]["clusterIP"]) == (service["metadata"]["name"], "None")
    assert int(read.nnodes) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert int(read.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert read.shutdown_timeout < pod["terminationGracePeriodSeconds"]
    verb, values = parsed(rest)
    assert verb == "train"
    folders = [mount["mountPath"] for mount in container["volumeMounts"]]
    for path in (str(values["config"]), values["settings"][0].removeprefix("out=")):
        assert any(path.startswith(folder + "/") for folder in folders)


def test_the_batch_asks_for_the_replicas_that_there_are():
    job = objects("batch-rayjob.yaml")["RayJob"]["spec"]
    program, *words = shlex.split(job["entrypoint"])
    verb, values = parsed(words)
    assert (program, verb) == ("mmada", "batch")
    (group,) = job["rayClusterSpec"]["workerGroupSpecs"]
    assert values["ray"]
    assert values["replicas"] == group["replicas"] == group["minReplicas"]


def test_the_workers_of_rl_have_a_gpu_each_and_the_one_that_trains_has_its_own():
    from mmada.rl.config import load

    job = objects("rl-rayjob.yaml")["RayJob"]["spec"]
    program, *words = shlex.split(job["entrypoint"])
    verb, values = parsed(words)
    assert (program, verb) == ("mmada", "rl")
    config = load(DEPLOY.parent / "configs" / "rl" / "8b-lora.yaml", values["settings"])
    cluster = job["rayClusterSpec"]
    head, (group,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    (trainer,), (worker,) = (one["template"]["spec"]["containers"] for one in (head, group))
    gpus = worker["resources"]["limits"]["nvidia.com/gpu"]
    assert config.rollouts == "ray"
    assert config.rollout_workers * config.rollout_gpus == group["replicas"] * gpus == group["minReplicas"] * gpus
    assert trainer["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert head["rayStartParams"]["num-gpus"] == "0"
    folders = [mount["mountPath"] for mount in trainer["volumeMounts"]]
    for path in (str(values["config"]), config.out, config.data.path, config.model.start):
        assert any(path.startswith(folder + "/") for folder in folders)


def test_the_service_has_room_for_its_replicas_and_time_for_their_requests():
    from mmada.scale.serve_config import KEYS, replicas_config
    from mmada.scale.serve_proxy import CALLBACK

    service = objects("serve-rayservice.yaml")["RayService"]["spec"]
    (group,) = service["rayClusterConfig"]["workerGroupSpecs"]
    serving = yaml.safe_load(service["serveConfigV2"])
    (application,) = serving["applications"]
    module, _, name = application["import_path"].partition(":")
    assert callable(getattr(__import__(module, fromlist=[name]), name))
    config, (worker,) = replicas_config(application["args"]), group["template"]["spec"]["containers"]
    limits = worker["resources"]["limits"]
    assert config.replicas * config.gpus == group["replicas"] * limits["nvidia.com/gpu"]
    assert config.cpus <= int(limits["cpu"])
    assert config.model.startswith(worker["volumeMounts"][0]["mountPath"] + "/")
    assert config.drain < group["template"]["spec"]["terminationGracePeriodSeconds"]
    assert config.drain >= config.server.request_timeout
    assert service["rayClusterDeletionDelaySeconds"] > config.server.request_timeout
    for pod in pods(service):
        (container,) = pod["spec"]["containers"]
        environment = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert environment == {CALLBACK[0]: CALLBACK[1], KEYS: None}
        assert container["ports"][0]["containerPort"] == serving["http_options"]["port"]


def test_ray_reads_the_configuration_of_the_service():
    schema = pytest.importorskip("ray.serve.schema", reason="Ray Serve is not installed (pip install 'mmada[scale]')")
    read = schema.ServeDeploySchema(**yaml.safe_load(objects("serve-rayservice.yaml")["RayService"]["spec"]["serveConfigV2"]))
    assert (read.proxy_location, read.applications[0].route_prefix) == ("EveryNode", "/")


def test_the_server_is_asked_where_it_listens():
    found = objects("serve.yaml")
    pod = found["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    entry = json.loads(re.search(r"^ENTRYPOINT (.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)[1])
    verb, values = parsed([*entry[1:], *container["args"]])
    (port,) = container["ports"]
    assert (verb, values["port"]) == ("serve", port["containerPort"])
    assert values["drain"] < pod["spec"]["terminationGracePeriodSeconds"]
    assert found["Service"]["spec"]["selector"] == pod["metadata"]["labels"] == found["Deployment"]["spec"]["selector"]["matchLabels"]
    assert found["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": port["name"]}


def trained(script, env, folder, *, kill_at=None):
    """The steps that a run reports, and the weights that it exports. kill_at: a save after which one of its processes is killed."""
    folder.mkdir()
    (folder / "tiny.yaml").write_text(TINY)
    with (folder / "log").open("w") as log:
        run = subprocess.Popen(["bash", script, "train", "tiny.yaml"], cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            if kill_at is not None:
                deadline = time.monotonic() + 200
                while not (folder / "out" / "state" / f"step-{kill_at:08d}").exists():
                    assert time.monotonic() < deadline, (folder / "log").read_text()
                    time.sleep(0.01)
                os.kill(workers(run.pid)[-1], signal.SIGKILL)
            assert run.wait(300) == 0, (folder / "log").read_text()
        finally:
            run.poll() is None and os.killpg(run.pid, signal.SIGKILL)
    return (folder / "log").read_text(), (folder / "out" / "model" / "model.safetensors").read_bytes()


def workers(launcher):
    """Processes that torchrun has started, itself not counted."""
    done = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(launcher)], capture_output=True, text=True, check=True)
    return [int(line.split()[0]) for line in done.stdout.splitlines() if "-m mmada" in line]


@pytest.mark.slow
def test_a_run_whose_process_is_killed_goes_on_from_the_last_save_by_itself(cluster, tmp_path):
    _, env = cluster
    log, weights = trained(SCRIPT, env, tmp_path / "killed", kill_at=8)
    _, expected = trained(SCRIPT, env, tmp_path / "whole")
    assert "from the beginning" in log
    resumed = re.search(r"going on from step-(\d+)", log)
    assert resumed is not None
    assert int(resumed[1]) >= 8
    assert weights == expected
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed" / "out" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 25))


def agents(folder, script, env, *, nodes=2, per_node=1):
    """A run whose nodes are launchers of this machine, each with its processes. Returns what they say."""
    (port,) = free_ports(1)
    words = [
        "--nnodes",
        nodes,
        "--nproc-per-node",
        per_node,
        "--rdzv-backend",
        "c10d",
        "--rdzv-id",
        "two",
        "--rdzv-endpoint",
        f"localhost:{port}",
    ]
    command = [PROGRAMS / "torchrun", *map(str, words), "--local-addr", "localhost", "-m", "mmada", "train", script, "out=nodes"]
    with (folder / "log").open("w") as log:
        run = [subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True) for _ in range(nodes)]
        try:
            assert [one.wait(300) for one in run] == [0] * nodes, (folder / "log").read_text()
        finally:
            for one in run:
                one.poll() is None and os.killpg(one.pid, signal.SIGKILL)
    return (folder / "log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["DDP", "FSDP2"])
def test_two_nodes_equal_one_process(cluster, tmp_path, strategy):
    _, env = cluster
    (tmp_path / "tiny.yaml").write_text(SMALL)
    done = processes.mmada(["train", "tiny.yaml", "out=one"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    log = agents(tmp_path, "tiny.yaml", env | ({"ACCELERATE_USE_FSDP": "true"} if strategy == "FSDP2" else {}))
    assert f"2 processes on 2 nodes, {strategy}, cpu;" in log
    one, nodes = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "nodes"))
    assert one.keys() == nodes.keys()
    assert max(float((one[name] - nodes[name]).abs().max()) for name in one) < 1e-6
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()] for name in ("one", "nodes")
    ]
    assert len(losses[0]) == 4
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
