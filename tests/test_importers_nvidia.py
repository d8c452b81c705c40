"""The all-reduce benchmarks of FlashInfer and TensorRT-LLM, as their sources print and write them."""

import pytest
from importing import briefly, column, left, of

HEAD = (
    "routine,median_time,std_time,tflops,tb_per_sec,backend,resolved_backend,m,n,group_size,num_tokens,"
    "num_experts,ar_backend,pattern,batch_size,hidden_size,input_dtype,k,enable_pdl,no_cuda_graph,use_cupti"
)
NEWER = ",world_size,strategy_request,rank_aggregation,timing_mode_request"


def case(ms, label, pattern="ar_residual_rmsnorm", more="", graph="False", cupti="False"):
    return (
        f"allreduce_fusion,{ms},0.001,N/A,0.1,{label.split('_')[0]},{label},,,,64,,auto,{pattern},,4096,"
        f"torch.bfloat16,,True,{graph},{cupti}{more}\n"
    )


ONE, TWO = "trtllm_ar_residual_rmsnorm_oneshot", "trtllm_ar_residual_rmsnorm_twoshot"
CONSOLE = """\
[INFO] AllReduce benchmark: world_size=8, gpus_per_node=8
[INFO] Created workspace: backend=trtllm, shape=(64, 4096)
[PERF] trtllm_ar_residual_rmsnorm_oneshot:: median time 0.012 ms; std 0.001 ms; achieved tflops nan TFLOPs/sec; achieved tb_per_sec 0.076 TB/sec
  algbw=0.0437 TB/s, msg_size=512.0 KiB, time=12.0 us, p90=13.0 us, rank_aggregation=max
[PERF] trtllm_ar_residual_rmsnorm_twoshot:: median time 0.022 ms; std 0.001 ms; achieved tflops nan TFLOPs/sec; achieved tb_per_sec 0.076 TB/sec
[ERROR] Kernel failed for shape=(64, 4096) msg_size=0.5 MiB: rank 0: RuntimeError: x
"""
RECORD = (
    '{"aggregated_times":[0.01,0.012],"cuda_graph":true,"hidden_size":4096,"input_dtype":"torch.bfloat16",'
    '"median_time":%s,"num_tokens":64,"p90_time":0.012,"pattern":"%s","per_rank_times":[{"rank":0,"times":[0.01]}],'
    '"rank_aggregation":"%s","requested_backend":"auto","resolved_backend":"trtllm","routine":"allreduce_fusion",'
    '"schema_version":1,"std_time":0.001,"strategy_request":"%s","timing_mode_request":"%s","units":"milliseconds",'
    '"world_size":8}\n'
)

FLASHINFER = {
    "CSV of a release with ranks": (
        f"{HEAD}{NEWER}\n{case(0.01234, ONE, more=',8,oneshot,max,cuda_graph')}"
        f"{case(0.02234, TWO, more=',8,twoshot,max,cuda_events')}"
        f"{case(0.0082, 'mnnvl_allreduce_oneshot', 'allreduce', ',8,oneshot,rank0,cupti')}",
        {},
        ["fused 1stage 8 64 4096 bf16 524288 12.34 graph clean",
         "fused 2stage 8 64 4096 bf16 524288 22.34 eager clean",
         "plain 1stage 8 64 4096 bf16 524288 8.2 profiler clean"],
        {},
    ),
    "CSV without ranks": (
        f"{HEAD}\n{case(0.01234, ONE)}{case(0.02234, TWO, graph='True')}{case(0.0103, ONE, cupti='True')}",
        {"world_size": "8"},
        ["fused 1stage 8 64 4096 bf16 524288 12.34 graph clean",
         "fused 2stage 8 64 4096 bf16 524288 22.34 eager clean",
         "fused 1stage 8 64 4096 bf16 524288 10.3 profiler clean"],
        {},
    ),
    "CSV whose first column is the switch of graphs": (
        f"no_cuda_graph,{HEAD.replace(',no_cuda_graph', '')}\n"
        + "".join(f"{graph},{line.replace(f',{graph},False', ',False')}" for graph, line in (
            ("True", case(0.01234, ONE, graph="True")), ("False", case(0.02234, TWO)))),
        {"world_size": "8"},
        ["fused 1stage 8 64 4096 bf16 524288 12.34 eager clean",
         "fused 2stage 8 64 4096 bf16 524288 22.34 graph clean"],
        {},
    ),
    "CSV with other routines": (
        f"{HEAD}\nmm_fp4,0.0082,0.001,1,0.1,cutlass,,16,4096,,,,,,,,,4096,,False,False\n{case(0.01234, ONE)}",
        {"world_size": "4"}, ["fused 1stage 4 64 4096 bf16 524288 12.34 graph clean"],
        {"another routine: mm_fp4": 1},
    ),
    "CSV, the API's own choice and fp8": (
        f"{HEAD}{NEWER}\n{case(0.01, 'trtllm_ar_residual_rmsnorm_auto', more=',8,auto,mean,cuda_graph')}"
        + case(0.011, "trtllm_ar_residual_rmsnorm_dynamic_fp8_oneshot", "ar_residual_rmsnorm_dynamic_fp8",
               ",8,oneshot,max,cuda_graph"),
        {},
        ["fused auto 8 64 4096 bf16 524288 10 graph clean", "fp8 1stage 8 64 4096 bf16 524288 11 graph clean"],
        {},
    ),
    "CSV, a cut line": (
        f"{HEAD}\n{case(0.01234, ONE)}allreduce_fusion,0.02\n", {"world_size": "8"},
        ["fused 1stage 8 64 4096 bf16 524288 12.34 graph clean"], {"2 cells, the header has 22": 1},
    ),
    "console": (
        CONSOLE, {"dtype": "bf16", "timing": "graph"},
        ["fused 1stage 8 64 4096 bf16 524288 12 graph clean", "fused 2stage 8 64 4096 bf16 524288 22 graph clean"],
        {"no time: the kernel failed": 1},
    ),
    "console behind mpirun": (
        "".join(f"[1,0]<stdout>:{line}\n" for line in CONSOLE.splitlines()), {"dtype": "fp16"},
        ["fused 1stage 8 64 4096 fp16 524288 12 - clean", "fused 2stage 8 64 4096 fp16 524288 22 - clean"],
        {"no time: the kernel failed": 1},
    ),
    "console with other routines": (
        CONSOLE + "[PERF] cutlass        :: median time 0.012 ms; std 0.001 ms; x\n", {"dtype": "bf16"},
        ["fused 1stage 8 64 4096 bf16 524288 12 - clean", "fused 2stage 8 64 4096 bf16 524288 22 - clean"],
        {"no time: the kernel failed": 1, "another routine: cutlass": 1},
    ),
    "JSON lines": (
        RECORD % (0.011, "ar_residual_rmsnorm", "max", "oneshot", "cuda_graph")
        + RECORD % (0.021, "allreduce", "mean", "twoshot", "cuda_events"),
        {},
        ["fused 1stage 8 64 4096 bf16 524288 11 graph clean", "plain 2stage 8 64 4096 bf16 524288 21 eager clean"],
        {},
    ),
    "one JSON line": (
        RECORD % (0.011, "ar_residual_rmsnorm", "max", "auto", "cupti"), {},
        ["fused auto 8 64 4096 bf16 524288 11 profiler clean"], {},
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said", "expected", "left_of_it"), FLASHINFER.values(), ids=FLASHINFER
)
def test_outputs_of_flashinfer(tmp_path, text, said, expected, left_of_it):
    rows, told = of(tmp_path, text, **said)
    assert told.kind == "flashinfer"
    assert briefly(rows) == expected
    assert left(told) == left_of_it
    assert set(column(rows, "statistic")) == {"median"}
    assert set(column(rows, "kernel_family", "kernel_version")) <= {
        ("trtllm", "FlashInfer trtllm"), ("flashinfer", "FlashInfer mnnvl"),
    }  # fmt: skip


def test_how_ranks_are_reduced_is_kept(tmp_path):
    text, said, *_ = FLASHINFER["CSV of a release with ranks"]
    assert column(of(tmp_path, text, **said)[0], "rank_reduction") == ["max", "max", "rank0"]
    text, said, *_ = FLASHINFER["console"]
    assert column(of(tmp_path, text, **said)[0], "rank_reduction") == ["max", ""]


CSV = "world_size,dtype,size,num_tokens,hidden_size,strategy,fusion,op,time (us)\n"
OLD = "world_size,dtype,size,num_tokens,hidden_size,strategy,fusion,time (us)\n"
ALL = "world_size,dtype,fusion,num_tokens,hidden_size,size_bytes,strategy,time_us,algbw_GBps\n"
LINES = """\
num_tokens: 1, hidden_size: 256, strategy: NCCL, fusion: NONE, op: allreduce, time (us): 21.2
num_tokens: 1, hidden_size: 256, strategy: ONESHOT, fusion: RESIDUAL_RMS_NORM, op: allreduce, time (us): 7.5
num_tokens: 1, hidden_size: 256, strategy: ONESHOT, fusion: NONE, op: gemm_allreduce, time (us): 17.5
"""
FRAME = """\
   world_size     dtype  size  num_tokens  hidden_size strategy             fusion         op  time (us)
0           8  bfloat16   512           1          256     NCCL               NONE  allreduce       21.2
0           8  bfloat16   512           1          256  ONESHOT  RESIDUAL_RMS_NORM  allreduce        7.5
"""
TABLES = """
================================================================================
  TRT-LLM AllReduce Benchmark
  world_size=8  dtype=bfloat16  SM=90  cudagraph=True  inner=200  outer=10
  Strategies : NCCL, ONESHOT, TWOSHOT
  Fusions    : NONE, RESIDUAL_RMS_NORM
================================================================================

# Fusion: NONE    world_size=8    algbw = size / time (GB/s)
#
#       size    ntok    hdim           NCCL                   ONESHOT                 TWOSHOT                       BEST
#                              time(us)       algbw    time(us)       algbw    time(us)       algbw
#---------------------------------------------------------------------------------------------------------------
          8K       1    4096       21.20        0.39        5.50        1.49         N/A         N/A           ONESHOT
        128K      16    4096       23.20        5.65        9.50       13.80       10.50       12.48           ONESHOT

# Fusion: RESIDUAL_RMS_NORM    world_size=8    algbw = size / time (GB/s)
#
#       size    ntok    hdim           NCCL                   ONESHOT                 TWOSHOT                       BEST
#                              time(us)       algbw    time(us)       algbw    time(us)       algbw
#---------------------------------------------------------------------------------------------------------------
        128K      16    4096       26.20        5.65       11.50       13.80       12.50       12.48           ONESHOT

================================================================================
  Summary: peak algbw (GB/s) per strategy per fusion
================================================================================
  fusion                                         NCCL         ONESHOT         TWOSHOT
  -----------------------------------------------------------------------------------
  NONE                                           5.65           13.80           12.48
"""

TRTLLM = {
    "CSV": (
        f"{CSV}8,bfloat16,16384,1,8192,NCCL,NONE,allreduce,21.2\n8,bfloat16,16384,1,8192,ONESHOT,NONE,allreduce,6.2\n"
        "8,bfloat16,16384,1,8192,NCCL,RESIDUAL_RMS_NORM,allreduce,24.2\n"
        "8,bfloat16,16384,1,8192,ONESHOT,RESIDUAL_RMS_NORM,allreduce,8.2\n"
        "8,bfloat16,16384,1,8192,TWOSHOT,RESIDUAL_RMS_NORM_QUANT_FP8,allreduce,8.8\n"
        "8,bfloat16,16384,1,8192,ONESHOT,RESIDUAL_RMS_NORM_QUANT_NVFP4,allreduce,8.9\n"
        "8,bfloat16,16384,1,8192,NCCL,RESIDUAL_RMS_NORM_QUANT_FP8,allreduce,28.9\n"
        "8,bfloat16,16384,1,8192,ONESHOT,RESIDUAL_RMS_NORM,gemm_allreduce,18.2\n",
        {},
        ["plain - 8 1 8192 bf16 16384 21.2 - clean", "plain 1stage 8 1 8192 bf16 16384 6.2 - clean",
         "separate - 8 1 8192 bf16 16384 24.2 - clean", "fused 1stage 8 1 8192 bf16 16384 8.2 - clean",
         "fp8 2stage 8 1 8192 bf16 16384 8.8 - clean"],
        {f"no op of schema 1: {s} RESIDUAL_RMS_NORM_QUANT_{q}": 1 for s, q in (("ONESHOT", "NVFP4"), ("NCCL", "FP8"))}
        | {"another op: gemm_allreduce": 1},
    ),
    "CSV without the op's column": (
        f"{OLD}4,float16,4096,1,2048,AUTO,NONE,5.2\n", {}, ["plain auto 4 1 2048 fp16 4096 5.2 - clean"], {},
    ),
    "CSV of all strategies": (
        f"{ALL}8,bfloat16,NONE,1,4096,8192,ONESHOT,5.5,1.49\n8,bfloat16,NONE,1,4096,8192,TWOSHOT,0.0,0.0\n"
        "8,bfloat16,RESIDUAL_RMS_NORM,16,4096,131072,TWOSHOT,10.5,12.4\n8,bfloat16,RESIDUAL_RMS_NORM,16,4096,131072,UB,11.5,12\n"
        "8,bfloat16,RESIDUAL_RMS_NORM,16,4096,131072,MNNVL,9.5,12\n",
        {},
        ["plain 1stage 8 1 4096 bf16 8192 5.5 - clean", "fused 2stage 8 16 4096 bf16 131072 10.5 - clean",
         "fused - 8 16 4096 bf16 131072 11.5 - clean", "fused - 8 16 4096 bf16 131072 9.5 - clean"],
        {"no time: not run there": 1},
    ),
    "CSV, a size that is not the shape's and a cut line": (
        f"{ALL}8,bfloat16,NONE,1,4096,4096,ONESHOT,5.5,1.49\n8,bfloat16,NONE,1\n8,bfloat16,NONE,2,4096,16384,ONESHOT,5.6,1\n",
        {}, ["plain 1stage 8 2 4096 bf16 16384 5.6 - clean"],
        {"bytes are not tokens x hidden size x element size": 1, "4 cells, the header has 9": 1},
    ),
    "CSV, an unknown strategy": (
        f"{OLD}4,float16,4096,1,2048,NOVEL,NONE,5.2\n4,float16,4096,1,2048,ONESHOT,NONE,5.1\n", {},
        ["plain 1stage 4 1 2048 fp16 4096 5.1 - clean"], {"no op of schema 1: NOVEL NONE": 1},
    ),
    "lines": (
        LINES, {"world_size": "8", "dtype": "bf16"},
        ["plain - 8 1 256 bf16 512 21.2 - clean", "fused 1stage 8 1 256 bf16 512 7.5 - clean"],
        {"another op: gemm_allreduce": 1},
    ),
    "lines behind mpirun": (
        "".join(f"[1,0]<stdout>:{line}\n" for line in LINES.splitlines()), {"world_size": "8", "dtype": "bf16"},
        ["plain - 8 1 256 bf16 512 21.2 - clean", "fused 1stage 8 1 256 bf16 512 7.5 - clean"],
        {"another op: gemm_allreduce": 1},
    ),
    "lines and their data frame": (
        LINES + FRAME, {},
        ["plain - 8 1 256 bf16 512 21.2 - clean", "fused 1stage 8 1 256 bf16 512 7.5 - clean"], {},
    ),
    "tables of all strategies": (
        TABLES, {},
        ["plain - 8 1 4096 bf16 8192 21.2 graph clean", "plain 1stage 8 1 4096 bf16 8192 5.5 graph clean",
         "plain - 8 16 4096 bf16 131072 23.2 graph clean", "plain 1stage 8 16 4096 bf16 131072 9.5 graph clean",
         "plain 2stage 8 16 4096 bf16 131072 10.5 graph clean", "separate - 8 16 4096 bf16 131072 26.2 graph clean",
         "fused 1stage 8 16 4096 bf16 131072 11.5 graph clean", "fused 2stage 8 16 4096 bf16 131072 12.5 graph clean"],
        {"no time: not run there": 1},
    ),
    "tables, a cut line": (
        TABLES.replace("       26.20        5.65       11.50       13.80", "       26.20"), {},
        ["plain - 8 1 4096 bf16 8192 21.2 graph clean", "plain 1stage 8 1 4096 bf16 8192 5.5 graph clean",
         "plain - 8 16 4096 bf16 131072 23.2 graph clean", "plain 1stage 8 16 4096 bf16 131072 9.5 graph clean",
         "plain 2stage 8 16 4096 bf16 131072 10.5 graph clean"],
        {"no time: not run there": 1, "7 cells, the header has 10": 3},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "said", "expected", "left_of_it"), TRTLLM.values(), ids=TRTLLM)
def test_outputs_of_tensorrt_llm(tmp_path, text, said, expected, left_of_it):
    rows, told = of(tmp_path, text, **said)
    assert told.kind == "trtllm"
    assert briefly(rows) == expected
    assert left(told) == left_of_it
    assert set(column(rows, "statistic", "rank_reduction")) == {("median", "rank0")}
    assert set(column(rows, "kernel_family")) <= {"trtllm", "nccl"}
