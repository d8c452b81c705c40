"""ATOM takes AITER's rule: audit and emit say so, where it calls, and what its recipes set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from engines.shapes import HERE, SHAPES

from costmodel.cli import audit, emit
from costmodel.engines import callers
from costmodel.errors import InputError


@pytest.fixture
def atom(tmp_path, monkeypatch):
    """Return a checkout of ATOM's form, read on a screen on which no line is wrapped."""
    monkeypatch.setenv("COLUMNS", "500")
    root = tmp_path / "checkout"
    layers = root / "atom" / "model_ops"
    layers.mkdir(parents=True)
    (root / "atom" / "__init__.py").write_text("")
    (root / "atom" / "_version.py").write_text('__version__ = "0.1.5"\n')
    (root / "pyproject.toml").write_text("[project]\n")
    (layers / "layernorm.py").write_text((HERE / "atom_calls.py").read_text())
    return root


def say(command, *args):
    return CliRunner().invoke(command.command, [str(a) for a in args], standalone_mode=False)


def test_audit_says_whose_rule_is_in_force(atom):
    (atom / "docker").mkdir()
    (atom / "docker" / "rocm.Dockerfile").write_text('ARG AITER_COMMIT="v0.1.19"\n')
    (atom / "recipes").mkdir()
    (atom / "recipes" / "big.md").write_text("# Run\n\nexport AITER_AR_1STAGE_MAX_KB=512\n")
    models = {"env_vars": "A=1\nAITER_AR_1STAGE_MAX_KB=458752\nAITER_AR_1STAGE=1"}
    (atom / "models.json").write_text(json.dumps(models))
    done = say(audit, atom)
    assert done.return_value == 0
    first, *rest = done.stdout.splitlines()
    assert first.startswith(
        "ATOM 0.1.5 takes AITER's own rule: it calls AITER's fused op and names no stage "
        "(atom/model_ops/layernorm.py:12 tensor_model_parallel_fused_allreduce_rmsnorm_quant); "
        "it runs AITER 0.1.19 (pinned in docker/rocm.Dockerfile, not what is installed). Read and "
        "patch"
    )
    assert [line.split()[-2:] for line in rest[:2]] == [
        ["atom/model_ops/layernorm.py:12", "tensor_model_parallel_fused_allreduce_rmsnorm_quant"],
        ["atom/model_ops/layernorm.py:15", "tensor_model_parallel_fused_allreduce_rmsnorm"],
    ]
    assert rest[2:] == [
        "  models.json:1 AITER_AR_1STAGE_MAX_KB=458752: AITER from 0.1.17 on compares it with "
        "bytes, so the limit is 448 KiB",
        "  models.json:1 AITER_AR_1STAGE=1",
        "  recipes/big.md:3 AITER_AR_1STAGE_MAX_KB=512: AITER from 0.1.17 on compares it with "
        "bytes, so the limit is 0.5 KiB, below any call: 1-stage never runs",
    ]
    with pytest.raises(InputError, match="takes AITER's own rule"):
        raise say(audit, atom, "--format", "json").exception


def test_where_aiter_stands_beside_it_its_rule_is_audited_too(atom):
    SHAPES["aiter_limit"].package(atom)
    said = " ".join(say(audit, atom).stdout.split())  # a long folder is wrapped
    assert f"costmodel emit --for aiter --source {atom}" in said
    assert "AITER 0.1.19, aiter/dist/device_communicators/communicator_cuda.py" in said


def test_emit_names_what_to_patch(atom, tmp_path):
    for args in (["--source", atom], []):
        done = say(emit, "--for", "atom", "--arch", "gfx950", *args)
        assert isinstance(done.exception, InputError)
        assert "takes AITER's own rule" in str(done.exception)
        assert "costmodel emit --for aiter --source PATH" in str(done.exception)
    with pytest.raises(InputError, match="no ATOM tree; ATOM takes"):
        raise say(emit, "--for", "atom", "--source", tmp_path).exception


def test_calls_that_name_a_stage_are_none(atom):
    file = Path(atom) / "atom" / "model_ops" / "layernorm.py"
    text = file.read_text().replace('quant_type="per_token"', "use_1stage=True")
    file.write_text(text)
    assert [call.line for call in callers.read(atom).calls] == [15]
    file.write_text("x = (\n")
    assert callers.read(atom).calls == ()
    assert callers.read(atom / "nowhere") is None
