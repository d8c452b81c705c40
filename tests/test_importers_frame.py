"""What all importers share: formats, the account of a file, what is said and what follows from it."""

import gzip
import os
import random
import threading

import pytest
import test_importers_aiter as aiter
import test_importers_collective as collective
import test_importers_engines as engines
import test_importers_links as links
from importing import column, imported, left

from costmodel.cli.main import main
from costmodel.data import hardware, measurement
from costmodel.data.importers import Imported, Said, convert, read, rows
from costmodel.data.importers.cells import gpu_of, number, whole
from costmodel.data.importers.formats import FORMATS, find_format
from costmodel.data.importers.text_file import LINE_BYTES, WHOLE_BYTES, TextFile
from costmodel.errors import InputError

ROW = {"op": "all_reduce", "world_size": 8, "bytes": 1024, "latency_us": 9.5, "dtype": "bf16"}


def of(**said):
    return Imported(Said(source="mine", **said), "test")


# Formats


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (collective.LOG, "rccl-tests"),
        (collective.Y2017, "rccl-tests"),
        (collective.CSV, "rccl-tests-json"),
        (collective.json.dumps(collective.report()), "rccl-tests-json"),
        (links.TEST, "transferbench"),
        (links.A2A, "transferbench"),
        (links.MATRIX, "rocm-bandwidth-test"),
        (links.BY_SIZE, "rocm-bandwidth-test"),
        (links.PERFORMANCE, "nccl-tuner"),
        (links.CONFIGURATION, "nccl-tuner"),
    ],
)
def test_the_content_says_the_format(tmp_path, text, name):
    (tmp_path / "file").write_text(text)
    assert find_format(TextFile(tmp_path / "file")).name == name


def test_two_formats_in_one_file_are_asked_about(tmp_path, capsys):
    (tmp_path / "file").write_text(collective.LOG + links.A2A)
    with pytest.raises(
        InputError, match="several formats; say --as with one of rccl-tests, transf"
    ):
        read(tmp_path / "file", Said())
    table, _ = read(tmp_path / "file", Said(source="mine"), "rccl-tests")
    assert len(table) == 3
    (tmp_path / "words").write_text("nothing\nof interest\n")
    with pytest.raises(InputError, match=r"words: no format is recognised in it; say --as"):
        read(tmp_path / "words", Said())


PASTED = "### TP8 MI300X bf16 hidden 7168\n\n| tokens | fused 1stage us |\n|--|--|\n| 8 | 9.1 |\n\n"
SERVING = "".join(f"[2026-01-01 00:00:{n % 60:02d}] INFO served {n}\n" for n in range(3000))


@pytest.mark.parametrize("apart", ["", SERVING])
@pytest.mark.parametrize(
    ("texts", "kind", "other"),
    [
        ((collective.LOG, PASTED), "rccl-tests", "other tables, which --as table reads"),
        ((PASTED, collective.LOG), "rccl-tests", "other tables, which --as table reads"),
        ((collective.LOG, aiter.PER_GROUP), "rccl-tests", "output of aiter, which --as aiter reads"),
        ((aiter.PER_GROUP, collective.LOG), "aiter", "output of rccl-tests, which --as rccl-tests reads"),
        ((collective.LOG, links.A2A), "rccl-tests",
         "output of transferbench, which --as transferbench reads"),
        ((aiter.PER_GROUP, engines.ROCM_CSV), "aiter", "output of sglang, which --as sglang reads"),
        ((engines.CONSOLE, aiter.PER_GROUP), "sglang", "output of aiter, which --as aiter reads"),
    ],
)  # fmt: skip
def test_results_of_another_harness_in_a_file_are_counted(tmp_path, texts, kind, other, apart):
    """What one reader passes over is what another reads or leaves of it alone."""
    path, out = tmp_path / "file", tmp_path / "out.csv"
    results = {}
    for text in texts:
        path.write_text(text)
        form, told = convert(path, out, Said(source="mine"))
        results[form.name] = told.n_rows + told.n_left
    path.write_text(f"\n{apart}".join(texts))
    _, told = convert(path, out, Said(source="mine"), kind)
    assert left(told)[other] == results[other.split()[-2]]
    assert told.n_rows + told.n_left == sum(results.values())


def test_a_table_beside_a_harness_is_not_said_to_be_its(tmp_path):
    (tmp_path / "file").write_text(f"{aiter.PER_GROUP}\n{PASTED}")
    rows, _ = imported(tmp_path / "file")
    assert column(rows, "latency_us", "statistic", "kernel_family")[-1] == ("9.1", "", "")


def test_every_format_has_a_reader_and_names_of_its_own():
    names = [name for form in FORMATS for name in (form.name, *form.aliases)]
    assert len(names) == len(set(names))
    for form in FORMATS:
        with pytest.raises(InputError, match="No such file"):
            form.parse(TextFile("/nowhere/none"), of())


# Files


def test_a_packed_file_and_a_pipe_read_as_the_file(tmp_path):
    (tmp_path / "log").write_text(collective.LOG)
    plain, _ = read(tmp_path / "log", Said(source="mine"))
    (tmp_path / "log.gz").write_bytes(gzip.compress(collective.LOG.encode()))
    assert read(tmp_path / "log.gz", Said(source="mine"))[0].to_rows() == plain.to_rows()
    (tmp_path / "wide").write_bytes(collective.LOG.encode("utf-16"))  # as PowerShell writes it
    assert read(tmp_path / "wide", Said(source="mine"))[0].to_rows() == plain.to_rows()
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(collective.LOG,))
    writer.start()
    assert read(tmp_path / "pipe", Said(source="mine"))[0].to_rows() == plain.to_rows()
    writer.join()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(collective.LOG.encode())[:-20], "Compressed file ended"),
        (b"\x1f\x8b" + b"\x00" * 50, "log: "),
        (collective.LOG.encode() + b" " * (LINE_BYTES + 1), f"a line of more than {LINE_BYTES} b"),
        (gzip.compress(b'{"nccl_version":' + b" " * WHOLE_BYTES), "more than 64 MiB"),
        (b"", "no format is recognised"),
        (
            b"PK\x03\x04" + b"\x00" * 50,
            "a spreadsheet or another archive; give what is in it, as CSV",
        ),
    ],
    ids=["cut", "no gzip", "long line", "too large", "empty", "a spreadsheet"],
)
def test_files_that_cannot_be_read(tmp_path, content, message):
    (tmp_path / "log").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(tmp_path / "log", Said(source="mine"))
    assert message in str(caught.value)


def test_names_of_files_print_no_control_character(tmp_path, capsys):
    path = tmp_path / "a\x1b[31m.log"
    path.write_text(collective.LOG)
    with pytest.raises(SystemExit):
        main(["import", str(path), "--out", str(tmp_path / "rows.csv")])
    assert "\x1b" not in capsys.readouterr().out
    assert set(measurement.read(tmp_path / "rows.csv").source) == {"a\\x1b[31m"}


def test_rows_go_out_in_batches(tmp_path, monkeypatch):
    (tmp_path / "log").write_text(collective.LOG)
    whole_table, _ = read(tmp_path / "log", Said(source="mine"))
    whole_table.write(tmp_path / "whole.csv")
    waiting = []
    take = Imported.take
    monkeypatch.setattr(rows, "BATCH", 2)
    monkeypatch.setattr(
        Imported, "take", lambda self, cells: (take(self, cells), waiting.append(len(self.rows)))
    )
    _, told = convert(tmp_path / "log", tmp_path / "batches.csv", Said(source="mine"))
    assert waiting == [1, 0, 1]
    assert told.n_rows == 3
    assert (tmp_path / "batches.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_grid_that_late_rows_alone_state_is_refused(tmp_path):
    row = {**ROW, "source": "mine", "quality": "clean"}
    with (
        pytest.raises(InputError, match="a launch grid is stated in late rows alone"),
        measurement.writing(tmp_path / "rows.csv") as write,
    ):
        [write([r]) for r in (row, {**row, "threads": 512})]
    assert not (tmp_path / "rows.csv").exists()
    with measurement.writing(tmp_path / "rows.csv") as write:
        write([{**row, "threads": 512}])
        write([row | {"bytes": 2048}])
    assert measurement.read(tmp_path / "rows.csv").threads.tolist()[0] == 512


# The account


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"op": ""}, "op not said: --op"),
        ({"world_size": None}, "ranks not said: --world-size"),
        ({"bytes": None}, "size not said: --tokens and --hidden-dim"),
        ({"bytes": None, "tokens": 4}, "size not said: --hidden-dim"),
        ({"latency_us": 0.0}, "no time"),
        ({"latency_us": float("nan")}, "no time"),
        ({"latency_us": "9"}, "no time"),
        ({"bytes": 0}, "bytes is 0, not a whole number from 1 on"),
        ({"tokens": 2**30 + 1}, "tokens is 1073741825, not a whole number from 1 to 1073741824"),
        (
            {"bytes": 2**63},
            "bytes is 9223372036854775808, not a whole number from 1 to 4611686018427387904",
        ),
        ({"tokens": 4, "hidden_dim": 4096}, "bytes are not tokens x hidden size x element size"),
    ],
)
def test_a_result_that_says_too_little_is_left(change, reason):
    imported = of()
    imported.add({**ROW, **change}, "file:1")
    assert imported.rows == []
    assert {name: (one.count, one.first) for name, one in imported.left.items()} == {
        reason: (1, "file:1")
    }


def test_a_serving_trace_needs_neither_ranks_nor_size():
    imported = of()
    imported.add({"op": "other", "latency_us": 5.0, "quality": "serving_trace"}, "file:1")
    assert imported.n_rows == 1


def test_the_same_row_twice_is_left_and_another_time_is_not():
    imported = of()
    for latency in (9.5, 9.5, 9.6):
        imported.add({**ROW, "latency_us": latency}, "file:1")
    assert imported.n_rows == 2
    assert imported.n_left == 1


def test_bytes_follow_from_the_shape():
    imported = of(tokens="4", hidden_dim="4096")
    imported.add({**ROW, "bytes": None}, "file:1")
    assert imported.rows[0]["bytes"] == 4 * 4096 * 2


def test_what_is_missing_is_counted_and_follows_from_the_gpu():
    imported = of()
    imported.add(ROW, "file:1")
    assert {"gpu", "kernel_family", "timing", "algorithm"} <= imported.missing.keys()
    assert not {"arch", "interconnect", "hidden_dim"} & imported.missing.keys()
    imported = of(gpu="MI250X")  # two dies a card: no full mesh is known
    imported.add({**ROW, "kernel_family": "rccl"}, "file:1")
    assert {"interconnect"} <= imported.missing.keys()
    assert not {"arch", "algorithm"} & imported.missing.keys()
    assert imported.rows[0]["arch"] == "gfx90a"


def test_reasons_do_not_grow_without_bound():
    imported = of()
    for i in range(1000):
        imported.leave("file:1", f"reason {i}")
    assert imported.n_left == 1000
    assert len(imported.left) < 300


# What is said


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"gpu": "MI355X", "arch": "gfx942"}, "--gpu MI355X --arch gfx942: MI355X is gfx950"),
        ({"gpu": "MI355"}, "--gpu MI355: did you mean MI355X?"),
        ({"gpu": "MI300"}, "--gpu MI300: did you mean MI300A or MI300X?"),
        ({"arch": "gfx94"}, "--arch gfx94: unknown without a --gpu"),
        ({"world_size": "eight"}, "--world-size eight: give a whole number from 1 on"),
        ({"world_size": "9" * 400}, "give a whole number from 1 on"),
        ({"world_size": "4"}, "file:1: the file says world_size 8, --world-size says 4"),
        ({"dtype": "bf17"}, "--dtype bf17: unknown (did you mean bf16"),
        ({"dtype": "fp16"}, "file:1: the file says dtype bf16, --dtype says fp16"),
    ],
)
def test_what_is_said_wrongly_is_refused(said, message):
    with pytest.raises(InputError) as caught:
        of(**said).add(ROW, "file:1")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


def test_the_user_may_say_which_gpu_of_a_series():
    imported = of(gpu="amd instinct mi300x")
    imported.add({**ROW, "gpu": "MI300"}, "file:1")
    (row,) = imported.rows
    assert (row["gpu"], row["arch"], row["interconnect"]) == ("MI300X", "gfx942", "xgmi")
    with pytest.raises(InputError, match="the file says gpu MI325X, --gpu says MI300X"):
        imported.add({**ROW, "gpu": "MI325X"}, "file:2")
    with pytest.raises(
        InputError, match="file:3: MI325X is gfx942, the file or --arch says gfx950"
    ):
        of(arch="gfx950").add({**ROW, "gpu": "MI325X"}, "file:3")


@pytest.mark.parametrize(
    ("gpu", "ranks", "wire"),
    [("MI300X", 8, "xgmi"), ("MI300X", 9, None), ("MI355X", 2, "xgmi"), ("H200", 8, "nvlink"),
     ("H200", 16, None), ("MI250X", 8, None), ("RTX", 2, None), ("", 2, None)],
)  # fmt: skip
def test_what_connects_gpus(gpu, ranks, wire):
    assert hardware.wire(gpu, ranks) == wire


@pytest.mark.parametrize(
    ("product", "gpu"),
    [("AMD Instinct MI300X OAM", "MI300X"), ("AMD Instinct MI308X", "MI308X"), ("mi355x", "MI355X"),
     ("Arcturus GL-XL [Instinct MI100]", "MI100"), ("NVIDIA H100 80GB HBM3", "H100"),
     ("NVIDIA H100 PCIe", "H100 PCIE"), ("NVIDIA A100-SXM4-80GB", "A100"), ("", ""),
     ("Tesla V100-SXM2-32GB", "V100"), ("AMD Radeon RX 7900 XTX", "RX")],
)  # fmt: skip
def test_names_of_gpus(product, gpu):
    assert gpu_of(product) == gpu


def test_numbers_of_cells_are_bounded():
    assert [number(t) for t in ("9.5", " 1e3 ", "-2", "nan", "1e999", "1_0", "9" * 99, "x", "")] == [
        9.5, 1000.0, -2.0, None, None, None, None, None, None,
    ]  # fmt: skip
    assert [whole(t) for t in ("16", "16.0", "1.5", "-1", "1e20")] == [16, 16, None, None, None]


# From here to the rest of the program


def test_imported_rows_say_their_gpu_and_interconnect_to_what_follows(tmp_path, capsys):
    out = tmp_path / "rows.csv"
    for name in ("rccl-output.json", "nccl-old.log", "rccl-modern.log"):
        options = ["--gpu", "MI300X"] if name == "rccl-output.json" else []
        with pytest.raises(SystemExit) as ended:
            main(["import", str(collective.CASES / name), *options, "--force", "--out", str(out)])
        assert ended.value.code == 0
        gpu = "MI350X" if name == "rccl-modern.log" else "MI300X"
        judged = ["validate", "--gpu", gpu, "--measurements", str(out), "--accuracy-only"]
        for command in (judged, ["calibrate", str(out)]):
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                main(command)
            # RCCL's kernels are neither arm: that, and nothing that the import could have said.
            said = capsys.readouterr().err
            assert ended.value.code == 2
            assert "are of RCCL, whose kernels are neither arm" in said
            assert "a separate all-reduce" in said
            assert "`costmodel measure`" in said
            assert "not stated" not in said
            assert "interconnect" not in said
        with pytest.raises(SystemExit):
            main(["data", str(out)])
        assert "note: all" in capsys.readouterr().out


def test_a_table_far_down_a_log_is_found(tmp_path):
    path = tmp_path / "log"
    log = "INFO loading shard 1 of 80 took 1.5 s\n" * 5000
    path.write_text(f"{log}\nTP8, hidden 7168\n\n| tokens | fused us |\n|--|--|\n| 8 | 9.1 |\n")
    table, account = read(path, Said(source="s"))
    assert (account.kind, len(table), account.n_left) == ("table", 1, 0)


def test_a_row_is_known_again_among_more_than_a_set_holds(monkeypatch):
    monkeypatch.setattr(rows, "_FEW", 100)
    rng = random.Random(1)
    seen, known = rows._Seen(), set()
    # Keys of one bucket, some of whose bytes stand across two others.
    keys = [rng.choice((0, 1, 256)) << rng.choice((16, 24, 40)) for _ in range(2000)]
    for key in [*keys, *(hash((n,)) for n in range(2000)), *keys]:
        assert seen.add(key) == (key not in known)
        known.add(key)


def test_calls_that_stood_before_and_those_beyond_the_kept_are_read_alike(monkeypatch):
    texts = [{**ROW, "latency_us": 1.0 + n, "bytes": 1024 * (1 + n % 7)} for n in range(40)]
    whole = Imported(Said(source="s", gpu="MI300X"), "table")
    monkeypatch.setattr(rows, "_CALLS", 2)
    few = Imported(Said(source="s", gpu="MI300X"), "table")
    for account in (whole, few):
        for row in (*texts, texts[3], {**ROW, "latency_us": float("nan")}, {**ROW, "tokens": [8]}):
            account.add(row, "here")
    assert whole.rows == few.rows
    assert (whole.n_rows, left(whole), whole.missing) == (few.n_rows, left(few), few.missing)
    assert left(whole) == {
        "the same row as one before, to the last digit": 1, "no time": 1,
        "tokens is [8], not a whole number from 1 to 1073741824": 1,
    }  # fmt: skip
