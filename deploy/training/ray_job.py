"""Training on several nodes of a Ray cluster: torchrun on each, as the Kubernetes Job has it.

    ray job submit --working-dir . -- python deploy/training/ray_job.py --nodes 2 --gpus 8 \
        -- --config recipe.yaml --output /shared/runs/mirl

What follows the second `--` goes to `mirl-train rl`. Not `ray.train.torch.TorchTrainer`: it runs training in
a thread, where no signal can be heard, and keeps the process group's port to itself. It has not been run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys


def command(nodes: int, gpus: int, meet: str, host: bool, words: list[str]) -> list[str]:
    """torchrun's command line on one node.

    Args:
        meet: HOST:PORT of the node that hosts the rendezvous.
        host: whether this is that node.
        words: arguments of `mirl-train rl`.
    """
    places = ["--nnodes", str(nodes), "--nproc-per-node", str(gpus), "--max-restarts", "3"]
    meeting = ["--rdzv-backend", "c10d", "--rdzv-id", "mirl-train", "--rdzv-endpoint", meet]
    meeting += ["--rdzv-conf", f"is_host={int(host)}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *places, *meeting]
    return [*torchrun, "-m", "mirl_core.training.cli", "rl", *words]


def main() -> int:
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--gpus", type=int, required=True, help="a node")
    parser.add_argument("--port", type=int, default=29400, help="free on the first node")
    parser.add_argument("words", nargs="+", help="arguments of mirl-train rl, behind --")
    arguments = parser.parse_args()

    class Node:
        def address(self) -> str:
            return str(ray.util.get_node_ip_address())

        def run(self, line: list[str]) -> int:
            return subprocess.run(line, check=False).returncode  # noqa: S603 - our own command

    ray.init()
    group = placement_group([{"GPU": arguments.gpus, "CPU": 1}] * arguments.nodes, strategy="STRICT_SPREAD")
    ray.get(group.ready())
    remote = ray.remote(num_gpus=arguments.gpus, num_cpus=1)(Node)
    placed = [PlacementGroupSchedulingStrategy(group, index) for index in range(arguments.nodes)]
    nodes = [remote.options(scheduling_strategy=strategy).remote() for strategy in placed]
    meet = f"{ray.get(nodes[0].address.remote())}:{arguments.port}"
    lines = [
        command(arguments.nodes, arguments.gpus, meet, node is nodes[0], arguments.words) for node in nodes
    ]
    return max(ray.get([node.run.remote(line) for node, line in zip(nodes, lines, strict=True)]))


if __name__ == "__main__":
    sys.exit(main())
