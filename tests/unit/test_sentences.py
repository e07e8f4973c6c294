"""Where a sentence ends, over text."""

import pytest

from endmark.jobs.sentences import ENDED, WORD, advance, ends_sentence

pytestmark = pytest.mark.unit

ENDS = [
    "Take the tram.",
    "Really?! ",
    "Wait...",
    "He said “yes.”\n\n",
    "**Enjoy it!**",
    "行きましょう。」",
    "यह अच्छा है।",
    "هل هذا جيد؟",
    "នេះ។",
    "Τι είναι αυτό\u037e",
]
GOES_ON = [
    "Take the tram",
    "Take the tram,",
    "First, second;",
    "Menu:\n",
    "St",
    "",
    "1.",
    "See\n12. ",
    "Pi is 3.",
    "J. ",
    *(f"{letter}. " for letter in "DFMPRSacv"),  # initials that an abbreviation begins with
]


@pytest.mark.parametrize("text", ENDS)
def test_a_terminator_of_any_script_ends_a_sentence(text):
    assert ends_sentence(text)


@pytest.mark.parametrize("text", GOES_ON)
def test_what_is_open_list_numbers_decimals_and_initials_end_none(text):
    assert not ends_sentence(text)


@pytest.mark.parametrize("name", ["Dr", "Mr", "Mrs", "Ms", "Mt", "St", "Prof", "Ph", "vs", "approx", "e.g", "i.e"])
def test_an_answer_is_not_landed_on_an_abbreviation(name):
    """`soft-landing` ended answers with “… and then visit St.”, as if the saint were a sentence."""
    for before in ("", "Then visit ", "It is open. ", "(", "“", "**", "町へ。"):
        assert not ends_sentence(f"{before}{name}.")
        assert not ends_sentence(f"{before}{name}. ")
        assert ends_sentence(f"{before}{name}. Mark’s.")


@pytest.mark.parametrize(
    "text", ["The best.", "A forest.", "Ends.", "A pro.", "Profs.", "Five ms.", "Apps.", "It is in the East."]
)
def test_a_word_that_only_holds_an_abbreviation_ends_its_sentence(text):
    assert ends_sentence(text)


@pytest.mark.parametrize("text", ["Is it free? No.", "Museums, parks, etc.", "Built by Sims & Sons Inc."])
def test_what_a_whole_answer_may_well_end_with_is_an_end(text):
    assert ends_sentence(text)


@pytest.mark.parametrize(
    "text",
    [
        "Paris (France).",
        "It is **free**.",
        'They say "yes".',
        "You can't.",
        "You can’t.",
        "As told in [1].",
        "All 100%.",
    ],
)
def test_closing_signs_between_the_word_and_its_full_stop_change_nothing(text):
    """`(France).` was taken for a sentence still open, as the full stop stood behind a sign and not a word."""
    assert ends_sentence(text)


def test_a_year_may_end_a_sentence_and_a_price_or_a_list_number_does_not():
    assert ends_sentence("It opened in 1889.")
    assert not ends_sentence("It costs $100.")  # may go on with 50
    assert not ends_sentence("\n100. ")


@pytest.mark.parametrize("begun", [b"\xe3", b"\xe3\x80", b"\xef\xbc", b"\xd8"])
def test_a_character_that_breaks_off_does_not_hide_the_one_behind_it(begun):
    """A token may end inside a character that the next one does not go on with."""
    for sign in "。؟।":
        assert advance(WORD, begun + sign.encode()) == ENDED
