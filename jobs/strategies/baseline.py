"""`baseline`: the model as it is."""

from endmark.jobs.strategies.base import Place, Strategy


class Baseline(Strategy):
    """Changes nothing; the model's own EOS ids end a row."""

    name = "baseline"
    place = Place.NOWHERE
    summary = "nothing; the model's own EOS ids end a row"
    why = "to see how the model ends by itself, and as the measure of the others"
