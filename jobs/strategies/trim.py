"""`trim`: an answer that was still cut is trimmed to the last place where it is whole."""

from endmark.jobs.strategies.base import Place, Strategy


class Trim(Strategy):
    """Drops what stands behind the last landing spot where the answer is whole (`jobs.landing`, `jobs.endings`).

    Only of answers that the model did not end by itself, and that are not complete. Their verdict stays;
    `trimmed_tokens` tells how much was dropped. An answer that is whole nowhere stays as it is.
    """

    name = "trim"
    place = Place.AFTER
    summary = "an answer that is still cut is trimmed to where it last could have ended whole"
    why = "to end every cut answer whole without more tokens; it costs what stood behind that place"
    trims = True
