#!/usr/bin/env python3
"""Plans made-up fleets and published traces and writes what came of it into docs/planner.md.

    tools/planner-bench.py target/release/ebbtide-fleet

Traces aren't part of the repository: EBBTIDE_PLANETLAB is a folder with one folder per day (20110303, ...), one file per VM
in each; EBBTIDE_OPENB one with openb_node_list_all_node.csv and openb_pod_list_default.csv. Without them their tables stay
as they are, and say so.
"""
import datetime
import json
import os
import platform
import re
import subprocess
import sys

PAGE = os.path.join(os.path.dirname(__file__), "..", "docs", "planner.md")
POLICIES = [("npa", "low"), ("dvfs", "low"), ("thr-mmt-0.8", "low"), ("lr-mmt-1.2", "low"), ("ebbtide", "low"), ("ebbtide", "high")]
# on 20110303: kWh, migrations, SLATAH %, SLAV %, unmet %
TARGETS = {"low": (150, 2800, 2, 0.0005, 0.15), "high": (127, 5500, None, 0.0046, 1.5)}
KEYS = ("energy_kwh", "migrations", "slatah_pct", "slav_pct", "unmet_pct")


def run(program, *args):
    command = [program, *args, "--json"]
    print("running", " ".join(command), file=sys.stderr)
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def figure(value, target=None):
    if isinstance(value, int) or value == 0:
        text = f"{int(value):,}"
    else:
        text = f"{value:.5f}" if value < 0.01 else f"{value:,.2f}" if value < 1000 else f"{value:,.0f}"
    return text if target is None or value <= target else f"{text} **miss** (≤ {target:,})"


def machine():
    model = next((l.split(":", 1)[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "unknown")
    return (f"Measured on {datetime.date.today()}: {os.cpu_count()} logical CPUs of {model}, Linux {platform.release().split('-')[0]}; "
            f"load average {os.getloadavg()[0]:.1f}. One core is used.")


def made_up(program):
    result = run(program, "bench", "plan")
    rows = [
        ("whole_ms", f"whole plan of {result['nodes']:,} nodes and {result['workloads']:,} workloads, ms", 1000),
        ("check_ms", "– to check it, in each of its prefixes, ms", None),
        ("whole_gap_pct", "– how far above its bound, %", 3),
        ("peak_mib", "– peak memory of the process, MiB", 500),
        ("around_ms", "plan around one changed node, median, ms", 10),
        ("around_worst_ms", "– the slowest of 25", None),
        ("gap_mean_pct", f"{result['fleets']} fleets of 60 to 290 nodes: gap, mean, %", 3),
        ("gap_worst_pct", "– the worst", None),
        ("violations", "what the checker held against any of these plans", 0),
    ]
    lines = [machine(), "", "| | | target |", "|---|--:|--:|"]
    for key, name, target in rows:
        goal = "–" if target is None else f"≤ {target:,}"
        lines.append(f"| {name} | {figure(result[key], target).split(' (')[0]} | {goal} |")
    return lines


def planetlab(program, folder):
    day = os.path.join(folder, "20110303")
    lines = ["| policy | kWh | migrations | SLATAH % | SLAV % | unmet % |", "|---|--:|--:|--:|--:|--:|"]
    for policy, risk in POLICIES:
        result = run(program, "sim", "planetlab", "--traces", day, "--policy", policy, "--risk", risk)
        targets = TARGETS[risk] if policy == "ebbtide" else (None,) * 5
        name = f"Ebbtide, {risk}" if policy == "ebbtide" else policy.upper()
        lines.append(f"| {name} | " + " | ".join(figure(result[k], t) for k, t in zip(KEYS, targets)) + " |")
    lines.append(f"| bound | {figure(result['bound_kwh'])} | | | | |")
    others = []
    for other in sorted(d for d in os.listdir(folder) if d != "20110303" and os.path.isdir(os.path.join(folder, d))):
        for risk in ("low", "high"):
            result = run(program, "sim", "planetlab", "--traces", os.path.join(folder, other), "--risk", risk)
            others.append(f"{other} {risk}: {result['energy_kwh'] / result['bound_kwh']:.2f} × bound, {result['unmet_pct']:.2f} % unmet")
    return lines + (["", "Other days: " + "; ".join(others) + "."] if others else [])


def openb(program, folder):
    result = run(program, "sim", "openb", "--traces", folder)
    rows = [
        (f"pods placed, of {result['pods']:,}", result["placed"], None),
        ("– of the others, those that no card has room for", result["stranded"], None),
        ("GPUs in use, %", result["gpu_used_pct"], None),
        (f"nodes on, of {result['nodes']:,}", result["nodes_on"], None),
        ("kW, idle cards included", result["watts"] / 1e3, None),
        ("bound for what was placed, kW", result["bound_w"] / 1e3, None),
        ("gap, %", result["gap_pct"], 3),
        ("what the checker held against it", result["violations"], 0),
    ]
    return ["| | |", "|---|--:|", *(f"| {name} | {figure(value, target)} |" for name, value, target in rows)]


def replace(text, name, lines):
    begin, end = f"<!-- measured {name}: begin -->", f"<!-- measured {name}: end -->"
    head, rest = text.split(begin)
    return head + "\n".join([begin, "", *lines, "", end]) + rest.split(end, 1)[1]


def main():
    program = sys.argv[1]
    text = open(PAGE, encoding="utf-8").read()
    text = replace(text, "scale", made_up(program))
    for name, variable, measure in (("planetlab", "EBBTIDE_PLANETLAB", planetlab), ("openb", "EBBTIDE_OPENB", openb)):
        folder = os.environ.get(variable)
        if folder:
            text = replace(text, name, measure(program, folder))
        else:
            print(f"{variable} isn't set: the table of {name} stays as it was", file=sys.stderr)
    open(PAGE, "w", encoding="utf-8").write(re.sub(r"\n{3,}", "\n\n", text))


main()
