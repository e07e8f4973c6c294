"""`concise`: asks for a short answer."""

from endmark.jobs.errors import SpecError
from endmark.jobs.strategies.base import Parameter, Place, Strategy

_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class Concise(Strategy):
    """Appends an instruction to the prompt; the model may still ignore it."""

    name = "concise"
    place = Place.PROMPT
    summary = "appends an instruction to the prompt, such as “Answer in at most five sentences.”"
    why = "when long answers are no gain; combines with every other strategy"
    declared = (
        Parameter("sentences", 5, "the most sentences to ask for", 1, 1000),
        Parameter("text", "", "the instruction itself, instead of the one made from `sentences`"),
    )

    def validate(self) -> None:
        """Check that only one instruction is given, and that it says something."""
        if "text" in self.given:
            if "sentences" in self.given:
                raise SpecError("strategy `concise`: give `sentences` or `text`, not both")
            if not self.string("text").strip():
                raise SpecError("strategy `concise`: `text` is empty")

    def amend_prompt(self, prompt: str) -> str:
        """Return the prompt with the instruction behind it."""
        return f"{prompt.rstrip()} {self.string('text') or self._instruction()}"

    def _instruction(self) -> str:
        """Return the instruction for that many sentences."""
        count = int(self.number("sentences"))
        amount = _WORDS[count - 1] if count <= len(_WORDS) else str(count)
        return f"Answer in at most {amount} sentence{'s' if count > 1 else ''}."
