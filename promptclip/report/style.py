"""How the page looks: on a phone, on a desk, on paper."""

STYLE = """
:root { color-scheme: light; --red: #b00020; --line: #767676; --soft: #f4f4f4; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: #111; background: #fff; margin: 0 auto;
  padding: 0 1rem 3rem; max-width: 84rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 1.5rem 0 .5rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .75rem; border-bottom: 2px solid; }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .5rem; }
p, .facts { max-width: 48rem; }
a { color: #00439c; }
:focus-visible { outline: 3px solid #00439c; outline-offset: 2px; }
.skip { position: absolute; left: -999rem; background: #fff; padding: .5rem 1rem; }
.skip:focus { left: 1rem; top: .5rem; z-index: 1; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; padding: 0; }
nav a { display: inline-block; padding: .35rem 0; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; font-weight: 600; padding: .4rem 0; }
caption span { display: block; max-width: calc(100vw - 2.5rem); }
th, td { padding: .25rem .7rem; text-align: right; vertical-align: top; }
thead, tbody { border-bottom: 1px solid; }
thead { border-top: 2px solid; }
tbody { border-bottom-width: 2px; }
tbody tr:nth-child(even) { background: var(--soft); }
td { white-space: nowrap; }
td small, .words td { white-space: normal; }
td small { min-width: 7rem; }
.words td { min-width: 3rem; }
th[scope=row], th:first-child { text-align: left; }
th[scope=row] { font-weight: 500; position: sticky; left: 0; background: #fff; }
tbody tr:nth-child(even) th { background: var(--soft); }
small { display: block; font-weight: normal; }
td.gap, td.part small { color: var(--red); font-weight: 600; }
td.gap { border: 2px dashed var(--red); background: #fff0f0; }
.problems { border: 2px solid var(--red); border-left-width: .6rem; padding: .25rem 1rem;
  margin: 1rem 0; background: #fff0f0; }
.problems h3 { color: var(--red); margin-top: .5rem; }
.empty { font-style: italic; }
.figures { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
figure { margin: 0; break-inside: avoid; }
figcaption { font-weight: 600; }
img { max-width: 100%; height: auto; }
details { margin: .35rem 0; }
summary { cursor: pointer; padding: .25rem 0; }
pre { white-space: pre-wrap; background: var(--soft); padding: .75rem; font-size: .85rem; }
.bar { display: block; position: relative; width: 8rem; height: 1.1rem;
  background: linear-gradient(var(--line), var(--line)) center / 1px 100% no-repeat; }
.bar span { position: absolute; top: .15rem; bottom: .15rem; }
.bar .gain { left: 50%; background: #0072b2; }
.bar .loss { right: 50%; border: 1px solid #d55e00;
  background: repeating-linear-gradient(45deg, #d55e00 0 3px, #fff 3px 6px); }
@media print {
  body { font-size: 10pt; max-width: none; padding: 0; }
  nav, .skip { display: none; }
  h2, h3, caption, figcaption, summary { break-after: avoid; }
  tr, .problems li { break-inside: avoid; }
  th[scope=row] { position: static; }
  .wide { overflow: visible; }
  .figures { grid-template-columns: 1fr 1fr; }
  th, td { padding: .15rem .35rem; }
  table { font-size: 8.5pt; }
  * { print-color-adjust: exact; }
}
@media (max-width: 30rem) {
  body { padding: 0 .75rem 2rem; }
  th, td { padding: .2rem .45rem; font-size: .9rem; }
}
"""
