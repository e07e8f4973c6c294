"""Endmark from Python, as a notebook uses it: real broker, real worker, the demo model."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

import endmark
from endmark.jobs import engines

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("ENDMARK_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ENDMARK_DATABASE_URL", raising=False)
    monkeypatch.delenv("ENDMARK_BROKER_URL", raising=False)


def _loaded(statement):
    """Return the packages that a fresh interpreter has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_else():
    """A notebook that imports `endmark` waited for torch, and had packages called `jobs` and `db` of ours."""
    new = _loaded("import endmark; dir(endmark)") - _loaded("pass")
    assert new - sys.stdlib_module_names == {"endmark"}


def test_storing_a_job_does_not_load_torch():
    assert not {"torch", "transformers", "celery"} & _loaded("import endmark; endmark.submit(['a'], model='demo')")


def test_a_frame_becomes_answers_and_a_frame_again(tmp_path):
    """The flow of docs/python.md: run, look at the status, read the results in each way that there is."""
    import pandas

    frame = pandas.DataFrame({"prompt": ["What can I do in Paris?", "Name three rivers."], "id": [7, 8]})
    job = endmark.run(frame, strategy="soft-landing", max_new_tokens=60)
    status = job.status()
    assert (status.state.value, status.succeeded) == ("completed", 2)
    rows = list(job.results())
    assert [row["id"] for row in rows] == [7, 8]
    assert all(row["complete"] and row["response"] for row in rows)
    assert job.to_pandas()["response"].tolist() == [row["response"] for row in rows]
    assert job.to_polars()["response"].to_list() == [row["response"] for row in rows]
    assert job.to_polars(only="failed").columns == list(rows[0])
    assert job.export(tmp_path / "results.csv") == 2
    with (tmp_path / "results.csv").open(newline="") as file:
        assert [row["response"] for row in csv.DictReader(file)] == [row["response"] for row in rows]

    # The engine alone gives the same answers, without a ledger.
    engine = endmark.Engine()
    answers = engine.generate(frame, strategy="soft-landing", max_new_tokens=60)
    assert [answer.text for answer in answers] == [row["response"] for row in rows]
    assert [str(answer.ending) for answer in answers] == [row["ending"] for row in rows]


def test_a_submitted_job_waits_and_can_be_paused_resumed_and_cancelled():
    job = endmark.submit(["a", "b"], name="mine")
    assert job.status().name == "mine"
    assert job._repr_html_() == f"<p><b>mine</b> <code>{job.id}</code> waiting for a worker: 0/2 rows</p>"
    with pytest.raises(TimeoutError, match="0 of 2 rows"):
        job.wait(timeout=0)
    job.pause()
    assert endmark.Job("latest").status().state.value == "paused"
    job.resume()
    job.cancel()
    assert job.wait().state.value == "cancelled"
    assert [row["finish_reason"] for row in job.results()] == ["cancelled", "cancelled"]
    assert [item.id for item in endmark.list_jobs()] == [job.id]


def test_wrong_calls_store_nothing():
    for rows, options, error in [
        (["a"], {"strategie": "trim"}, TypeError),
        (["a"], {"temperature": "hot"}, endmark.EndmarkError),
        (["a"], {"strategy": "soft-land"}, endmark.EndmarkError),
        (["a"], {"skip_bad_rows": True}, endmark.EndmarkError),
        (["a", 7], {}, endmark.EndmarkError),
        ("no-such-file.csv", {}, endmark.EndmarkError),
    ]:
        with pytest.raises(error):
            endmark.submit(rows, **options)
    with pytest.raises(endmark.EndmarkError) as caught:
        endmark.submit("What can I do in Paris?")
    assert "give prompts as a list" in caught.value.hint
    with pytest.raises(endmark.EndmarkError) as caught:
        endmark.submit([{"a": "x", "b": "y"}])
    assert "name the column with `prompt_column`, or use `template`" in caught.value.hint
    assert endmark.list_jobs() == []


def test_the_engine_is_named_where_rows_are_run(monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(endmark.EndmarkError, match="needs the extra `vllm`"):
        endmark.run(["a"], engine="vllm")
    with pytest.raises(TypeError):
        endmark.submit(["a"], engine="vllm")
    assert endmark.list_jobs() == []
    job = endmark.submit(["a"])
    with pytest.raises(endmark.EndmarkError, match="`--tensor-parallel 2` needs the extra `vllm`"):
        job.run(tensor_parallel=2)
    with pytest.raises(TypeError, match="no option `engin`; those of the engine are engine, tensor_parallel"):
        job.run(engin="vllm")


def test_the_engine_tells_rows_that_cannot_run_and_goes_on_after_a_loop_was_left():
    engine = endmark.Engine()
    prompts = ["What can I do in Paris?", "x " * 3000, "Name three rivers."]
    answers = engine.generate(prompts, max_new_tokens=20)
    assert [answer.row for answer in answers] == [0, 1, 2]
    assert "context holds" in (answers[1].verdict.error or "")
    for _ in engine.stream(prompts, max_new_tokens=20):
        break
    assert [answer.text for answer in engine.generate(prompts, max_new_tokens=20)] == [
        answer.text for answer in answers
    ]
    running = engine.stream(prompts, max_new_tokens=20)
    next(running)
    with pytest.raises(RuntimeError, match="other rows"):
        engine.generate(prompts)


def test_rows_beyond_a_batch_and_those_that_go_on_all_come_back():
    """Rows are handed to the engine in batches; `continue` gives a row several attempts."""
    engine = endmark.Engine(max_rows=2)
    answers = engine.generate([f"Tell me about place {number}." for number in range(11)], max_new_tokens=8)
    assert [answer.row for answer in answers] == list(range(11))
    longer = engine.generate(["Tell me about Paris."], max_new_tokens=8, on_truncation="continue")
    assert longer[0].attempt > 1
    assert longer[0].completion_tokens > 8


def test_a_row_that_fills_the_context_stays_as_it_was():
    """`continue` asked for an attempt behind 1,024 of 1,024 tokens, and all other answers were lost with it."""
    long, short = "Tell me of rivers and of hills. " * 100, "Tell me about Paris."
    answers = endmark.Engine().generate([long, short], max_new_tokens=900, strategy="continue")
    assert [answer.verdict.finish_reason for answer in answers] == ["length", "eos"]
    assert answers[0].prompt_tokens + answers[0].completion_tokens == 1024


def test_the_notebook_runs(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    said = str(notebook.cells[-1].outputs)
    assert "completed: 4/4 rows" in said  # the progress, drawn over one line
    assert "True" in said
    assert not any(output.output_type == "error" for cell in notebook.cells for output in cell.get("outputs", ()))
