"""From each harness's file to a rule by real commands: import, calibrate, recommend, validate."""

import gzip
import json
import re
import shlex
from pathlib import Path

import pytest
import test_importers_aiter as aiter
import test_importers_bandwidth as bandwidth
import test_importers_collective as collective
import test_importers_links as links
import test_importers_nvidia as nvidia
import test_importers_profiles as profiles

from costmodel.cli.main import main

#: Microseconds of both arms by tokens: aiter-3458-mi355x at 4 ranks, hidden 7168.
ONE = {4: 5.83, 8: 5.88, 16: 7.98, 32: 11.55, 64: 20.09}
TWO = {4: 9.19, 8: 9.28, 16: 10.03, 32: 11.79, 64: 16.38}
ARMS = {"1stage": ONE, "2stage": TWO}


def op_tests(arm):
    lines = (
        f"| 4 | ({m}, 7168) | torch.bfloat16 | 1 | {us - 0.3} | {us} | 0 |\n"
        for m, us in ARMS[arm].items()
    )
    return (
        "[aiter] fused allreduce rmsnorm summary (markdown):\n"
        "| tp_size | shape | dtype | withGraph | fused_min_us | fused_max_us | fused_err |\n"
        "|--:|:--|:--|--:|--:|--:|--:|\n" + "".join(lines)
    )


def sglang(arm):
    head = "mode,shape,m,n,bytes_per_rank,split_p50_us,fused_p50_us,fused_available,correctness_ok,dtype,world_size"
    lines = (
        f"graph,{m}x7168,{m},7168,{m * 14336},{TWO[m] + 6 + us / 100:.3f},{us},True,True,torch.bfloat16,4"
        for m, us in ARMS[arm].items()
    )
    return "\n".join([head, *lines]) + "\n"


def tuner():
    lines = [
        (4, m, 7168, "graph", [(ONE[m], 55), (TWO[m], 55), (TWO[m] + 6, 55), (40 + m, 51)])
        for m in ONE
    ]
    return aiter.sweep(*lines, candidates=aiter.ARMS).replace("gfx942", "gfx950")


def pasted():
    lines = (f"| {m} | {ONE[m]} us | {TWO[m]} us | {TWO[m] + 6} us |\n" for m in ONE)
    return (
        "### MI355X, TP4, hidden 7168, bf16, AITER 0.1.19, graph mode\n\n"
        "| tokens | fused 1-stage | fused 2-stage | split |\n|---|---|---|---|\n" + "".join(lines)
    )


def communicators():
    timings = {
        str(m): {"timings": {"ca_1stage": ONE[m] / 1e3, "ca_2stage": TWO[m] / 1e3}} for m in ONE
    }
    return json.dumps(
        {"world_size": 4, "dtype": "torch.bfloat16", "hidden_size": 7168, "results": timings}
    )


def flashinfer():
    cases = (
        nvidia.case(us / 1e3, label, more=",8,x,max,cuda_graph").replace(",64,,auto", f",{m},,auto")
        for label, times in ((nvidia.ONE, ONE), (nvidia.TWO, TWO))
        for m, us in times.items()
    )
    return f"{nvidia.HEAD}{nvidia.NEWER.replace('strategy_request', 'asked')}\n{''.join(cases)}"


def trtllm():
    lines = (
        f"8,bfloat16,RESIDUAL_RMS_NORM,{m},4096,{m * 8192},{strategy},{us},1\n"
        for strategy, times in (("ONESHOT", ONE), ("TWOSHOT", TWO))
        for m, us in times.items()
    )
    return nvidia.ALL + "".join(lines)


AMD = ["--published", "--arch", "gfx950"]
CHAINS = {
    "AITER op_tests, an arm forced each": (
        [(op_tests(arm), ["--algorithm", arm, "--source", "mine"]) for arm in ARMS], "MI355X", AMD, [],
    ),
    "SGLang, an arm forced each": (
        [(sglang(arm), ["--algorithm", arm, "--source", "mine"]) for arm in ARMS], "MI355X", AMD, [],
    ),
    "FlyDSL's tuner": ([(tuner(), [])], "MI355X", AMD, []),
    "a pasted table": ([(pasted(), [])], "MI355X", AMD, []),
    "vLLM's communicators": ([(communicators(), [])], "MI355X", AMD, ["--op", "plain"]),
    "FlashInfer": ([(flashinfer(), [])], "H200", ["--family", "trtllm"], []),
    "TensorRT-LLM": ([(trtllm(), ["--timing", "graph"])], "H200", ["--family", "trtllm"], []),
}  # fmt: skip


def run(capsys, *arguments):
    try:
        main(list(map(str, arguments)))
        code = 0
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    assert code in (0, 1), said.err  # 1 is a verdict
    return said.out


@pytest.mark.parametrize(("files", "gpu", "how", "validated"), CHAINS.values(), ids=CHAINS)
def test_from_a_file_to_a_rule(tmp_path, capsys, files, gpu, how, validated):
    measured = []
    for i, (text, said) in enumerate(files):
        (tmp_path / f"file{i}").write_text(text)
        measured.append(tmp_path / f"rows{i}.csv")
        told = run(
            capsys, "import", tmp_path / f"file{i}", "--gpu", gpu, *said, "--out", measured[-1]
        )
        assert ", 0 left" in told
        assert "(--gpu)" not in told
        assert "(--interconnect)" not in told
    fitted = tmp_path / "mine.json"
    told = run(capsys, "calibrate", *measured, *how, "--no-cross-validation", "--out", fitted)
    assert "calibration" in told
    assert gpu in run(capsys, "recommend", "--calibration", fitted)
    told = run(capsys, "validate", "--calibration", fitted, *validated, "--measurements", *measured)
    assert "GPU not stated" not in told
    assert "interconnect not modelled" not in told
    assert "5  " in told.partition("pairs by themselves")[2]  # five calls with both arms


#: What stands in the table of docs/importing.md, with a file for its line.
DOCUMENTED = {
    "rccl-tests, nccl-tests": collective.LOG,
    "their JSON or CSV": (collective.CASES / "rccl-output.json").read_text(),
    "NCCL's tuner": links.PERFORMANCE,
    "AITER op_tests, one arm forced": op_tests("1stage"),
    "SGLang's fused benchmark": sglang("1stage"),
    "the FlyDSL tuner": aiter.sweep((4, 8, 7168, "graph", [(9, 55)] * 4), candidates=aiter.ARMS),
    "vLLM's communicators": communicators(),
    "FlashInfer, TensorRT-LLM": trtllm(),
    "a pasted table": pasted(),
    "TransferBench": links.A2A,
    "rocm_bandwidth_test": bandwidth.UNI,
    "a profile": profiles.chrome([profiles.event(0, profiles.ONE, 0.0, 12.5)]),
}  # fmt: skip
LINE = re.compile(r"^\| (.+?) \| (?:`(costmodel import [^`]+)`)?", re.MULTILINE)


def documented():
    """Return (what, command) of each line of the table; ``the same`` is the line above."""
    text = (Path(__file__).parent.parent / "docs" / "importing.md").read_text(encoding="utf-8")
    command = ""
    for what, said in LINE.findall(text.partition("| file | import |\n|---|---|\n")[2]):
        command = said or command
        yield what, command


def test_each_line_of_the_documents_table_reads_its_file(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = list(documented())
    assert [what for what, _ in lines] == list(DOCUMENTED)
    for what, command in lines:
        _, verb, file, *options = shlex.split(command)
        text = DOCUMENTED[what].encode()
        Path(file).write_bytes(gzip.compress(text) if file.endswith(".gz") else text)
        told = run(capsys, verb, file, *options, "--force")
        assert re.match(r"[1-9]\d* rows? of ", told), what


ASIDE = {
    "rccl-tests": (collective.LOG, [], "are of RCCL"),
    "their JSON": (collective.CSV_ALONE, ["--gpu", "MI300X"], "are of RCCL"),
    "NCCL's tuner": (bandwidth.PLAIN + bandwidth.SHORT, ["--gpu", "MI300X"], "are of RCCL"),
    "a profile": (DOCUMENTED["a profile"], ["--gpu", "MI300X"], "quality is serving_trace"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "said", "reason"), ASIDE.values(), ids=ASIDE)
def test_rows_that_fit_nothing_end_in_the_rule_of_the_published_ones(
    tmp_path, capsys, text, said, reason
):
    rows, fitted = tmp_path / "mine.csv", tmp_path / "mine.json"
    (tmp_path / "file").write_text(text)
    run(capsys, "import", tmp_path / "file", *said, "--out", rows)
    told = run(
        capsys, "calibrate", rows, "--published", "--arch", "gfx942", "--no-cross-validation",
        "--out", fitted,
    )  # fmt: skip
    assert "set aside" in told
    assert "MI300X" in run(capsys, "recommend", "--calibration", fitted)
    with pytest.raises(SystemExit) as ended:
        main(["validate", "--calibration", str(fitted), "--measurements", str(rows)])
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err
