"""Which AITER a tree runs, and what that version's limits do to the rule that is emitted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import costmodel
from emitted import PROVENANCE, RULES, apply, function_says, random_calls
from engines.shapes import SGLANG, SHAPES, Shape

from costmodel.data import facts, kernels
from costmodel.engines import kernel_version
from costmodel.engines import patch as engine
from costmodel.engines.boundary_tests import render
from costmodel.engines.kernel_version import asked_for, of_tree, unknown
from costmodel.engines.source import open_trees
from costmodel.rules.adapt import adapt, token_cap
from costmodel.rules.condition import Compare

CAP = Compare("tokens", "<=", 80)


def running(root):
    (tree,) = open_trees(root)
    return of_tree(tree)


def sglang(version):
    return Shape("sglang", version, ((SGLANG, "sglang_commented.py"),), "", "")


@pytest.mark.parametrize(
    ("release", "stated", "cap"),
    [
        ("0.5.12", "0.1.12.post1", 80),
        ("0.5.14", "7d604af", 80),
        ("0.5.17", "9127c94", 80),
        ("0.5.17+rocm720", "9127c94", 80),
        ("0.5.18", "d9e5ef7", None),
        ("0.5.23", "acf8fdf", None),
        ("0.9.0", "", 80),
    ],
)
def test_the_image_of_a_release_pins_it(release, stated, cap, tmp_path):
    found = running(sglang(release).package(tmp_path))
    assert found.stated == stated
    assert found.kernel.fused_1stage_max_tokens == cap
    assert ("https://github.com/sgl-project/sglang/pull/" in found.words()) is bool(stated)


@pytest.mark.parametrize(
    ("release", "stated", "cap", "read"),
    [
        ("0.21.0", "0.1.13", 80, True),
        ("0.26.0", "0.1.16.post3", 80, True),
        ("0.27.0", "0.1.19", None, True),
        ("0.27.1+rocm721", "0.1.19", None, True),
        ("0.33.0", "0.1.26", None, False),
        ("0.99.0", "", 80, True),
    ],
)
def test_vllms_images_pin_it_too(release, stated, cap, read, tmp_path):
    made = SHAPES["vllm_method"]
    root = Shape("vllm", release, made.files, "", "").package(tmp_path)
    found = running(root)
    assert (found.stated, found.kernel.fused_1stage_max_tokens) == (stated, cap)
    assert ("'s ROCm image, not what is installed; https:" in found.words()) is bool(stated)
    assert ("not read yet, its limits are taken to be those of" in found.words()) is not read
    (tree,) = open_trees(root)
    emitted = engine.patch(tree, RULES["recommended"], PROVENANCE, found.kernel, running=found)
    # vLLM's own guard of 80 tokens stays, whatever the image pins.
    many = [c for c in random_calls(800) if c[3] // c[2] > 80]
    assert not any(function_says(emitted.patched, emitted.function, many))
    assert f"* made for {found.words()}; the patched rule may run on AITER 0.1.10.post2" in (
        " ".join(emitted.text.split())
    )


def test_every_pin_has_a_source_and_kernels_that_are_known():
    for row in facts.rows("image_pins.csv"):
        assert row["source"].startswith("https://github.com/")
        # A release that came after the newest that was read is its own kernels, and says so.
        assert kernels.aiter(row["kernels"]).known or row["pin"] == f"v{row['kernels']}"


@pytest.mark.parametrize(
    ("file", "text", "stated", "cap"),
    [
        ("docker/rocm.Dockerfile", 'ENV AITER_COMMIT_DEFAULT="v0.1.14-rc0"\n', "0.1.14-rc0", 80),
        ("docker/Dockerfile.rocm", "ARG AITER_BRANCH=v0.1.19\n", "0.1.19", None),
        ("docker/Dockerfile.rocm_base", 'ARG AITER_BRANCH="v0.1.13-rc5"\n', "0.1.13-rc5", 80),
        ("Dockerfile", "ENV AITER_COMMIT c16d44b93a528b2a4bfd6d8d3409116d465872a9\n",
         "c16d44b93a", None),
        ("requirements.txt", "torch\namd-aiter == 0.1.16\n", "0.1.16", 80),
        ("pyproject.toml", 'dependencies = ["amd-aiter>=0.1.15"]\n', "0.1.15", 80),
        ("requirements/rocm.txt", "aiter @ git+https://github.com/ROCm/aiter.git@v0.1.18\n",
         "0.1.18", None),
        ("docker/rocm.Dockerfile",
         "RUN pip install amd_aiter-0.1.20.post1+rocm7.2-cp312-linux_x86_64.whl\n",
         "0.1.20.post1+rocm7.2", None),
        ("docker/rocm.Dockerfile", "ARG AITER_COMMIT=v0.1.19\nENV AITER_COMMIT=v0.1.16\n",
         "0.1.16", 80),
        ("docker/rocm.Dockerfile", 'ENV AITER_COMMIT="deadbeefdeadbeef"\n', "", 80),
        ("docker/rocm.Dockerfile", "ARG AITER_COMMIT=\nENV AITER_COMMIT=v0.1.18\n", "0.1.18", None),
        # Every stage counts, in whatever order; one that is not known may throw.
        ("docker/rocm.Dockerfile", "FROM a AS gfx942\nENV AITER_COMMIT=v0.1.19\n"
         "FROM b AS gfx950-rocm720\nENV AITER_COMMIT=9127c94a18e4\n", "9127c94a18", 80),
        ("docker/rocm.Dockerfile", "FROM a AS gfx942\nENV AITER_COMMIT=v0.1.19\n"
         "FROM b AS gfx950\nENV AITER_COMMIT=deadbeef01\n", "0.1.19", 80),
        ("docker/rocm.Dockerfile", "FROM a AS gfx950\nENV AITER_COMMIT=v0.1.19\n"
         "from b as gfx1250-rocm10\nENV AITER_COMMIT=deadbeef01\n", "0.1.19", None),
        ("docker/rocm.Dockerfile", "FROM a AS gfx950\nENV AITER_COMMIT=v0.1.19\n"
         "FROM b AS gfx1250\nENV AITER_COMMIT=v0.1.15\nFROM c\n", "0.1.19", None),
    ],
)  # fmt: skip
def test_a_checkout_pins_it(file, text, stated, cap, tmp_path):
    root = sglang("0.9.0").checkout(tmp_path)
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text(text)
    found = running(root)
    assert found.stated == stated
    assert found.kernel.fused_1stage_max_tokens == cap
    assert file in found.words()


def test_the_installed_distribution_goes_before_the_image(tmp_path):
    root = sglang("0.5.17").package(tmp_path)
    metadata = root / "amd_aiter-0.1.19.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: amd-aiter\nVersion: 0.1.19\n")
    found = running(root)
    assert (found.stated, found.found) == ("0.1.19", "installed amd-aiter")
    assert found.kernel.fused_1stage_max_tokens is None


def test_an_aiter_checkout_says_it_by_its_tag_and_its_kernel(tmp_path):
    root = SHAPES["aiter_limit"].checkout(tmp_path)
    (root / "aiter" / "version.py").write_text("")
    git, head = root / ".git", "0123456789abcdef0123456789abcdef01234567"
    git.mkdir()
    (git / "HEAD").write_text(head + "\n")
    (git / "packed-refs").write_text(f"{'f' * 40} refs/tags/v0.1.15\n^{head}\n")
    assert running(root).kernel.version == "0.1.15"
    assert running(root).kernel.fused_1stage_max_tokens == 80
    source = root / "csrc" / "include" / "custom_all_reduce.cuh"
    source.parent.mkdir(parents=True)
    source.write_text("// loops over rows\n")
    assert running(root).kernel.fused_1stage_max_tokens is None
    source.write_text('throw error("too large for allreduce_fusion_kernel_1stage kernel");\n')
    assert running(root).kernel.fused_1stage_max_tokens == 80


def test_an_aiter_tree_without_a_version_is_known_by_the_variable_it_reads(tmp_path):
    root = SHAPES["aiter_env_kb"].package(tmp_path)
    (root / "aiter" / "version.py").write_text("")
    found = running(root)
    assert found.stated == "0.1.17 or later"
    assert found.kernel.fused_1stage_max_tokens is None
    root = SHAPES["aiter_limit"].package(tmp_path / "other")
    (root / "aiter" / "version.py").write_text("")
    assert running(root).kernel.fused_1stage_max_tokens == 80


def test_strange_files_beside_the_package_are_passed_by(tmp_path):
    root = sglang("0.9.0").checkout(tmp_path)
    (root / "docker").mkdir()
    (root / "docker" / "loop").symlink_to(root / "docker" / "loop")
    (root / "docker" / "Dockerfile").mkdir()
    (root / "requirements.txt").write_bytes(b"\xff\xfe aiter==x\x00")
    assert running(root).stated == ""


def test_no_more_than_a_pin_file_may_hold_is_read(tmp_path):
    root = sglang("0.9.0").checkout(tmp_path)
    pin = b"ARG AITER_BRANCH=v0.1.19\n"
    file = root / "Dockerfile"
    file.write_bytes(pin + b"#" * ((1 << 20) - len(pin)))
    assert running(root).stated == "0.1.19"
    with file.open("ab") as stream:
        stream.write(b"#")
    assert running(root).stated == ""
    with file.open("r+b") as stream:
        stream.truncate(1 << 40)  # a hole: read whole, it would not fit into any memory
    assert running(root).stated == ""
    file.unlink()
    # The file system says 0 bytes of what a kernel writes on demand.
    if (long := Path("/proc/kallsyms")).exists():
        file.symlink_to(long)
        assert len(kernel_version._text(file) or "") <= 1 << 20
        file.unlink()
    os.mkfifo(file)
    assert running(root).stated == ""


def test_a_candidate_counts_as_what_came_before():
    assert asked_for("0.1.17-rc0").kernel.fused_1stage_max_tokens == 80
    assert asked_for("0.1.17").kernel.fused_1stage_max_tokens is None
    assert asked_for("9127c94a18").kernel.fused_1stage_max_tokens == 80
    assert token_cap() == unknown("").kernel.fused_1stage_max_tokens == 80


@pytest.mark.parametrize("version", ["0.1.10.post3", "0.1.12.post1", "0.1.16", "unknown"])
@pytest.mark.parametrize("rule", RULES)
def test_no_rule_is_emitted_without_the_guard_of_kernels_that_throw(rule, version, tmp_path):
    meant = unknown("") if version == "unknown" else asked_for(version)
    for shape in ("sglang_bytes", "sglang_hidden_set", "vllm_method", "aiter_limit"):
        (tree,) = open_trees(SHAPES[shape].package(tmp_path / shape))
        emitted = engine.patch(tree, RULES[rule], PROVENANCE, meant.kernel, running=meant)
        assert emitted.adapted.caps_tokens
        many = [c for c in random_calls(3000) if c[3] // c[2] > 80]
        assert not any(function_says(emitted.patched, emitted.function, many))
        assert "1.10.post2 and later (AITER before 0.1.17 throws above 80 tokens)" in (
            " ".join(emitted.patched.replace("#", " ").split())
        )


def test_a_newer_kernel_needs_no_guard_and_the_patch_says_for_which(tmp_path):
    (tree,) = open_trees(SHAPES["sglang_bytes"].package(tmp_path))
    meant = of_tree(tree)
    emitted = engine.patch(tree, RULES["recommended"], PROVENANCE, meant.kernel, running=meant)
    assert not emitted.adapted.caps_tokens
    for text in (
        emitted.text,
        emitted.patched,
        render(emitted.adapted, PROVENANCE, tree.engine, emitted.file, emitted.function),
    ):
        said = " ".join(text.replace("#", " ").replace("+", " ").split())
        assert "AITER 0.1.17 and later only (AITER before 0.1.17 throws above 80 tokens)" in said
    assert "made for AITER acf8fdf (pin of SGLang 0.5.23's ROCm image" in " ".join(
        emitted.text.split()
    )


def test_an_override_that_skips_the_guard_is_named(tmp_path):
    (tree,) = open_trees(SHAPES["sglang_bytes"].package(tmp_path))
    old = asked_for("0.1.16")
    notes = engine.patch(tree, RULES["recommended"], PROVENANCE, old.kernel, running=old).notes
    assert any("SGLANG_USE_1STAGE_ALLREDUCE forces" in n and "throws above 80" in n for n in notes)


def test_limits_of_old_kernels_join_at_every_world_size():
    installed = RULES["one_cutoff"].condition
    adapted = adapt(RULES["partly_claimed"], installed, kernels.aiter("0.1.16"))
    assert adapted.limits == (CAP,)
    assert all(CAP in adapted.asked(n) for n in (2, 4, 8))
    assert adapt(RULES["strict"], installed, kernels.aiter()).limits == ()


def emit_command(*args, cwd):
    return costmodel("emit", *args, cwd=cwd)


def test_the_command_asks_the_tree_and_can_be_told(tmp_path):
    root = sglang("").package(tmp_path / "site")
    asked = ["--for", "sglang", "--source", "site", "--rule", "aiter"]
    done = emit_command(*asked, "--out", "a.patch", "--tests", "test_a.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--aiter-version says which one runs" in done.stderr
    text = (tmp_path / "a.patch").read_text()
    assert "input_.numel() // input_.shape[-1] <= 80" in text
    assert "--rule aiter --aiter-version unknown\n" in text
    apply(text, root, "patch")
    tested = subprocess.run(
        [sys.executable, "test_a.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    done = emit_command(*asked, "--aiter-version", "0.1.19", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    changed = [line for line in done.stdout.splitlines() if "input_.shape[-1] <= 80" in line]
    assert changed
    assert all(line.startswith("-") for line in changed), changed
    assert "made for AITER 0.1.19, asked for" in done.stderr
    snippet = emit_command("--for", "sglang", "--rule", "aiter", cwd=tmp_path)
    assert "AITER 0.1.17 and later only" in snippet.stdout
    assert "<= 80" in emit_command(
        "--for", "sglang", "--rule", "aiter", "--aiter-version", "unknown", cwd=tmp_path
    ).stdout  # fmt: skip
