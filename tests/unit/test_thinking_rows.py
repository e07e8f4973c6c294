"""Rows of models that think, through the scripted engine: every way in which thought and answer end."""

from dataclasses import dataclass, replace

import pytest

from endmark.jobs.prompts import PromptPlan
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import build_strategies
from endmark.jobs.vocabulary import Ending, EosSource, FinishReason, Part, StoredRow
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.scripted import ScriptedRunner
from endmark.worker.engine.text import Vocabulary
from endmark.worker.service.prompting import Prompter
from endmark.worker.service.rows import RowRun
from tests.unit.byte_tokenizer import ByteTokenizer

pytestmark = pytest.mark.unit

EOS, OPEN, CLOSE = 0, 258, 259
VOCABULARY = Vocabulary([b"", *(bytes((byte,)) for byte in range(256)), b"", b"<think>", b"</think>"])
HIDDEN = Vocabulary([*VOCABULARY.token_bytes[:258], b"", b""])  # where the marks are special tokens


@dataclass
class Added:
    content: str
    special: bool = False


class ThinkingTokenizer(ByteTokenizer):
    """The bytes' tokeniser, with marks; `opens` says what its template ends with."""

    def __init__(self, *, marks=("<think>", "</think>"), special=False, opens=""):
        super().__init__()
        self.added_tokens_decoder = {OPEN + n: Added(mark, special) for n, mark in enumerate(marks)}
        self.opens = opens

    def apply_chat_template(self, conversation, **options):
        return super().apply_chat_template(conversation, **options) + self.opens

    def script(self, text):
        """The tokens of an answer: a mark is one where the tokeniser has it, `$` is EOS."""
        ids = {added.content: token_id for token_id, added in self.added_tokens_decoder.items()}
        found = []
        while text:
            mark = next((mark for mark in ids if text.startswith(mark)), None)
            found.append(ids[mark] if mark else EOS if text[0] == "$" else ord(text[0]) + 1)
            text = text[len(mark or "$") :]
        return found


def run_of(tokenizer, strategies=(), prompt="hi", **options):
    spec = GenerationSpec(strategies=build_strategies(strategies), **options)
    prompter = Prompter(tokenizer)
    (made,) = prompter.read(PromptPlan(("prompt",), spec), spec, [(prompt,)])
    return RowRun(StoredRow(row=0, cells=(prompt,), round=0, attempts=0), made), prompter


def answer_of(
    text,
    *,
    tokenizer=None,
    strategies=(),
    vocabulary=VOCABULARY,
    overlaps=False,
    behind=None,
    opened=1,
    **options,
):
    """Run one row whose model says this; return all its attempts, as they would be stored.

    Args:
        behind: what it says behind the `opened`-th closing mark, wherever that came.
    """
    tokenizer = tokenizer or ThinkingTokenizer()
    run, prompter = run_of(tokenizer, strategies, **options)
    script = tokenizer.script(text)
    length = len(run.prompt.token_ids)
    mark = tuple(tokenizer.script(run.prompt.thought.marks.close)) if run.prompt.thought else ()

    def say(so_far):
        said, step = script, len(so_far) - length
        if behind is not None:
            ends = [n for n in range(length, len(so_far)) if tuple(so_far[: n + 1])[-len(mark) :] == mark]
            if len(ends) >= opened:
                said, step = tokenizer.script(behind), len(so_far) - ends[opened - 1] - 1
        return said[step] if step < len(said) else EOS

    runner = ScriptedRunner(say, overlaps=overlaps, eos_ids={EOS}, context=3000, num_pages=900, prefill_tokens=900)
    engine = Engine(runner, vocabulary, {EOS})
    engine.add(run.first_request(0))
    while engine.has_work:
        for finished in engine.step():
            run.conclude(finished)
            following = run.next_request(finished, 0, prompter)
            if following is not None:
                engine.add(following)
    return run.outcome().attempts


OPENS = {"opens": "<think>\n"}
REASON = FinishReason
TABLE = [  # model's text, tokeniser, options, finish reason, reasoning, response, ended in, closed, ending
    ("A plain answer.$", {}, {}, REASON.EOS, None, "A plain answer.", Part.ANSWER, None, Ending.SENTENCE),
    ("<think>Hm.</think>\n\nYes.$", {}, {}, REASON.EOS, "Hm.", "Yes.", Part.ANSWER, "natural", Ending.SENTENCE),
    ("Hm.\n</think>\n\nYes.$", OPENS, {}, REASON.EOS, "Hm.", "Yes.", Part.ANSWER, "natural", Ending.SENTENCE),
    ("All is done.$", OPENS, {}, REASON.EOS, "All is done.", "", Part.REASONING, None, Ending.EMPTY),
    ("Hm. Then.", OPENS, {"n": 3}, REASON.LENGTH, "Hm.", "", Part.REASONING, None, Ending.EMPTY),
    ("<think>Hm", {}, {"n": 2}, REASON.LENGTH, "H", "", Part.REASONING, None, Ending.EMPTY),
    ("<think>", {}, {"n": 1}, REASON.LENGTH, "", "", Part.REASONING, None, Ending.EMPTY),
    ("$", OPENS, {}, REASON.EOS, "", "", Part.REASONING, None, Ending.EMPTY),
    ("Hm.</think>$", OPENS, {}, REASON.EOS, "Hm.", "", Part.ANSWER, "natural", Ending.EMPTY),
    ("Hm.</think>Yes, an", OPENS, {"n": 11}, REASON.LENGTH, "Hm.", "Yes, an", Part.ANSWER, "natural", Ending.OPEN),
    (
        "<think>a</think>b.\n<think>c$",
        {},
        {},
        REASON.EOS,
        "a\n\nc",
        "b.\n",
        Part.REASONING,
        "natural",
        Ending.EMPTY,
    ),
    (
        "Hm.</think>Yes.$",
        {"opens": "<think>\n\n</think>"},
        {},
        REASON.EOS,
        "Hm.",
        "Yes.",
        Part.ANSWER,
        "natural",
        None,
    ),
]


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("kind", ["text", "special", "split"])
@pytest.mark.parametrize("case", TABLE, ids=[repr(item[0]) for item in TABLE])
def test_each_way_in_which_thought_and_answer_end(case, kind, overlaps):
    """With marks that are tokens of the text, control tokens without any, and several tokens each."""
    text, template, options, reason, reasoning, response, part, closed, ending = case
    if kind == "split":
        if "n" in options:
            return  # budgets count tokens
        tokenizer = ThinkingTokenizer(marks=("<other>", "</other>"), **template)
        options = {**options, "thinking_marks": "<think>,</think>"}
    else:
        tokenizer = ThinkingTokenizer(special=kind == "special", **template)
    budget = options.pop("n", 200) if kind == "split" else options.get("n", 200)
    given = {key: value for key, value in options.items() if key != "n"}
    vocabulary = HIDDEN if kind == "special" else VOCABULARY
    (attempt,) = answer_of(
        text, tokenizer=tokenizer, vocabulary=vocabulary, overlaps=overlaps, max_new_tokens=budget, **given
    )
    assert attempt.verdict.finish_reason is reason
    assert (attempt.reasoning, attempt.text, attempt.ended_in) == (reasoning, response, part)
    assert attempt.thought_closed == closed
    if ending is not None:
        assert attempt.ending is ending
    assert attempt.complete == (attempt.ending is Ending.SENTENCE)
    assert 0 <= attempt.reasoning_tokens <= attempt.completion_tokens
    assert (attempt.reasoning_tokens > 0) == (bool(reasoning) or "<think>" in text)


SWITCHED_OFF = {  # how templates close the thought before the answer begins
    "Qwen3, SmolLM3": "<think>\n\n</think>\n\n",
    "GLM 4.5": "\n<think></think>",
    "DeepSeek V3.1, GLM 4.7": "</think>",
    "Nemotron Nano": "<think></think>",
}


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("strategies", [[], ["think:budget=60;whole"]])
@pytest.mark.parametrize("opens", SWITCHED_OFF.values(), ids=SWITCHED_OFF.keys())
def test_where_the_template_has_closed_the_thought_an_answer_is_one_with_its_own_budget(
    opens, strategies, overlaps
):
    options = {"tokenizer": ThinkingTokenizer(opens=opens), "strategies": strategies, "overlaps": overlaps}
    (attempt,) = answer_of("Yes. Use `</think>` so.$", **options)
    assert (attempt.reasoning, attempt.text) == (None, "Yes. Use `</think>` so.")
    (attempt,) = answer_of("Yes, and so it goes on and on", max_new_tokens=9, **options)
    assert (attempt.text, attempt.completion_tokens) == ("Yes, and ", 9)


OSS_NAMES = ("<|start|>", "<|end|>", "<|channel|>", "<|message|>", "<|constrain|>")
OSS = Vocabulary([*VOCABULARY.token_bytes[:258], *([b""] * len(OSS_NAMES))])
FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"
OSS_TABLE = [  # model's text, reasoning, response, the last part
    (f"<|channel|>analysis<|message|>Hm.{FINAL}Yes.$", "Hm.", "Yes.", Part.ANSWER),
    ("<|channel|>final<|message|>Yes.$", "", "Yes.", Part.ANSWER),
    (f"<|channel|>commentary<|message|>I look.{FINAL}Yes.$", "I look.", "Yes.", Part.ANSWER),
    (
        f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>analysis<|message|>So.{FINAL}Yes.$",
        "Hm.\n\nSo.",
        "Yes.",
        Part.ANSWER,
    ),
    ("<|channel|>analysis<|message|>Hm.<|end|>$", "Hm.", "", Part.REASONING),
    (
        "<|channel|>analysis<|message|>Hm.<|end|>"
        "<|start|>assistant<|channel|>final <|constrain|>json<|message|>{}$",
        "Hm.",
        "{}",
        Part.ANSWER,
    ),
    ("<|channel|>final <|constrain|>json<|message|>{}$", "", "{}", Part.ANSWER),
    ("<|channel|>final<|message|>It says `<|channel|>final<|message|>`.$", "", None, Part.ANSWER),
]


class OssTokenizer(ThinkingTokenizer):
    """Marks of several control tokens without text, as gpt-oss has them; its template opens the turn alone."""

    def __init__(self):
        super().__init__(marks=OSS_NAMES, special=True, opens="<|start|>assistant")

    def __call__(self, text, **options):
        whole = [any(name in item for name in OSS_NAMES) for item in text]
        ids = super().__call__(text, **options)["input_ids"]
        return {"input_ids": [self.script(t) if w else i for t, w, i in zip(text, whole, ids, strict=True)]}


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("strategies", [[], ["think:budget=90;whole"]])
@pytest.mark.parametrize(("text", "reasoning", "answer", "part"), OSS_TABLE)
def test_the_channels_of_gpt_oss(text, reasoning, answer, part, strategies, overlaps):
    """An answer without a thought, which begins with the channel `final`, had that in its response once."""
    (attempt,) = answer_of(
        text,
        tokenizer=OssTokenizer(),
        vocabulary=OSS,
        strategies=strategies,
        overlaps=overlaps,
        max_new_tokens=200,
    )
    if strategies and part is Part.REASONING:
        part, answer = Part.ANSWER, ""  # its EOS became the closing mark
    assert (attempt.reasoning, attempt.ended_in) == (reasoning, part)
    assert attempt.text == ("It says `<|channel|>final<|message|>`." if answer is None else answer)


def test_a_thought_of_gpt_oss_that_is_closed_ends_its_message_first():
    tokenizer = OssTokenizer()
    run, _ = run_of(tokenizer, ["think:message=Now."])
    assert run.prompt.closing == tuple(tokenizer.script(f"Now.{FINAL}"))
    (attempt,) = answer_of(
        "<|channel|>analysis<|message|>Hm.$",
        tokenizer=tokenizer,
        vocabulary=OSS,
        strategies=["think:message=Now."],
        behind="Yes.$",
    )
    assert (attempt.reasoning, attempt.text, attempt.thought_closed) == ("Hm.Now.", "Yes.", EosSource.FORCED)


def test_tokens_of_the_thought_are_counted_with_its_marks():
    (attempt,) = answer_of("<think>abc</think>Yes.$")
    assert (attempt.reasoning_tokens, attempt.completion_tokens) == (5, 9)
    (attempt,) = answer_of("<think>abc</think>Yes.\n<think>d</think>No.$")
    assert attempt.reasoning_tokens == 5 + 2, "the mark that opens a later thought came before it was known as one"


def test_marks_may_be_switched_off_or_given():
    (attempt,) = answer_of("<think>a</think>b.$", thinking_marks="none")
    assert (attempt.text, attempt.reasoning, attempt.ended_in) == ("<think>a</think>b.", None, Part.ANSWER)
    (attempt,) = answer_of("(a)b.$", thinking_marks="(,)")
    assert (attempt.text, attempt.reasoning) == ("b.", "a")


def test_a_system_turn_may_name_the_marks():
    """As Magistral's first version has it, whose tokeniser and template know none."""
    plain = ThinkingTokenizer(marks=("<other>", "</other>"))
    (attempt,) = answer_of("<think>a</think>b.$", tokenizer=plain, system="Think in <think>…</think> first.")
    assert (attempt.text, attempt.reasoning) == ("b.", "a")
    (attempt,) = answer_of("<think>a</think>b.$", tokenizer=plain, prompt="What is </think>?")
    assert attempt.reasoning is None, "a user's text is no promise of the model's"


def test_a_stop_string_in_the_thought_ends_nothing():
    """Elsewhere 8 to 15 of 50 answers were cut so; see the issue."""
    for text, tokenizer in (
        ("<think>one\n\ntwo</think>Yes.\n\nNo.$", ThinkingTokenizer()),
        ("one\n\ntwo</think>Yes.\n\nNo.$", ThinkingTokenizer(**OPENS)),
    ):
        (attempt,) = answer_of(text, tokenizer=tokenizer, strategies=['stop:text="\\n\\nN"', "no-loops"])
        assert attempt.verdict.finish_reason is FinishReason.STOP_SEQUENCE
        assert (attempt.reasoning, attempt.text) == ("one\n\ntwo", "Yes.")
    (attempt,) = answer_of("</think>$", tokenizer=ThinkingTokenizer(**OPENS), strategies=['stop:text="</think>"'])
    assert attempt.verdict.finish_reason is FinishReason.EOS


def test_a_stop_string_split_by_the_mark_is_none():
    (attempt,) = answer_of("<think>aS</think>TOP.$", strategies=["stop:text=STOP"])
    assert attempt.verdict.finish_reason is FinishReason.EOS


def test_a_loop_of_the_answer_is_cut_and_the_thought_stays():
    (attempt,) = answer_of(
        "<think>Hm.</think>\n\n" + "It is so. " * 60, strategies=["no-loops"], max_new_tokens=500
    )
    assert attempt.verdict.finish_reason is FinishReason.REPETITION
    assert (attempt.text, attempt.reasoning, attempt.thought_closed) == ("It is so. ", "Hm.", "natural")


LOOPING = "<think>" + "It is so. " * 60


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("strategy", ["no-loops", "rewind", "whole", "think:budget=900"])
@pytest.mark.parametrize("marks", [None, "<think>,</think>"])
def test_a_thought_in_a_loop_is_closed_and_the_answer_comes(strategy, marks, overlaps):
    """The row goes on behind the mark: what ends an answer ends the thought alone."""
    tokenizer = ThinkingTokenizer(marks=("<other>", "</other>") if marks else ("<think>", "</think>"))
    tokens = len(tokenizer.script(LOOPING))
    (attempt,) = answer_of(
        LOOPING,
        tokenizer=tokenizer,
        strategies=[strategy],
        max_new_tokens=700,
        overlaps=overlaps,
        thinking_marks=marks,
        behind="\n\nYes.$",
    )
    assert (attempt.text, attempt.verdict.finish_reason) == ("Yes.", FinishReason.EOS)
    assert (attempt.thought_closed, attempt.ended_in) == (EosSource.FORCED, Part.ANSWER)
    assert 64 <= attempt.reasoning_tokens < tokens


def test_an_answer_is_trimmed_and_its_thought_is_not():
    (attempt,) = answer_of(
        "<think>Hm. So</think>\n\nYes. It is an",
        strategies=["trim"],
        max_new_tokens=len("Hm. So\n\nYes. It is an") + 2,
    )
    assert (attempt.text, attempt.reasoning, attempt.ending) == ("Yes.", "Hm. So", Ending.SENTENCE)
    assert attempt.trimmed_tokens == len(" It is an")
    assert attempt.completion_tokens == len("Hm. So\n\nYes.") + 2
    (attempt,) = answer_of("<think>Hm. So", strategies=["trim"], max_new_tokens=7)
    assert (attempt.text, attempt.reasoning, attempt.trimmed_tokens) == ("", "Hm. So", 0)


def test_continue_goes_on_inside_the_thought_and_inside_the_answer():
    attempts = answer_of("<think>Hm. So</think>Yes. It is.$", strategies=["continue:times=9"], max_new_tokens=6)
    assert [item.ended_in for item in attempts] == [Part.REASONING, *([Part.ANSWER] * 3)]
    assert [item.reasoning for item in attempts] == ["Hm. S", *(["Hm. So"] * 3)]
    assert [item.text for item in attempts] == ["", "Yes.", "Yes. It is", "Yes. It is."]
    assert [item.thought_closed for item in attempts] == [None, *([EosSource.NATURAL] * 3)]
    assert attempts[-1].complete


def test_a_row_is_taken_back_within_its_answer():
    (attempt,) = answer_of(
        "<think>Hm.</think>" + "It is so. " * 80, strategies=["rewind:rewinds=1"], max_new_tokens=600
    )
    assert attempt.rewinds == 1
    assert attempt.reasoning == "Hm."
    assert attempt.text.startswith("It is so.")


def test_scores_are_left_alone_while_a_thought_is_open():
    run, _ = run_of(ThinkingTokenizer(**OPENS), ["soft-landing"])
    phase = run.first_request(0).phase
    assert phase.end_ids == (CLOSE,)
    assert phase.numbers.is_neutral
    assert phase.opens_with is None
    run, _ = run_of(ThinkingTokenizer(), ["soft-landing"])
    assert run.first_request(0).phase.opens_with == OPEN, "only if the answer begins with it"


def test_the_row_of_a_model_that_does_not_think_is_as_before():
    run, _ = run_of(ByteTokenizer())
    assert run.prompt.thought is None
    (attempt,) = answer_of("<think>a</think>b.$", tokenizer=ThinkingTokenizer(marks=("<a>", "<b>")))
    assert attempt == replace(attempt, text="<think>a</think>b.", reasoning=None, reasoning_tokens=0)
    assert attempt.ended_in is Part.ANSWER
