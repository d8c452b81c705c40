"""Importing in tests: a text as a file of another harness, its rows and its account as short words."""

from costmodel.data.importers import Said, read

#: Cells of a row that :func:`briefly` gives, in order; empty ones are ``-``.
BRIEF = ("op", "algorithm", "world_size", "tokens", "hidden_dim", "dtype", "bytes", "latency_us",
         "timing", "quality")  # fmt: skip
OPS = {
    "all_reduce": "plain", "fused_ar_rmsnorm": "fused", "ar_then_rmsnorm": "separate",
    "fused_ar_rmsnorm_quant_fp8": "fp8", "fused_ar_rmsnorm_quant_mxfp4": "mxfp4",
    "fused_ar_mhc": "mhc",
}  # fmt: skip

#: Names as profiles have them: AITER's fused kernel and what it says, a kernel of somebody else's, and
#: what an account says of a profile without a known one.
ONE = "void aiter::allreduce_fusion_kernel_1stage<__hip_bfloat16, __hip_bfloat16, 8>(aiter::R*)"
FUSED = ("fused_ar_rmsnorm", "1stage", "8", "bf16")
GEMM = "Cijk_Alik_Bljk_BBS_BH_MT128x128x32"
NONE_KNOWN = "no all-reduce kernel that is known by its name"


def imported(path, kind="", **said):
    """Return a file's rows (as texts by schema 1 column) and its account."""
    table, account = read(path, Said(**{"source": "mine", **said}), kind)
    rows = table.to_rows()
    assert len(rows) == account.n_rows
    return rows, account


def of(tmp_path, text, kind="", **said):
    """Return what :func:`imported` returns, of a text."""
    (tmp_path / "file").write_text(text, encoding="utf-8")
    return imported(tmp_path / "file", kind, **said)


def briefly(rows):
    """Return rows as one short line each, ``fused 1stage 8 16 7168 bf16 229376 12.6 graph clean``."""
    return [" ".join(OPS.get(row[c], row[c]) or "-" for c in BRIEF) for row in rows]


def column(rows, *names):
    """Return cells of all rows, tuples where several are asked for."""
    return [row[names[0]] if len(names) == 1 else tuple(row[n] for n in names) for row in rows]


def left(account):
    """Return how many results were left for each reason."""
    return {reason: one.count for reason, one in account.left.items()}
