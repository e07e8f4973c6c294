"""The findings and the EOS curves as one page that needs no network."""

from html import escape

from endmark.worker.doctor.curves import overview, single
from endmark.worker.doctor.evidence import Evidence, RowEvidence
from endmark.worker.doctor.findings import Finding
from endmark.worker.doctor.table import summary

_STYLE = """
:root { color-scheme: light dark; --text: #1d2329; --soft: #5c6670; --page: #fff; --line: #d9dee3;
  --ended: #1a7f4b; --cut: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ec; --soft: #9aa4ae; --page: #14181c;
  --line: #333b43; --ended: #4cc38a; --cut: #ff9a5c; } }
body { margin: 0 auto; max-width: 52rem; padding: 1.5rem 1rem 4rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
article { border-left: 4px solid var(--line); margin: 1rem 0; padding: .1rem 0 .1rem 1rem; }
article.cause { border-color: var(--cut); } article h3 { margin: 0; font-size: 1rem; }
dl { display: grid; grid-template-columns: 5.5rem 1fr; gap: .2rem .5rem; margin: .4rem 0; }
dt { color: var(--soft); } dd { margin: 0; }
svg { width: 100%; height: auto; font-size: 11px; } svg text { fill: var(--soft); }
polyline { fill: none; stroke-width: 1.3; } .grid { stroke: var(--line); stroke-width: 1; }
polyline.ended { stroke: var(--ended); } circle.ended { fill: var(--ended); }
polyline.cut { stroke: var(--cut); } .key { color: var(--soft); }
b.ended { color: var(--ended); } b.cut { color: var(--cut); }
details { border-top: 1px solid var(--line); padding: .5rem 0; } summary { cursor: pointer; }
pre { white-space: pre-wrap; font: inherit; } .soft { color: var(--soft); }
"""


def write_report(evidence: Evidence, findings: tuple[Finding, ...]) -> str:
    """Return the page as HTML."""
    model = escape(evidence.facts.model)
    found = "".join(map(_finding, findings)) or "<p>Nothing found that would keep this model from stopping.</p>"
    answers = "".join(_answer(row, evidence.budget) for row in evidence.rows)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>endmark doctor: {model}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Why would {model} not stop?</h1>
<p>{escape(summary(evidence))}.</p>
<h2>Findings</h2>
{found}
<h2>EOS probability</h2>
<p class="key">Mass over all end tokens before temperature, top-k, top-p and any strategy, on a logarithmic scale.
<b class="ended">Answers that ended by themselves</b> close with a dot; <b class="cut">cut answers</b> run on.</p>
{overview(evidence.rows, evidence.budget)}
<h2>Answers</h2>
{answers}
</body>
</html>
"""


def _finding(finding: Finding) -> str:
    """Return one finding."""
    return (
        f'<article class="{finding.level}"><h3>{escape(finding.title)}</h3>'
        f"<dl><dt>{escape(finding.level)}</dt><dd>{escape(finding.check)}</dd>"
        f"<dt>evidence</dt><dd>{escape(finding.evidence)}</dd><dt>fix</dt><dd>{escape(finding.fix)}</dd></dl>"
        "</article>\n"
    )


def _answer(row: RowEvidence, budget: int) -> str:
    """Return one answer with its curve, folded."""
    kind = "cut" if row.cut else "ended"
    return (
        f'<details><summary>{escape(row.prompt[:120])} <b class="{kind}">{escape(row.verdict.finish_reason)}</b> '
        f'<span class="soft">{row.tokens} tokens, EOS at most {row.prob_max:.2%}</span></summary>'
        f"<pre>{escape(row.text)}</pre>{single(row, budget)}</details>\n"
    )
