"""What the documents say: metrics by their tables, rights by their YAML."""

import os
import re

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))


def text(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def metrics():
    """Names of all metrics of agent and daemon, a histogram's parts included."""
    names = set()
    for page in ("metrics.md", "fleet-metrics.md"):
        for name, kind in re.findall(r"^\| `(\w+)` \| (\w+) \|", text("docs", page), re.M):
            names |= {name, *(name + part for part in ("_bucket", "_sum", "_count") if kind == "histogram")}
    if len(names) < 100:
        raise SystemExit(
            f"docs/metrics.md and docs/fleet-metrics.md list only {len(names)} metrics: their form has changed"
        )
    return names


def metrics_in(expression):
    """What a PromQL expression reads: words that look like one of our metrics, or of those that go with them."""
    words = re.findall(r"[a-z_:][\w:]*", re.sub(r'"[^"]*"', '""', expression))
    return {word for word in words if word == "up" or re.search(r"(^|:)(ebbtide|kepler|scaph|kubelet|probe)[_:]", word)}
