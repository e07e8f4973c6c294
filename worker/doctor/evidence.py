"""What the checks look at: facts of the model's files, and a sample of answers with their EOS curves."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from endmark.jobs.sampling import Sampling
from endmark.jobs.vocabulary import NOT_NUMBERS, Ending, EosSource, FinishReason, Verdict


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the files of a model say about beginning and ending."""

    model: str
    adapter: str | None = None
    engine: tuple[str, ...] = ()  # options that ask for the one that was looked at under, as they are typed
    has_chat_template: bool = True
    token_names: Mapping[int, str] = field(default_factory=dict)  # texts of the special tokens
    tokenizer_eos: int | None = None
    generation_eos: tuple[int, ...] = ()  # of generation_config.json; of config.json where there is none
    used_eos: tuple[int, ...] = ()  # all that Endmark ends a row with
    turn_end: int | None = None  # the special token with which the chat template closes an answer
    pad: int | None = None
    bos: int | None = None
    template_adds_bos: bool = False
    tokenizer_adds_bos: bool = False
    generation_top_k: int = 0  # that transformers' generate would use with its own settings
    own_sampling: Sampling = Sampling()  # as the generation config says
    turn_marks: tuple[str, ...] = ()  # plain text with which the template begins the user's next turn
    holding_down: Mapping[str, str] = field(default_factory=dict)  # its keys that keep EOS from being chosen
    lacking_opening: str = ""  # what the template writes before an answer, but not where one is asked for
    window: int | None = None  # tokens of the longest rows that the model was trained on
    untrained_ends: tuple[int, ...] = ()  # end tokens whose row of the output layer was never trained

    @property
    def closing(self) -> int | None:
        """The token with which the model is to close an answer."""
        return self.tokenizer_eos if self.turn_end is None else self.turn_end

    @property
    def unnamed_end(self) -> int | None:
        """The token with which the chat template closes an answer, if nothing ends at it."""
        return None if self.turn_end in self.used_eos else self.turn_end

    def name(self, token_id: int) -> str:
        """Return a token id with its text."""
        text = self.token_names.get(token_id)
        return f"{token_id} (`{text}`)" if text else str(token_id)


@dataclass(frozen=True, slots=True)
class RowEvidence:
    """One answer of the sample, made with no strategy."""

    prompt: str
    text: str
    verdict: Verdict
    tokens: int  # of the answer, its thought included
    prompt_tokens: int = 0  # 0 where they are not known
    end_token: int | None = None  # the end token that was sampled, where it is known
    token_ids: tuple[int, ...] = ()  # of the answer, where they are known
    prompt_begin: tuple[int, ...] = ()  # the first two token ids that the model saw
    probs: tuple[float, ...] = ()  # EOS probability at every step
    sentence_probs: tuple[float, ...] = ()  # of those, where the text might end
    rank_max: int = 0  # rank of EOS among all tokens where its probability was highest, from 0
    hidden_steps: int = 0  # steps in which top-k or top-p left no EOS to sample
    loop: str = ""  # the stretch that it repeats, if it does
    loop_changes: bool = False  # whether numbers or words of it change from copy to copy
    ending: Ending | None = None  # where its text ends; None where that was not looked at
    special: tuple[int, ...] = ()  # special tokens within it, which leave no text
    in_thought: bool = False  # whether it ended before its thought did
    thought_tokens: int = 0  # of its thought, marks included
    asked_off: bool = False  # whether the row asked for no thought

    @property
    def prob_max(self) -> float:
        """The highest EOS probability of the answer, its thought left out."""
        return max(self.probs[self.thought_tokens :], default=0.0)

    @property
    def answer_tokens(self) -> int:
        """Tokens of the answer alone."""
        return self.tokens - self.thought_tokens

    @property
    def failed(self) -> bool:
        """Whether the row has no answer."""
        return self.verdict.finish_reason is FinishReason.ERROR

    @property
    def not_numbers(self) -> bool:
        """Whether it failed because the model's scores were no numbers."""
        return self.failed and (self.verdict.error or "").startswith(NOT_NUMBERS)

    @property
    def ended(self) -> bool:
        """Whether the model ended the answer by itself."""
        return self.verdict.eos_source is EosSource.NATURAL

    @property
    def cut(self) -> bool:
        """Whether the token budget ended it."""
        return self.verdict.finish_reason is FinishReason.LENGTH


@dataclass(frozen=True, slots=True)
class SixteenBits:
    """The same prompts answered by the model as its files have it, not in 4 bits."""

    rows: tuple[RowEvidence, ...]  # in the order of the sample's
    ends: tuple[tuple[float, float], ...]  # EOS probability where it ended by itself: in 16 bits, and in 4

    @property
    def ended(self) -> int:
        """How many answers ended by themselves."""
        return sum(row.ended for row in self.rows)

    @property
    def looping(self) -> int:
        """How many answers end in a loop."""
        return sum(bool(row.loop) for row in self.rows)


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the checks see."""

    facts: ModelFacts
    rows: tuple[RowEvidence, ...]
    templated: bool  # whether the prompts went through the chat template
    sampling: Sampling = Sampling()
    budget: int = 256
    sixteen_bits: SixteenBits | None = None  # None where that was not asked for
    greedy: tuple[RowEvidence, ...] = ()  # the same prompts at temperature 0; none where the rows are greedy

    @property
    def ended(self) -> tuple[RowEvidence, ...]:
        """The answers that ended by themselves."""
        return tuple(row for row in self.rows if row.ended)

    @property
    def cut(self) -> tuple[RowEvidence, ...]:
        """The answers that the token budget ended."""
        return tuple(row for row in self.rows if row.cut)

    @property
    def looping(self) -> tuple[RowEvidence, ...]:
        """The answers that end in a loop."""
        return tuple(row for row in self.rows if row.loop)

    @property
    def share_cut(self) -> str:
        """How many answers were cut, in words."""
        return f"{len(self.cut)} of {len(self.rows)} answers were cut by the budget"
