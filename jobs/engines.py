"""The engines that may compute answers, and how an answer's weights are named."""

OWN = "endmark"


def computed_with(engine: str, weights: str) -> str:
    """Return what an answer is said to be computed with: the weights, and the engine where it is not our own."""
    return weights if engine == OWN else f"{engine}: {weights}"
