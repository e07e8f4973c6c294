"""What a step tells of each token that it sampled, as bits."""

NATURAL = 1  # EOS (or, where that came, an end of the phase) would have been chosen without any change too
FORCED = 2  # a strategy excluded every other token, or the token was put in
HIDDEN = 4  # top-k, top-p or min-p left no EOS id to sample, or the row's minimum of tokens
INSERTED = 8  # the token was put in and not drawn
