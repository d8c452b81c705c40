"""Traces of one rank each, given together: joined on one time line, or refused in words."""

import json
import random

import pytest
from test_importers_profiles import (
    ARRIVALS,
    GEMM,
    LOCAL,
    ONE,
    SCATTER,
    brief,
    chrome,
    collective,
    event,
    mutated,
    rocpd,
    rocprofv3,
    rocprofv3_json,
)

from costmodel.cli.main import main
from costmodel.data.importers import Said, convert
from costmodel.data.measurement import read_all

#: The start of a profile, as the host's clock has it.
BEGAN = 1718123456789012


def traces(tmp_path, calls, *, ranks=8, base=None, drift=None, info=True, **members):
    """Write a file a rank, each with its device as 0, and return the paths in another order."""
    paths = []
    for rank in range(ranks):
        events = [
            event(0, name, BEGAN + start + (drift or {}).get(rank, 0), us, grid)
            for call in calls
            for r, name, start, us, grid in call
            if r == rank
        ]
        said = (
            {"distributedInfo": {"backend": "nccl", "rank": rank, "world_size": 8}} if info else {}
        )
        if base is not None:
            for one in events:
                one["ts"] -= BEGAN
            said["baseTimeNanoseconds"] = BEGAN * 1000 + base * rank
        path = tmp_path / f"trace-{rank}.json"
        path.write_text(chrome(events, **said, **members))
        paths.append(path)
    return [*paths[3:], *paths[:3]]


def joined(tmp_path, paths, **said):
    return joined_as(tmp_path, paths, "", **said)


def joined_as(tmp_path, paths, kind, **said):
    out = tmp_path / "joined.csv"
    _, account = convert(paths, out, Said(source="s", **said), kind)
    return read_all([out]), account


CALLS = [collective(1000.0 * k, takes=10.0 + k % 3) for k in range(9)]


def test_the_wait_is_taken_off_as_from_one_file_of_all_ranks(tmp_path):
    rows, account = joined(tmp_path, traces(tmp_path, CALLS))
    assert brief(rows) == [("fused_ar_rmsnorm", "1stage", 8, "bf16", 11.0)]
    assert rows.rank_reduction.tolist() == ["max, wait for the last rank taken off"]
    assert rows.gpu.tolist() == ["MI300X"]
    assert (account.kind, account.n_rows, account.n_left) == ("torch-trace", 1, 71)
    assert len(account.notes) == 1
    assert "64 us for the first one" in account.notes[0]


def test_two_launches_of_a_call_and_those_of_other_kernels(tmp_path):
    calls = []
    for k in range(5):
        call = collective(1000.0 * k, SCATTER, takes=20.0)
        calls += [
            call,
            [(r, LOCAL, start + us + 1.5, 4.0, (12, 1, 1)) for r, _, start, us, _ in call],
        ]
        calls.append([(0, GEMM, 1000.0 * k + 500, 9.0, (12, 1, 1))])
    rows, account = joined(tmp_path, traces(tmp_path, calls))
    assert brief(rows) == [("fused_ar_rmsnorm", "2stage", 8, "bf16", 24.0)]
    assert account.n_rows + account.n_left == 85


def test_stamps_count_from_the_base_that_a_file_says(tmp_path):
    rows, _ = joined(tmp_path, traces(tmp_path, CALLS, base=0))
    assert brief(rows) == [("fused_ar_rmsnorm", "1stage", 8, "bf16", 11.0)]
    assert rows.rank_reduction.tolist() == ["max, wait for the last rank taken off"]
    _, account = joined(tmp_path, traces(tmp_path, CALLS, base=5_000_000))
    assert "clocks are not common" in account.notes[0]


@pytest.mark.parametrize("apart_us", [300.0, 4e14])
def test_clocks_that_do_not_agree_are_said(tmp_path, apart_us):
    calls = [collective(1000.0 * k, takes=10.03) for k in range(5)]
    rows, account = joined(tmp_path, traces(tmp_path, calls, drift={2: apart_us, 5: apart_us}))
    assert brief(rows) == [("fused_ar_rmsnorm", "1stage", 8, "bf16", 10.03)]
    assert rows.rank_reduction.tolist() == ["min, the last rank does not wait"]
    assert "clocks are not common" in account.notes[0]


def test_ranks_that_are_missing_are_named_and_the_wait_stays(tmp_path):
    paths = [p for p in traces(tmp_path, CALLS) if p.stem not in ("trace-2", "trace-5")]
    rows, account = joined(tmp_path, paths)
    assert rows.rank_reduction.tolist() == ["pooled over ranks"]
    assert account.notes[0] == "of the run's 8 ranks, no file is of rank 2, 5"
    assert "the trace has 6 of its 8 ranks" in account.notes[1]


def test_where_the_kernel_names_no_ranks_the_run_says_them(tmp_path):
    bare = [collective(1000.0 * k, "aiter::cross_device_reduce_1stage") for k in range(3)]
    rows, account = joined(tmp_path, traces(tmp_path, bare, ranks=6), world_size="8")
    assert rows.rank_reduction.tolist() == ["pooled over ranks"]
    assert account.notes[0] == "of the run's 8 ranks, no file is of rank 6, 7"


def test_another_number_of_calls_on_a_rank_is_said(tmp_path):
    uneven = [*CALLS[:2], [launch for launch in CALLS[2] if launch[0] != 3]]
    rows, account = joined(tmp_path, traces(tmp_path, uneven))
    assert rows.rank_reduction.tolist() == ["pooled over ranks"]
    assert "its ranks have 2 to 3 calls" in account.notes[0]


def test_a_call_of_one_rank_alone_has_its_name(tmp_path):
    alone = [*CALLS, [(4, ONE, 20000.0, 9.0, (48, 1, 1))]]
    rows, _ = joined(tmp_path, traces(tmp_path, alone))
    assert rows.rank_reduction.tolist()[-1] == "rank4"


def test_without_a_rank_in_them_each_file_is_one(tmp_path):
    rows, account = joined(tmp_path, traces(tmp_path, CALLS, info=False))
    assert brief(rows) == [("fused_ar_rmsnorm", "1stage", 8, "bf16", 11.0)]
    assert account.notes[0].startswith("no file says its rank")


def refused(tmp_path, capsys, paths, *more):
    out = tmp_path / "out.csv"
    with pytest.raises(SystemExit) as ended:
        main(["import", *map(str, paths), "--out", str(out), *more])
    said = capsys.readouterr()
    assert (ended.value.code, said.out, out.exists()) == (2, "", False)
    assert len(said.err.splitlines()) == 1
    return said.err


def changed(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_files_that_are_not_of_one_run_with_a_rank_each_are_refused(tmp_path, capsys):
    paths = sorted(traces(tmp_path, CALLS))
    assert "rank0 stands in two files" in refused(tmp_path, capsys, [*paths, paths[0]])
    other = tmp_path / "other.csv"
    other.write_text("tokens,fused us\n8,9\n")
    assert "several files are joined only where" in refused(tmp_path, capsys, [*paths, other])
    assert "No such file" in refused(tmp_path, capsys, [*paths, tmp_path / "none.json"])
    changed(paths[0], lambda c: c["distributedInfo"].update(world_size=4))
    assert "ranks of the run: 4 in" in refused(tmp_path, capsys, paths)
    changed(paths[0], lambda c: c.pop("distributedInfo"))
    assert "trace-0.json does not say its rank" in refused(tmp_path, capsys, paths)
    changed(
        paths[0],
        lambda c: c.update(distributedInfo={"rank": 0}, deviceProperties=[{"name": "MI355X"}]),
    )
    assert "GPU: MI355X in" in refused(tmp_path, capsys, paths)
    changed(paths[0], lambda c: c["traceEvents"][-1].update(pid=1))
    assert "trace-0.json: 2 devices in it" in refused(tmp_path, capsys, paths)
    changed(paths[0], lambda c: c.update(traceEvents=[event(0, GEMM, 0, 9)]))
    assert "trace-0.json: no all-reduce kernel in it" in refused(tmp_path, capsys, paths)
    bare = traces(tmp_path, CALLS, info=False)
    assert "hold the same launches" in refused(tmp_path, capsys, [*bare, bare[0]])


def test_the_command_counts_the_results_of_all_files(tmp_path, capsys):
    paths = traces(tmp_path, CALLS, ranks=len(ARRIVALS))
    with pytest.raises(SystemExit) as ended:
        main(["import", *map(str, paths), "--out", str(tmp_path / "out.csv")])
    assert ended.value.code == 0
    assert "72 results in 8 files: 1 read, 71 left" in capsys.readouterr().out


@pytest.mark.campaign
def test_mutated_files_among_others_are_joined_or_refused_in_one_line(tmp_path, capsys):
    rng = random.Random(12)
    paths = traces(tmp_path, CALLS[:2])
    whole = paths[0].read_bytes()
    for _ in range(60):
        paths[0].write_bytes(mutated(whole, rng))
        with pytest.raises(SystemExit) as ended:
            main(["import", *map(str, paths), "--out", str(tmp_path / "out.csv"), "--force"])
        said = capsys.readouterr()
        assert ended.value.code in (0, 2), said.err
        assert len(said.err) < 600
        assert all(line.isprintable() for line in (said.out + said.err).splitlines())


OF_PROCESSES = {
    "csv": ("kernel-trace", "kernel_trace.csv", rocprofv3),
    "json": ("rocprofv3-json", "results.json", rocprofv3_json),
    "rocpd": ("rocpd", "results.db", rocpd),
}


def processes(tmp_path, case, calls, *, one_device=False):
    """Write what rocprofv3 leaves: a directory of the host, with files of each process in it."""
    _, name, writer = OF_PROCESSES[case]
    directory = tmp_path / "out" / "host"
    directory.mkdir(parents=True)
    ranks = sorted({launch[0] for call in calls for launch in call})
    for rank in ranks:
        launches = [
            (0 if one_device else r, *rest) for call in calls for r, *rest in call if r == rank
        ]
        path = directory / f"{4100 + rank}_{name}"
        if case == "rocpd":
            writer(launches, path)
        else:
            path.write_text(writer(launches))
        (directory / f"{4100 + rank}_agent_info.csv").write_text(
            '"Node_Id","Agent_Type"\n0,"CPU"\n'
        )
    return directory.parent


@pytest.mark.parametrize("one_device", [False, True])
@pytest.mark.parametrize("case", OF_PROCESSES)
def test_files_of_rocprofv3_of_a_process_each_are_joined(tmp_path, case, one_device):
    calls = []
    for k in range(9):
        call = collective(1000.0 * k + 300, SCATTER, takes=20.0)
        calls += [collective(1000.0 * k, takes=10.0), call]
        calls += [[(r, LOCAL, at + us + 1.5, 4.0, (12, 1, 1)) for r, _, at, us, _ in call]]
    directory = processes(tmp_path, case, calls, one_device=one_device)
    found = sorted(p for p in directory.rglob("*") if "results" in p.name or "trace" in p.name)
    for paths, others in (([directory], True), (found, False)):
        rows, account = joined(tmp_path, paths)
        assert brief(rows) == [
            ("fused_ar_rmsnorm", "1stage", 8, "bf16", 10.0),
            ("fused_ar_rmsnorm", "2stage", 8, "bf16", 24.0),
        ]
        assert set(rows.rank_reduction.tolist()) == {"max, wait for the last rank taken off"}
        assert account.kind == OF_PROCESSES[case][0]
        assert account.n_rows + account.n_left == 9 * 3 * 8
        assert ("8 other files of the directory are not read" in account.notes) == others


def test_processes_that_are_no_rank_and_ranks_that_are_missing(tmp_path):
    directory = processes(tmp_path, "csv", CALLS)
    (directory / "host" / "4000_kernel_trace.csv").write_text(
        rocprofv3([(0, GEMM, 0.0, 9.0, (8,))])
    )
    rows, account = joined(tmp_path, [directory])
    assert rows.rank_reduction.tolist() == ["max, wait for the last rank taken off"]
    assert account.n_rows + account.n_left == 73
    assert any("4000_kernel_trace.csv: a process that is no rank" in n for n in account.notes)
    (directory / "host" / "4103_kernel_trace.csv").unlink()
    rows, account = joined(tmp_path, [directory])
    assert rows.rank_reduction.tolist() == ["pooled over ranks"]
    assert any("the trace has 7 of its 8 ranks" in note for note in account.notes)


def test_a_directory_without_traces_of_one_format_is_refused(tmp_path, capsys):
    directory = processes(tmp_path, "csv", CALLS)
    (directory / "x.json").write_text(rocprofv3_json(CALLS[0]))
    said = refused(tmp_path, capsys, [directory])
    assert "traces of several formats (8 kernel-trace, 1 rocprofv3-json): --as one" in said
    account = joined_as(tmp_path, [directory], "kernel-trace")[1]
    assert (account.n_rows, account.n_left) == (1, 71)
    assert "a directory without traces" in refused(tmp_path, capsys, [directory], "--as", "rocpd")
    (tmp_path / "empty").mkdir()
    assert "a directory without traces" in refused(tmp_path, capsys, [tmp_path / "empty"])
    mixed = [directory / "x.json", directory / "host" / "4100_kernel_trace.csv"]
    assert "give traces of one format" in refused(tmp_path, capsys, mixed)
