import os
from contextlib import contextmanager

import torch
import torch.distributed as dist

from .. import graphs
from ..versions import since

_ENABLE_CUSTOM_ALL_REDUCE = True
_TP = None
_DP = None
_EP = None


class GroupCoordinator:
    """One group of several alike, which all processes make together; this one is in one of them."""

    def __init__(self, group_ranks):
        from .device_communicators.communicator_cuda import CudaCommunicator

        self.device_communicator = None
        for ranks in group_ranks:
            cpu_group = dist.new_group(ranks, backend="gloo")
            if dist.get_rank() in ranks:
                self.world_size, self.cpu_group = len(ranks), cpu_group
        if self.world_size > 1:
            self.device_communicator = CudaCommunicator(self.cpu_group, _ENABLE_CUSTOM_ALL_REDUCE)

    @contextmanager
    def graph_capture(self, graph_capture_context=None):
        context = graph_capture_context or graphs.GraphCaptureContext()
        graphs.State.context = context
        custom = self.device_communicator.ca_comm
        try:
            if custom is None:
                yield context
            else:
                with custom.capture():
                    yield context
        finally:
            graphs.State.context = None

    def destroy(self):
        dist.destroy_process_group(self.cpu_group)
        del self.cpu_group
        if self.device_communicator is not None:
            self.device_communicator.ca_comm = None


def set_custom_all_reduce(enable: bool):
    global _ENABLE_CUSTOM_ALL_REDUCE
    _ENABLE_CUSTOM_ALL_REDUCE = enable


def init_distributed_environment(
    world_size=-1, rank=-1, distributed_init_method="env://", local_rank=-1, backend="nccl",
    data_parallel_size=1, data_parallel_rank=0,
):  # fmt: skip
    assert backend == "nccl"  # there is no nccl on CPUs: gloo stands in for it
    if not dist.is_initialized():
        if "HIP_VISIBLE_DEVICES" not in os.environ:
            os.environ["HIP_VISIBLE_DEVICES"] = ",".join(map(str, range(world_size)))
        dist.init_process_group(
            "gloo", init_method=distributed_init_method, world_size=world_size, rank=rank
        )


def ensure_model_parallel_initialized(
    tensor_model_parallel_size, pipeline_model_parallel_size, decode_context_model_parallel_size=1,
    backend=None, data_parallel_size=1, prefill_context_model_parallel_size=1,
    custom_group_config=None,
):  # fmt: skip
    if _TP is not None:
        assert _TP.world_size == tensor_model_parallel_size, "already initialized, of another size"
        return
    initialize_model_parallel(tensor_model_parallel_size, pipeline_model_parallel_size)


def initialize_model_parallel(tensor_model_parallel_size, pipeline_model_parallel_size):
    global _TP, _DP, _EP
    assert pipeline_model_parallel_size == 1
    all_ranks = torch.arange(dist.get_world_size()).reshape(-1, tensor_model_parallel_size)
    assert _TP is None, "tensor model parallel group is already initialized"
    _TP = GroupCoordinator([ranks.tolist() for ranks in all_ranks])
    assert _DP is None, "data parallel group is already initialized"
    _DP = GroupCoordinator([[rank] for rank in all_ranks.flatten().tolist()])
    assert _EP is None, "expert parallel group is already initialized"
    _EP = GroupCoordinator([ranks.tolist() for ranks in all_ranks])


def get_tp_group():
    assert _TP is not None, "tensor model parallel group is not initialized"
    return _TP


@contextmanager
def graph_capture():
    with get_tp_group().graph_capture() as context:
        yield context


def destroy_model_parallel():
    global _TP
    if _TP:
        _TP.destroy()
    _TP = None
    if not since(0, 1, 11):
        return
    global _DP, _EP
    for group in filter(None, (_DP, _EP)):
        group.destroy()
    _DP = None
    _EP = None


def destroy_distributed_environment():
    if dist.is_initialized():
        dist.destroy_process_group()
