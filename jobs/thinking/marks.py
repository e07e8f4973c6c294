"""Thinking marks: which texts open and close a thought, found by families of models or given by hand."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from endmark.jobs.errors import SpecError

NO_MARKS = "none"  # of `--thinking-marks`: the model is taken as one that does not think


@dataclass(frozen=True, slots=True)
class Marks:
    """The texts that open and close a thought."""

    open: str
    close: str
    before: str = "\n"  # what is put in before a closing mark that the model has not said
    forms: str = ""  # a regular expression of other forms of the closing mark
    last: str = ""  # the text with which such a form ends
    header: str = ""  # a regular expression of what names a thought, or stands between two messages of it


# The first pair that a tokeniser, template or system turn has is the model's.
FAMILIES = (
    Marks("<think>", "</think>"),  # Qwen3, QwQ, DeepSeek-R1 and distilled, GLM, Nemotron, SmolLM3, MiniMax
    Marks("[THINK]", "[/THINK]"),  # Magistral
    Marks(  # gpt-oss, which may also think in several messages, or tell in `commentary` what it is about to do
        "<|channel|>analysis<|message|>",
        "<|start|>assistant<|channel|>final<|message|>",
        before="<|end|>",
        forms=r"(?:\A\s*|<\|start\|>assistant)<\|channel\|>final[^<]*<\|message\|>",  # bare; of JSON
        last="<|message|>",
        header=r"(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)[^<]*<\|message\|>",
    ),
    Marks("<|channel>", "<channel|>", header=r"\Athought\n"),  # Gemma 4, whose channel has a name
    Marks("<seed:think>", "</seed:think>"),  # Seed-OSS
    Marks("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
    Marks("◁think▷", "◁/think▷"),  # Kimi
)


def find_marks(tokens: Collection[str], texts: Iterable[str]) -> Marks | None:
    """Return the marks that a model uses; None if it shows none.

    Args:
        tokens: those that its tokeniser has as whole ones: added or special.
        texts: its chat template, or a system turn. One that takes thoughts out of earlier turns names the
            closing mark alone.
    """
    texts = tuple(texts)
    for marks in FAMILIES:
        if {marks.open, marks.close} <= set(tokens) or any(marks.close in text for text in texts):
            return marks
        if _control_parts(marks) and _control_parts(marks) <= set(tokens):
            return marks
    return None


def _control_parts(marks: Marks) -> set[str]:
    """Return the control tokens that marks of several tokens are made of; none of those that are one token."""
    pieces = (piece for text in (marks.open, marks.close) for piece in text.split("<")[1:])
    names = {f"<{piece[: piece.index('|>') + 2]}" for piece in pieces if "|>" in piece}
    return names - {marks.open, marks.close}


def read_marks(text: str) -> Marks | None:
    """Read `--thinking-marks`: `OPEN,CLOSE`, or `none`.

    Raises:
        SpecError: it is neither.
    """
    if text == NO_MARKS:
        return None
    begin, comma, end = (part.strip() for part in text.partition(","))
    if not comma or not begin or not end or begin == end:
        raise SpecError(
            f"`--thinking-marks {text}`: not two marks, or the same twice",
            hint="for example `--thinking-marks '<think>,</think>'`; `none` for a model that does not think",
        )
    return Marks(begin, end)


def is_opened(prompt: str, marks: Marks, *, raw: bool = False) -> bool:
    """Whether a prompt ends inside a thought.

    Args:
        prompt: as the model is to see it.
        raw: whether it was written by hand. It may then have begun the thought, too; a chat template's text ends
            with the mark, and one further up is somebody's text.
    """
    if prompt.rstrip().endswith(marks.open):
        return True
    begin = prompt.rfind(marks.open)
    if not raw or begin < 0 or begin < prompt.rfind(marks.close):
        return False
    return prompt[:begin].rstrip(" ").endswith(("\n", ">", "]")) or not prompt[:begin].strip()


def prefilled(prompt: str, begun: str, marks: Marks | None) -> str:
    """Return a prompt with the begin of its answer, which the user has written.

    Args:
        prompt: as the chat template has it, up to where the model is to answer.
        begun: the begin of the answer. Where the template opens a thought, it takes that mark's place, unless it
            goes on with the thought up to its closing mark.
        marks: of the model.
    """
    if marks is None or not is_opened(prompt, marks):
        return prompt + begun
    if marks.close in begun and not begun.lstrip().startswith(marks.open):
        return prompt + begun
    return prompt[: prompt.rindex(marks.open)] + begun
