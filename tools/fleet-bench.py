#!/usr/bin/env python3
"""Runs `ebbtide-fleet bench ingest` and `bench query` and writes what they said into docs/benchmarks-fleet.md.

    tools/fleet-bench.py target/release/ebbtide-fleet [AGENTS [SECONDS]]
"""
import datetime
import json
import os
import platform
import subprocess
import sys

PAGE = os.path.join(os.path.dirname(__file__), "..", "docs", "benchmarks-fleet.md")
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
# what is measured, its unit, the target, and which side of it is good
ROWS = [
    ("samples_per_cpu_second", "samples per CPU second", 4_000_000, "≥"),
    ("samples_per_second", "samples per second", None, ""),
    ("rss_mib", "memory with all connected, MiB", 600, "≤"),
    ("peak_rss_mib", "its peak, while they connect, MiB", None, ""),
    ("rss_kib_per_agent", "memory per agent, KiB", 60, "≤"),
    ("bytes_per_sample", "bytes per sample on disk", 1.2, "≤"),
    ("wire_bytes_per_sample", "bytes per sample on the wire", None, ""),
    ("ack_p50_ms", "ack, median, ms", None, ""),
    ("ack_p99_ms", "ack, p99, ms", 2000, "≤"),
    ("restart_ms", "restart until it serves, ms", 2000, "≤"),
    ("late_frames", "frames that the agents sent late", None, ""),
    ("sealing_cpu_seconds", "CPU seconds of making the last blocks, counted above", None, ""),
]
QUESTIONS = [
    ("node_day_ms", "24 h of one node in minutes, ms", 10, "≤"),
    ("node_day_first_ms", "the first time, ms", None, ""),
    ("fleet_namespaces_ms", "the fleet by namespace, 7 days in hours, ms", 200, "≤"),
    ("fleet_namespaces_first_ms", "the first time, ms", None, ""),
    ("restart_ms", "restart until it serves, ms", 2000, "≤"),
    ("bytes_per_sample", "bytes per sample on disk", None, ""),
    ("store_ns_per_sample", "CPU per sample in the store, ns", None, ""),
]


def measure(program, agents, seconds, load):
    command = [program, "bench", "ingest", "--agents", str(agents), "--seconds", str(seconds), "--load", load, "--json"]
    print("running", " ".join(command), file=sys.stderr)
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def ask(program):
    command = [program, "bench", "query", "--json"]
    print("running", " ".join(command), file=sys.stderr)
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def cell(result, key, target, side):
    value = result[key]
    shown = f"{value:,.2f}" if isinstance(value, float) and value < 100 else f"{value:,.0f}"
    if target is None:
        return shown
    good = value >= target if side == "≥" else value <= target
    return shown if good else f"{shown} **miss**"


def main():
    program = sys.argv[1]
    agents, seconds = (int(x) for x in (sys.argv[2:4] + ["10000", "60"][len(sys.argv) - 2:]))
    runs = [
        (f"{agents:,} agents, {seconds} s", [measure(program, agents, seconds, "steady"), measure(program, agents, seconds, "noisy")]),
        ("150 agents, 630 s", [measure(program, 150, 630, "steady"), measure(program, 150, 630, "noisy")]),
    ]
    lines = [BEGIN, ""]
    model = next((l.split(":", 1)[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "unknown")
    lines.append(f"Measured on {datetime.date.today()}: {os.cpu_count()} logical CPUs of {model}, Linux {platform.release()}; "
                 f"load average {os.getloadavg()[2]:.1f}. 100 series per agent, one value a second, ten in a frame, over TLS.")
    for title, (steady, noisy) in runs:
        lines += ["", f"### {title}", "", "| | steady | noisy | target |", "|---|--:|--:|--:|"]
        for key, name, target, side in ROWS:
            goal = f"{side} {target:,}" if target else "–"
            lines.append(f"| {name} | {cell(steady, key, target, side)} | {cell(noisy, key, target, side)} | {goal} |")
    asked = ask(program)
    lines += ["", f"### Questions: {asked['nodes']} nodes of {asked['series']} series, {asked['days']} days, a value a minute", "",
              "| | | target |", "|---|--:|--:|"]
    for key, name, target, side in QUESTIONS:
        lines.append(f"| {name} | {cell(asked, key, target, side)} | {f'{side} {target:,}' if target else '–'} |")
    lines += ["", END]
    text = open(PAGE, encoding="utf-8").read()
    head, rest = text.split(BEGIN)
    text = head + "\n".join(lines) + rest.split(END)[1]
    open(PAGE, "w", encoding="utf-8").write(text)


main()
