"""Checks of how tokens were drawn: otherwise than the model asks for."""

from endmark.jobs.sampling import TABLE, written
from endmark.worker.doctor import commands
from endmark.worker.doctor.checks.answers import LOOPING
from endmark.worker.doctor.evidence import Evidence
from endmark.worker.doctor.findings import Finding, Level


def other_sampling(evidence: Evidence) -> Finding | None:
    """The sample was drawn otherwise than the model's generation config asks for."""
    wanted = evidence.facts.own_sampling
    names = [item.name for item in TABLE if item.generation_config]
    asked = {name: getattr(wanted, name) for name in names}
    taken = {name: getattr(evidence.sampling, name) for name in names}
    if not wanted.temperature or asked == taken:
        return None
    differing = [name for name in names if asked[name] != taken[name]]
    looping, cut = len(evidence.looping), len(evidence.cut)
    return Finding(
        "other sampling",
        Level.CAUSE if looping >= LOOPING * len(evidence.rows) > 0 else Level.RISK,
        "The answers were sampled otherwise than the model's generation config asks for",
        f"it asks for {written({name: asked[name] for name in differing})}, and the sample had "
        f"{written({name: taken[name] for name in differing})}; of {len(evidence.rows)} answers {cut} were cut, "
        f"{looping} in a loop",
        "leave out the options of sampling, and jobs sample as the model asks",
        commands.run(evidence.facts),
    )
