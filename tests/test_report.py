"""``costmodel report``: its numbers, first screen, headings, commands and provenance."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from engines.shapes import SHAPES
from judged_rows import synthetic
from msgspec.structs import replace
from reports import cells, first_screen, run

from costmodel.calibration import posterior as calibrations
from costmodel.data import llms
from costmodel.data.deployment import Deployment
from costmodel.data.measurement import published as published_rows
from costmodel.data.workload import Workload
from costmodel.decide.explanation import choices
from costmodel.decide.recommendation import recommend
from costmodel.decide.regret import Estimate
from costmodel.decide.setting import Setting
from costmodel.decide.worth import worth
from costmodel.figures import static
from costmodel.report import directory, markdown
from costmodel.report.case import gather
from costmodel.report.commands import check_command, checked, confirmations
from costmodel.report.text import context
from costmodel.rules import catalogue
from costmodel.show.words import arm, percent, size_interval, up_to

needs_browser = pytest.mark.skipif(static.browser() is None, reason="no Chrome or Chromium here")


@pytest.fixture(scope="module")
def vllm():
    """Return what a report for vLLM on MI300X rests on."""
    return gather(Setting.shipped("MI300X", engine="vllm"), llms.find("gpt-oss-120b"))


@pytest.fixture(scope="module")
def sglang():
    """Return what a report for SGLang on MI355X, which proposes a change, rests on."""
    return gather(Setting.shipped("MI355X", engine="sglang"), llms.find("gpt-oss-120b"))


def in_markdown(case):
    """Return a case as Markdown, without figures."""
    return markdown.render(context([case], "costmodel report", "out"))


def test_tables_hold_the_models_numbers(plain):
    text = (plain[0] / "report.md").read_text()
    setting = Setting.shipped("MI355X", engine="sglang")
    gfx950 = setting.calibration
    llm = llms.find("gpt-oss-120b")
    found = recommend(setting, Workload.of([llm.hidden_size]))
    old = catalogue.current("sglang")
    served = Deployment(engine="sglang")
    head, *rows = cells(text, "- **Not known")
    assert head[:3] == ["ranks", "1-stage before", "1-stage after"]
    # Two ranks, which physics decides, come last.
    assert [row[0] for row in rows] == ["TP4", "TP8", "TP2"]
    for row in rows:
        n = int(row[0].removeprefix("TP"))
        cutoff = found.at(n)
        assert row[1] == "<= 128 KiB"
        best = "every size" if n == 2 else f"<= {cutoff.max_bytes // 1024} KiB"
        # What is not decided stays, with what would be best beside it.
        stays = f"<= 128 KiB (stays; best estimate {best})"
        assert row[2] == (stays if n == 8 else f"**{best}**")
        assert row[3] == size_interval(cutoff.max_bytes_lo, cutoff.max_bytes_hi)
        assert row[4] == size_interval(cutoff.this_kernel_lo, cutoff.this_kernel_hi)
        e = worth(setting, llm, n, old, found.rule, deployment=served).mean_us
        would = " if it did" if n == 8 else ""
        assert row[5] == f"{e.value:.1f} ({e.lo:.1f} to {e.hi:.1f}){would}"
        assert row[6].startswith("by physics" if n == 2 else cutoff.verdict.split("_")[0])
        assert row[2].startswith("**") == ("not decided" not in row[6])
    _, *rows = cells(text, "<details><summary>Regret")
    for row in rows:
        tp, _, unless = row[0].partition(", ")
        assert unless == ("if it changed" if tp == "TP8" else "")
        arms = found.at(int(tp.removeprefix("TP"))).arms
        score = arms.score(found.rule, old)
        assert row[1] == percent(score.other_regret_pct)
        assert row[2] == percent(score.regret_pct)
        assert row[3] == percent(score.saved_pct)
    assert f"`{gfx950.sha256}`" in text
    assert f"`{gfx950.data['sha256']}`" in text
    assert "- **Not known:** your machine.\n" in text
    assert "TP8: transferred" in text
    # What "measured elsewhere" leaves open is said below the table, of what is proposed.
    assert (
        "\n- Measured elsewhere at TP4, on this GPU and this number of ranks: 1-stage rows" in text
    )
    assert "this is agreement, not a test on unseen data" in text


def test_a_model_without_a_fused_call_has_nothing_to_change_and_why_comes_first():
    case = gather(Setting.shipped("MI355X", engine="sglang"), llms.find("llama-3.1-8b"))
    text = in_markdown(case)
    first = first_screen(text)
    assert first.startswith("# SGLang on MI355X: nothing should change\n")
    assert "**Why:** llama-3.1-8b makes no fused call in SGLang, so no rule " in first
    # It stops there: no rule, no size, nothing to measure of an op that is not run.
    assert text.strip() == first.strip()
    assert "`costmodel import PROFILE " in text
    assert not any(word in text for word in ("Wins", "measure", "KiB", "cutoff"))


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_curve_says_whose_choice_it_shows(engine):
    """Where nothing is proposed the rule in force stays, which runs other arms than the curve."""
    case = gather(Setting.shipped("MI355X", engine=engine), llms.find("gpt-oss-120b"))
    drawn = (case.headline or case.crossing)[0]
    assert drawn.changes
    runs = re.findall("the (candidate|rule) runs", in_markdown(case))
    assert runs == ["rule" if case.proposes else "candidate"]
    assert case.proposes == (engine == "sglang")


@pytest.mark.parametrize(
    ("gpu", "engine"),
    [("MI355X", "sglang"), ("MI300X", "sglang"), ("MI300X", "vllm"), ("MI355X", "aiter")],
)
def test_the_first_screen_is_short_and_says_it_all(gpu, engine):
    case = gather(Setting.shipped(gpu, engine=engine), llms.find("gpt-oss-120b"))
    text = in_markdown(case)
    first = first_screen(text)
    head = first.splitlines()[0]
    if not case.proposes:
        yet = " yet" if any(w.changes for w in case.by_world_size) else ""
        assert head == f"# {case.engine.title} on {gpu}: nothing should change{yet}"
        assert "1-stage, candidate" in text
        whom = "fused all-reduce + RMSNorm of gpt-oss-120b (hidden 2880, bf16), batch 1-512."
        assert f"**For whom:** {whom}" in first
        assert "**Why:**" in first
        # It stops after the reasons.
        assert "<details>" not in text
        assert "## " not in text
        assert len(text.split()) < 450
        return
    for label in ("Change", "For whom", "Wins", "How sure", "Not known"):
        assert f"- **{label}:**" in first
    # The one command that checks it stands behind the table, with what confirms it.
    assert f"- **Check on your GPUs:** `{check_command(case)}`" in text
    for w in case.headline:
        e = w.worth.mean_us
        assert (
            f"{w.tp} {e.value:.1f} us a decode step (mean, unchanged batches counted too; "
            f"90 %: {e.lo:.1f} to {e.hi:.1f})"
        ) in first
        near = w.contested.saved_pct
        still = ", undecided" if near.lo <= 0 else ""
        span = f"{near.value:.1f} % a call ({near.lo:.1f} to {near.hi:.1f})"
        ends = f"{w.cutoff.max_bytes // 2048} to {w.cutoff.max_bytes // 512} KiB"
        assert f"near the cutoff ({ends}){still}: {span}" in first
        assert f"{up_to(w.new_sizes)} at {w.tp}" in first
    # Two ranks, which physics decides, are no headline: they come last wherever they stand.
    (two,) = [w for w in case.by_world_size if w.world_size == 2]
    for line in (line for line in first.splitlines() if "TP2" in line):
        others = [line.find(w.tp) for w in case.headline if w.tp in line]
        assert all(at < line.find("TP2") for at in others), line
    assert f"| {two.worth.mean_us.value:.1f} (" in text
    # What is not decided is said beside the change: it stays.
    _, _, open_ones = first.partition("**Change:**")[2].partition(".\n")[0].partition("; ")
    assert [w.tp for w in case.in_order if w.tp in open_ones] == [
        w.tp for w in case.in_order if w.undecided
    ]


def test_now_is_said_in_no_sense(plain):
    text = (plain[0] / "report.md").read_text()
    assert not re.search(r"\b[Nn]ow\b", text.split("```sh")[0])
    page_text = re.sub(
        r'(?s)<script.*?</script>|<[^>]*>|aria-label="[^"]*"',
        " ",
        (plain[0] / "report.html").read_text(),
    )
    assert not re.search(r"\b[Nn]ow\b", page_text)


def test_nothing_in_the_text_hangs_on_a_path(plain):
    out, _ = plain
    text = (out / "report.md").read_text()
    assert "![" not in text
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert all(link.startswith("https://") for link in links)
    # The curve stands as text, with the batches at which the choice turns over.
    sketch = text.split("```text\n", 1)[1].split("```", 1)[0]
    setting = Setting.shipped("MI355X", engine="sglang")
    found = recommend(setting, Workload.of([2880]))
    told = choices(setting, 2880, 4, decision=found)
    by_tokens = dict(zip(told.calls.tokens.tolist(), range(len(told.calls)), strict=True))
    rows = re.findall(r"^ *(\d+) tokens +(\S+ KiB) +([+-][\d.]+) % +[+-]+ +(\S+)$", sketch, re.M)
    assert sketch.splitlines()[1].strip() == "the rule runs"
    assert len(rows) == 12
    assert {r[3] for r in rows} == {"1-stage", "2-stage"}
    for tokens, size, slower, runs in rows:
        i = by_tokens[int(tokens)]
        one, two = (told.latency_us[a][i] for a in setting.arms)
        assert size == f"{told.calls.bytes[i] / 1024:.0f} KiB"
        assert float(slower) == pytest.approx(100 * (two / one - 1), abs=0.051)
        assert runs == arm(str(told.choice[i]))


@pytest.mark.parametrize(
    ("project", "headings"),
    [
        ("sglang", ["Motivation", "Modifications", "Accuracy Tests", "Speed Tests and Profiling"]),
        ("vllm", ["Purpose", "Test Plan", "Test Result"]),
        ("aiter", ["Motivation", "Change", "Benchmark", "Accuracy", "How to test"]),
        ("atom", ["Motivation", "Change", "Benchmark", "Accuracy", "How to test"]),
    ],
)
def test_the_text_has_the_headings_of_the_project(sglang, project, headings):
    text = markdown.render(context([sglang], "costmodel report", "out", project=project))
    assert re.findall(r"^## (.+)$", text, re.M) == [*headings, "What it rests on"]
    # All parts, whatever their order.
    for part in ("SGLang chooses between", "outputs agree to rounding", "Worth: us saved",
                 "costmodel plan", "Sources of the calibration"):  # fmt: skip
        assert text.count(part) == 1, part


def test_a_list_of_archs_makes_one_report_with_a_rule_of_each(tmp_path):
    out = tmp_path / "both"
    asked = ["--model", "gpt-oss-120b", "--for", "sglang", "--tp", "4"]
    done = run("report", "--arch", "gfx942,gfx950", *asked, "--out", str(out), browser=False)
    assert done.returncode == 0, done.stderr
    text = (out / "report.md").read_text()
    assert "MI300X TP4" in text
    assert "MI355X TP4" in text
    for arch in ("gfx942", "gfx950"):
        rule = json.loads((out / f"rule-{arch}.json").read_text())
        said = json.loads(run("recommend", "--arch", arch, *asked, "--format", "json").stdout)
        assert str(said["cutoffs"][0]["max_bytes"]) in json.dumps(rule)


def test_two_gpus_in_one_report(tmp_path, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/browser")
    llm = llms.find("gpt-oss-120b")
    cases = [
        gather(Setting.shipped(gpu, engine="sglang"), llm, world_sizes=(4, 8))
        for gpu in ("MI355X", "MI300X")
    ]
    written = directory.write(cases, tmp_path / "r", command="costmodel report --arch a,b")
    assert written.files == (
        "report.html", "report.md", "rule-gfx942.json", "rule-gfx950.json",
    )  # fmt: skip
    text = (tmp_path / "r" / "report.md").read_text()
    _, *rows = cells(text, "- **Not known")
    assert [r[0] for r in rows] == ["MI355X TP4", "MI355X TP8", "MI300X TP4", "MI300X TP8"]
    assert text.startswith(
        "# SGLang on MI355X and MI300X: run 1-stage up to 360 KiB at MI355X TP4; MI300X: nothing\n"
    )
    assert "rule-gfx942.json" in text
    html_text = (tmp_path / "r" / "report.html").read_text()
    assert 'data-figure="mi300x-latency-tp8"' in html_text
    assert catalogue.load(tmp_path / "r" / "rule-gfx942.json").cutoff_bytes(4) is not None


def test_the_provenance_table_counts_every_row(plain):
    text = (plain[0] / "report.md").read_text()
    rows = cells(text, "<details><summary>Sources of the calibration")[1:]
    table = published_rows()
    for row in rows:
        name, url = re.fullmatch(r"\[(.+)\]\((.+)\)", row[0]).groups()
        gpu, stated = re.fullmatch(r"(\S+) \((.+)\)", row[1]).groups()
        mine = table.select((table.source == name) & (table.gpu == gpu))
        assert int(row[3]) + int(row[4]) == len(mine), name
        assert set(mine.gpu_evidence.tolist()) == set(stated.split(", "))
        assert url in mine.url.tolist()
    calibration = calibrations.shipped("gfx950")
    assert {row[0][1:].split("]")[0] for row in rows} == set(calibration.data["sources"])


def test_the_commands_it_names_give_its_numbers(plain):
    out, _ = plain
    text = (out / "report.md").read_text()
    block = text.split("Commands and inputs", 1)[1].split("```sh\n", 1)[1].split("```", 1)[0]
    commands = [shlex.split(line) for line in block.splitlines()]
    assert [c[1] for c in commands] == [
        "recommend", "emit", "worth", "worth", "worth", "validate", "report",
    ]  # fmt: skip
    for command in commands:
        if command[1] in ("recommend", "validate", "report"):
            assert command[command.index("--for") + 1] == "sglang", command
    by_tp = {c[c.index("--tp") + 1]: c for c in commands if c[1] == "worth"}
    by_rank = {row[0]: row for row in cells(text, "<details><summary>Worth")[1:]}
    # TP8 is not decided: what it would be worth is of the recommended rule, not of the report's.
    assert by_tp["8"][by_tp["8"].index("--to") + 1] == "recommended"
    for n, named in (("4", "TP4"), ("8", "TP8, if it changed")):
        done = run(*by_tp[n][1:], "--format", "json")
        assert done.returncode == 0, done.stderr
        (found,) = json.loads(done.stdout)["gpus"]
        mean = found["over_histogram"]["us_per_step"]
        assert by_rank[named][2].startswith(f"{mean:.1f} (")
    mine = recommend(
        Setting.shipped("MI355X", engine="sglang"), Workload.of([2880]), world_sizes=(4,)
    )  # fmt: skip
    written = catalogue.load(out / "rule.json")
    assert written.cutoff_bytes(4) == ("<=", mine.at(4).max_bytes)
    assert written.cutoff_bytes(8) == catalogue.current("sglang").cutoff_bytes(8)


def test_the_rule_it_shows_is_the_one_that_emit_writes(plain):
    text = (plain[0] / "report.md").read_text()
    shown = text.split("```python\n", 1)[1].split("```", 1)[0]
    asked = ("--arch", "gfx950", "--model", "gpt-oss-120b", "--tp", "2,4")
    done = run("emit", "--for", "sglang", *asked)
    assert done.returncode == 0, done.stderr
    assert shown.strip() == done.stdout.strip()


@pytest.mark.parametrize(("factor", "code"), [((1.0, 1.0), 0), ((1.0, 0.5), 1)])
def test_what_confirms_it_is_a_command_that_tells_right_from_wrong(sglang, tmp_path, factor, code):
    """Rows as the model has them confirm the rule; a 2-stage twice as fast refutes it."""
    ((gpu, command),) = confirmations([sglang])
    assert gpu == "MI355X"
    text = in_markdown(sglang).split("- Separate ops")[0]
    assert f"**Confirmed if**, after that check, `{command}` passes" in text
    (tmp_path / "run" / "tp4").mkdir(parents=True)
    synthetic(sglang.setting, factor=factor).write(tmp_path / "run" / "tp4" / "measurements.csv")
    words = shlex.split(command)
    assert (words[0], words[-1]) == ("costmodel", "run")
    done = run(*words[1:], cwd=tmp_path)
    assert done.returncode == code, done.stdout + done.stderr


@pytest.mark.parametrize("options", [
    ("--dtype", "fp16", "--source", "typical", "--objective", "contested"), ("--tp", "4,8"),
])  # fmt: skip
def test_the_commands_it_names_run_for_other_questions(options, tmp_path):
    asked = ("--gpu", "MI355X", "--model", "gpt-oss-120b", "--for", "sglang", *options)
    assert run("report", *asked, "--out", tmp_path / "r", browser=False).returncode == 0
    text = (tmp_path / "r" / "report.md").read_text()
    fp16 = "fp16" in options
    assert (" --dtype fp16 --out run`" in text) == fp16
    block = text.split("Commands and inputs", 1)[1].split("```sh\n", 1)[1].split("```", 1)[0]
    root = SHAPES["sglang_bytes"].package(tmp_path)
    for line in block.splitlines():
        words = [str(root) if w == "PATH" else w for w in shlex.split(line)[1:]]
        if words[0] == "report":
            continue
        done = run(*words, cwd=tmp_path)
        assert done.returncode == 0, (line, done.stderr)
        if words[0] == "emit":
            rule = catalogue.load(tmp_path / "r" / "rule.json")
            assert (
                f"{rule.cutoff_bytes(4)[1] // 1024} * 1024" in (tmp_path / "rule.patch").read_text()
            )


def test_the_check_is_one_command_that_measure_takes(sglang, vllm):
    for case in (vllm, sglang):
        words = shlex.split(check_command(case))
        places = checked(case)
        assert words[:5] == [
            "torchrun",
            f"--nproc-per-node={max(w.world_size for w in places)}",
            "-m",
            "costmodel",
            "measure",
        ]
        if len(places) > 1:
            said = ",".join(str(w.world_size) for w in places)
            assert words[words.index("--tp") + 1] == said
        tokens = [int(t) for t in words[words.index("--tokens") + 1].split(",")]
        assert len(tokens) <= 4 * len(places) + 2
        # Three of those that change and one beyond on either side, where there is one.
        changing = {b.tokens for w in places for b in w.changed}
        assert not changing or len(changing & set(tokens)) >= min(3, len(changing))
        assert set(tokens) <= set(case.deployment.tokens.tolist())
        row = case.llm.hidden_size * 2
        for cutoff in (w.cutoff for w in places if w.cutoff.max_bytes is not None):
            assert min(tokens) * row <= cutoff.max_bytes <= max(tokens) * row
        # Nobody can run it here, but the command line takes its options.
        refused = run(*words[4:-2], "--out", "/nonexistent/place/run")
        assert refused.returncode == 2
        assert "unknown" not in refused.stderr
        assert "No such option" not in refused.stderr
    # All that the change touches is checked, decided or not.
    assert [w.world_size for w in checked(sglang)] == [2, 4, 8]
    assert [w.world_size for w in checked(vllm)] == [8]


def test_engine_guards_are_part_of_the_rule(vllm):
    text = in_markdown(replace(vllm, by_world_size=tuple(surely(w) for w in vllm.by_world_size)))
    assert "vLLM's guards stay: tokens &lt;= 80" in text
    assert vllm.new.max_tokens(512, 2) == 80
    assert "No measured check" in text
    assert "**TP4: transferred**" in text
    assert "Worse on" not in text
    # The engine's rule has no GPU in it, so what it does elsewhere is said too.
    (other,) = vllm.elsewhere
    assert other.gpu == "MI355X"
    assert f"{other.scores[1].other_regret_pct.value:.2f} % before" in text
    assert "Not decided at TP8" in in_markdown(vllm)
    # What the guards cost is said of a rule that keeps them, with the number of recommend.
    ((n, pct),) = vllm.decision.lost_to_guards
    assert n == 2
    of = "of the faster arm's latency (mean over the calls)"
    cost = f"keeps vLLM's guards, which cost {pct:.2f} % at TP2 {of}; lifting them would be another"
    assert cost in in_markdown(vllm)


def test_a_change_at_two_ranks_is_checked_there_too():
    case = gather(Setting.shipped("MI300X", engine="sglang"), llms.find("gpt-oss-120b"))
    assert not case.headline
    assert " -m costmodel measure --backend aiter --tp 2,4,8 " in in_markdown(case)


def test_rows_of_other_links_make_no_patch():
    """Kernels that no engine runs: nothing of AITER's sources is said of them, nothing proposed."""
    pair = Path(__file__).parent.parent / "measurements" / "h200-pair" / "second"
    setting = Setting(calibrations.load(pair / "calibration.json"), "H200", engine="sglang")
    case = gather(setting, llms.find("gpt-oss-120b"), measurements=[pair / "calibration.csv"])
    assert case.proposes
    text = in_markdown(case)
    assert "no reason to change SGLang" in first_screen(text)
    assert not re.search(r"AITER|emit|rule\.patch|Modifications|batch-invariant", text)
    assert "torchrun --nproc-per-node=2 -m costmodel measure --backend triton" in text


def surely(w):
    """Return a world size as if what its change spares were certain."""
    saved = Estimate(1.0, 0.5, 1.5)
    return replace(
        w, score=replace(w.score, saved_pct=saved), worth=replace(w.worth, mean_us=saved),
        proposed=w.changes,
    )  # fmt: skip


def test_harm_on_another_gpu_is_said_at_the_top():
    # vLLM's rule is better on MI355X than what suits MI308X where the worst call counts.
    lower = gather(
        Setting.shipped("MI308X", engine="vllm", objective="worst"), llms.find("qwen3-4b"),
        world_sizes=(4,),
    )  # fmt: skip
    assert lower.elsewhere[0].scores[0].saved_pct.hi < 0
    text = in_markdown(lower)
    assert "- Worse on MI355X at TP4, " in text.split("```")[0]
