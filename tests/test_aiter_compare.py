"""What the adapter assumes, held against trees that differ in one place each.

The base tree is the stand-in's, which has AITER's surface, with the forms of its kernel header
beside it, cut down to what is read.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from costmodel.data import kernels
from costmodel.live.backends.aiter import kernel_source
from costmodel.live.backends.aiter.compare import compare, main

STANDINS = Path(__file__).parent / "standins"

#: As the header reads since 0.1.17, and before 0.1.12.
NEW = """
constexpr int kMaxBlocks = 80;
void allreduce_fusion_kernel_1stage_launcher(int size, int hidden_dim)
{
    dim3 numBlocks(std::min(size / hidden_dim, kMaxBlocks));  // no throw: if(token_num > kMaxBlocks)
}
template <typename T>
void dispatchFusedAllReduceRMSNorm(int m, int n, bool use_1stage)
{
    use_1stage     = use_1stage && (n % pack_size == 0) && (n / pack_size <= 1024) &&
                 (out_n / pack_size <= 1024);
    if(n_packs >= 256)
    {
        case 3: launch((local_device_load_rmsnorm<T, 512, 3, false>)); break;
        case 4: launch((local_device_load_rmsnorm<T, 512, 4, false>)); break;
        default: throw std::runtime_error("n too large");
    }
    else if(n_packs >= 64)
    {
        case 2: launch((local_device_load_rmsnorm<T, 256, 2, false>)); break;
    }
}
template <typename T>
void dispatchFusedAllReduceRMSNormQuant(int m, int n, bool use_1stage)
{
    case 9: launch((local_device_load_rmsnorm<T, 512, 9, false>)); break;
}
template <typename T>
void dispatchAllReduceMhcPost1Stage(int m)
{
    if(n_packs > 512)
    {
        throw std::runtime_error("AR+MHC post epilogue hidden dim too large for two-way CTA");
    }
}
"""
MHC = """
    case at::ScalarType::BFloat16: { run_ar_mhc_post_large_m<opus::bf16_t>(fa); }
    case at::ScalarType::BFloat16: { run_ar_mhc_post_split<opus::bf16_t>(fa); }
    case AITER_DTYPE_fp16: { run_ar_mhc_post_split<opus::fp16_t>(fa); }
"""
MHC_KERNEL = r"""
#define MHC_POST_KERNEL_IMPL_RAW_(kernel_name, hidden_size, residual_block, store_nt) \
    AITER_CHECK(hidden_size >= residual_block * 2, "hidden_size must be two"); \
    launch();
#define MHC_POST_KERNEL_DISPATCH_NT(hidden_size, store_nt_val) \
    if (hidden_size % 128 == 0) { }
#define MHC_POST_KERNEL_DISPATCH_RAW(hidden_size, store_nt_val) \
    do { \
        if (arch_id != "gfx942" && hidden_size % 1024 == 0) { \
            MHC_POST_KERNEL_IMPL_RAW_(mhc_post_kernel, hidden_size, 1024, store_nt_val); \
        } else if (hidden_size % 512 == 0) { \
        } else if (hidden_size % 256 == 0) { \
        } \
    } while (0)
"""
GFX1250 = "constexpr size_t kLLArMaxBytes     = 131072;  // = 4194304 later\n"
SOURCES = {
    kernel_source.GFX1250_PLACES: GFX1250,
    kernel_source.MHC_PLACES: MHC,
    kernel_source.MHC_KERNEL_PLACES: MHC_KERNEL,
}
OLD = """
constexpr int kMaxBlocks = 80;
void allreduce_fusion_kernel_1stage_launcher(int size)
{
    if(token_num > kMaxBlocks)
        throw std::runtime_error("too many");
}
template <typename T>
void dispatchFusedAllReduceRMSNorm(int m, int n, bool use_1stage)
{
    use_1stage = (use_1stage && (n == 4096 || n == 2048 || n == 1024 || n == 512));
    if(n_bytes % 1024 == 0)
    {
        if(8192 <= n_bytes && n_bytes <= 32768) { if(n_bytes % 8192 == 0) { } }
        else if(1024 <= n_bytes && n_bytes < 4096) { }
    }
}
~CustomAllreduce()
"""


@pytest.fixture
def tree(tmp_path):
    """Return a checkout: the stand-in's package, and the new header."""
    shutil.copytree(STANDINS / "aiter", tmp_path / "aiter")
    header = tmp_path / kernel_source.PLACES[0]
    header.parent.mkdir(parents=True)
    header.write_text(NEW)
    for places, text in SOURCES.items():
        (tmp_path / places[0]).parent.mkdir(exist_ok=True)
        (tmp_path / places[0]).write_text(text)
    return tmp_path


def change(tree, file, old, new):
    text = (tree / file).read_text()
    assert old in text
    (tree / file).write_text(text.replace(old, new, 1))


def differences(tree, version="0.1.18"):
    """Return what differs, without the variables that the stand-in does not read."""
    found = compare(tree, version)
    return [
        f"{f.what}: {f.found}" for f in found.differences if "is not read, though" not in f.found
    ]


def test_the_base_has_no_difference_in_any_release_of_its_form(tree):
    for version, pushed in (("0.1.18", 131072), ("v0.1.20", 4194304), ("0.1.18.post1", 131072)):
        header = tree / kernel_source.GFX1250_PLACES[0]
        header.write_text(GFX1250.replace("131072", str(pushed)))
        assert differences(tree, version) == []
        assert compare(tree, version).unread == ()


CA = "aiter/dist/device_communicators/custom_all_reduce.py"
OTHERS = "aiter/dist/device_communicators/other_ops.py"
CUDA = "aiter/dist/device_communicators/communicator_cuda.py"
COMM = "aiter/dist/communication_op.py"
STATE = "aiter/dist/parallel_state.py"
HEADER, PUSHED = kernel_source.PLACES[0], kernel_source.GFX1250_PLACES[0]
MIXES, MIXED = kernel_source.MHC_PLACES[0], kernel_source.MHC_KERNEL_PLACES[0]


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        (CA, "eps, use_1stage, out", "use_1stage, eps, out", "argument 4 is use_1stage, not eps"),
        (CA, "use_1stage, out_hidden_dim=0", "use_1stage, out_hidden_dim=1", "out_hidden_dim is 1"),
        (CA, "gemma_norm=False\n", "gemma_norm=False, fast=True\n", "has a new fast=True, which is"),
        (CA, "gemma_norm=False\n", "gemma_norm=False, *, stream\n", "needs stream"),
        (COMM, "def tensor_model_parallel_all_", "def all_", "parallel_all_reduce: is not there"),
        (STATE, "local_rank=-1, ", "", "has no local_rank"),
        (STATE, "def graph_capture():", "def capture():", "graph_capture: is not there"),
        (CA, "self.world_size = ", "self.ranks = ", "CustomAllreduce.world_size: is set nowhere"),
        (CA, "        self.disabled = True\n", "", "CustomAllreduce.disabled: may be missing: the"),
        (CUDA, "class CudaComm", "class HipComm", "communicator_cuda has no class CudaCommunicator"),
        (CA, "is_current_stream_capturing():\n            return torch.zeros_like(input), torch.zeros_like(input)",
         "is_current_stream_capturing():\n            return None", "gives zeros: it calls no zeros"),
        (CA, "self.flush_graph_buffers()", "pass", "registers the captured buffers: it calls no"),
        (CUDA, '"AITER_AR_1STAGE_MAX_KB"', '"AITER_AR_1STAGE_MAX_BYTES"',
         "variable AITER_AR_1STAGE_MAX_BYTES: is read, and the adapter does not know it"),
        (CA, "[2, 4, 6, 8]", "[2, 4]", "world sizes 2, 4, 8: no 8"),
        (CA, "DEFAULT_BYTES = 8192 * 8192", "DEFAULT_BYTES = 128 << 20", "is 134217728 bytes"),
        (STATE, "reshape(-1, tensor_model_parallel_size)", "reshape(tensor_model_parallel_size, -1)",
         "neighbouring ranks form a tensor-parallel group, all others such groups too: ranks are laid"),
        (STATE, "    _EP = None\n\n", "\n", "groups can be made anew: _EP stay"),
        (PUSHED, "131072;", "65536;", "most bytes pushed 131072: is 65536"),
        (HEADER, "n_packs > 512", "n_packs > 1024", "fused mHC 1-stage, most packs a row 512: is 1024"),
        (MIXES, "AITER_DTYPE_fp16", "AITER_DTYPE_fp32", "fused mHC, types ('bf16', 'fp16'): is ('bf16', 'fp32')"),
        (MIXED, "size % 256", "size % 128", "each with an arch that has none, and the fewest (((1024, 'gfx942'), (512, ''), (256, '')), 2): is (((1024, 'gfx942'), (512, ''), (128, '')), 2)"),
        (MIXED, 'arch_id != "gfx942" && ', "", "and the fewest (((1024, 'gfx942'), (512, ''), (256, '')), 2): is (((1024, ''), (512"),
        (MIXED, "block * 2", "block * 3", ", 2): is (((1024, 'gfx942'), (512, ''), (256, '')), 3)"),
        (HEADER, "kMaxBlocks = 80", "kMaxBlocks = 160", "most workgroups 80: is 160"),
        (HEADER, "n / pack_size <= 1024", "n / pack_size <= 2048", "fused 1-stage, most packs a row 1024: is 2048"),
        (HEADER, "n_packs >= 64", "n_packs >= 32", "least packs a row 64: is 32"),
        (HEADER, "<T, 512, 4", "<T, 512, 8", "most packs a row 2048: is 4096"),
        (HEADER, "{\n    dim3", "{\n    if(token_num > kMaxBlocks) throw x;\n    dim3", "most tokens None: is 80"),
    ],
)  # fmt: skip
def test_one_change_is_one_difference(tree, file, old, new, says):
    change(tree, file, old, new)
    found = differences(tree)
    assert len(found) == 1, found
    assert says in found[0]


def test_an_op_may_be_missing_before_its_release(tree):
    change(tree, OTHERS, "def custom_fused_ar_rms_mxfp4_quant", "def other")
    assert not any("mxfp4" in line for line in differences(tree, "0.1.15"))
    (line,) = differences(tree)
    assert line.endswith("CustomAllreduce.custom_fused_ar_rms_mxfp4_quant: is not there")


def test_a_variable_that_is_read_when_called_and_no_more_at_import(tree):
    change(tree, CUDA, 'os.environ.get("AITER_AR_1STAGE", "")', '""')
    change(
        tree,
        CUDA,
        "        from ... import rms",
        '        os.environ.get("AITER_AR_1STAGE")\n        from ... import rms',
    )
    assert differences(tree) == [
        "variable AITER_AR_1STAGE: is no longer read at import but in a call"
    ]


def test_facts_are_those_of_the_release(tree):
    (tree / HEADER).write_text(OLD)
    mixes, mixed = (tree / MIXES).read_text(), (tree / MIXED).read_text()
    (tree / MIXES).unlink()
    (tree / MIXED).unlink()
    found = " ".join(differences(tree, "0.1.11"))
    assert "fused" not in found  # of the kernels nothing differs
    assert "variable AITER_CUSTOM_AR_MAX_SIZE: is read before 0.1.18" in found
    (tree / MIXES).write_text(mixes)
    (tree / MIXED).write_text(mixed)
    found = " ".join(differences(tree))
    assert "fused 1-stage, hidden sizes (): is (512, 1024, 2048, 4096)" in found
    assert "fused 1-stage, most tokens None: is 80" in found
    assert "fused 2-stage, packs a row a multiple of 1: is 64" in found
    (tree / HEADER).write_text(NEW)
    assert any("largest input 536870912" in line for line in differences(tree, "0.1.12"))


def test_what_cannot_be_read_is_not_guessed(tree):
    change(tree, CA, "return size <= self._car_max_size", "return self._limits.allow(size)")
    (tree / HEADER).write_text("constexpr int kMaxBlocks = BLOCKS;\n")
    found = compare(tree, "0.1.18")
    assert len(found.unread) == 2 + len(kernel_source.LIMITS)  # mHC's limit too
    assert {f.found for f in found.unread} == {"in no form that can be read"}
    assert differences(tree) == []


def test_the_version_is_taken_from_the_tree_else_the_newest(tree):
    assert compare(tree).version == f"{kernels.LATEST} (the newest known)"
    (tree / "amd_aiter-0.1.16.dist-info").mkdir()
    (tree / "amd_aiter-0.1.16.dist-info" / "METADATA").write_text("Version: 0.1.16\n")
    assert compare(tree).version == "0.1.16"


def test_as_a_command(tree, capsys):
    assert main([str(tree), "0.1.18"]) == 1  # the stand-in does not read all variables
    out = capsys.readouterr().out
    assert re.match(r"AITER 0\.1\.18: \d+ assumptions compared, 9 differ, 0 could not be read", out)
    assert main([str(tree / "none")]) == 2
    assert capsys.readouterr().err.startswith("costmodel: error: ")
    assert main([]) == 2
    (tree / CA).write_text("def broken(:\n")
    assert main([str(tree)]) == 2
    done = subprocess.run(
        [sys.executable, "-m", "costmodel.live.backends.aiter.compare", str(tree / "csrc")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
