"""Options of the command line that would do nothing are refused, and --tp picks world sizes."""

import json

import pytest
from click.testing import CliRunner

from costmodel.cli.main import cli
from costmodel.errors import InputError


def run(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("validate", "--published", "--tokens", 8), "--tokens belongs to --live"),
        (("validate", "--published", "--out", "run"), "--out belongs to --live"),
        (("validate", "--published", "--dtype", "bf16"), "--dtype belongs to --live"),
        (("validate", "--published", "--measure", "--seed=1"), "--measure belongs to --live"),
        (("validate", "--live", "gloo", "--against", "sglang"), "--against belongs to tables"),
        (("validate", "--live", "gloo", "--published"), "--published belongs to tables"),
        (("validate", "--live", "gloo", "--tp", "2,4", "--out", "run"), "the number of ranks of one"),
        (("doctor", "--tp", 2), "--tp belongs to --backend"),
    ],
)  # fmt: skip
def test_an_option_that_would_do_nothing_is_refused(arguments, said):
    target = ("--arch", "gfx950") if arguments[0] == "validate" else ()
    done = run(*arguments, *target)
    assert isinstance(done.exception, InputError)
    assert said in str(done.exception)


def test_validate_judges_the_world_sizes_that_are_asked_for():
    judged = {
        tp: json.loads(run("validate", "--published", "--gpu", "MI355X", "--format", "json",
                           "--accuracy-only", *tp).stdout)["accuracy"]["n"]
        for tp in ((), ("--tp", "4"), ("--tp", "8"), ("--tp", "4, 8"))
    }  # fmt: skip
    assert 0 < judged["--tp", "4"] < judged[()]
    assert judged["--tp", "4"] + judged["--tp", "8"] == judged["--tp", "4, 8"]


@pytest.mark.parametrize("command", ["recommend", "worth"])
def test_an_unknown_engine_is_answered_with_those_that_for_takes(command):
    """The engines of --calls-of are more: atom would be refused next."""
    words = [command, "--gpu", "MI355X", "--model", "gpt-oss-120b", "--tp", "4", "--for", "trt"]
    words += ["--from", "sglang"] if command == "worth" else []
    done = CliRunner().invoke(cli, words)
    assert isinstance(done.exception, InputError)
    assert str(done.exception).endswith("one of sglang, vllm, aiter")
