"""Draws bench/results/*.json as PNG."""

import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import matplotlib.ticker

RESULTS = pathlib.Path(__file__).parent / "results"
OWN, OTHER = "#1f77b4", "#b0b0b0"
SCENARIOS = {
    "hot": "One session, known",
    "many": "10,000 sessions, known",
    "miss": "Each request is asked about",
    "shared": "Each request is asked about, by a host of a fleet",
    "miss-tls": "Each request is asked about, over TLS",
    "jwt-hot": "One JWT, seen before",
    "jwt-new": "JWTs never seen before",
    "hostile": "Forged and malformed tokens, one of ten is good",
}


def read(name):
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def bars(axes, rows, value, label):
    names = [row["peer"] for row in rows]
    values = [row[value] for row in rows]
    colours = [OWN if row["own"] else OTHER for row in rows]
    drawn = axes.barh(range(len(rows)), values, color=colours)
    axes.bar_label(drawn, [label.format(v) for v in values], padding=3, fontsize=8)
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure, name):
    figure.tight_layout()
    figure.savefig(RESULTS / f"{name}.png", dpi=110)
    plt.close(figure)


def cpu(load):
    for name, title in SCENARIOS.items():
        rows = [row for row in load["rows"] if row["scenario"] == name]
        if not rows:
            continue
        figure, axes = plt.subplots(figsize=(8, 0.6 + 0.36 * len(rows)))
        bars(axes, rows, "ratio", "{:.2f}")
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_title(f"{title}: CPU time per request, nginx without authentication = 1", fontsize=9)
        save(figure, name)


def herd(load):
    rows = [row for row in load["herds"] if row["herd"] == "200 requests"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 0.8 + 0.36 * len(rows)), sharey=True)
    bars(left, rows, "calls", "{:.0f}")
    left.set_title("200 requests, one unknown session: look-ups", fontsize=9)
    bars(right, rows, "last_after_first_ms", "{:.0f}")
    right.set_title("last answer after the first, ms", fontsize=9)
    save(figure, "herd")


def instructions(counts):
    rows = [row for row in counts["counts"] if row["case"] in ("hot", "many", "miss", "shared")]
    rows = [{**row, "peer": f"{row['case']}: {row['peer']}"} for row in rows]
    figure, axes = plt.subplots(figsize=(8, 0.6 + 0.36 * len(rows)))
    bars(axes, rows, "instructions", "{:,.0f}")
    axes.set_title("Instructions per request, in user space", fontsize=9)
    save(figure, "instructions")


def many_hosts(many):
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for key, name, colour in (("without", "without a fleet", OTHER), ("with", "fleet", OWN)):
        curve = [(row["hosts"], row[key]) for row in many["curve"]]
        points = [(row["hosts"], row[key]) for row in many["points"]]
        axes.plot(*zip(*curve), color=colour, label=f"{name}, computed")
        axes.plot(*zip(*points), "o", color=colour, mec="black", label=f"{name}, measured")
    axes.set(xscale="log", yscale="log", xlabel="hosts", ylabel="look-ups per second")
    axes.set_ylim(bottom=min(row["with"] for row in many["curve"]) / 2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:,.0f}")
        axis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.set_title(
        f"{many['sessions']} sessions, {many['rate']:g} requests per second of each at random hosts,"
        f" valid={many['valid_s']:g}s", fontsize=9,
    )
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, "fleet")


if load := read("load"):
    cpu(load)
    herd(load)
if counts := read("instructions"):
    instructions(counts)
if fleet := read("fleet"):
    many_hosts(fleet["many_hosts"])
