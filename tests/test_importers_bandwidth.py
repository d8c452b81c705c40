"""rocm_bandwidth_test's output and NCCL's tuner data, in the forms of their releases and of users."""

import re

import pytest
from importing import briefly, column, left, of
from test_importers_links import MATRIX, cells, rates

from costmodel.errors import InputError

UNI, BI, TYPED = (MATRIX.format(way=way) for way in ("Uni", "Bi", "B"))
PAIRS = [("48.962",), ("48.95",)]
LEFT = {"no rate": 1, "not from one GPU to another": 4, "within one GPU": 2}
#: The matrix of both directions alone, as it follows that of one in a run of all tests.
BEHIND = TYPED[TYPED.index("          Bdirectional") :]
VALIDATED = re.sub(r"Unidirectional copy peak bandwidth GB/s", "Data Path Validation", UNI)
ONE_GPU_OFF = UNI.replace("48.950      1199.8", "N/A         1199.8")
MI250X = UNI.replace("MI300X", "MI250X / MI250")
OLD = UNI.replace("Version: 2.6.0", "Version: 2.3.11").replace("Launch Command is:", "Cmd:")
MATRICES = {
    "one way": (UNI, PAIRS, LEFT),
    "both ways behind one, with the program's misprint": (
        UNI + BEHIND, PAIRS, {**LEFT, "no rate": 2, "sum of both directions": 8},
    ),
    "both ways behind one": (
        UNI + BEHIND.replace("Bdir", "Bidir"), PAIRS,
        {**LEFT, "no rate": 2, "sum of both directions": 8},
    ),
    "average": (UNI.replace("peak", "average"), PAIRS, LEFT),
    "a pair without a link": (ONE_GPU_OFF, PAIRS[:1], {**LEFT, "no rate": 2}),
    "behind srun": ("".join(f"0: {line}\n" for line in UNI.splitlines()), PAIRS, LEFT),
    "quoted": ("".join(f"> {line}\n" for line in UNI.splitlines()), PAIRS, LEFT),
    "a release before": (OLD, PAIRS, LEFT),
    "a run of the validation before it": (VALIDATED + UNI, PAIRS, LEFT),
    "two runs": (
        UNI + UNI.replace("48.962", "47.125"), [*PAIRS, ("47.125",), ("48.95",)],
        {reason: 2 * count for reason, count in LEFT.items()},
    ),
    "a cut line": (
        UNI[: UNI.index("48.950")], PAIRS[:1],
        {"no rate": 1, "not from one GPU to another": 3, "within one GPU": 1,
         "a row whose cells are not those of the matrix": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "read", "reasons"), MATRICES.values(), ids=MATRICES)
def test_matrices(tmp_path, text, read, reasons):
    rows, told = rates(tmp_path, text)
    assert cells(rows, "gbps") == read
    assert left(told) == reasons


@pytest.mark.parametrize("text", [BI, TYPED, VALIDATED])
def test_matrices_without_a_rate_of_one_way(tmp_path, text):
    with pytest.raises(InputError, match="no row could be read"):
        rates(tmp_path, text)


def test_dies_of_a_card_have_the_cards_name(tmp_path):
    rows, _ = rates(tmp_path, MI250X)
    assert cells(rows, "gpu", "gbps") == [("MI250X", "48.962"), ("MI250X", "48.95")]


HEAD = (
    "collective,size_bytes,algorithm,protocol,channels,nodes,ranks,pipeOps,regBuff,{}latency_us\n"
)
WITH_COST = HEAD.format("cost_metric,bandwidth_gbps,")
#: As its README has it, without the cost.
PLAIN = HEAD.format("bandwidth_gbps,")
LINE = "allreduce,1024,ring,ll,4,1,8,-1,0,0.12,52.1,10.8\n"
SHORT = LINE.replace("0.12,", "")
READ = "plain - 8 - - - 1024 10.8 - clean"
TURNED = "latency_us,ranks,nodes,collective,size_bytes,algorithm,protocol\n"
DATA = {
    "with the cost": (WITH_COST + LINE, [READ], {}),
    "of the README": (PLAIN + SHORT, [READ], {}),
    "latency alone": (HEAD.format("") + SHORT.replace("52.1,", ""), [READ], {}),
    "columns in another order": (TURNED + "10.8,8,1,allreduce,1024,ring,ll\n", [READ], {}),
    "names in capitals": (PLAIN + SHORT.replace("allreduce", "AllReduce"), [READ], {}),
    "blanks behind commas": (PLAIN + SHORT.replace(",", ", "), [READ], {}),
    "an index of pandas": (
        f",{PLAIN}0,{SHORT}1,{SHORT.replace('1024', '2048')}",
        [READ, READ.replace("1024", "2048")], {},
    ),
    "two files in one": (
        WITH_COST + LINE + WITH_COST + LINE.replace("10.8", "11.5"),
        [READ, READ.replace("10.8", "11.5")], {},
    ),
    "comments and blank lines": (f"# MI300X sweep\n{PLAIN}\n# ring\n{SHORT}\n", [READ], {}),
    "Windows ends and quotes": (
        PLAIN.replace("\n", "\r\n") + SHORT.replace("allreduce", '"allreduce"').replace("\n", "\r\n"),
        [READ], {},
    ),
    "other collectives": (
        PLAIN + SHORT + SHORT.replace("allreduce", "reducescatter"),
        [READ, READ.replace("plain", "other")], {},
    ),
    "without figures": (
        PLAIN + SHORT + SHORT.replace("10.8", "nan") + SHORT.replace(",8,", ",-1,"), [READ],
        {"no time": 1, "ranks not said: --world-size": 1},
    ),
    "a cut line": (
        PLAIN + SHORT + SHORT[:20], [READ], {"a line whose cells are not those of the header": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "read", "reasons"), DATA.values(), ids=DATA)
def test_data_of_the_tuner(tmp_path, text, read, reasons):
    rows, told = of(tmp_path, text, gpu="MI300X")
    assert told.kind == "nccl-tuner"
    assert briefly(rows) == read
    assert left(told) == reasons
    assert column(rows, "kernel_version")[0].startswith("ring ll")


def test_data_of_rates_alone_have_no_latency(tmp_path):
    text = PLAIN.replace(",latency_us", "") + SHORT.replace(",10.8", "")
    with pytest.raises(InputError, match="a rate of the tuner's data, no latency: 1"):
        of(tmp_path, text)
