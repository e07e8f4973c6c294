"""A wrong call of the doctor is told before torch is imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from endmark.db.export.traces import trace_head
from endmark.jobs.errors import UsageError
from endmark.jobs.spec import GenerationSpec
from endmark.worker.doctor.__main__ import parse
from endmark.worker.doctor.beforehand import check_options

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_text("id,prompt\n1,Hi\n")
    (tmp_path / "good.jsonl").write_text(json.dumps({"job": "j", "max_new_tokens": 4}) + "\n")
    (tmp_path / "deep.jsonl").write_text("[" * 200_000)
    (tmp_path / "list.jsonl").write_text("[1]\n")
    (tmp_path / "sub").mkdir()
    return tmp_path


def check(*words):
    options = parse(words)
    spec = GenerationSpec(prompt_column=options.prompt_column, template=options.template)
    check_options(options, spec)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trace=none.jsonl"], "cannot read `none.jsonl`: No such file"),
        (["--trace=sub"], "cannot read `sub`: Is a directory"),
        (["--trace=x.csv"], "x.csv:1: is no trace: "),
        (["--trace=deep.jsonl"], "deep.jsonl:1: is no trace: "),
        (["--trace=list.jsonl"], "list.jsonl:1: is no trace: it says nothing of a job"),
        (["--trace=good.jsonl", "--dataset=x.csv"], "`--dataset` is about running a sample"),
        (["--trace=good.jsonl", "--adapter=a"], "`--adapter` is about running a sample"),
        (["--trace=good.jsonl", "--system=a"], "`--system` is about running a sample"),
        (["--trace=good.jsonl", "--template-arg=a=1"], "`--template-arg` is about running a sample"),
        (["--trace=good.jsonl", "--raw"], "`--raw` is about running a sample"),
        (["m", "--template={text}"], "`--template` is about the columns of a dataset"),
        (["m", "--prompt-column=q"], "`--prompt-column` is about the columns of a dataset"),
        (["m", "--dataset=none.csv"], "there is no file `none.csv`"),
        (["m", "--dataset=sub"], "`sub` is a folder"),
        (["m", "--dataset=x.csv", "--prompt-column=q"], "x.csv: no column `q`"),
        (["m", "--dataset=x.csv", "--template={q}"], "the template names the column `q`"),
    ],
)
def test_what_cannot_be_is_refused(folder, words, said):
    """A trace that was not there was missed after torch had been imported: 22 s on a busy machine."""
    with pytest.raises(UsageError) as caught:
        check(*words)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        ["m"],
        ["--trace=good.jsonl", "--rows=3"],
        ["m", "--dataset=x.csv"],
        ["m", "--dataset=x.csv", "--template={id}: {prompt}"],
        ["m", "--dataset=-"],
        ["m", "--dataset=https://192.0.2.1/x.csv"],
    ],
)
def test_what_can_be_is_let_through(folder, words):
    check(*words)


def test_the_head_of_a_trace_is_its_job(folder):
    assert trace_head("good.jsonl") == {"job": "j", "max_new_tokens": 4}


def test_a_wrong_call_ends_before_torch_is_imported(folder):
    code = (
        "import sys; from endmark.worker.doctor.__main__ import main; "
        "code = main(['--trace=none.jsonl']); print(code, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "2 False False\n"
