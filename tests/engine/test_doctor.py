"""`endmark doctor` from a model folder to the table, the JSON and the page, on a random model with faults."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from endmark.cli.main import endmark
from endmark.cli.pages.doctor import write_page
from endmark.jobs.errors import ModelError, SpecError, UsageError
from endmark.jobs.spec import GenerationSpec
from endmark.worker.doctor.__main__ import main
from endmark.worker.doctor.checks import examine
from endmark.worker.doctor.collect import Sample, collect, read_requests
from endmark.worker.doctor.result import as_json

pytestmark = pytest.mark.engine

SPECIAL = ["<s>", "</s>", "<|end|>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}"
    "{{ '<|end|>' if m.role == 'assistant' else '\n' }}{% endfor %}"
)


def save_model(folder, *, template=TEMPLATE, end_ids=(1,), pad="</s>"):
    """A random model and a tokeniser of single bytes."""
    vocabulary = {text: index for index, text in enumerate(SPECIAL)}
    for char in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[char] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token=pad,
        additional_special_tokens=["<|end|>"],
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=320,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=256,
            bos_token_id=0,
            eos_token_id=1,
        )
    )
    model.generation_config = GenerationConfig(eos_token_id=list(end_ids))
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("faulty-chat"))


def diagnose(model, **options):
    spec = GenerationSpec(model=model, max_new_tokens=24, **options.pop("spec", {}))
    return collect(Sample(spec, rows=4, **options))


def test_facts_and_findings_of_a_folder(faulty):
    evidence = diagnose(faulty)
    facts = evidence.facts
    assert (facts.bos, facts.pad, facts.tokenizer_eos, facts.turn_end) == (0, 1, 1, 2)
    assert (facts.generation_eos, facts.used_eos) == ((1,), (1,))
    assert facts.template_adds_bos
    assert not facts.tokenizer_adds_bos
    found = {finding.check: finding for finding in examine(evidence)}
    assert found["end ids disagree"].level == "cause"
    assert "2 (`<|end|>`)" in found["end ids disagree"].evidence
    assert found["pad is EOS"].level == "risk"
    assert not found.keys() & {"EOS never learned", "budget too short to tell"}  # it may know `<|end|>` well
    assert "chat template not used" not in found


def test_a_folder_without_these_faults(tmp_path):
    model = save_model(tmp_path, template=TEMPLATE.replace("<|end|>", "</s>"), pad="<s>")
    found = {finding.check for finding in examine(diagnose(model))}
    assert "budget too short to tell" in found  # 24 tokens
    assert not found & {"end ids disagree", "pad is EOS", "BOS doubled", "base model"}


def test_a_base_model(tmp_path):
    found = {finding.check for finding in examine(diagnose(save_model(tmp_path, template=None)))}
    assert "base model" in found
    assert "chat template not used" not in found


def test_prompts_that_hold_the_template_already(faulty, tmp_path):
    dataset = tmp_path / "prompts.csv"
    dataset.write_text("prompt\n<s>[user] Why?\nWhat?\n")
    given = diagnose(faulty, dataset=str(dataset))
    found = {finding.check: finding.evidence for finding in examine(given)}
    assert found["template twice"] == "1 of 2 prompts hold `<s>`"
    raw = examine(diagnose(faulty, dataset=str(dataset), spec={"raw": True}))
    assert "template twice" not in {finding.check for finding in raw}
    assert "chat template not used" in {finding.check for finding in raw}


def test_hidden_eos(faulty):
    given = diagnose(faulty, given={"temperature": 0.7, "top_k": 2})
    assert given.sampling.top_k == 2
    assert any(row.hidden_steps == len(row.probs) for row in given.rows)
    assert "EOS hidden" in {finding.check for finding in examine(given)}


def test_the_curve_has_a_probability_for_every_token(faulty):
    for row in diagnose(faulty).rows:
        assert len(row.probs) == row.tokens + row.verdict.ended_with_eos
        assert all(0 <= prob <= 1 for prob in row.probs)


def test_the_sample_is_drawn_as_a_job_would_and_once_greedy(tmp_path):
    """With `--top-p` alone the model's own temperature was left out, and a row's own columns always."""
    model = save_model(tmp_path / "draws")
    config = Path(model) / "generation_config.json"
    config.write_text('{"do_sample": true, "temperature": 0.6, "eos_token_id": [1]}')
    dataset = tmp_path / "prompts.csv"
    dataset.write_text("prompt,max_new_tokens,strategy\na,,\nb,3,soft-landing\n")
    found = diagnose(model, dataset=str(dataset), given={"top_p": 0.9})
    assert (found.sampling.temperature, found.sampling.top_p, found.sampling.top_k) == (0.6, 0.9, 50)
    assert found.rows[1].tokens <= 3
    greedy = diagnose(model, dataset=str(dataset), given={"temperature": 0.0})
    assert [row.text for row in found.greedy] == [row.text for row in greedy.rows]
    assert greedy.greedy == ()
    told = as_json(found, examine(found))
    assert told["greedy"]["answers"] == 2


def test_the_demo_model_ends_in_four_bits_as_in_sixteen():
    spec = GenerationSpec(max_new_tokens=160)
    found = collect(Sample(spec, rows=4, compare_precision=True))
    full = found.sixteen_bits
    assert len(full.rows) == len(found.rows) == 4
    assert [row.probs for row in full.rows] != [row.probs for row in found.rows]  # the weights are others
    assert len(full.ends) == full.ended >= 1
    assert all(0 < here <= 1 and 0 < there <= 1 for here, there in full.ends)
    assert "four bits" not in {finding.check for finding in examine(found)}


def test_a_model_that_is_packed_has_nothing_to_be_compared_with(faulty, tmp_path):
    folder = shutil.copytree(faulty, tmp_path / "packed")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="hold it quantised"):
        diagnose(str(folder), compare_precision=True)


def test_rows_of_a_dataset(tmp_path):
    dataset = tmp_path / "prompts.jsonl"
    dataset.write_text('{"q": "a"}\nnot json\n{"q": "b"}\n{"q": "c"}\n')
    spec = GenerationSpec(prompt_column="q")
    assert [request.prompt for request in read_requests(str(dataset), spec, 2)] == ["a", "b"]
    dataset.write_text('{"x": "a", "y": 1}\n')
    with pytest.raises(SpecError, match="no column `prompt`"):
        read_requests(str(dataset), GenerationSpec(), 2)


def test_a_column_that_appears_later_in_a_dataset_counts_from_there(tmp_path):
    """The columns were those of the first line: options of rows further down were not seen, as a job sees them.

    Where the first line had no prompt, the whole dataset was refused.
    """
    dataset = tmp_path / "prompts.jsonl"
    lines = [{"id": 1, "topic": "x"}, {"prompt": "a"}, {"prompt": "b", "temperature": 0.5}]
    lines.append({"prompt": "c", "template_args": {"enable_thinking": False}})
    dataset.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_requests(str(dataset), GenerationSpec(), 8)
    assert [request.prompt for request in found] == ["a", "b", "c"]
    assert [sorted(request.overrides) for request in found] == [[], ["temperature"], ["template_args"]]
    comma = tmp_path / "prompts.csv"
    comma.write_text("id,topic\n1,x\n")
    with pytest.raises(SpecError, match="no column `prompt`"):
        read_requests(str(comma), GenerationSpec(), 8)


class _Links(HTMLParser):
    """Collects what a page would fetch."""

    def __init__(self):
        super().__init__()
        self.fetched, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href")]


def test_the_page_is_self_contained_and_safe(faulty, tmp_path):
    dataset = tmp_path / "prompts.csv"
    dataset.write_text('prompt\n"<script>alert(1)</script> & co"\n')
    given = diagnose(faulty, dataset=str(dataset))
    page = write_page(as_json(given, examine(given)))
    links = _Links()
    links.feed(page)
    assert links.fetched == []
    assert "script" not in links.tags
    assert not re.search(r"url\(|@import|https?://", page)
    assert links.tags.count("svg") == 1 + len(given.rows)
    assert links.tags.count("polyline") == 1 + len(given.rows)  # a band over all, and each alone
    assert "default-src 'none'; style-src 'sha256-" in page
    assert "script-src" not in page
    assert "prefers-color-scheme: dark" in page


def test_the_process_tells_json_alone(faulty, capsys):
    """What shows it is another process, which imports no torch."""
    assert main([faulty, "--rows=2", "--max-new-tokens=8"]) == 0
    printed, _ = capsys.readouterr()
    answer = json.loads(printed)
    assert printed.isascii()
    assert (answer["answers"], answer["max_new_tokens"], len(answer["rows"])) == (2, 8, 2)
    assert {"check", "level", "title", "evidence", "fix", "command"} == set(answer["findings"][0])


def test_the_command(faulty, tmp_path):
    page = tmp_path / "report.html"
    words = [faulty, "--rows=2", "--max-new-tokens=8"]
    done = CliRunner().invoke(endmark, ["doctor", *words, "--json", "-o", str(page)])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["answers"] == 2
    assert f"report: {page}" in done.stderr
    assert page.read_text().startswith("<!DOCTYPE html>")
    shown = CliRunner().invoke(endmark, ["doctor", *words]).stdout
    assert "end ids disagree" in " ".join(shown.split())
    assert f"\nend ids disagree: jq '.eos_token_id = [1, 2]' {faulty}/generation_config.json > new.json" in shown


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("/no/such/folder/report.html", "there is no folder `/no/such/folder`"),
        ("report.csv", "not the name of a page"),
    ],
)
def test_a_page_that_cannot_be_written_is_told_before_the_model_is_loaded(output, said):
    refused = CliRunner().invoke(endmark, ["doctor", "/no/such/model", "-o", output])
    assert isinstance(refused.exception, UsageError)
    assert said in str(refused.exception)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--rows=0"], 2, "must be at least 1"),
        (["--top-p=2"], 2, "top_p is 2"),
        (["--template-arg=enable_thinking"], 2, "`--template-arg enable_thinking`: no value"),
        (["--thinking-marks=<think>"], 2, "`--thinking-marks <think>`: not two marks"),
        (["--trace=a.jsonl", "--compare-precision"], 2, "looks at a job that has run"),
        (["/no/such/model"], 1, "there is no model folder"),
        ([str(Path(__file__).parent)], 1, "cannot load the model"),
        (["--dataset=/no/such/file.csv"], 2, "there is no file `/no/such/file.csv`"),
    ],
)
def test_what_is_refused(arguments, code, said, capsys):
    assert main(arguments) == code
    assert said in capsys.readouterr().err


def test_the_command_line_passes_everything_on(faulty):
    """`endmark doctor` imports no torch and hands its arguments and the exit code through."""
    call = "import sys; from endmark.cli.doctor import doctor; doctor(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", call, faulty, "--rows", "1", "--max-new-tokens", "4", "--raw", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["answers"], answer["chat_template_used"]) == (1, False)
    refused = subprocess.run([sys.executable, "-c", call, "--rows", "0"], capture_output=True, check=False)
    assert refused.returncode == 2


def test_the_template_is_given_arguments_and_the_marks_are_those_given():
    """The demo's template knows no `enable_thinking`: the model thinks on, which is the finding, not a refusal."""
    folder = str(Path(__file__).parents[2] / "examples" / "thinking_model" / "model")
    words = ["doctor", folder, "--rows=4", "--max-new-tokens=96", "--temperature=0", "--json"]
    words += ["--template-arg", "reasoning_effort=low", "--template-arg", "enable_thinking=false"]
    found, without = (
        json.loads(CliRunner().invoke(endmark, [*words, *more], catch_exceptions=False).stdout)
        for more in ([], ["--thinking-marks", "none"])
    )
    (unwanted,) = [item for item in found["findings"] if item["check"] == "thinking not wanted"]
    assert unwanted["evidence"] == "4 of 4 rows that were asked so"
    about_thoughts = (
        "thinking not wanted",
        "thought unfinished",
        "EOS in the thought",
        "nothing behind the thought",
    )
    assert not {item["check"] for item in without["findings"]} & set(about_thoughts)


def test_json_is_json(faulty):
    given = diagnose(faulty)
    assert json.loads(json.dumps(as_json(given, examine(given))))["truncated"] == len(given.cut)
