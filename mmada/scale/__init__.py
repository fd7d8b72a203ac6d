"""Beyond one request and one machine: batches of requests, and what a run on many GPUs needs.

batch_lines.py, batch_results.py   a line of a batch; results on disk, each written once
replica.py, batch.py               a whole server inside this process; keep it busy until the batch is done
local_replicas.py                  the same by processes of this machine, each with a model
ray_cluster.py, ray_replicas.py    a connection to Ray; the same over Ray: an actor for each replica, whose death costs nothing but time
hardware.py, training_cost.py, plan.py   what a training step takes on many GPUs: the formulas of docs/scale.md
plan_config.py                     what a plan takes from the file of a run
serve.py, serve_proxy.py           the server over Ray Serve: replicas, and what stands before them
serve_config.py, serve_counts.py   replicas as a value; the counts that they share
ray_shards.py                      image codes of a data set, made by actors
rollouts.py                        workers over Ray that sample for reinforcement learning
"""
