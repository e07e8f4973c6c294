"""Several answers of one prompt from the bundled model."""

import pytest

from endmark.client.engine import Engine

pytestmark = pytest.mark.engine


def test_the_answers_of_a_prompt_differ_and_come_again():
    engine = Engine()
    options = {"samples": 4, "temperature": 2, "max_new_tokens": 20, "seed": 3}
    found = engine.generate(["Name three rivers.", "What can I do in Paris?"], **options)
    texts = [item.text for item in found]
    assert [item.row for item in found] == list(range(8))
    assert len(set(texts)) == 8
    assert len({item.prompt_tokens for item in found[:4]}) == 1
    assert [item.text for item in engine.generate(["Name three rivers."], **options)] == texts[:4]
    assert len({item.text for item in engine.generate(["Name three rivers."], **options, strategy="whole")}) == 4
