"""What a step takes a card and its host, measured: one H200, an 8B shape (8 KV heads, 32 layers) in bf16.

Whoever weighs steps against each other before they are run takes it from here: the scheduler what a token far
behind in its row costs, benchmarks in virtual time what a step takes.
"""

# Operations a second. Products of 2,048 to 8,192 tokens reach 720 at first, and this once the card has drawn its
# full power for a second (`benchmarks/products.py --sustained 1.5`); attention of prompts behind thousands of
# tokens, the gathering of their keys included (`benchmarks/attention.py`).
PRODUCTS, PREFILL_ATTENTION = 670e12, 470e12
# Seconds of a token in norms, gates and writing of keys; of the host for the launch of a step with prompts.
BESIDE_PRODUCTS, LAUNCH = 1.3e-6, 0.044

TOKEN = 13.96e9 / PRODUCTS + BESIDE_PRODUCTS  # seconds of a token in all but attention
PAIR = 4 * 4096 * 32 / PREFILL_ATTENTION  # of a token's attention to one before it
FAR = round(TOKEN / PAIR)  # tokens before one that make it cost twice as much
