"""Draws the panels of a Grafana dashboard, and the times at which alerts fire, from what Prometheus
answers to their own queries: a page with SVG, and a picture of it by a headless Chromium.

This is not Grafana: only what the chart's dashboard has (time series, legends, units) is drawn.
"""

import html
import os
import re
import shutil
import subprocess
import time

from devtools import Failure

COLUMN, ROW, GAP = 52, 28, 10  # pixels of Grafana's grid, which has 24 columns
LEFT, BOTTOM, TOP = 64, 18, 30
COLOURS = ["#2f7ed8", "#d9822b", "#3c9a5f", "#b3261e", "#8358c9", "#0f9aa8", "#a8771b", "#c43f86", "#667085", "#5b8c00"]
STYLE = """
body { margin: 0; background: #f2f3f5; font: 13px system-ui, "DejaVu Sans", sans-serif; color: #1a1d23; }
main { position: relative; margin: 12px; }
section { position: absolute; background: #fff; border: 1px solid #d5d9e0; border-radius: 4px; overflow: hidden; }
h1 { font-size: 18px; margin: 12px 12px 0; } h1 small { font-weight: normal; color: #565d69; font-size: 12px; }
h2 { font-size: 13px; margin: 6px 8px 0; }
p { margin: 0 8px; font-size: 11px; color: #565d69; line-height: 15px; }
p b { font-weight: 900; } text { font-size: 10px; fill: #565d69; } .none { text-anchor: middle; font-size: 12px; }
"""


def value_text(value, unit):
    if unit == "s":
        return f"{value * 1000:.3g} ms" if abs(value) < 1 else f"{value:.3g} s"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text + {"cps": "/s", "reqps": " req/s"}.get(unit, "")


def legend(template, metric):
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: metric.get(found[1], ""), template or "value").strip()


def series_of(prometheus, panel, begin, end, change):
    """Name and points of each line."""
    found = []
    for target in panel["targets"]:
        step = max(1, (end - begin) / 300)
        for one in prometheus.query_range(change(target["expr"]), begin, end, step):
            points = [(at, float(value)) for at, value in one["values"] if value not in ("NaN", "+Inf")]
            if points:
                found.append((legend(target.get("legendFormat"), one["metric"]), points))
    return found


def chart(series, unit, begin, end, width, height):
    """Lines above an axis of time; they are cut where nothing is known for a while."""
    inner, deep = width - LEFT - 10, height - BOTTOM
    highest = max((value for _, points in series for _, value in points), default=0) or 1
    x = lambda at: LEFT + inner * (at - begin) / (end - begin)
    y = lambda value: 6 + (deep - 6) * (1 - value / (highest * 1.08))
    parts = []
    for share in (0, 0.5, 1):
        level = highest * share
        parts.append(f'<line x1="{LEFT}" x2="{width - 10}" y1="{y(level):.1f}" y2="{y(level):.1f}" stroke="#e4e7ec"/>'
                     f'<text x="{LEFT - 5}" y="{y(level) + 3:.1f}" text-anchor="end">{value_text(level, unit)}</text>')
    for share in (0, 0.5, 1):
        at = begin + (end - begin) * share
        anchor = {0: "start", 0.5: "middle", 1: "end"}[share]
        clock = time.strftime("%H:%M:%S", time.gmtime(at))
        parts.append(f'<text x="{x(at):.1f}" y="{height - 4}" text-anchor="{anchor}">{clock}</text>')
    longest_gap = 3 * max(1, (end - begin) / 300)
    for number, (_, points) in enumerate(series):
        path, before = "", None
        for at, value in points:
            path += f"{'M' if before is None or at - before > longest_gap else 'L'}{x(at):.1f} {y(value):.1f}"
            before = at
        parts.append(f'<path d="{path}" fill="none" stroke="{COLOURS[number % len(COLOURS)]}" stroke-width="1.6"/>')
    if not series:
        parts.append(f'<text class="none" x="{width / 2}" y="{deep / 2}">nothing in this run</text>')
    return f'<svg width="{width}" height="{height}">{"".join(parts)}</svg>'


def names(series):
    marks = [f'<b style="color:{COLOURS[number % len(COLOURS)]}">—</b> {html.escape(name)}'
             for number, (name, _) in enumerate(series)]
    return "&ensp;".join(marks)


def dashboard_page(dashboard, prometheus, begin, end, change, subtitle):
    """HTML, and its size."""
    sections, bottom = [], 0
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        width, height = place["w"] * COLUMN - GAP, place["h"] * ROW - GAP
        series = series_of(prometheus, panel, begin, end, change)
        unit = panel["fieldConfig"]["defaults"].get("unit", "short")
        # A line of the legend for every 60 letters or so.
        lines = max(1, -(-sum(len(name) + 4 for name, _ in series) // 60))
        sections.append(
            f'<section style="left:{place["x"] * COLUMN}px;top:{place["y"] * ROW}px;width:{width}px;height:{height}px">'
            f'<h2>{html.escape(panel["title"])}</h2>'
            f"{chart(series, unit, begin, end, width, height - TOP - 15 * lines)}<p>{names(series)}</p></section>")
        bottom = max(bottom, (place["y"] + place["h"]) * ROW)
    return page(dashboard["title"], subtitle, "".join(sections)), (24 * COLUMN + 14, bottom + 70)


def alerts_page(prometheus, alerts, begin, end, subtitle):
    """A row for each alert: when it was pending, and when it fired."""
    width, high, left = 24 * COLUMN - GAP, 26, 260
    step = max(1, (end - begin) / 600)
    x = lambda at: left + (width - left - 20) * (at - begin) / (end - begin)
    rows = []
    for number, alert in enumerate(alerts):
        top = 10 + number * high
        rows.append(f'<line x1="0" x2="{width}" y1="{top + 19}" y2="{top + 19}" stroke="#e4e7ec"/>'
                    f'<text x="10" y="{top + 13}" style="font-size:12px;fill:#1a1d23">{alert}</text>')
        for state, colour in (("pending", "#e0a030"), ("firing", "#b3261e")):
            query = f'max(ALERTS{{alertname="{alert}",alertstate="{state}"}})'
            for one in prometheus.query_range(query, begin, end, step):
                for at, _ in one["values"]:
                    rows.append(f'<rect x="{x(at):.1f}" y="{top + 2}" height="13" fill="{colour}" '
                                f'width="{x(begin + step) - x(begin) + 0.4:.2f}"/>')
    deep = 10 + len(alerts) * high
    for share in (0, 0.25, 0.5, 0.75, 1):
        at = begin + (end - begin) * share
        clock = time.strftime("%H:%M:%S", time.gmtime(at))
        rows.append(f'<text x="{x(at):.1f}" y="{deep + 14}" text-anchor="middle">{clock}</text>')
    drawing = f'<svg width="{width}" height="{deep + 22}">{"".join(rows)}</svg>'
    box = f'<section style="width:{width}px;height:{deep + 22}px">{drawing}</section>'
    return page("Alerts", subtitle, box), (24 * COLUMN + 14, deep + 90)


def page(title, subtitle, body):
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
            f"<style>{STYLE}</style><h1>{html.escape(title)} <small>{html.escape(subtitle)}</small></h1>"
            f"<main>{body}</main></html>")


def picture(text, size, directory, file):
    """A PNG of a page."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        raise Failure("Chromium is missing: try `apt-get install chromium`")
    source = directory / f"{file.stem}.html"
    source.write_text(text)
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         f"--user-data-dir={directory}/chromium", f"--window-size={size[0]},{size[1]}",
         "--force-device-scale-factor=1.5", f"--screenshot={file}", source.as_uri()],
        capture_output=True, text=True, timeout=120)
    if done.returncode or not file.exists():
        raise Failure(f"no picture: {done.stderr.strip()}")
    print(f"ok      {file}")
