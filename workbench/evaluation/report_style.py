"""The look of the HTML report: the reader's own fonts, light and dark, narrow and wide, and on paper."""

STYLE = """
:root { color-scheme: light dark; --ink: #16211f; --ground: #fff; --soft: #f3f6f6; --line: #d5dedd; --faint: #5f6f6d;
  --good: #0b6b3a; --good-ground: #e3f4ea; --bad: #a3231b; --bad-ground: #fbe9e7; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eeed; --ground: #101516; --soft: #1a2223; --line: #33403f;
  --faint: #9db0ae; --good: #7fdca8; --good-ground: #12301f; --bad: #ff9d94; --bad-ground: #3a1a17; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 ui-sans-serif, system-ui, sans-serif; overflow-wrap: anywhere; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.7rem; margin: 0 0 4px; } h2 { font-size: 1.3rem; margin: 40px 0 12px; }
h3 { font-size: 1rem; margin: 20px 0 8px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: normal; }
td:not(:first-child) { white-space: nowrap; }
td:first-child { min-width: 130px; }
article { border-top: 1px solid var(--line); padding-top: 4px; break-inside: avoid; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); gap: 12px;
  margin: 12px 0 24px; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; min-width: 0; }
.card p { margin: 0 0 8px; }
.turn { background: var(--soft); border-radius: 8px; padding: 10px 14px; margin: 6px 0; }
.role { color: var(--faint); font-size: .85rem; }
.text { white-space: pre-wrap; }
.card .text { margin: 0 0 8px; }
.note { color: var(--faint); font-size: .85rem; }
.good, .bad, .figure { font-size: .85rem; border-radius: 6px; padding: 1px 7px; white-space: nowrap; }
.good { color: var(--good); background: var(--good-ground); } .bad { color: var(--bad); background: var(--bad-ground); }
p.bad { white-space: normal; } .figure { background: var(--soft); }
.rules { display: flex; flex-wrap: wrap; gap: 6px; }
dl { display: grid; grid-template-columns: minmax(110px, 200px) 1fr; gap: 4px 16px; margin: 0 0 12px;
  font-size: .92rem; }
dt { color: var(--faint); } dd { margin: 0; min-width: 0; }
summary { cursor: pointer; color: var(--faint); }
.chart { max-width: 760px; margin-bottom: 16px; }
"""
