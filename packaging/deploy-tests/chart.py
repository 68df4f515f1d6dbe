"""The Helm chart, rendered by helm's own library."""

import os

import helm_python as helm
import yaml

import documented

FOLDER = os.path.join(documented.ROOT, "packaging", "helm", "ebbtide")


def _read():
    """The chart, and what helm lint says. Helm writes a line to stderr for each link in it, which nobody wants to see."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        return helm.Chart.load(FOLDER), helm.lint(FOLDER)["messages"]
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


CHART, LINT = _read()


def rendered(values, namespace="ebbtide"):
    """Template to what it says, without those that say nothing. The release is called `ebbtide`."""
    files = CHART.render(values, name="ebbtide", namespace=namespace)
    return {path.removeprefix("ebbtide/templates/"): text for path, text in sorted(files.items()) if text.strip()}


def objects(files):
    return [it for path, text in files.items() if path.endswith(".yaml") for it in yaml.safe_load_all(text) if it]


def cases():
    """Values with which the chart is rendered in tests, by name."""
    folder = os.path.join(documented.ROOT, "packaging", "helm", "cases")
    named = {
        name.removesuffix(".yaml"): yaml.safe_load(documented.text("packaging", "helm", "cases", name))
        for name in sorted(os.listdir(folder))
    }
    return {"defaults": {}, **named}
