#!/usr/bin/env python3
"""Makes the tables of agent/src/source/model from published results.

    tools/power-curves.py [FOLDER]            FOLDER defaults to ../shared/data/power-curves
    tools/power-curves.py --errors [FOLDER]   how far each basis of estimates is off, instead of writing

Reads  spec-power-model/specpower_curves.csv   SPECpower_ssj2008 results, www.spec.org (one row per result)
       codecarbon/cpu_power.csv                CodeCarbon's list of processors and their TDP (MIT)
Writes curves.txt    processor model -> full power per chip, threads per chip, shape
       families.txt  generation of processors -> full power per TDP and per thread, shape
       tdp.txt       processor model -> TDP

The figures written are medians over results, made for estimating; they are not SPEC metrics and must
not be compared with published results. The format of each table is described in its own header.
The normal form of a model's name is that of `normalise` in cpu.rs; a test there checks that each key
of these tables is in it.
"""

import csv
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "agent/src/source/model"
LOADS = ["ActiveIdle"] + [f"{n}_AvgPower" for n in range(10, 101, 10)]

# Processors from before 2006 and families that no Linux server, desktop or laptop of today runs on.
OLD = re.compile(
    r"^(\d|mobile|itanium|quark|iop|ioc|ep80579|sempron|turion|v-series|aubrey|apple|armv8|geode|a1[01]0$"
    r"|pentium (i|4|d|m|pro|mmx|extreme|[1-9]\.?\d* ?(mhz)?$|[5-9]\d\d)|celeron (m |d |[1-9]\d*(\.\d+)?[a-z]?$|\d{3,4})"
    r"|athlon (xp|mp|4|64|[1-9]\d*(\.\d+)?$|\d{4}[+be]*$|neo|tf|l110)|core (solo|duo) |xeon (lv|mp|iii|\d\.\d+)|xeon phi 3"
    r"|core 2 (solo|extreme)|n[6-9]\d0$|[bklmptvxzu][-a-z]{0,2}-?\d{2,4}$|pentium iii)"
)


def normalise(name):
    """The normal form of a processor's name; see cpu.rs."""
    n = name.lower().replace("™", "(tm)").replace("®", "(r)").encode("ascii", "ignore").decode()
    n = re.sub(r"\((r|tm)\)", " ", n)
    n = re.split(r"@|\(|\[|,|;|\bwith\b|\bradeon\b| dell sku", n)[0]
    n = re.sub(r"\b(\d+|dual|triple|quad|six|eight|twelve|sixteen)[- ]core\b", " ", n)
    n = re.sub(r"\b\d+(st|nd|rd|th) gen\b", " ", n)
    n = re.sub(r"\b\d+(\.\d+)? ?[gm]hz\b", " ", n)
    n = re.sub(r"\b(intel|amd|cpu|processor|apu)\b", " ", n)
    n = re.sub(r"(\d[a-z]?)(v\d)$", r"\1 \2", " ".join(n.split()))
    n = re.sub(r"^(opteron \d{4})(ee|he|se)$", r"\1 \2", n)
    if re.match(r"(e3-|[elx]\d{4}$)", n):
        n = "xeon " + n
    if re.match(r"fx \d", n):
        n = n.replace("fx ", "fx-", 1)
    return n


def has_model(key):
    """Whether the name says more than a brand."""
    return re.search(r"\d", key) is not None


def monotone(shares):
    out = []
    for s in shares:
        out.append(max([s] + out[-1:]))
    return out


def shape(powers):
    """Medians of the shares of full power, in per mille."""
    return monotone([round(statistics.median(p[i] / p[10] for p in powers) * 1000) for i in range(11)])


def results(folder):
    with open(folder / "spec-power-model/specpower_curves.csv", newline="", encoding="utf-8") as f:
        for row in csv.DictReader(f):
            try:
                powers = [float(row[c]) for c in LOADS]
                chips, threads = int(row["CPUChips"]), int(row["CPUThreads"])
            except ValueError:
                continue
            if chips < 1 or threads < chips or powers[10] <= 0:
                continue
            tdp = float(row["TDP"]) if row["TDP"] else None
            yield row, powers, chips, threads, tdp


def curves(rows):
    by_model = defaultdict(list)
    for row, powers, chips, threads, _ in rows:
        key = normalise(row["HW_CPUName"])
        if has_model(key):
            by_model[key].append((powers, chips, threads))
    for key, rs in sorted(by_model.items(), key=lambda kv: kv[0].encode()):
        watts = statistics.median(p[10] / c for p, c, _ in rs)
        threads = statistics.median_low([t // c for _, c, t in rs])
        yield f"{key}|{len(rs)}|{watts:.0f}|{threads}|" + " ".join(map(str, shape([p for p, _, _ in rs])))


ARCHITECTURE = {"kabylabe": "kabylake", "epyc": "epyc-gen3"}


def architecture(row):
    return ARCHITECTURE.get(row["Architecture"], row["Architecture"])


def families(rows):
    groups = defaultdict(list)
    for r in rows:
        row, year = r[0], int(r[0]["Hardware_Availability_Year"])
        arch = architecture(row)
        if arch:
            groups[arch].append(r)
        if year >= 2018:
            groups["generic"].append(r)
            groups[row["CPUMake"]].append(r)
    for key, rs in sorted(groups.items()):
        per_tdp = statistics.median(p[10] / (t * c) for _, p, c, _, t in rs if t)
        idle = statistics.median(p[0] / n for _, p, _, n, _ in rs)
        full = statistics.median(p[10] / n for _, p, _, n, _ in rs)
        yield (
            f"{key}|{len(rs)}|{per_tdp * 1000:.0f}|{idle * 1000:.0f}|{full * 1000:.0f}|"
            + " ".join(map(str, shape([p for _, p, _, _, _ in rs])))
        )


def tdps(folder):
    found = defaultdict(list)
    with open(folder / "codecarbon/cpu_power.csv", newline="", encoding="utf-8") as f:
        for row in csv.DictReader(f):
            key = normalise(row["Name"])
            try:
                tdp = float(row["TDP"])
            except ValueError:
                continue
            if has_model(key) and not OLD.match(key) and 1 <= tdp <= 1000:
                found[key].append(tdp)
    for key, values in sorted(found.items(), key=lambda kv: kv[0].encode()):
        yield f"{key}|{statistics.median_low(values):g}"


def errors(rows):
    """Relative errors, over the eleven points and at idle, of results since 2012 that are estimated from others.

    By model: from other results of the same model. Otherwise: from results of other models only.
    """
    rows = [r for r in rows if int(r[0]["Hardware_Availability_Year"]) >= 2012 and r[4]]
    model = [normalise(r[0]["HW_CPUName"]) for r in rows]

    def same_model(i, j):
        return model[i] == model[j] and model.count(model[i]) >= 4

    def same_generation(i, j):
        return model[i] != model[j] and architecture(rows[i][0]) == architecture(rows[j][0])

    def same_maker(i, j):
        recent = int(rows[j][0]["Hardware_Availability_Year"]) >= 2018
        return model[i] != model[j] and recent and rows[i][0]["CPUMake"] == rows[j][0]["CPUMake"]

    chips, threads, tdp = (lambda r: r[2]), (lambda r: r[3]), (lambda r: r[2] * r[4])
    for name, alike, size in [
        ("results of the model", same_model, chips),
        ("TDP, generation", same_generation, tdp),
        ("TDP, maker", same_maker, tdp),
        ("threads, generation", same_generation, threads),
        ("threads, maker", same_maker, threads),
    ]:
        whole, idle = [], []
        for i, r in enumerate(rows):
            others = [x for j, x in enumerate(rows) if j != i and alike(i, j)]
            if len(others) < 3:
                continue
            full = statistics.median(x[1][10] / size(x) for x in others) * size(r)
            off = [abs(full * s / 1000 - p) / p for s, p in zip(shape([x[1] for x in others]), r[1])]
            whole.append(statistics.mean(off))
            idle.append(off[0])
        count = len(whole)
        whole, idle = ([f"{q:.0%}" for q in (sorted(v)[int(len(v) * q)] for q in (0.5, 0.8, 0.95))] for v in (whole, idle))
        yield f"{name:22} {count} results; median, 80th and 95th percentile: all loads {whole}, idle {idle}"


HEADERS = {
    "curves.txt": """\
# Generated by tools/power-curves.py from SPECpower_ssj2008 results (www.spec.org); estimates, not SPEC metrics.
# Sorted by key. key | results | full power per chip, W | threads per chip | share of full power at 0,10..100 % load, per mille
""",
    "families.txt": """\
# Generated by tools/power-curves.py from SPECpower_ssj2008 results (www.spec.org); estimates, not SPEC metrics.
# Sorted by key; intel, amd and generic are hardware of 2018 and later.
# key | results | full power / sum of TDP, per mille | idle, mW per thread | full, mW per thread | share of full power at 0,10..100 % load, per mille
""",
    "tdp.txt": """\
# Generated by tools/power-curves.py from CodeCarbon's list of processors (MIT licence).
# Sorted by key. key | TDP, W
""",
}


def main():
    args = [a for a in sys.argv[1:] if a != "--errors"]
    folder = Path(args[0]) if args else ROOT / "../shared/data/power-curves"
    if not folder.is_dir():
        sys.exit(f"no published results in {folder}; give their folder as the argument")
    rows = list(results(folder))
    if "--errors" in sys.argv:
        print("\n".join(errors(rows)))
        return
    for name, lines in [("curves.txt", curves(rows)), ("families.txt", families(rows)), ("tdp.txt", tdps(folder))]:
        text = HEADERS[name] + "".join(line + "\n" for line in lines)
        (OUT / name).write_text(text, encoding="utf-8")
        print(f"{name}: {text.count(chr(10))} lines, {len(text)} bytes")


if __name__ == "__main__":
    main()
