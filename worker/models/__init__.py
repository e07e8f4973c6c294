"""From a model's folder to a runner: loading in 4 bits, adapters, and what cannot be run."""
