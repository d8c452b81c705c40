import os
from contextlib import contextmanager

import torch.distributed as dist

from .. import graphs

_ENABLE_CUSTOM_ALL_REDUCE = True
_TP = None


class GroupCoordinator:
    def __init__(self):
        from .device_communicators.communicator_cuda import CudaCommunicator

        self.cpu_group = dist.new_group(backend="gloo")
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
    global _TP
    assert tensor_model_parallel_size * pipeline_model_parallel_size == dist.get_world_size()
    if _TP is None:
        _TP = GroupCoordinator()


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


def destroy_distributed_environment():
    if dist.is_initialized():
        dist.destroy_process_group()
