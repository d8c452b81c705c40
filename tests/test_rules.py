"""Rules as data: the catalogue against the published facts, and the algebra of conditions."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.data import kernels as kernel
from costmodel.errors import InputError
from costmodel.model.eligibility import eligible
from costmodel.model.shape import ONE_STAGE, WORLD_SIZES, Shapes
from costmodel.rules import catalogue
from costmodel.rules.adapt import adapt, kernel_limits, left_to_kernel, validity
from costmodel.rules.algebra import (
    AnyOf,
    Bytes,
    all_of,
    any_of,
    by_world_size,
    factors,
    from_json,
    with_version,
)
from costmodel.rules.boundary import cases, first_difference, hidden_classes
from costmodel.rules.catalogue import ALWAYS_1STAGE, ALWAYS_2STAGE
from costmodel.rules.condition import (
    Always,
    Calls,
    Compare,
    Member,
    MultipleOf,
    OnFullMesh,
    WholePacks,
    WholeParts,
    exact_size,
)
from costmodel.rules.evidence import CutoffEvidence, Provenance
from costmodel.rules.rule import Rule
from costmodel.rules.schemas import ConditionRecord
from costmodel.units import KIB, kib

#: Cutoffs as the engines state them: comparison, KiB at 2, 4 and 8 ranks (None: always).
PUBLISHED = {
    "sglang-first": ("<=", 128, 128, 128),
    "sglang-gpt-oss": ("<=", 128, 128, 128),
    "sglang-128k": ("<=", 128, 128, 128),
    "sglang-fp8": ("<=", 128, 128, 128),
    "vllm-first": ("<", None, 256, 128),
    "vllm-16bit": ("<", None, 256, 128),
    "vllm-gemma": ("<", None, 256, 128),
    "vllm-fp8": ("<", None, 256, 128),
    "vllm-57886": ("<", None, 320, 192),
    "aiter-128k": ("<=", 128, 128, 128),
    "aiter-3458": ("<=", 64, 128, 256),
    "aiter-per-rank": ("<=", 896, 448, 224),
    "aiter-fp8": ("<=", 128, 128, 128),
    "aiter-fp8-per-token": ("<=", 128, 128, 128),
    "aiter-plain": ("<", None, 160, 80),
    "aiter-plain-old": ("<", None, 512, 256),
    "vllm-39080": ("<", 64, 64, 64),
    "flydsl-plain": ("<", None, 160, 80),
    "aiter-mhc": ("<=", None, 512, 512),
    "flashinfer-b200": ("<=", 131072, 8192, 2688),
    "vllm-flashinfer-sm90": ("<=", 32768, 2048, 512),
    "vllm-flashinfer-sm100": ("<=", 32768, 4096, 1024),
    "torch-intra-node": ("<=", 256, 256, 256),
}


def decide(rule, tokens, hidden, n, dtype="bf16", **how):
    return bool(rule.use_1stage(Shapes.of(tokens, hidden, n, dtype=dtype), **how).all())


class TestCatalogue:
    def test_has_every_rule_of_the_field_with_a_source(self):
        names = {r.name for r in catalogue.catalogue()}
        assert names == {*PUBLISHED, "aiter-mxfp4"}
        assert all(r.source.startswith("https://") and r.title for r in catalogue.catalogue())

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_cutoffs_are_the_published_ones(self, name):
        op, *kib = PUBLISHED[name]
        rule = catalogue.named(name)
        for n, size in zip(WORLD_SIZES, kib, strict=True):
            assert rule.cutoff_bytes(n) == (None if size is None else (op, size * KIB))

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_the_cutoff_itself_is_taken_exactly_when_inclusive(self, name):
        op, *kib = PUBLISHED[name]
        rule = catalogue.named(name)
        for n, size in zip(WORLD_SIZES, kib, strict=True):
            if size is None:
                continue
            # Hidden 512 bf16 is 1 KiB a token; token caps and exceptions must not interfere.
            hidden = 4096 if name.startswith("vllm-") and name != "vllm-39080" else 512
            at = size * KIB // (2 * hidden)
            how = {"kernel_version": "0.1.16"}
            assert decide(rule, at, hidden, n, **how) == (op == "<=")
            assert decide(rule, at - 1, hidden, n, **how)
            assert not decide(rule, at + 1, hidden, n, **how)

    @pytest.mark.parametrize(
        ("name", "tokens"),
        [
            ("sglang", (9, 9, 9)),
            ("vllm", (80, 18, 9)),
            ("vllm-57886", (80, 22, 13)),
            ("aiter", (64, 32, 16)),
        ],
    )
    def test_tokens_at_hidden_7168(self, name, tokens):
        assert tuple(catalogue.named(name).max_tokens(7168, n) for n in WORLD_SIZES) == tokens

    def test_hidden_sets_and_dtype(self):
        assert not decide(catalogue.named("sglang-first"), 1, 2880, 8)
        assert decide(catalogue.named("sglang-gpt-oss"), 1, 2880, 8)
        assert decide(catalogue.named("sglang"), 1, 5120, 8)
        assert decide(catalogue.named("vllm-first"), 1, 7168, 2, dtype="fp32")
        assert not decide(catalogue.named("vllm"), 1, 7168, 2, dtype="fp32")
        assert not decide(catalogue.named("vllm"), 1, 2884, 2), "2884 is no whole number of packs"
        assert not decide(catalogue.named("vllm"), 1, 8200, 2), "1025 packs"
        assert decide(catalogue.named("vllm"), 80, 512, 2)
        assert not decide(catalogue.named("vllm"), 81, 512, 2)

    def test_full_mesh_counts_above_two_ranks(self):
        vllm = catalogue.named("vllm")
        assert decide(vllm, 8, 4096, 2, fully_connected=False)
        assert not decide(vllm, 8, 4096, 4, fully_connected=False)

    @pytest.mark.parametrize(
        ("tokens", "hidden", "n", "one"),
        [
            (7, 7168, 8, True),
            (8, 7168, 8, False),
            (8, 7168, 4, True),
            (8, 4096, 8, True),
            (8, 4104, 8, False),
            (8, 7176, 8, True),
        ],
    )
    def test_the_per_group_fp8_exception(self, tokens, hidden, n, one):
        assert decide(catalogue.named("sglang-fp8"), tokens, hidden, n) == one

    @pytest.mark.parametrize(
        ("tokens", "hidden", "n", "one"),
        [
            (4, 16384, 4, True),
            (5, 16384, 4, False),
            (32, 4096, 4, True),
            (33, 4096, 4, False),
            (16, 6144, 4, True),
            (17, 6144, 4, False),
            (8, 8192, 8, True),
            (9, 8192, 8, False),
            (16, 6144, 8, False),
            (15, 6144, 8, True),
        ],
    )
    def test_mxfp4_goes_by_tokens_and_hidden(self, tokens, hidden, n, one):
        assert decide(catalogue.named("aiter-mxfp4"), tokens, hidden, n) == one

    def test_a_rule_that_depends_on_the_kernel_version_asks_for_it(self):
        rule = catalogue.named("aiter-128k")
        assert decide(rule, 1, 2880, 8, kernel_version="0.1.12")
        assert not decide(rule, 1, 2880, 8, kernel_version="0.1.10.post3")
        with pytest.raises(InputError, match="depends on the AITER version"):
            decide(rule, 1, 2880, 8)

    def test_names(self):
        assert catalogue.named("SGLang").name == "sglang-128k"
        assert catalogue.named("sglang", op="fused_ar_rmsnorm_quant_fp8").name == "sglang-fp8"
        assert catalogue.named("always-1stage") is ALWAYS_1STAGE
        with pytest.raises(
            InputError, match=r"unknown rule 'vllm-57868' \(did you mean vllm-57886"
        ):
            catalogue.named("vllm-57868")
        with pytest.raises(InputError, match="sglang has no current rule for op 'all_reduce'"):
            catalogue.named("sglang", op="all_reduce")

    def test_shipped_leaves_out_proposals_and_other_fabrics(self):
        names = {r.name for r in catalogue.shipped("fused_ar_rmsnorm")}
        assert names == {
            "sglang-first", "sglang-gpt-oss", "sglang-128k", "vllm-first", "vllm-16bit",
            "aiter-128k", "aiter-3458", "aiter-per-rank",
        }  # fmt: skip
        assert {"aiter-plain", "sglang-fp8"} <= {r.name for r in catalogue.shipped()}


class TestRule:
    def test_from_cutoffs(self):
        rule = Rule.from_cutoffs("mine", {2: None, 4: 458752, 8: 229376})
        assert rule.words() == "1-stage when TP2 always, TP4 bytes <= 448 KiB, TP8 bytes <= 224 KiB"
        assert rule.max_tokens(7168, 2) is None
        assert rule.max_tokens(7168, 4) == 32
        assert rule.max_tokens(7168, 8) == 16
        strict = Rule.from_cutoffs("mine", {4: 458752}, inclusive=False, hidden_dims={7168})
        assert strict.max_tokens(7168, 4) == 31
        assert strict.max_tokens(4096, 4) == 0
        with pytest.raises(InputError, match="no cutoff for any world size"):
            Rule.from_cutoffs("mine", {})
        with pytest.raises(InputError, match="know 2, 4 and 8"):
            Rule.from_cutoffs("mine", {6: 1})

    def test_no_claim_is_said_and_can_be_completed(self):
        rule = Rule.from_cutoffs("mine", {4: 458752})
        with pytest.raises(InputError, match=r"makes no claim for TP8 \(it has: TP4\)"):
            rule.use_1stage(Shapes.of(1, 4096, [4, 8]))
        whole = rule.completed_by(catalogue.named("vllm"))
        assert [whole.max_tokens(7168, n) for n in WORLD_SIZES] == [80, 32, 9]

    def test_switches_tell_every_step(self):
        assert catalogue.named("sglang-fp8").switches(7168, 8) == [(1, True), (8, False)]
        assert catalogue.named("always-2stage").switches(7168, 8) == [(1, False)]
        both = Rule("window", any_of(Compare("tokens", "<", 3), Compare("tokens", "==", 5)))
        assert both.switches(64, 2) == [(1, True), (3, False), (5, True), (6, False)]

    def test_only_a_limit_that_every_1stage_call_obeys_is_a_cutoff(self):
        limit, cap = Compare("bytes", "<=", 64 * KIB), Compare("tokens", "<=", 4)
        both, either = Rule("both", all_of(cap, limit)), Rule("either", any_of(cap, limit))
        assert both.cutoff_bytes(4) == ("<=", 64 * KIB)
        assert either.cutoff_bytes(4) is None
        assert either.sizes(4) == "by tokens and hidden"

    def test_baselines(self):
        shapes = Shapes.of([[1], [4096]], 8192, [2, 8])
        assert ALWAYS_1STAGE.use_1stage(shapes).all()
        assert not ALWAYS_2STAGE.use_1stage(shapes).any()
        assert ALWAYS_2STAGE.use_1stage(shapes).shape == (2, 2)

    @pytest.mark.parametrize("rule", catalogue.catalogue(), ids=lambda r: r.name)
    def test_json_round_trip(self, rule, tmp_path):
        file = tmp_path / "rule.json"
        file.write_text(json.dumps(rule.to_json()))
        assert catalogue.load(file) == rule

    def test_what_runs_otherwise_is_kept_where_it_is_not_2stage(self, tmp_path):
        rule = Rule("mine", Always(False), otherwise="separate")
        file = tmp_path / "rule.json"
        file.write_text(json.dumps(rule.to_json()))
        assert catalogue.load(file) == rule
        assert rule.to_json()["otherwise"] == "separate"
        assert rule.words() == "separate ops always"
        assert "otherwise" not in ALWAYS_2STAGE.to_json()
        apart = [r.name for r in catalogue.catalogue() if r.otherwise != "2stage"]
        assert apart == ["vllm-gemma"]
        assert catalogue.named("vllm-gemma").condition == catalogue.current("vllm").condition
        assert catalogue.current("vllm").otherwise == "2stage"
        assert "else separate ops" in catalogue.named("vllm-gemma").words()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "not JSON"),
            (
                '{"schema": "costmodel/rule/1", "name": "x", "otherwise": "seperate",'
                ' "condition": {"always": true}}',
                "unknown arm 'seperate' where the rule does not run 1-stage.*did you mean separate",
            ),
            ("[]", "expected `object`, got `array`"),
            ('{"schema": "costmodel/rule/9"}', "schema is 'costmodel/rule/9'"),
            ('{"schema": "costmodel/rule/1", "name": "x"}', "missing required field `condition`"),
            (
                '{"schema": "costmodel/rule/1", "name": "x", "condition": {"byts": ["<", 1]}}',
                "condition: object contains unknown field `byts`",
            ),
            (
                '{"schema": "costmodel/rule/1", "name": "x", "condition": {"tokens": ["=<", 1]}}',
                "unknown comparison '=<'",
            ),
            (
                '{"schema": "costmodel/rule/1", "name": "x", "condition": {"tokens": ["<", "1"]}}',
                r"condition.tokens\[1\]: expected `int`, got `str`",
            ),
            (
                '{"schema": "costmodel/rule/1", "name": "x", "condition": {}}',
                "a condition has exactly one key, this one has none",
            ),
            (
                '{"schema": "costmodel/rule/1", "name": "x",'
                ' "condition": {"always": true, "full_mesh": true}}',
                "exactly one key, this one has always, full_mesh",
            ),
            (
                '{"schema": "costmodel/rule/1", "name": "x", "condition": {"hidden_dim": ["<", [1]]}}',
                "hidden_dim: 'in' and 'not in' go with a list",
            ),
            (
                '{"schema": "costmodel/rule/1", "name": "x", "status": "curent",'
                ' "condition": {"always": true}}',
                "did you mean current",
            ),
        ],
    )
    def test_bad_files_are_named(self, text, message, tmp_path):
        file = tmp_path / "rule.json"
        file.write_text(text)
        with pytest.raises(InputError, match=message) as caught:
            catalogue.load(file)
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(InputError, match="No such file"):
            catalogue.load(tmp_path / "none.json")

    @pytest.mark.parametrize(
        "version", ["0.1.7", "0.1.10", "0.1.10.post3", "0.1.12", "0.1.16", kernel.LATEST]
    )
    def test_validity_is_what_the_kernel_takes(self, version):
        found = kernel.aiter(version)
        tokens, hidden = np.meshgrid([1, 80, 81, 500], [512, 2880, 2884, 4096, 8192, 8200, 16384])
        shapes = Shapes.of(tokens.ravel(), hidden.ravel(), 8)
        rule = Rule("validity", validity(found))
        assert (rule.use_1stage(shapes) == eligible(shapes, ONE_STAGE, found)[0]).all()

    @pytest.mark.parametrize(
        ("version", "limits"),
        [
            ("0.1.10", Always(False)),
            (
                "0.1.10.post2",
                all_of(Member("hidden_dim", (512, 1024, 2048, 4096)), Compare("tokens", "<=", 80)),
            ),
            ("0.1.16", Compare("tokens", "<=", 80)),
            (kernel.LATEST, Always()),
        ],
    )
    def test_what_no_engine_checks_for_old_kernels(self, version, limits):
        assert kernel_limits(kernel.aiter(version)) == limits


class TestKernelFactsAndRulesAgree:
    """kernels.csv says what kernels take and choose by themselves, rules.json what engines do."""

    @pytest.mark.parametrize(
        ("rule", "family"),
        [("aiter-plain", "aiter"), ("aiter-plain", "costmodel"), ("aiter-plain-old", "vllm")],
    )
    def test_the_plain_cutoffs(self, rule, family):
        found = catalogue.named(rule)
        limits = dict(kernel.at_date(family, "2026-09-01").plain_1stage_below_bytes)
        assert {n: found.cutoff_bytes(n) for n in WORLD_SIZES} == {
            2: None, 4: ("<", limits[4]), 8: ("<", limits[8]),
        }  # fmt: skip

    def test_packs_and_tokens(self):
        takes = factors(validity(kernel.aiter()))
        assert Compare("packs", "<=", kernel.aiter().fused_1stage_max_packs) in takes
        for name in ("aiter", "vllm", "vllm-57886"):
            asked = [
                f
                for f in factors(catalogue.named(name).condition)
                if isinstance(f, WholePacks) or getattr(f, "quantity", "") == "packs"
            ]
            assert asked, name
            assert set(asked) <= set(takes), name
        cap = Compare("tokens", "<=", kernel.aiter("0.1.16").fused_1stage_max_tokens)
        for name in ("vllm-first", "vllm", "vllm-57886"):
            assert cap in factors(catalogue.named(name).condition), name

    def test_aiters_hidden_set_is_that_of_its_first_kernels(self):
        first = with_version(catalogue.named("aiter-128k").condition, "0.1.10.post3")
        hidden = kernel.aiter("0.1.10.post3").fused_1stage_hidden_dims
        assert Member("hidden_dim", hidden) in factors(first)
        assert not kernel.aiter("0.1.12").fused_1stage_hidden_dims
        assert Member("hidden_dim", hidden) in factors(catalogue.named("sglang-first").condition)


# Random conditions, and calls on both sides of what they may ask.

leaves = st.one_of(
    st.builds(
        Compare,
        st.sampled_from(["tokens", "hidden_dim", "bytes", "packs", "elements", "row_bytes"]),
        st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
        st.sampled_from([1, 8, 64, 512, 1024, 4096, 65536]),
    ),
    st.builds(Member, st.just("hidden_dim"), st.just((64, 512)), st.booleans()),
    st.builds(Member, st.just("world_size"), st.sampled_from([(2,), (4, 8)]), st.booleans()),
    st.builds(Member, st.just("dtype"), st.just(("bf16", "fp16")), st.booleans()),
    st.builds(WholePacks, st.booleans()),
    st.builds(WholeParts, st.booleans()),
    st.builds(
        MultipleOf, st.sampled_from(["bytes", "packs"]), st.sampled_from([1, 4, 16]), st.booleans()
    ),
    st.builds(OnFullMesh, st.booleans()),
    st.builds(Always, st.booleans()),
    st.builds(
        lambda op, a, b: Bytes.of({2: None, 4: a, 8: b}, op),
        st.sampled_from(["<", "<="]),
        st.sampled_from([0, 1024, 65536]),
        st.sampled_from([512, 4096]),
    ),
)
conditions = st.recursive(
    leaves,
    lambda inner: st.lists(inner, min_size=1, max_size=3).flatmap(
        lambda parts: st.sampled_from([all_of(*parts), any_of(*parts)])
    ),
    max_leaves=6,
)


def calls(dtype="bf16", mesh=True):
    tokens, hidden, n = (
        a.ravel() for a in np.meshgrid([1, 2, 8, 9, 64, 65], [8, 12, 64, 512, 4096], WORLD_SIZES)
    )
    return Calls.of(Shapes.of(tokens, hidden, n, dtype=dtype), fully_connected=mesh)


class TestAlgebra:
    @given(conditions, st.sampled_from(["bf16", "fp32"]), st.booleans())
    def test_negation_json_and_world_sizes_keep_the_meaning(self, condition, dtype, mesh):
        here = calls(dtype, mesh)
        holds = condition.holds(here)
        assert holds.shape == here.tokens.shape
        assert (condition.negated().holds(here) == ~holds).all()
        record = msgspec.json.decode(json.dumps(condition.to_json()), type=ConditionRecord)
        assert (from_json(record).holds(here) == holds).all()
        rejoined = by_world_size({n: condition.at(n) for n in WORLD_SIZES})
        assert (rejoined.holds(here) == holds).all()
        assert isinstance(condition.words(), str)

    @given(conditions, conditions)
    def test_joining_is_and_and_or(self, one, other):
        here = calls()
        a, b = one.holds(here), other.holds(here)
        assert (all_of(one, other).holds(here) == (a & b)).all()
        assert (any_of(one, other).holds(here) == (a | b)).all()

    @given(conditions)
    def test_one_call_decides_as_it_does_among_many(self, condition):
        here = calls()
        together = condition.holds(here)
        for i in range(0, here.tokens.size, 7):
            alone = Calls(
                "bf16", here.tokens[[i]], here.hidden_dim[[i]], here.elements[[i]],
                here.world_size[[i]],
            )  # fmt: skip
            assert condition.holds(alone)[0] == together[i]

    def test_contradictions_and_repetitions_disappear(self):
        cap = Compare("tokens", "<=", 80)
        assert all_of(cap, cap.negated()) == Always(False)
        assert all_of(cap, cap, Always()) == cap
        assert all_of(cap, Compare("tokens", "<=", 64)) == Compare("tokens", "<=", 64)
        assert any_of(cap, Always()) == Always()
        assert all_of(cap, any_of(cap.negated(), OnFullMesh())) == all_of(cap, OnFullMesh())
        assert all_of() == Always()
        assert any_of() == Always(False)

    def test_joined_world_sizes_read_like_the_rule(self):
        cap = Compare("tokens", "<=", 80)
        joined = by_world_size(
            {
                2: cap,
                4: all_of(cap, OnFullMesh(), Compare("bytes", "<", 256 * KIB)),
                8: all_of(cap, OnFullMesh(), Compare("bytes", "<", 128 * KIB)),
            }
        )
        assert joined.words() == (
            "TP2 always, TP4 bytes < 256 KiB, TP8 bytes < 128 KiB; tokens <= 80; TP4, TP8 full mesh"
        )

    def test_a_known_version_leaves_nothing_to_ask(self):
        condition = catalogue.named("aiter-128k").condition
        assert with_version(condition, "0.1.16") == Bytes.of(dict.fromkeys(WORLD_SIZES, 131072))
        old = with_version(condition, "0.1.10.post3")
        assert any(isinstance(f, Member) for f in factors(old))
        assert not any(isinstance(f, AnyOf) for f in factors(old))

    @pytest.mark.parametrize(
        ("size", "words"),
        [(458752, "448 KiB"), (458751, "458751 B"), (2752512, "2.625 MiB"), (1051648, "1027 KiB")],
    )
    def test_sizes_are_never_rounded(self, size, words):
        assert Compare("bytes", "<=", size).words() == f"bytes <= {words}"

    @given(st.integers(1, 64 * 1024))
    def test_a_cutoff_in_kib_reads_the_same_in_a_rule_and_in_an_answer(self, whole):
        assert kib(whole * KIB) == exact_size(whole * KIB)


def test_a_rule_without_a_cutoff_is_probed_at_1_mib_one_element_below_and_above():
    for asked in cases(ALWAYS_1STAGE):
        at = (1 << 20) // (4 if asked.dtype == "fp32" else 2)
        hidden = asked.hidden_dim
        counts = [count for count, _ in asked.decisions]
        assert counts == [hidden, hidden + 1, at - 1, at, at + 1], asked.dtype


@pytest.mark.parametrize(
    ("asked", "edge", "dtype", "pack"),
    [
        (Compare("hidden_dim", "<=", 5120), 5120, "bf16", 8),
        (Compare("packs", "<=", 600), 4800, "bf16", 8),
        (Compare("packs", "<=", 600), 2400, "fp32", 4),
        (Compare("row_bytes", "<=", 10240), 5120, "bf16", 8),
        (Compare("row_bytes", "<=", 10240), 2560, "fp32", 4),
    ],
)  # fmt: skip
def test_what_a_rule_asks_of_the_hidden_size_is_probed_on_both_sides(asked, edge, dtype, pack):
    typical = {2880, 4096, 7168}
    assert hidden_classes(asked, dtype) == sorted({*typical, edge - pack, edge, edge + pack})


def test_multiples_and_members_are_said_in_words():
    assert MultipleOf("packs", 2).words() == "hidden / pack a multiple of 2"
    assert MultipleOf("bytes", 16, inside=False).words() == "bytes no multiple of 16"
    assert Member("world_size", (2, 8)).words() == "TP in {2, 8}"
    assert Member("hidden_dim", (4096,), inside=False).words() == "hidden not in {4096}"
    assert Member("dtype", ("fp16", "bf16")).words() == "16-bit dtype"
    assert Member("dtype", ("fp16",)).words() == "dtype in {fp16}"


def test_two_rules_differ_where_either_of_them_changes():
    always = Rule.from_cutoffs("always", dict.fromkeys(WORLD_SIZES))
    some = Rule.from_cutoffs("some", {2: None, 4: None, 8: 3 << 20})
    for pair in ((always, some), (some, always)):
        assert first_difference(*pair) == "TP8, bf16, hidden 2880, 1572865 elements"
    assert first_difference(some, some) is None
    # The same decisions, written otherwise.
    twice = Rule("twice", all_of(Compare("bytes", "<=", 3 << 20), Compare("bytes", "<", 4 << 20)))
    assert first_difference(twice, Rule("once", Compare("bytes", "<=", 3 << 20))) is None
    found = first_difference(twice, Rule("other", Compare("bytes", "<", 3 << 20)))
    assert found == "TP2, bf16, hidden 2880, 1572864 elements"


def test_a_limit_of_tokens_is_probed_at_whole_rows_on_both_sides():
    for asked in cases(Rule("few", Compare("tokens", "<=", 80))):
        at = dict(asked.decisions)
        edge = 81 * asked.hidden_dim  # the first element of the 82nd row makes no difference
        assert [at[edge + d] for d in (-1, 0, 1)] == [True, False, False], asked.dtype


@pytest.mark.parametrize(("op", "value", "caps"), [
    ("<=", 80, True), ("<", 81, True), ("==", 80, True), ("<=", 81, False), ("<", 82, False),
    (">", 80, False),
])  # fmt: skip
def test_a_guard_keeps_the_limit_of_the_kernel_where_it_asks_as_much(op, value, caps):
    """Kernels before the release that lifted it throw above 80 tokens."""
    rule = Rule.from_cutoffs("mine", {2: None, 4: 458752, 8: 229376})
    guard = Compare("tokens", op, value)
    newest = adapt(rule, guard, kernel.aiter())
    assert newest.guards == (guard,)
    assert newest.caps_tokens == caps
    old = adapt(rule, Compare("tokens", "<=", value), kernel.aiter("0.1.14"))
    limit = Compare("tokens", "<=", 80)
    assert (limit in old.limits) == (value > 80)


def test_what_is_left_to_the_kernel_is_all_that_it_takes_but_its_token_cap():
    newest = kernel.aiter()
    packs = all_of(WholePacks(), Compare("packs", "<=", newest.fused_1stage_max_packs))
    assert left_to_kernel(newest) == validity(newest) == packs
    old = kernel.aiter("0.1.14")
    assert old.fused_1stage_max_tokens == 80
    assert all_of(left_to_kernel(old), Compare("tokens", "<=", 80)) == validity(old)
    assert left_to_kernel(old) != validity(old)


def test_a_cap_at_every_world_size_that_may_run_1stage_is_a_cap():
    cap = Compare("tokens", "<=", 80)
    rule = Rule("large ranks", all_of(Member("world_size", (4, 8)), cap))
    assert rule.condition.at(2) == Always(False)
    assert adapt(rule, Always(True), kernel.aiter()).caps_tokens
    either = Rule("two ranks", any_of(Member("world_size", (2,)), cap))
    assert not adapt(either, Always(True), kernel.aiter()).caps_tokens
    bytes_alone = Rule.from_cutoffs("bytes", {2: 1 << 20, 4: 458752, 8: 229376})
    assert not adapt(bytes_alone, Always(True), kernel.aiter()).caps_tokens


def test_of_two_limits_of_one_kind_the_tighter_is_asked():
    tight, wide = Compare("tokens", "<=", 8), Compare("tokens", "<=", 16)
    assert all_of(wide, tight) == all_of(tight, wide) == tight
    other = Compare("hidden_dim", "<=", 16)
    assert set(factors(all_of(tight, other))) == {tight, other}
    below = Compare("tokens", ">=", 4)
    assert set(factors(all_of(tight, below))) == {tight, below}


def test_one_cutoff_for_all_ranks_is_said_once():
    assert Bytes.of({2: 131072, 4: 131072, 8: 131072}, "<=").words() == "bytes <= 128 KiB"
    assert (
        Bytes.of({4: 131072, 8: 131072}, "<=").words()
        == "TP4 bytes <= 128 KiB, TP8 bytes <= 128 KiB"
    )


def test_provenance_says_what_supports_each_cutoff():
    held = CutoffEvidence("measured", 1024.0, 2048.0)
    found = Provenance("costmodel recommend", "an id", evidence={4: held})
    assert found == Provenance("costmodel recommend", "an id", evidence={4: held})
    assert found.to_json()["command"] == "costmodel recommend"
    assert held.words() == "measured, 90 % interval over machines 1 KiB to 2 KiB"


def test_switches_are_where_the_decision_changes_either_way():
    window = all_of(Compare("tokens", ">=", 4), Compare("tokens", "<", 10))
    rule = Rule("window", window)
    assert rule.switches(7168, 4) == [(1, False), (4, True), (10, False)]
    assert rule.max_tokens(7168, 4) == 0
    assert Rule("some", Compare("tokens", "<", 10)).max_tokens(7168, 4) == 9
    assert ALWAYS_1STAGE.max_tokens(7168, 4) is None
