#!/usr/bin/env python3
"""Writes what a result file says into docs/benchmarks.md, between its marks, and draws the plots beside it.

  report.py RESULT.json

Numbers are copied, never rounded up; the plots are plain SVG that reads in light and dark.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DOC = ROOT / "docs/benchmarks.md"
IMAGES = ROOT / "docs/images"
NAMES = {"skep": "Skep", "nginx": "nginx", "haproxy": "HAProxy", "traefik": "Traefik", "faucet": "Faucet", "shiny-server": "Shiny Server"}


def table(rows):
    head, *rest = rows
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rest])


def proxied(result, part, what):
    base = result[part].get("nginx", {}).get("per_s")
    rows = [["", f"{what}/s", "× nginx", "p50 ms", "p99 ms", "CPU µs each", "errors"]]
    for name, run in result[part].items():
        ratio = f"{run['per_s'] / base:.2f}" if base else "–"
        rows.append([NAMES[name], f"{run['per_s']:,.0f}", ratio, f"{run['p50_ms']:.2f}", f"{run['p99_ms']:.2f}",
                     f"{run['cpu_us']:.1f}", str(run["errors"])])
    return table(rows)


def memory(result):
    rows = [["", "KiB per idle WebSocket", "lost", "KiB per held request", "lost", "fresh start, PSS", "fresh start, RSS"]]
    for name in result["http"]:
        idle = result["idle_websockets"].get(name)
        held = result.get("held_requests", {}).get(name)
        fresh = result["idle_kib"][name]
        rows.append([NAMES[name], f"{idle['kib']:.1f}" if idle else "not compared",
                     f"{idle['lost']} of {idle['connections']:,}" if idle else "",
                     f"{held['kib']:.1f}" if held else "does not hold", f"{held['lost']}" if held else "",
                     f"{fresh['Pss'] / 1024:.1f} MiB", f"{fresh['Rss'] / 1024:.1f} MiB"])
    return table(rows)


def bars(title, values, unit, digits=0):
    """A bar for each; the longest fills the width."""
    height, left, width = 30, 90, 520
    most = max(values.values()) or 1
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 110} {40 + height * len(values)}" '
           f'font-family="sans-serif" font-size="14" role="img" aria-label="{title}">',
           "<style>text{fill:#333}rect{fill:#8a8f98}.us{fill:#c98a00}"
           "@media(prefers-color-scheme:dark){text{fill:#ddd}}</style>",
           f'<text x="0" y="20" font-weight="bold">{title}</text>']
    for at, (name, value) in enumerate(values.items()):
        y = 34 + at * height
        length = max(1, value / most * width)
        kind = ' class="us"' if name == "skep" else ""
        out += [f'<text x="0" y="{y + 17}">{NAMES[name]}</text>',
                f'<rect{kind} x="{left}" y="{y}" width="{length:.1f}" height="22" rx="3"/>',
                f'<text x="{left + length + 6:.1f}" y="{y + 17}">{value:,.{digits}f} {unit}</text>']
    return "\n".join(out + ["</svg>"]) + "\n"


def machine(result):
    m = result["machine"]
    versions = ", ".join(result["versions"].values())
    return (f"{result['date'][:10]}, commit {result['commit']}: {m['cpus']} CPUs ({m['cpu']}), {m['memory_mib']:,} MiB, "
            f"Linux {m['kernel']}, load {m['load_before']:.1f} before. {versions}.")


def put(text, mark, new):
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.S)
    assert pattern.search(text), f"docs/benchmarks.md has no place `{mark}`"
    return pattern.sub(lambda found: f"{found[1]}\n{new}\n\n{found[2]}", text)


def main():
    result = json.loads(Path(sys.argv[1]).read_text())
    text = DOC.read_text()
    text = put(text, "machine", machine(result))
    def image(title, file):
        return f"\n\n![{title}](images/{file})"

    text = put(text, "http", proxied(result, "http", "requests") + image("Requests per second", "bench-requests.svg")
               + image("CPU per request", "bench-cpu.svg"))
    text = put(text, "websocket", proxied(result, "websocket", "messages")
               + image("WebSocket messages per second", "bench-messages.svg"))
    text = put(text, "memory", memory(result) + image("Memory per idle WebSocket", "bench-idle.svg"))
    DOC.write_text(text)
    IMAGES.mkdir(exist_ok=True)
    for file, title, values, unit, digits in [
        ("bench-requests.svg", "Requests per second", {n: r["per_s"] for n, r in result["http"].items()}, "", 0),
        ("bench-cpu.svg", "CPU per request", {n: r["cpu_us"] for n, r in result["http"].items()}, "µs", 1),
        ("bench-messages.svg", "WebSocket messages per second", {n: r["per_s"] for n, r in result["websocket"].items()}, "", 0),
        ("bench-idle.svg", "Memory per idle WebSocket", {n: r["kib"] for n, r in result["idle_websockets"].items()}, "KiB", 1),
    ]:
        (IMAGES / file).write_text(bars(title, values, unit, digits))


if __name__ == "__main__":
    main()
