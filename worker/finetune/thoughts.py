"""Examples with thoughts: the last answer as it would be generated, with what many templates leave out."""

from collections.abc import Callable, Sequence

from endmark.jobs.prompts import Turn
from endmark.jobs.thinking import Marks, find_marks, prefilled

Render = Callable[[Sequence[Turn], bool], str]  # turns, and whether an answer is to follow -> their text


def shared(first: str, second: str) -> int:
    """Return how many characters both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(first), len(second)))


def thought_of(turns: Sequence[Turn], marks: Marks | None) -> Marks | None:
    """Return the marks around the thought of a chat's last answer; None where it has none.

    Args:
        turns: the chat.
        marks: those that the model's files name; without them a family's in the answer itself.
    """
    content = turns[-1]["content"]
    found = marks or find_marks((), [content])
    if turns[-1]["role"] != "assistant" or found is None or found.close not in content:
        return None
    return found


def with_thought(turns: Sequence[Turn], marks: Marks, render: Render) -> tuple[str, int, int, int]:
    """Return a chat's text with the thought of its last answer, and where that begins, its answer, and its end.

    Args:
        turns: the last is an assistant's, with a thought.
        marks: around it.
        render: the chat template.
    """
    *before, last = turns
    content = last["content"].strip()
    thought, mark, answer = content.rpartition(marks.close)
    head = render(before, True)
    written = prefilled(head, content, marks)
    plain = render([*before, Turn(role="assistant", content=answer.strip())], False)
    behind = plain[plain.rfind(answer.strip()) + len(answer.strip()) :] if answer.strip() else ""
    return (
        written + behind,
        shared(head, written),
        len(written) - len(content) + len(thought) + len(mark),
        len(written),
    )
