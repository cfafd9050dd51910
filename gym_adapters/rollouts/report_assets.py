"""What the page of a run looks like, and the one script that it holds."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256

__all__ = ["HEAD", "SCRIPT_TAG"]

_STYLE = """
:root {
  color-scheme: light dark;
  --ink: light-dark(#1c2330, #e6e9ef); --soft: light-dark(#5b6577, #98a2b5);
  --page: light-dark(#f6f7f9, #12151b); --card: light-dark(#fff, #1a1f28);
  --line: light-dark(#e1e5ec, #2b3240); --accent: light-dark(#2f6fde, #6ea2ff);
  --good: light-dark(#13803e, #5fd48b); --bad: light-dark(#b3261e, #ff8a80);
  --odd: light-dark(#94600a, #f0b95b); --mask: light-dark(#d7f0df, #1f4a31);
}
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0; color: var(--ink);
  background: var(--page); overflow-wrap: anywhere; }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; }
h2 { font-size: 1.05rem; margin: 0 0 .6rem; }
h3 { font-size: .95rem; margin: 1rem 0 .3rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: 1rem 1.2rem; margin-top: 1rem; }
.facts { color: var(--soft); margin: 0; }
.facts b { font-weight: 500; color: var(--ink); }
.facts span { margin-right: 1.2rem; }
.cards, .pair { display: grid; gap: 1rem; margin-top: 1rem; }
.cards { grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }
.pair { grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); }
.cards section, .pair section { margin: 0; min-width: 0; }
.cards b { display: block; font-size: 1.5rem; font-weight: 600; line-height: 1.3; }
.cards small, .legend, .none { color: var(--soft); font-size: .85rem; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .15rem 1.2rem .15rem 0; }
th { font-weight: 500; color: var(--soft); white-space: pre-wrap; min-width: 6.5rem;
  max-width: 18rem; }
td, th, bdi { unicode-bidi: isolate; }
table.grid { margin-bottom: .8rem; } .grid th { min-width: 0; white-space: nowrap; }
.grid td:first-child { min-width: 9rem; }
.grid td:not(:first-child) { font-variant-numeric: tabular-nums; white-space: nowrap; }
details.part { border-top: 1px solid var(--line); padding: .3rem 0; }
details.part > summary { cursor: pointer; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.chart { width: 100%; height: auto; display: block; }
.chart text { font: 11px system-ui, sans-serif; fill: var(--soft); }
.mid { text-anchor: middle; } .end { text-anchor: end; }
@media (max-width: 34rem) { .chart text { font-size: 15px; } }
.axis, .grid { fill: none; stroke: var(--line); } path.grid { stroke-dasharray: 3 3; }
.bar { fill: var(--accent); }
.band { fill: var(--accent); opacity: .15; }
polyline { fill: none; stroke-width: 2; }
polyline.one { stroke: var(--accent); } circle.one { fill: var(--accent); }
polyline.all { stroke: var(--bad); stroke-dasharray: 7 4; } circle.all { fill: var(--bad); }
polyline.vote { stroke: var(--good); stroke-dasharray: 2 3; } circle.vote { fill: var(--good); }
.legend { margin: .5rem 0 0; } .legend span { margin-right: 1rem; display: inline-block; }
.legend svg { vertical-align: middle; }
.wide { overflow-x: auto; }
.find { display: flex; flex-wrap: wrap; gap: .6rem; align-items: center; margin-bottom: .8rem; }
.find input { flex: 1 1 16rem; } .find span { color: var(--soft); }
input, select { font: inherit; color: inherit; background: var(--page);
  border: 1px solid var(--line); border-radius: .4rem; padding: .35rem .6rem; }
details.rollout { border-top: 1px solid var(--line); padding: .35rem 0; }
details.rollout > summary { cursor: pointer; display: flex; gap: .8rem; align-items: baseline; }
details.rollout > summary::before { content: "\\25b8"; color: var(--soft); }
details.rollout[open] > summary::before { content: "\\25be"; }
details.rollout > summary:hover { background: var(--page); }
details.rollout > summary span { color: var(--soft); min-width: 0; }
bdi:not(:last-child)::after { content: " · "; }
summary b { min-width: 5.5rem; font-weight: 600; }
.item img { max-width: min(100%, 32rem); max-height: 32rem; min-width: 1.5rem;
  image-rendering: auto; border: 1px solid var(--line); }
p.who { margin: .5rem 0 0; }
[data-kind=passed] summary b { color: var(--good); }
[data-kind=missed] summary b { color: var(--odd); }
[data-kind=failed] summary b { color: var(--bad); }
.inside { padding: .4rem 0 .8rem; }
.item { border-left: 3px solid var(--line); padding: .1rem 0 .1rem .8rem; margin: .5rem 0; }
.item.assistant { border-color: var(--accent); } .item.call { border-color: var(--odd); }
.item.result { border-color: var(--good); } .item.thinks { border-color: var(--soft); }
.who { font-size: .8rem; font-weight: 600; color: var(--soft); }
pre { font: 13px/1.45 ui-monospace, monospace; white-space: pre-wrap;
  margin: .1rem 0; }
.item.thinks pre { color: var(--soft); }
.tokens summary { cursor: pointer; color: var(--soft); font-size: .85rem; }
.tokens .sampled { background: var(--mask); border-radius: .2rem; }
[hidden] { display: none !important; }
"""

_SCRIPT = """
(() => {
  const box = document.getElementById("search");
  const kind = document.getElementById("kind");
  const count = document.getElementById("count");
  const rollouts = [...document.querySelectorAll("details.rollout")];
  let texts = null;
  const update = () => {
    const words = box.value.toLowerCase().split(/\\s+/).filter(Boolean);
    // Only once somebody searches: of many rollouts the texts are long.
    if (words.length) texts ??= rollouts.map((each) => each.textContent.toLowerCase());
    let shown = 0;
    rollouts.forEach((each, index) => {
      const fits = (!kind.value || each.dataset.kind === kind.value)
        && words.every((word) => texts[index].includes(word));
      each.hidden = !fits;
      shown += fits;
    });
    count.textContent = `${shown} of ${rollouts.length}`;
  };
  const read = () => {
    const asked = new URLSearchParams(location.hash.slice(1));
    box.value = asked.get("q") ?? "";
    kind.value = asked.get("kind") ?? "";
    update();
  };
  box.addEventListener("input", update);
  kind.addEventListener("change", update);
  addEventListener("hashchange", read);
  read();
})();
"""

_ALLOWED = b64encode(sha256(_SCRIPT.encode()).digest()).decode()

HEAD = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
img-src data:; script-src 'sha256-{_ALLOWED}'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@TITLE@</title>
<style>{_STYLE}</style></head><body><main>"""
"""The page up to its first section; ``@TITLE@`` stands for the title."""

SCRIPT_TAG = f"<script>{_SCRIPT}</script>"
"""The only script that the page's policy lets run."""
