"""Each check of the doctor on evidence made up for it: what it says, and when it keeps silent."""

import shlex
from dataclasses import replace

import pytest

from endmark.cli.pages.findings import summary
from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies import build_strategies
from endmark.jobs.vocabulary import Ending, EosSource, FinishReason, Verdict
from endmark.worker.doctor.checks import (
    CHECKS,
    answers,
    examine,
    learning,
    precision,
    sampling,
    template,
    thinking,
    tokens,
)
from endmark.worker.doctor.evidence import Evidence, ModelFacts, RowEvidence, SixteenBits
from endmark.worker.doctor.findings import Level
from endmark.worker.doctor.result import as_json

pytestmark = pytest.mark.unit

FACTS = ModelFacts(
    model="acme/talk-7b-chat",
    token_names={1: "<s>", 2: "</s>", 9: "<|end|>"},
    tokenizer_eos=2,
    generation_eos=(2,),
    used_eos=(2,),
    turn_end=2,
    pad=0,
    bos=1,
)
ENDED = RowEvidence(
    prompt="Why?",
    text="Because.",
    verdict=Verdict(FinishReason.EOS, EosSource.NATURAL),
    tokens=3,
    prompt_begin=(1, 50),
    probs=(0.01, 0.02, 0.3, 0.97),
    sentence_probs=(0.97,),
)
CUT = RowEvidence(
    prompt="Why?",
    text="Because of this. And",
    verdict=Verdict(FinishReason.LENGTH),
    tokens=256,
    prompt_begin=(1, 50),
    probs=(0.001, 0.01, 0.02),
    sentence_probs=(0.01, 0.02),
    rank_max=7,
)
CUT_SHORT = replace(CUT, tokens=24)


def evidence(*rows, templated=True, sampling=Sampling(), **facts):
    return Evidence(replace(FACTS, **facts), rows, templated=templated, sampling=sampling)


def with_greedy(rows, greedy):
    return replace(evidence(*rows, sampling=Sampling(0.7)), greedy=tuple(greedy))


def in_sixteen(rows, full, ends=()):
    return replace(evidence(*rows), sixteen_bits=SixteenBits(tuple(full), ends))


def weak(prob):
    return replace(CUT, probs=(0.001, prob), sentence_probs=(prob,))


FAILED = RowEvidence(
    prompt="Why?",
    text="",
    verdict=Verdict(FinishReason.ERROR, error="the model's scores are no numbers (NaN) at token 1"),
    tokens=0,
    prompt_begin=(1, 50),
)


FOUND = {
    "scores are no numbers": (
        learning.scores_not_numbers,
        evidence(ENDED, FAILED, adapter="./broken"),
        Level.CAUSE,
        "1 of 2 answers; the first said: the model's scores are no numbers (NaN) at token 1",
        "check the weights for NaN",
        "endmark doctor acme/talk-7b-chat",
    ),
    "template not used": (
        template.chat_template_unused,
        evidence(CUT, templated=False),
        Level.CAUSE,
        "1 of 1 answers were cut",
        "--raw",
        "endmark run",
    ),
    "template not used, yet all ended": (
        template.chat_template_unused,
        evidence(ENDED, templated=False),
        Level.RISK,
        "0 of 1 answers were cut",
        "apply_chat_template",
        "endmark run",
    ),
    "template missing": (
        template.chat_template_missing,
        evidence(CUT, has_chat_template=False),
        Level.CAUSE,
        "`acme/talk-7b-chat`",
        "chat_template.jinja",
        "chat_template.jinja --local-dir acme/talk-7b-chat",
    ),
    "base model": (
        template.base_model,
        evidence(CUT, has_chat_template=False, model="acme/talk-7b"),
        Level.CAUSE,
        "nothing in the name `acme/talk-7b`",
        "endmark finetune",
        "endmark finetune chats.jsonl -o adapter --model acme/talk-7b",
    ),
    "template twice": (
        template.template_twice,
        evidence(ENDED, replace(CUT, prompt="<s>[INST] Why? [/INST]")),
        Level.CAUSE,
        "1 of 2 prompts hold `<s>`",
        "--raw",
        "--raw",
    ),
    "BOS doubled in the prompts": (
        tokens.bos_doubled,
        evidence(replace(CUT, prompt_begin=(1, 1))),
        Level.CAUSE,
        "1 of 1 prompts begin with 1 (`<s>`) twice",
        "take the begin token out",
        "sed 's/<s>//g' prompts.csv",
    ),
    "BOS doubled elsewhere": (
        tokens.bos_doubled,
        evidence(ENDED, template_adds_bos=True, tokenizer_adds_bos=True),
        Level.RISK,
        "1 (`<s>`)",
        "add_special_tokens=False",
        "add_special_tokens=False",
    ),
    "turn end is no end id": (
        tokens.end_ids_disagree,
        evidence(CUT, turn_end=9),
        Level.CAUSE,
        "it closes with 9 (`<|end|>`); the generation config ends with 2 (`</s>`)",
        "add 9 to `eos_token_id`",
        ".eos_token_id = [2, 9]",
    ),
    "tokeniser and generation config differ": (
        tokens.end_ids_disagree,
        evidence(ENDED, generation_eos=(9,), used_eos=(2, 9), turn_end=9),
        Level.RISK,
        "missing in the generation config: 2 (`</s>`)",
        "generation_config.json",
        ".eos_token_id = [2, 9]",
    ),
    "the tokeniser's end token begins turns": (
        tokens.end_ids_disagree,
        evidence(ENDED, tokenizer_eos=1, bos=1, template_adds_bos=True, used_eos=(1, 2), turn_end=2),
        Level.RISK,
        "its `eos_token` is 1 (`<s>`), with which the chat template begins",
        "name the token that closes an answer",
        '.eos_token = "</s>"',
    ),
    "no end ids in the generation config": (
        tokens.end_ids_disagree,
        evidence(ENDED, generation_eos=()),
        Level.RISK,
        "it ends with none",
        "generation_config.json",
        ".eos_token_id = [2]",
    ),
    "pad is EOS": (
        tokens.pad_is_eos,
        evidence(ENDED, pad=2),
        Level.RISK,
        "both are 2 (`</s>`)",
        "pad token",
        "endmark finetune",
    ),
    "EOS hidden": (
        tokens.eos_hidden,
        evidence(replace(CUT, hidden_steps=3, rank_max=62), ENDED, sampling=Sampling(0.7, top_k=50, top_p=0.9)),
        Level.CAUSE,
        "at its best EOS stood at 2.0 %, rank 63",
        "--strategy whole",
        "--strategy whole",
    ),
    "EOS would be hidden elsewhere": (
        tokens.eos_hidden,
        evidence(replace(CUT, rank_max=80), generation_top_k=50),
        Level.RISK,
        "in 1 of 1 cut answers its best rank was 81",
        "top_k=0",
        "--strategy whole",
    ),
    "EOS never learned": (
        learning.eos_not_learned,
        evidence(CUT, CUT),
        Level.CAUSE,
        "highest probability was 2.00 %, after the 4 sentence ends 1.50 % on average",
        "endmark finetune",
        "endmark finetune",
    ),
    "EOS not seen in short answers": (
        learning.eos_not_learned,
        evidence(replace(CUT, tokens=40), CUT_SHORT),
        Level.CAUSE,
        "the longest was cut after 40 tokens",
        "--max-new-tokens 256",
        "endmark doctor acme/talk-7b-chat --max-new-tokens 256",
    ),
    "EOS weakly learned": (
        learning.eos_not_learned,
        evidence(weak(0.3), weak(0.4), ENDED),
        Level.CAUSE,
        "highest probability was 40.00 %",
        "--strategy whole",
        "--strategy whole",
    ),
    "loops": (
        answers.loops,
        evidence(replace(CUT, loop=" the museum and" * 9)),
        Level.CAUSE,
        "1 of 1 answers",
        "no-loops",
        "--strategy whole",
    ),
    "the template opens no answer": (
        template.no_generation_prompt,
        evidence(CUT, lacking_opening="<|assistant|>"),
        Level.CAUSE,
        "before an answer in a conversation it writes `<|assistant|>`",
        "add_generation_prompt",
        "printf %s '{% if add_generation_prompt %}<|assistant|>",
    ),
    "EOS held down by an option": (
        tokens.eos_held_down,
        evidence(CUT, sampling=Sampling(min_new_tokens=128)),
        Level.CAUSE,
        "`min_new_tokens`: no end within 128 tokens",
        "--min-new-tokens",
        "endmark run prompts.csv -o answers.csv --model acme/talk-7b-chat",
    ),
    "EOS held down by a bias": (
        tokens.eos_held_down,
        evidence(CUT, sampling=Sampling(logit_bias=((2, -100.0),))),
        Level.CAUSE,
        "`logit_bias`: 2 (`</s>`) by -100",
        "the bias",
        "endmark run",
    ),
    "EOS held down elsewhere": (
        tokens.eos_held_down,
        evidence(CUT, holding_down={"suppress_tokens": "end token 2 never"}),
        Level.RISK,
        "generation_config.json has `suppress_tokens`: end token 2 never; Endmark passes over these",
        "generation_config.json",
        "hf download acme/talk-7b-chat --local-dir ./talk-7b-chat && jq 'del(.suppress_tokens)' ",
    ),
    "ends with a token that the generation config lacks": (
        tokens.end_token_unknown_elsewhere,
        evidence(replace(ENDED, end_token=9), replace(ENDED, end_token=9), replace(ENDED, end_token=2)),
        Level.RISK,
        "of 3 answers that ended, 2 with 9 (`<|end|>`); the generation config names 2 (`</s>`)",
        "eos_token_id",
        "jq '.eos_token_id = [2, 9]' ./talk-7b-chat/generation_config.json > new.json && mv new.json",
    ),
    "the end's row was never trained, nor by the adapter": (
        learning.end_rows_untrained,
        evidence(CUT, adapter="./mine", turn_end=9, used_eos=(2, 9), untrained_ends=(9,)),
        Level.CAUSE,
        "the row of 9 (`<|end|>`) is nothing",
        "close answers with 2 (`</s>`)",
        "endmark finetune",
    ),
    "beyond the window": (
        answers.beyond_window,
        evidence(replace(CUT, prompt_tokens=300), ENDED, window=512),
        Level.CAUSE,
        "prompts have up to 300 tokens, the budget is 256, and the model was trained on rows of 512; 1 of 2",
        "--max-new-tokens 212",
        "--max-new-tokens 212",
    ),
    "loops that change, and more of them when greedy": (
        answers.loops,
        with_greedy(
            [replace(CUT, loop="Step 1", loop_changes=True), ENDED],
            [replace(CUT, loop="Step 1"), replace(CUT, loop="Step 2")],
        ),
        Level.CAUSE,
        "1 of 2 answers, 1 of them with words or numbers that change from round to round; at temperature 0, 2",
        "whole",
        "--strategy whole",
    ),
    "loops when greedy alone": (
        answers.loops,
        with_greedy([ENDED], [replace(CUT, loop="Step 1")]),
        Level.RISK,
        "0 of 1 answers; at temperature 0, 1 of 1; one has “Step 1” over and over",
        "temperature of 0.7",
        "--strategy whole",
    ),
    "sampled otherwise than the model asks": (
        sampling.other_sampling,
        evidence(replace(CUT, loop="again"), own_sampling=Sampling(0.6, top_p=0.9)),
        Level.CAUSE,
        "it asks for temperature 0.6, top_p 0.9, and the sample had temperature 0.0, top_p 1.0; of 1 answers 1",
        "leave out the options",
        "endmark run prompts.csv -o answers.csv --model acme/talk-7b-chat",
    ),
    "ends too soon": (
        answers.ends_too_soon,
        evidence(replace(ENDED, text="It is in the", ending=Ending.OPEN), ENDED),
        Level.CAUSE,
        "1 of 2 answers, one with “…It is in the”; EOS stood at 97.0 % there",
        "--min-new-tokens 3",
        "--min-new-tokens 3",
    ),
    "ends too soon by the draw": (
        answers.ends_too_soon,
        evidence(
            replace(ENDED, text="It is in the", ending=Ending.OPEN, probs=(0.01, 0.02)), sampling=Sampling(1.0)
        ),
        Level.CAUSE,
        "EOS stood at 2.0 % there",
        "EOS was drawn where it was improbable",
        "--min-p 0.1",
    ),
    "empty answers": (
        answers.empty_answers,
        evidence(replace(ENDED, text=" ", ending=Ending.EMPTY), ENDED),
        Level.CAUSE,
        "1 of 2 answers are empty, 1 by the model's own EOS; the first was to “Why?”",
        "--min-new-tokens 8",
        "--min-new-tokens 8",
    ),
    "four bits": (
        precision.four_bits,
        in_sixteen([CUT] * 5 + [ENDED], [ENDED] * 6, ends=((0.9, 0.4),) * 6),
        Level.CAUSE,
        "of 6 answers 1 ended by themselves, 6 in 16 bits; 0 end in a loop, 0 in 16 bits; where it ends in 16 "
        "bits EOS stood at 90 %, and in 4 bits at 40 %",
        "--strategy whole",
        "--strategy whole",
    ),
    "four bits make loops": (
        precision.four_bits,
        in_sixteen([replace(CUT, loop="again")] * 4, [CUT] * 4),
        Level.CAUSE,
        "4 end in a loop, 0 in 16 bits",
        "--strategy whole",
        "--strategy whole",
    ),
    "four bits make ends less probable": (
        precision.four_bits,
        in_sixteen([ENDED], [ENDED], ends=((0.9, 0.4),)),
        Level.RISK,
        "in 4 bits at 40 %",
        "--strategy whole",
        "--strategy whole",
    ),
    "marks written as text": (
        answers.marks_written,
        evidence(replace(CUT, text="Because.<|end|>\nUser: And?"), ENDED),
        Level.CAUSE,
        "of 2 answers, 1 with `<|end|>` as text, 1 with `User:` as text",
        "`stop`",
        """--strategy 'whole;stop:text="<|end|>"'""",
    ),
    "a turn begun with a special token": (
        answers.marks_written,
        evidence(replace(CUT, special=(1, 1)), ENDED),
        Level.CAUSE,
        "of 2 answers, 1 with 1 (`<s>`)",
        "`stop`",
        "--strategy 'whole;stop:tokens=1'",
    ),
    "the template's own words for the next turn": (
        answers.marks_written,
        evidence(replace(ENDED, text="Because. [INST] And?"), turn_marks=("[INST]",)),
        Level.RISK,
        "of 1 answers, 1 with `[INST]` as text",
        "`stop`",
        """--strategy 'whole;stop:text="[INST]"'""",
    ),
    "cut within the thought": (
        thinking.thought_unfinished,
        evidence(replace(CUT, in_thought=True, thought_tokens=256, ending=Ending.EMPTY), ENDED),
        Level.CAUSE,
        "1 of 2 rows, after 256 tokens",
        "`think`",
        "--strategy 'think:budget=1024;whole'",
    ),
    "cut within the thought, others closed": (
        thinking.thought_unfinished,
        evidence(replace(CUT, in_thought=True, thought_tokens=256), replace(ENDED, thought_tokens=90)),
        Level.CAUSE,
        "the longest thought that was closed has 90 tokens",
        "`think`",
        "--strategy 'think:budget=1024;whole'",
    ),
    "ended within the thought": (
        thinking.eos_in_thought,
        evidence(replace(ENDED, in_thought=True, thought_tokens=9, ending=Ending.EMPTY), ENDED),
        Level.CAUSE,
        "1 of 2 rows; elsewhere they come back empty",
        "`think`",
        "--strategy 'think;whole'",
    ),
    "nothing behind the thought": (
        thinking.nothing_behind_thought,
        evidence(*[ENDED] * 10, replace(ENDED, thought_tokens=9, ending=Ending.EMPTY)),
        Level.RISK,
        "1 of 11 rows; the first was to “Why?”",
        "`whole`",
        "--strategy whole",
    ),
    "stopped within the thought": (
        thinking.stopped_in_thought,
        evidence(
            replace(ENDED, in_thought=True, thought_tokens=9, verdict=Verdict(FinishReason.STOP_SEQUENCE)), ENDED
        ),
        Level.CAUSE,
        "1 of 2 rows",
        "`scope`",
        "--strategy 'stop:text=…'",
    ),
    "thinking that was not wanted": (
        thinking.thinking_not_wanted,
        evidence(replace(ENDED, asked_off=True, thought_tokens=9), replace(ENDED, asked_off=True), ENDED),
        Level.CAUSE,
        "1 of 2 rows that were asked so",
        "template",
        "--strategy think:budget=1",
    ),
    "budget too small": (
        answers.budget_too_small,
        evidence(replace(ENDED, tokens=200), replace(ENDED, tokens=90), weak(0.95)),
        Level.CAUSE,
        "the longest after 200 of 256 tokens; 1 were cut",
        "--max-new-tokens",
        "--max-new-tokens 512",
    ),
}


@pytest.mark.parametrize("case", list(FOUND))
def test_what_is_found(case):
    check, given, level, seen, fix, command = FOUND[case]
    finding = check(given)
    assert finding is not None
    assert finding.level is level
    assert seen in finding.evidence
    assert fix in finding.fix
    assert command in finding.command
    assert finding.title


def test_padding_may_be_any_of_the_end_tokens():
    """Only the tokeniser's own end token was looked at; chat models end with another one."""
    finding = tokens.pad_is_eos(evidence(ENDED, pad=9, tokenizer_eos=2, used_eos=(2, 9)))
    assert finding is not None
    assert "both are 9 (`<|end|>`)" in finding.evidence
    assert tokens.pad_is_eos(evidence(ENDED, pad=9)) is None
    assert tokens.pad_is_eos(evidence(ENDED, pad=None, tokenizer_eos=None)) is None


def titles(*rows, **options):
    return {finding.check: finding.level for finding in examine(evidence(*rows, **options))}


def test_where_the_checks_draw_their_lines():
    """One step beyond each bound, and one before it."""
    assert "EOS hidden" in titles(replace(CUT, rank_max=50), generation_top_k=50)  # ranks count from 0
    assert "EOS hidden" not in titles(replace(CUT, rank_max=49), generation_top_k=50)
    assert "EOS hidden" not in titles(replace(CUT, rank_max=50), CUT, generation_top_k=50)  # half is not most
    assert "EOS hidden" not in titles(replace(CUT, rank_max=50), generation_top_k=0)
    assert "EOS never learned" in titles(replace(CUT, tokens=100))
    assert "budget too short to tell" in titles(replace(CUT, tokens=99))
    assert "EOS weakly learned" in titles(weak(learning.NEVER))
    assert "EOS never learned" in titles(weak(learning.NEVER - 0.001))
    assert "EOS weakly learned" in titles(weak(learning.FIRM - 0.001))
    assert "EOS weakly learned" not in titles(weak(learning.FIRM))
    looping = replace(ENDED, loop="again and again")
    assert titles(looping, *[ENDED] * 9)["loops"] is Level.CAUSE
    assert titles(looping, *[ENDED] * 10)["loops"] is Level.RISK
    firm = weak(0.95)
    assert "budget too small" in titles(replace(ENDED, tokens=128), firm)
    assert "budget too small" not in titles(replace(ENDED, tokens=127), firm)
    assert "budget too small" not in titles(replace(ENDED, tokens=128), firm, firm)  # less than half ended


def test_an_end_token_that_other_programs_would_not_see_is_named_whoever_names_it():
    by_template = tokens.end_ids_disagree(evidence(ENDED, used_eos=(2, 9), turn_end=9))
    by_tokenizer = tokens.end_ids_disagree(evidence(ENDED, used_eos=(2, 9), tokenizer_eos=9))
    assert "missing in the generation config: 9 (`<|end|>`)" in by_template.evidence
    assert "missing in the generation config: 9 (`<|end|>`)" in by_tokenizer.evidence
    assert tokens.end_ids_disagree(evidence(ENDED, tokenizer_eos=None, turn_end=None)) is None


def test_an_end_held_down_for_a_part_of_the_budget_is_no_cause():
    levels = {
        tokens.eos_held_down(evidence(CUT, sampling=Sampling(min_new_tokens=count))).level for count in (1, 127)
    }
    assert levels == {Level.RISK}
    raised = Sampling(logit_bias=((2, 5.0), (7, -5.0)))
    assert tokens.eos_held_down(evidence(CUT, sampling=raised)) is None
    honoured = evidence(CUT, sampling=Sampling(min_new_tokens=9), holding_down={"min_new_tokens": "…"})
    assert "passes over" not in tokens.eos_held_down(honoured).evidence


def test_an_untrained_row_of_a_token_that_closes_no_answer_is_no_fault():
    assert learning.end_rows_untrained(evidence(CUT, used_eos=(2, 9), untrained_ends=(9,))) is None
    alone = learning.end_rows_untrained(evidence(ENDED, untrained_ends=(2,)))
    assert alone.level is Level.RISK
    assert "one that the model knows" in alone.fix


def test_the_window_is_as_long_as_prompt_and_budget():
    inside = replace(CUT, prompt_tokens=256)
    assert answers.beyond_window(evidence(inside, window=512)) is None
    assert answers.beyond_window(evidence(inside, window=None)) is None
    assert answers.beyond_window(evidence(replace(inside, tokens=20), window=511)).level is Level.RISK


def test_a_model_that_asks_for_nothing_is_sampled_as_anybody_likes():
    looping = replace(CUT, loop="again")
    assert sampling.other_sampling(evidence(looping, sampling=Sampling(0.7))) is None
    asked = Sampling(0.6, top_p=0.9)
    assert sampling.other_sampling(evidence(looping, sampling=replace(asked, seed=5), own_sampling=asked)) is None
    assert sampling.other_sampling(evidence(CUT, own_sampling=asked)).level is Level.RISK


def test_a_few_answers_that_look_unfinished_are_no_finding():
    """What ends with a title or a number is judged a phrase; one doubtful answer in twenty proves nothing."""
    unfinished = replace(ENDED, ending=Ending.OPEN)
    assert answers.ends_too_soon(evidence(unfinished, *[ENDED] * 9)) is not None
    assert answers.ends_too_soon(evidence(unfinished, *[ENDED] * 10)) is None
    assert answers.ends_too_soon(evidence(replace(CUT, ending=Ending.OPEN))) is None


def test_what_chance_explains_is_not_laid_to_four_bits():
    for worse, better, found in ((3, 0, False), (4, 0, True), (4, 1, False), (6, 1, True)):
        given = in_sixteen([CUT] * worse + [ENDED] * better, [ENDED] * worse + [CUT] * better)
        assert (precision.four_bits(given) is not None) == found, (worse, better)
    assert precision.four_bits(in_sixteen([ENDED], [ENDED], ends=((0.9, 0.45),))) is None
    assert precision.four_bits(evidence(CUT)) is None
    told = as_json(in_sixteen([ENDED, CUT], [ENDED, ENDED], ends=((0.9, 0.45),)), ())
    assert told["sixteen_bits"] == {
        "answers": 2, "ended": 2, "truncated": 0, "loops": 0, "same": 1, "ends": [[0.9, 0.45]]
    }  # fmt: skip
    assert summary(told).endswith("; in 16 bits, 0 ran out and 2 ended so")


def test_marks_that_the_prompt_speaks_of_are_no_marks():
    asked = replace(ENDED, prompt="What does <|end|> mean?", text="<|end|> is a token.")
    assert answers.marks_written(evidence(asked)) is None
    first = replace(ENDED, text="User: is a word")
    assert answers.marks_written(evidence(first)) is None


@pytest.mark.parametrize("case", [case for case, found in FOUND.items() if "--strategy" in found[5]])
def test_strategies_in_commands_can_be_read(case):
    check, given, *_ = FOUND[case]
    words = shlex.split(check(given).command)
    assert build_strategies([words[words.index("--strategy") + 1]])


@pytest.mark.parametrize("case", [case for case, found in FOUND.items() if found[5]])
def test_commands_ask_for_the_engine_that_was_looked_under(case):
    """Of a model over two cards the doctor told to look again with a command that wanted one card for it."""
    check, given, *_ = FOUND[case]
    words = ("--engine", "vllm", "--tensor-parallel", "2")
    command = check(replace(given, facts=replace(given.facts, engine=words))).command
    assert (" ".join(words) in command) is command.startswith(("endmark run", "endmark doctor"))


def test_answers_in_a_loop_say_nothing_of_an_end_that_others_found():
    """On SmolLM2 "EOS weakly learned" was told where all cut answers were loops and the others ended at 99 %."""
    looping = replace(CUT, loop="again")
    assert "EOS weakly learned" not in {finding.check for finding in examine(evidence(looping, ENDED))}
    assert "EOS never learned" in {finding.check for finding in examine(evidence(looping, looping))}


def test_answers_within_a_thought_say_nothing_of_ends():
    """A row cut inside its thought was told as "EOS never learned", with the advice to train."""
    within = evidence(replace(CUT, in_thought=True, thought_tokens=256, ending=Ending.EMPTY))
    assert {finding.check for finding in examine(within)} == {"thought unfinished"}


def test_an_answer_that_a_thought_left_no_room_says_nothing_of_what_was_learned():
    """Of the thinking demo "EOS weakly learned" was told first: its answers were cut soon behind long thoughts.

    Where none ended, "EOS never learned" would have come of it: the tokens of the thought counted as its own.
    """
    short = replace(CUT, thought_tokens=200, probs=(0.001,) * 200 + (0.01, 0.02))
    assert short.answer_tokens == 56
    said = {finding.check for finding in examine(evidence(short, ENDED))}
    assert not said & {"EOS weakly learned", "EOS never learned"}
    said = {finding.check for finding in examine(evidence(short))}
    assert "budget too short to tell" in said
    assert "EOS never learned" not in said
    long = replace(CUT, tokens=400, thought_tokens=200, probs=(0.001,) * 200 + (0.01, 0.02))
    assert "EOS never learned" in {finding.check for finding in examine(evidence(long))}
    wished = replace(long, probs=(0.9,) * 200 + (0.01, 0.02))
    assert wished.prob_max == 0.02, "an EOS that was probable in the thought is no end of an answer"


def test_one_begin_token_and_short_marks_are_no_faults():
    assert tokens.bos_doubled(evidence(ENDED, template_adds_bos=True)) is None
    assert tokens.bos_doubled(evidence(ENDED, tokenizer_adds_bos=True)) is None
    dollars = replace(ENDED, prompt="It is 5 $, why?")
    assert template.template_twice(evidence(dollars, token_names={1: "$"})) is None
    assert template.template_twice(evidence(dollars, token_names={1: "$,w"})) is None


SILENT = {
    "healthy": evidence(ENDED, ENDED),
    "no rows": evidence(),
    "a short loop-free cut answer of a firm model": evidence(ENDED, ENDED, weak(0.9)),
    "hidden in some steps only": evidence(
        ENDED, ENDED, replace(weak(0.9), hidden_steps=1), sampling=Sampling(0.7, top_k=5)
    ),
}


@pytest.mark.parametrize("case", list(SILENT))
def test_nothing_is_found_where_nothing_is_wrong(case):
    assert examine(SILENT[case]) == ()


def test_the_sample_in_one_sentence():
    assert summary(as_json(evidence(ENDED, CUT, CUT), ())) == (
        "of 3 answers 2 ran out of 256 tokens and 1 ended by the model's own EOS (temperature 0)"
    )
    one, other = replace(ENDED, end_token=2), replace(ENDED, end_token=9)
    assert "own EOS, 2 (</s>) (temp" in summary(as_json(evidence(one, one), ()))
    both = as_json(with_greedy([ENDED], [CUT]), ())
    assert summary(both).endswith("(temperature 0.7); at temperature 0, 1 ran out and 0 ended so")
    assert "own EOS: 2 with 2 (</s>), 1 with 9 (<|end|>) (temp" in summary(as_json(evidence(one, other, one), ()))
    assert summary(as_json(evidence(CUT), ())).startswith("of 1 answer 1 ran out of 256 tokens and 0 ended")
    assert summary(as_json(evidence(ENDED, FAILED), ())).startswith(
        "of 2 answers 1 failed, 0 ran out of 256 tokens and 1 ended"
    )


def test_every_check_has_a_case():
    assert {check for check, *_ in FOUND.values()} == set(CHECKS)


def test_without_its_template_a_model_is_not_said_to_have_learned_nothing():
    assert [finding.check for finding in examine(evidence(CUT, templated=False))] == ["chat template not used"]
    assert "EOS never learned" in {finding.check for finding in examine(evidence(CUT))}


def test_a_model_cut_early_or_that_ended_other_answers_is_not_said_to_have_learned_nothing():
    """The demo model was, at 40 tokens; with 80 it ended one of the same answers at an EOS probability of 73 %."""
    assert "budget too short to tell" in {finding.check for finding in examine(evidence(CUT_SHORT))}
    assert "EOS never learned" not in {finding.check for finding in examine(evidence(CUT_SHORT))}
    assert "EOS weakly learned" in {finding.check for finding in examine(evidence(CUT, CUT, ENDED))}
    assert "budget too short to tell" in {finding.check for finding in examine(evidence(CUT_SHORT, ENDED))}


def test_a_model_that_closes_with_another_token_is_not_said_to_have_learned_nothing():
    """A wrong end id was once answered with the advice to train the model."""
    found = {finding.check: finding for finding in examine(evidence(CUT, turn_end=9))}
    assert "EOS never learned" not in found
    assert "generation_config.json" in found["end ids disagree"].fix


def test_scores_that_are_no_numbers_are_the_only_cause():
    """An adapter of NaN was once told as "EOS weakly learned", with probabilities of nan %."""
    assert [finding.check for finding in examine(evidence(FAILED, FAILED))] == ["scores are no numbers"]


def test_a_row_that_failed_otherwise_is_no_sign_of_such_scores():
    other = replace(FAILED, verdict=Verdict(FinishReason.ERROR, error="the prompt has 300 tokens"))
    assert learning.scores_not_numbers(evidence(other, ENDED)) is None


def test_causes_come_first():
    given = evidence(CUT, CUT, pad=2, turn_end=9)
    levels = [finding.level for finding in examine(given)]
    assert levels == sorted(levels, key=[Level.CAUSE, Level.RISK].index)
    assert {Level.CAUSE, Level.RISK} <= set(levels)


@pytest.mark.parametrize(
    ("model", "chat"),
    [
        ("meta-llama/Llama-2-7b-chat-hf", True),
        ("google/gemma-2-2b-it", True),
        ("Qwen/Qwen2.5-7B-Instruct", True),
        ("meta-llama/Llama-2-7b-hf", False),
        ("EleutherAI/pythia-1b", False),
        ("models/digit-7b", False),
    ],
)
def test_what_a_name_says(model, chat):
    given = evidence(CUT, has_chat_template=False, model=model)
    assert (template.chat_template_missing(given) is not None) == chat
    assert (template.base_model(given) is not None) != chat
