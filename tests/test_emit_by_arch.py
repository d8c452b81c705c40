"""One patch with the rule of each arch or card: on every host the function decides as its rule."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from emitted import PROVENANCE, RULES, apply, emit, random_calls, rule_says, tools
from engines.shapes import AITER, SHAPES
from msgspec.structs import replace
from test_cards import every_pair, topology, with_ids

from costmodel.calibration.posterior import shipped
from costmodel.cli.main import main
from costmodel.data import cards
from costmodel.data import kernels as kernel
from costmodel.data.deployment import Deployment
from costmodel.data.hardware import GPUS
from costmodel.data.hosts import Host, Kind, host_of, others, target_version
from costmodel.data.workload import Workload
from costmodel.decide import elsewhere
from costmodel.decide.recommendation import recommend
from costmodel.decide.setting import Setting
from costmodel.engines import boundary_tests, host_gate, patch_by_arch
from costmodel.engines import patch as engine
from costmodel.engines.audit import audit
from costmodel.engines.kernel_version import asked_for
from costmodel.engines.rule_change import rule_changes
from costmodel.engines.source import open_trees
from costmodel.engines.stand_in import decider
from costmodel.errors import InputError
from costmodel.model.shape import FUSED
from costmodel.rules.algebra import ByWorldSize, by_world_size
from costmodel.rules.by_arch import ByArch
from costmodel.rules.catalogue import current
from costmodel.rules.condition import Always, Compare
from costmodel.rules.rule import Rule

KIB = 1024
LOW = Rule.from_cutoffs("recommended", {2: None, 4: 232 * KIB, 8: 136 * KIB})
HIGH = Rule.from_cutoffs("recommended", {2: None, 4: 448 * KIB, 8: 224 * KIB})
BY_ARCH = ByArch(((Kind("gfx942"), LOW), (Kind("gfx950"), HIGH)))
BY_CARD = ByArch(((Kind("gfx942", "MI308X"), LOW), (Kind("gfx942", "MI300X"), HIGH)))
#: Each arch changes at numbers of ranks of its own; elsewhere the engine's own rule stays.
APART = ByArch((
    (Kind("gfx942"), Rule.from_cutoffs("recommended", {2: None})),
    (Kind("gfx950"), Rule.from_cutoffs("recommended", {2: 64 * KIB, 4: 448 * KIB})),
))  # fmt: skip
COMMAND = replace(PROVENANCE, command="costmodel emit --for x --arch gfx942,gfx950")


def by_arch(root, rules=BY_ARCH):
    (tree,) = open_trees(root)
    return patch_by_arch.patch(tree, rules, dict.fromkeys(rules.kinds, COMMAND), kernel.aiter())


def run(*args):
    with pytest.raises(SystemExit) as end:
        main(list(args))
    return end.value.code


def shown(host: Host):
    return (host.version, host.device_id, host.xgmi)


def says(text, function, calls, host):
    decide = decider(text, function, host=None if host is None else shown(host))
    return [decide(*call) for call in calls]


def test_hosts_are_what_the_topology_shows_of_them():
    assert (target_version("gfx942"), target_version("gfx950")) == ("90402", "90500")
    assert target_version("gfx90a") == "90010"
    assert Kind("gfx942", "MI308X").keys == tuple(map(str, (0x74A2, 0x74B6, 0x74A8, 0x74BC)))
    assert host_of("MI350P", "gfx950") == Host("90500", str(0x75A8), False)
    assert host_of("unheard of", "gfx950") == Host("90500")
    assert "MI350P" in others([Kind("gfx950")])
    # Both have 304 compute units; the id tells them apart.
    assert "MI325X" in others([Kind("gfx942", "MI300X")])
    assert BY_CARD.at(host_of("MI325X", "gfx942")) is None
    assert BY_ARCH.at(host_of("MI325X", "gfx942")) is LOW
    assert BY_ARCH.at(host_of("MI350P", "gfx950")) is None
    # gfx942 over xGMI too, and no card that the rule of gfx942 is made for.
    assert BY_ARCH.at(host_of("MI300A", "gfx942")) is None
    assert BY_ARCH.at(host_of("unheard of", "gfx942")) is None
    assert {"MI300A", "an unlisted card"} <= set(others(BY_ARCH.kinds))


BOTH = [(shape, BY_ARCH) for shape in SHAPES]
BOTH += [(shape, APART) for shape in SHAPES]
BOTH += [(shape, BY_CARD) for shape in ("sglang_bytes", "vllm_method", "aiter_helper")]


@pytest.mark.parametrize(("shape", "rules"), BOTH)
def test_on_every_host_the_patched_function_decides_as_its_rule(shape, rules, tmp_path):
    root = SHAPES[shape].package(tmp_path)
    (tree,) = open_trees(root)
    emitted = by_arch(root, rules)
    before = tree.read(emitted.file)
    apply(emitted.text, root, tools()[0])
    assert (root / emitted.file).read_text() == emitted.patched
    meshed = "full mesh" in emitted.adapted.rule.words()
    calls = [c for c in random_calls(150) if c[4] or meshed]
    decided, wanted = {}, {}
    for name, host in emitted.gated.hosts.items():
        rule = emitted.gated.at(host).rule
        decided[name] = says(emitted.patched, emitted.function, calls, host)
        assert decided[name] == wanted.setdefault(rule.words(), rule_says(rule, calls)), name
    first, second = rules.kinds
    assert decided[first.name] != decided[second.name]
    assert says(emitted.patched, emitted.function, calls, None) == decided["no topology"]
    if emitted.gated.elsewhere.hidden_set is None:
        # No guard joined either: elsewhere nothing changes at all.
        assert decided["no topology"] == says(before, emitted.function, calls, None)


@pytest.mark.parametrize(
    "shape", ["sglang_hidden_set", "vllm_inline", "vllm_method", "aiter_forced", "aiter_helper"]
)
def test_a_second_patch_is_empty_and_any_patch_replaces_any_other(shape, tmp_path):
    root = SHAPES[shape].package(tmp_path)
    original = {f: f.read_text() for f in root.rglob("*.py")}
    emitted = by_arch(root)
    file = root / emitted.file
    file.write_text(emitted.patched)
    again = by_arch(root)
    assert (again.text, again.notes) == ("", ("the rules are already in force; the diff is empty",))
    other = by_arch(root, BY_CARD)
    file.write_text(other.patched)
    single = emit(root, RULES["recommended"])
    file.write_text(single.patched)
    assert host_gate.NAME not in single.patched
    assert by_arch(root).patched == emitted.patched
    file.write_text(emitted.patched)
    (tree,) = open_trees(root)
    apply(engine.revert(tree, "fused_ar_rmsnorm"), root, tools()[0])
    assert {f: f.read_text() for f in root.rglob("*.py")} == original


@pytest.mark.parametrize("rules", [BY_ARCH, BY_CARD], ids=["archs", "cards"])
def test_copies_of_the_rule_are_patched_alike_on_every_host(rules, tmp_path):
    root = SHAPES["vllm_copies"].package(tmp_path)
    (tree,) = open_trees(root)
    emitted = by_arch(root, rules)
    assert emitted.copies == emit(root, RULES["recommended"]).copies
    assert len(emitted.copies) == 2
    apply(emitted.text, root, tools()[0])
    assert emitted.patched.count(f"def {host_gate.NAME}(") == 1
    calls = [c for c in random_calls(150) if c[4]]
    for function in (emitted.function, *emitted.copies):
        for name, host in emitted.gated.hosts.items():
            wanted = rule_says(emitted.gated.at(host).rule, calls)
            assert says(emitted.patched, function, calls, host) == wanted, (function, name)
    words = " ".join(emitted.text.split())
    assert f"patched alike, per-group fp8: {emitted.copies[0]} (vllm/_aiter_ops.py:" in words
    assert f"held the same rule: {rules.kinds[0].name}: 1-stage" in words
    assert any("2 with a copy of it, patched alike" in note for note in emitted.notes)
    assert by_arch(root, rules).text == ""
    file = root / emitted.file
    one, mark, rest = emitted.patched.partition(f"def {emitted.copies[1]}")
    file.write_text(one + mark + rest.replace(f"{host_gate.NAME}().get(", "dict().get("))
    script = tmp_path / "test_rule.py"
    script.write_text(boundary_tests.of(emitted, COMMAND, tree.engine, tree))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert emitted.copies[1] in done.stdout
    assert f"{emitted.copies[0]}:" not in done.stdout
    file.write_text(emitted.patched)
    apply(engine.revert(tree, "fused_ar_rmsnorm"), root, tools()[0])
    assert by_arch(root, rules).patched == emitted.patched


@pytest.mark.parametrize("shape", ["sglang_bytes", "vllm_inline"])
def test_emitted_tests_hold_each_hosts_cases(shape, tmp_path):
    root = SHAPES[shape].package(tmp_path)
    emitted = by_arch(root, BY_CARD)
    (root / emitted.file).write_text(emitted.patched)
    text = boundary_tests.render(
        emitted.adapted, COMMAND, open_trees(root)[0].engine, emitted.file, emitted.function,
        str(root), emitted.patched, gated=emitted.gated,
    )  # fmt: skip
    script = tmp_path / "test_rule.py"
    script.write_text(text)

    def run():
        return subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)

    assert run().stdout.endswith("all as the rule\n")
    virtual = f'"{0x74BC}": {{2: 2**60, 4: 232 * 1024, 8: 136 * 1024}}'
    for old, new, host in [
        (virtual, virtual.replace("136", "137"), "MI308X 3"),
        ("if xgmi else None", "", "MI308X without xGMI"),
        ('"device_id"', '"gfx_target_version"', "MI300X"),
    ]:
        assert old in emitted.patched
        (root / emitted.file).write_text(emitted.patched.replace(old, new))
        done = run()
        assert done.returncode == 1
        assert re.search(rf"{host}: .*\bTP", done.stdout)


@pytest.fixture(scope="module", params=["sglang_bytes", "vllm_inline"], ids=["method", "module"])
def made(request, tmp_path_factory):
    root = SHAPES[request.param].package(tmp_path_factory.mktemp("site"))
    return {r: by_arch(root, r).patched for r in (BY_ARCH, BY_CARD)}


class TestTheFunctionItself:
    """The look at the host, run on folders as amdkfd shows them."""

    def here(self, made, rules, folder):
        text = made[rules].replace("/sys/class/kfd/kfd/topology/nodes", str(folder))
        lines = text.split("\n")
        first = next(i for i, line in enumerate(lines) if line.strip() == "_cutoff_bytes = None")
        last = next(i for i, line in enumerate(lines) if i > first and "return" in line.split()[:1])
        body = "\n".join(lines[first : last + 1])
        scope: dict = {}
        if lines[first].startswith(" "):
            exec(f"class C:\n{body}", scope)
            return scope["C"]._cutoff_bytes_here()
        exec(body, scope)
        return scope["_cutoff_bytes_here"]()

    def test_arch_and_links(self, made, tmp_path):
        x942 = with_ids(topology(tmp_path / "a", every_pair(8)), 0x74A1)
        x950 = with_ids(topology(tmp_path / "b", every_pair(8), version=90500), 0x75A3)
        pcie = with_ids(topology(tmp_path / "c", [], version=90500), 0x75A8)
        one_alone = with_ids(topology(tmp_path / "d", every_pair(7)), 0x74A1)
        other = with_ids(topology(tmp_path / "e", every_pair(8), version=90010), 0x74A1)
        mixed = with_ids(topology(tmp_path / "f", every_pair(8)), 0x74A1)
        file = mixed / "3" / "properties"
        file.write_text(file.read_text().replace("90402", "90500"))
        assert self.here(made, BY_ARCH, x942)[8] == 136 * KIB
        assert self.here(made, BY_ARCH, x950) == {2: 2**60, 4: 448 * KIB, 8: 224 * KIB}
        no_ids = topology(tmp_path / "g", every_pair(8))
        for none in (pcie, one_alone, other, mixed, no_ids, tmp_path / "nowhere"):
            assert self.here(made, BY_ARCH, none) == {}

    def test_cards(self, made, tmp_path):
        for card in cards.cards().values():
            folder = tmp_path / hex(card.device_id)
            links = every_pair(8) if card.interconnect == "xgmi" else []
            version = int(target_version(card.arch))
            with_ids(topology(folder, links, version=version), card.device_id)
            found = self.here(made, BY_CARD, folder).get(8)
            assert found == {"MI308X": 136 * KIB, "MI300X": 224 * KIB}.get(card.gpu)
            of_arch = {"gfx942": 136 * KIB, "gfx950": 224 * KIB}[card.arch]
            asked = card.gpu in GPUS[card.arch]
            assert self.here(made, BY_ARCH, folder).get(8) == (of_arch if asked else None)
        unlisted = with_ids(topology(tmp_path / "u", every_pair(8)), 0x74B7)
        assert self.here(made, BY_CARD, unlisted) == self.here(made, BY_ARCH, unlisted) == {}

    def test_gpus_of_another_container_cannot_be_read_and_count_for_nothing(self, made, tmp_path):
        here = with_ids(topology(tmp_path / "part", every_pair(8)), 0x74A1)
        for node in (5, 6, 7, 8):
            (here / str(node) / "properties").unlink()
            (here / str(node) / "properties").mkdir()
        assert self.here(made, BY_ARCH, here)[8] == 136 * KIB


def test_settings_replace_the_rule_of_every_host(tmp_path):
    root = SHAPES["aiter_env_kb"].package(tmp_path)
    emitted = by_arch(root)
    for host in emitted.gated.hosts.values():
        decide = decider(
            emitted.patched,
            emitted.function,
            {"AITER_AR_1STAGE_MAX_KB": "65536"},
            None,
            shown(host),
        )
        assert [decide(8, "bf16", 4096, n * 4096) for n in (8, 9)] == [True, False]


def test_the_description_says_where_it_holds_and_what_stays(tmp_path):
    text = by_arch(SHAPES["sglang_bytes"].package(tmp_path)).text
    words = " ".join(text.split())
    assert "GPUs over PCIe (MI350P is gfx950)" in words
    assert "elsewhere: 1-stage when bytes <= 128 KiB" in text
    assert text.count("to check on your machine, gfx9") == 2
    assert text.count("Reproduce: ") == 2


def test_the_audit_states_each_rule_and_compares_that_of_the_gpu(tmp_path):
    root = SHAPES["vllm_method"].package(tmp_path)
    emitted = by_arch(root)
    (root / emitted.file).write_text(emitted.patched)
    (tree,) = open_trees(root)
    plain = audit(tree)
    (fused,) = (one for one in plain.installed if one.rule.op == "fused_ar_rmsnorm")
    assert {n: r.cutoff_bytes(8) for n, r in fused.by_gpu.items()} == {
        "gfx942": ("<=", 136 * KIB),
        "gfx950": ("<=", 224 * KIB),
    }
    assert fused.known_as == "vllm-16bit"
    decision = recommend(Setting.shipped("MI355X"))
    assert audit(tree, decision=decision).rule.cutoff_bytes(8) == ("<=", 224 * KIB)
    record = plain.to_dict((), "bf16", None)["rules"][0]
    assert [one["gpu"] for one in record["by_gpu"]] == ["gfx942", "gfx950"]


@pytest.mark.parametrize("shape", ["sglang_bytes", "vllm_inline", "aiter_limit", "aiter_env_kb"])
@pytest.mark.parametrize("version", ["0.1.11", "0.1.20"])
def test_a_rule_may_never_run_1stage_and_the_kernels_guard_holds_elsewhere(
    shape, version, tmp_path
):
    root = SHAPES[shape].package(tmp_path)
    never = ByWorldSize(((2, Always()), (4, Compare("bytes", "<=", 65536)), (8, Always(False))))
    low, high = (replace(LOW, condition=c) for c in (never, by_world_size({
        2: Always(), 4: Compare("bytes", "<=", 131072), 8: Always(False)
    })))  # fmt: skip
    meant = asked_for(version)
    rules = ByArch(((Kind("gfx942"), low), (Kind("gfx950"), high)))
    told = dict.fromkeys(rules.kinds, COMMAND)
    (tree,) = open_trees(root)
    emitted = patch_by_arch.patch(tree, rules, told, meant.kernel, running=meant)
    meshed = "full mesh" in emitted.adapted.rule.words()
    calls = [c for c in random_calls(150) if c[4] or meshed]
    for host in (Kind("gfx942").hosts[0], Kind("gfx950").hosts[0], None):
        rule = emitted.gated.at(host or Host("0")).rule
        assert says(emitted.patched, emitted.function, calls, host) == rule_says(rule, calls)
    capped = [c for c in calls if c[0] == 8 and c[3] > 80 * c[2]]
    if version == "0.1.11":
        assert not any(says(emitted.patched, emitted.function, capped, None))


def test_two_trees_that_differ_on_one_arch_alone_are_told_apart(tmp_path):
    trees = []
    for name, high in (("old", HIGH), ("new", RULES["recommended"]), ("other", LOW)):
        root = SHAPES["sglang_bytes"].package(tmp_path / name)
        emitted = by_arch(root, ByArch(((Kind("gfx942"), LOW), (Kind("gfx950"), high))))
        (root / emitted.file).write_text(emitted.patched)
        trees += open_trees(root)
    shifts = [
        {shift.op: shift for shift in rule_changes(trees[0], tree)}["fused_ar_rmsnorm"]
        for tree in trees[1:]
    ]
    assert [shift.changed for shift in shifts] == [False, True]
    assert shifts[1].where.startswith("gfx950, TP4")


class TestRefused:
    def test_rules_that_ask_different_things_besides_bytes(self, tmp_path):
        rules = ByArch(((Kind("gfx942"), LOW.only_for({4096})), (Kind("gfx950"), HIGH)))
        with pytest.raises(InputError, match="different things besides bytes"):
            by_arch(SHAPES["sglang_bytes"].package(tmp_path), rules)

    def test_one_kind_twice_and_archs_beside_cards(self):
        with pytest.raises(InputError, match="gfx942 twice"):
            ByArch(((Kind("gfx942"), LOW), (Kind("gfx942"), HIGH)))
        with pytest.raises(InputError, match="archs or GPUs"):
            ByArch(((Kind("gfx942"), LOW), (Kind("gfx950", "MI355X"), HIGH)))

    def test_a_function_of_that_name_that_is_none_of_ours(self, tmp_path):
        root = SHAPES["aiter_limit"].package(tmp_path)
        file = root / "aiter" / AITER
        file.write_text(f"{file.read_text()}\n\ndef {host_gate.NAME}():\n    return {{}}\n")
        with pytest.raises(InputError, match=f"a file without a {host_gate.NAME}"):
            by_arch(root)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--arch", "gfx942,gfx950"], "give --source"),
            (["--arch", "gfx942,gfx942", "--source", "."], "twice"),
            (["--arch", "gfx942,mi355x", "--source", "."], "give --gpu a list"),
            (["--arch", "gfx942,gfx9", "--source", "."], "unknown arch 'gfx9'"),
            (["--gpu", "MI300X,MI350P", "--source", "."], "MI350P is gfx950 over PCIe"),
            (
                ["--gpu", "MI300X,MI308X", "--arch", "gfx942", "--source", "."],
                "leave the other out",
            ),
            (["--arch", "gfx942,gfx950", "--rule", "vllm", "--source", "."], "one for every GPU"),
        ],
    )
    def test_on_the_command_line(self, options, said, capsys):
        assert run("emit", "--for", "sglang", *options) == 2
        assert said in capsys.readouterr().err


def test_emit_writes_one_patch_that_the_emitted_tests_pass(tmp_path, capsys):
    root = SHAPES["sglang_bytes"].package(tmp_path / "site")
    patch, tests = tmp_path / "both.patch", tmp_path / "test_rule.py"
    command = ["emit", "--for", "sglang", "--arch", "gfx942,gfx950", "--source", str(root)]
    assert run(*[*command, "--out", str(patch), "--tests", str(tests)]) == 0
    told = capsys.readouterr().err
    # The answer first, in few words; the patch has them all.
    assert told.startswith("costmodel: note: gfx942: 1-stage when TP2 always, TP4 bytes <= ")
    assert len(told.split()) < 130
    words = " ".join(patch.read_text().split())
    assert "gfx942's rule is calibrated for MI300X: on MI325X (gfx942) it loses, against" in words
    assert "cutoffs for gfx942 and gfx950 hold on hosts whose GPUs are all of that kind" in words
    apply(patch.read_text(), root, tools()[0])
    done = subprocess.run([sys.executable, tests], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("all as the rule\n"), done.stdout + done.stderr
    assert run(*command) == 0
    assert "already in force" in capsys.readouterr().err


@pytest.fixture(scope="module")
def asked():
    """A question on MI300X, and what is recommended for MI355X."""
    setting, load = Setting.shipped("MI300X", engine="sglang"), Deployment().workload([7168])
    there = setting.but(calibration=shipped("gfx950"), gpu="MI355X")
    return setting, load, recommend(there, load, world_sizes=(4, 8)).unguarded_rule


class TestWithoutAGate:
    """What the rule for one GPU loses where the engine runs it too."""

    def test_a_rule_that_is_recommended_there_loses_nothing(self, asked):
        setting, load, best = asked
        (found,) = elsewhere.elsewhere(best, setting, ["MI355X"], load, (4, 8))
        assert (found.loses_pct, found.worst_pct) == ({}, 0)
        assert found.words() == "on MI355X (gfx950) it decides as the rule recommended there"

    def test_a_rule_far_from_it_loses_where_it_decides_otherwise(self, asked):
        setting, load, best = asked
        far = Rule.from_cutoffs("far", {4: best.cutoff_bytes(4)[1], 8: 4 << 20})
        (found,) = elsewhere.elsewhere(far, setting, ["MI355X"], load, (4, 8))
        assert set(found.loses_pct) == {8}
        assert found.loses_pct[8].lo > 1
        assert 0 < found.differ[8] < 1
        # A mean: single calls lose more, so "up to" alone would be untrue.
        assert "% of latency at TP8 (mean over the calls, 90 %" in found.words()
        assert found.brief().endswith("% on average (TP8)")
        assert "TP4" not in found.words()

    def test_world_sizes_without_a_claim_are_left_out(self, asked):
        setting, load, _ = asked
        far = Rule.from_cutoffs("far", {8: 4 << 20})
        (found,) = elsewhere.elsewhere(far, setting, ["MI355X"], load, (2, 4))
        assert found.loses_pct == {}

    def test_the_patch_says_it_and_offers_the_gate(self, tmp_path, capsys):
        root = SHAPES["sglang_bytes"].package(tmp_path)
        patch = tmp_path / "one.patch"
        options = ["--arch", "gfx942", "--tp", "8", "--source", str(root), "--out", str(patch)]
        assert run("emit", "--for", "sglang", *options) == 0
        told, text = capsys.readouterr().err, " ".join(patch.read_text().split())
        assert "nothing gates it: on MI355X (gfx950) it loses up to" in told
        assert "nothing gates it: on MI355X (gfx950) it loses, against" in text
        for said in (told, text):
            assert "--arch gfx942,gfx950 writes a rule for each arch" in said

    def test_other_archs_and_other_cards(self):
        assert elsewhere.other_archs("gfx942") == ("MI355X",)
        assert elsewhere.other_cards("MI300X", "gfx942") == ("MI308X", "MI325X")


class TestWorldSizesOfEach:
    """``--tp NAME:SIZES`` and ``--gate``: each GPU changes where it is told to, others nowhere."""

    @pytest.fixture
    def decided(self, tmp_path):
        """Emit with these words, apply, and return what the function decides on a GPU's hosts."""
        root = SHAPES["sglang_bytes"].package(tmp_path)
        patch = tmp_path / "a.patch"

        def on(*words):
            asked = ["--source", str(root), "--out", str(patch), "--hidden", "2880", *words]
            assert run("emit", "--for", "sglang", *asked) == 0
            emitted = by_arch(root)
            apply(patch.read_text(), root, tools()[0])
            text = (root / emitted.file).read_text()
            return lambda gpu, arch, calls: says(text, emitted.function, calls, host_of(gpu, arch))

        return on

    @pytest.mark.parametrize("words", [
        ["--gpu", "MI300X,mi355x", "--tp", "mi300x:2", "--tp", "MI355X:2,4"],
        ["--arch", "gfx950", "--tp", "2,4", "--gate"],
    ], ids=["list", "gate"])  # fmt: skip
    def test_each_gpu_changes_where_it_is_told_to(self, words, decided):
        on, calls = decided(*words), random_calls(200)
        setting = Setting.shipped("MI355X")
        rule = recommend(setting, Workload.of([2880]), world_sizes=(2, 4)).unguarded_rule
        old = current("sglang", FUSED)
        there = [rule if c[0] in (2, 4) else old for c in calls]
        wanted = [rule_says(r, [c])[0] for r, c in zip(there, calls, strict=True)]
        assert on("MI355X", "gfx950", calls) == wanted
        gated = "--gate" in words
        elsewhere = [True if c[0] == 2 and not gated else rule_says(old, [c])[0] for c in calls]
        assert on("MI300X", "gfx942", calls) == elsewhere
        assert elsewhere != wanted

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--gpu", "MI300X,MI355X", "--tp", "MI308X:2"], "not among MI300X, MI355X"),
            (["--gpu", "MI300X,MI355X", "--tp", "MI3000:2"], "unknown"),
            (["--gpu", "MI300X,MI355X", "--tp", "2", "--tp", "4"], "--tp twice for all"),
            (["--gpu", "MI300X,MI355X", "--tp", "MI300X:3"], "--tp takes 2, 4 or 8"),
            (["--gpu", "MI355X", "--tp", "MI355X:2"], "goes with a list of GPUs"),
            (["--gate"], "--gate needs --arch or --gpu"),
        ],
    )
    def test_refused_in_a_line(self, words, said, capsys):
        assert run("emit", "--for", "table", *words) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert said in line


def test_recommend_answers_for_each_of_a_list(capsys):
    options = ["--gpu", "mi300x,MI308X", "--tp", "8", "--hidden", "7168"]
    assert run("recommend", *options) == 0
    said = capsys.readouterr().out
    first = [line for line in said.splitlines() if line.startswith("run 1-stage")]
    assert [line.partition("(")[2].partition(",")[0] for line in first] == ["MI300X", "MI308X"]
    assert run("recommend", *options, "--format", "json") == 0
    both = json.loads(capsys.readouterr().out)["recommendations"]
    assert [one["gpu"] for one in both] == ["MI300X", "MI308X"]


@pytest.mark.parametrize(
    "words",
    [
        ("recommend", "--gpu", "MI350P"),
        ("recommend", "--arch", "gfx950", "--gpu", "mi350p"),
        ("predict", "--gpu", "MI350P", "--tp", "8", "--hidden", "7168", "--tokens", "8"),
        ("explain", "--gpu", "MI350P", "--tp", "8", "--hidden", "7168", "--tokens", "8"),
        ("simulate", "--gpu", "MI350P", "--ranks", "8", "--tokens", "8", "--hidden", "7168"),
        ("worth", "--gpu", "MI350P", "--model", "gpt-oss-120b", "--tp", "8", "--from", "sglang"),
        ("validate", "--gpu", "MI350P", "--published"),
        ("plan", "--gpu", "MI350P", "--shapes", "4", "--out", "never.json"),
        ("emit", "--for", "sglang", "--gpu", "MI350P"),
    ],
    ids=lambda words: words[0],
)
def test_nothing_is_claimed_of_mi350p(words, capsys):
    assert run(*words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert "MI350P is gfx950 over PCIe, without xGMI" in told.err


class TestWithoutASource:
    """What is written of several rules where no tree is changed."""

    def test_json_holds_each_rule_as_one_gpu_alone_has_it(self, capsys):
        assert run("emit", "--for", "json", "--gpu", "MI300X,MI308X") == 0
        both = json.loads(capsys.readouterr().out)
        assert both["schema"] == "costmodel/rules-by-gpu/1"
        assert [(one["arch"], one["gpu"]) for one in both["rules"]] == [
            ("gfx942", "MI300X"),
            ("gfx942", "MI308X"),
        ]
        for one in both["rules"]:
            assert run("emit", "--for", "json", "--gpu", one["gpu"]) == 0
            alone = json.loads(capsys.readouterr().out)
            assert alone["condition"] == one["rule"]["condition"]
            assert one["rule"]["provenance"]["gpu"] == one["gpu"]

    def test_json_of_archs_says_which_cards_they_are(self, tmp_path, capsys):
        file = tmp_path / "rules.json"
        assert run("emit", "--for", "json", "--arch", "gfx942,gfx950", "--out", str(file)) == 0
        products = [one["products"] for one in json.loads(file.read_text())["rules"]]
        assert products == [["MI300X", "MI308X", "MI325X"], ["MI355X", "MI350X"]]
        assert run("emit", "--for", "sglang", "--rule", str(file)) == 2
        assert "writes it for one GPU" in capsys.readouterr().err

    def test_the_script_exports_the_rule_of_the_gpu_that_is_named(self, tmp_path, capsys):
        file = tmp_path / "env.sh"
        assert run("emit", "--for", "env", "--arch", "gfx942,gfx950", "--out", str(file)) == 0
        for arch in ("gfx942", "gfx950"):
            assert run("emit", "--for", "env", "--arch", arch, "--out", str(tmp_path / arch)) == 0
            for tp in ("2", "4", "8"):
                alone = exported(tmp_path / arch, TP=tp)
                assert exported(file, GPU=arch, TP=tp) == alone
                assert len(alone[0]) == 1
        nothing = ({}, "no rule for GPU=gfx940 at TP=4: AITER's own stays\n")
        assert exported(file, GPU="gfx940", TP="4", AITER_AR_1STAGE="1") == nothing
        assert "set GPU to gfx942 or gfx950" in exported(file, TP="4")[1]


def exported(script, **given):
    """Return the variables that a script leaves set, and what it says."""
    command = f". {script}; env"
    done = subprocess.run(
        ["sh", "-c", command], env=given, capture_output=True, text=True, check=False
    )
    pairs = dict(line.split("=", 1) for line in done.stdout.splitlines())
    return {name: value for name, value in pairs.items() if "AITER" in name}, done.stderr
