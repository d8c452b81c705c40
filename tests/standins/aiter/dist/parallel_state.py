import torch.distributed as dist

from ..graphs import graph_capture
from .device_communicators.custom_all_reduce import CustomAllreduce

__all__ = [
    "destroy_distributed_environment", "destroy_model_parallel", "ensure_model_parallel_initialized",
    "get_tp_group", "graph_capture", "init_distributed_environment", "set_custom_all_reduce",
]  # fmt: skip

_enabled = False
_tp_group = None


class _DeviceCommunicator:
    def __init__(self):
        self.ca_comm = CustomAllreduce() if _enabled else None


class _Group:
    def __init__(self):
        self.device_communicator = _DeviceCommunicator()


def set_custom_all_reduce(enable: bool):
    global _enabled
    _enabled = enable


def init_distributed_environment(
    world_size=-1, rank=-1, distributed_init_method="env://", local_rank=-1, backend="nccl"
):
    assert backend == "nccl"  # there is no nccl on CPUs: gloo stands in for it
    dist.init_process_group(
        "gloo", init_method=distributed_init_method, world_size=world_size, rank=rank
    )


def ensure_model_parallel_initialized(tensor_model_parallel_size, pipeline_model_parallel_size):
    global _tp_group
    assert tensor_model_parallel_size * pipeline_model_parallel_size == dist.get_world_size()
    _tp_group = _Group()


def get_tp_group():
    assert _tp_group is not None, "tensor model parallel group is not initialized"
    return _tp_group


def destroy_model_parallel():
    global _tp_group
    _tp_group = None


def destroy_distributed_environment():
    dist.destroy_process_group()
