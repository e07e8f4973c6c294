"""`trim`: an answer that was still cut is trimmed to its last landing spot."""

from endmark.jobs.strategies.base import Place, Strategy


class Trim(Strategy):
    """Drops what stands behind the last landing spot of a truncated answer; see `jobs.landing`.

    The row stays truncated; `trimmed_tokens` tells how much was dropped. An answer without a landing spot stays.
    """

    name = "trim"
    place = Place.AFTER
    summary = "an answer that is still cut is trimmed to where it last could have ended whole"
    why = "to end every cut answer whole without more tokens; it costs what stood behind that place"
    trims = True
