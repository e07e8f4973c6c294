"""What a step tells of each token that it sampled, as bits."""

NATURAL = 1  # EOS (or, where that came, an end of the phase) would have been chosen without any change too
FORCED = 2  # a strategy excluded every other token, or the token was put in
HIDDEN = 4  # top-k, top-p, min-p or the row's minimum of tokens left no EOS id; or a mask, and EOS was the best
INSERTED = 8  # the token was put in and not drawn
UNTOLD = 16  # the engine cannot tell whose an end was, so the other flags say nothing of it
