"""How the bundled demo model was made: its training text and its training."""
