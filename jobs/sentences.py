"""Where a sentence has just ended, as a small automaton over the bytes of UTF-8 text.

It runs on the host over text and, tabulated for each token, on the device over token ids, so both agree. A
sentence has ended after a terminator of any script, and still has after closing quotes, brackets and white
space behind it. A full stop after a digit or a lone letter ends nothing: list numbers, decimals, initials.
"""

from collections.abc import Sequence

MID, LETTER, WORD, DIGIT, ENDED = range(5)

_TERMINATORS = "!?。！？．｡…‼⁇⁈⁉।॥؟۔։།።፧။។"
_CLOSERS = "\"')]}*_`~ \t\r\n”’»›」』）】》\u3000\u00a0"


def _build() -> tuple[list[bytes], list[bytes]]:
    """Return, for each state, its transitions over the 256 bytes, and the partial characters that states mean."""
    effects = {sign.encode(): True for sign in _TERMINATORS} | {sign.encode(): False for sign in _CLOSERS}
    prefixes = sorted({code[:size] for code in effects for size in range(1, len(code))})
    partial = {
        (prefix, ended): 5 + 2 * index + ended for index, prefix in enumerate(prefixes) for ended in (False, True)
    }
    tables: list[bytes] = []
    for state in range(5):
        tables.append(bytes(_from_base(state, byte, effects, partial) for byte in range(256)))
    for prefix in prefixes:
        for ended in (False, True):
            row = []
            for byte in range(256):
                code = prefix + bytes((byte,))
                if code in effects:
                    row.append(ENDED if effects[code] or ended else MID)
                elif (code, ended) in partial:
                    row.append(partial[code, ended])
                elif 0x80 <= byte < 0xC0:
                    row.append(WORD)
                else:
                    row.append(_from_base(MID, byte, effects, partial))
            tables.append(bytes(row))
    return tables, prefixes


def _from_base(state: int, byte: int, effects: dict[bytes, bool], partial: dict[tuple[bytes, bool], int]) -> int:
    """Return the state after one byte from a state that is not inside a character."""
    code = bytes((byte,))
    if byte == ord("."):
        return ENDED if state in (WORD, ENDED) else MID
    if code in effects:
        return ENDED if effects[code] or state == ENDED else MID
    if (code, False) in partial:
        return partial[code, state == ENDED]
    if code.isdigit():
        return DIGIT
    if code.isalpha():
        return LETTER if state in (MID, ENDED) else WORD
    return WORD if byte >= 0x80 else MID


_TABLES, _PREFIXES = _build()
STATES = len(_TABLES)


def advance(state: int, data: bytes) -> int:
    """Return the state after more bytes of the text."""
    for byte in data:
        state = _TABLES[state][byte]
    return state


def ends_sentence(text: str) -> bool:
    """Whether the text ends at the end of a sentence."""
    return advance(MID, text[-64:].encode(errors="replace")) == ENDED


def tabulate(token_bytes: Sequence[bytes]) -> list[bytearray]:
    """Return, for each state, the state after each token.

    Args:
        token_bytes: the bytes of each token id.

    Returns:
        STATES rows of one byte a token.
    """
    table = [bytearray(len(token_bytes)) for _ in range(STATES)]
    for token, data in enumerate(token_bytes):
        if not data:  # a special token leaves the text as it is
            for state in range(STATES):
                table[state][token] = state
            continue
        for state in range(5):
            table[state][token] = advance(state, data)
        continues = 0x80 <= data[0] < 0xC0
        for state in range(5, STATES):
            table[state][token] = advance(state, data) if continues else table[MID][token]
    return table
