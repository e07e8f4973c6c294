"""Why a file behind a URL cannot be read: that there is none is told apart from all else that an answer may be."""

import pytest

from endmark.jobs.errors import UsageError
from endmark.jobs.remote import _said

pytestmark = pytest.mark.unit
URL = "https://example.com/prompts.csv"


class Answer(Exception):
    """What an HTTP library raises, with the status of the answer."""

    def __init__(self, status):
        super().__init__(f"status {status}")
        self.status = status


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (404, f"there is no `{URL}`"),
        (410, f"there is no `{URL}`"),
        (403, f"cannot read `{URL}`: the server answers 403"),
        (411, f"cannot read `{URL}`: the server answers 411"),
        (500, f"cannot read `{URL}`: the server answers 500"),
    ],
)
def test_an_answer_that_says_that_there_is_none_and_others(status, said):
    with pytest.raises(UsageError) as caught, _said(URL, "read"):
        raise FileNotFoundError(URL) from Answer(status)
    assert str(caught.value) == said
