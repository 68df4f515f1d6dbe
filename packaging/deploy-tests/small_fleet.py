"""A small fleet of real programs on simulated machines, and a Prometheus that scrapes it.

`base` has pods, whose names a made-up kubelet tells; `edge` idles, behind an outlet that a script plays, and is powered off by
an order. Agents, daemon, command line and Prometheus are the real ones.
"""

import http.server
import json
import os
import subprocess
import threading
import time
import urllib.parse

import running

MACHINES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "machines")
PODS = [
    ("3f8a1c52-7d4e-4b1a-9c66-1b2e9d5f0a71", "web-0", "shop", "web", "a" * 64, "Burstable"),
    ("b71d0e94-2c3f-4f5e-8a17-6e0c4d9b2f38", "batch-0", "jobs", "batch", "b" * 64, "BestEffort"),
]

# Plays a PDU, and the shutdown of `edge`: `on` is there while it runs, `power` while its outlet gives power.
RACK = """#!/bin/sh
cd "${RACK:-$(dirname "$0")}" || exit 1
if [ -e power ]; then state=on; else state=off; fi
if [ -e on ] && [ -e power ]; then watts=47; else watts=0; fi
case "${1:-shut-down}" in
  shut-down) rm -f on; kill "$(cat agent.pid)" ;;
  status) echo "{\\"state\\": \\"$state\\"}" ;;
  on) : > power; : > on ;;
  off) rm -f power on ;;
  read) echo "{\\"outlets\\": [{\\"id\\": \\"1\\", \\"state\\": \\"$state\\", \\"watts\\": $watts, \\"error-percent\\": 1},
    {\\"id\\": \\"2\\", \\"state\\": \\"on\\", \\"watts\\": 85, \\"error-percent\\": 1}]}" ;;
  *) exit 2 ;;
esac
"""

SETTINGS = """
grpc = "127.0.0.1:{grpc}"
http = "127.0.0.1:{http}"
data = "{folder}/store"
plain-role = "admin"
[plan]
mode = "recommend"
inventory = "{folder}/inventory.toml"
policy = "{folder}/policy.toml"
every-s = 1
settle-s = 5
[act]
pools = {{ compute = "recommend" }}
[act.limits]
settle-s = 1
look-s = 1
silent-s = 2
streams-s = 5
confirm-s = 20
[[device]]
name = "pdu"
kind = "command"
interval = "500ms"
program = "{folder}/rack.sh"
env = {{ RACK = "{folder}" }}
[[feed]]
node = "edge"
outlets = ["pdu/1"]
cut = true
[[feed]]
node = "base"
outlets = ["pdu/2"]
"""

INVENTORY = """
[[node]]
name = "edge"
pool = "compute"
cpus = 4
watts = [30, 60]
wake-proven = true
boot-s = 2
shutdown-s = 2
[[node]]
name = "base"
pool = "compute"
cpus = 4
watts = [30, 60]
switchable = false
"""

POLICY = """
horizon-s = 86400
min-on-s = 0
min-off-s = 0
sleep-after-s = 0
"""

# as docs/monitoring.md says, but faster
SCRAPE = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: ebbtide-agent
    honor_labels: true
    static_configs:
      - {{targets: ["127.0.0.1:{base}"], labels: {{instance: base}}}}
      - {{targets: ["127.0.0.1:{edge}"], labels: {{instance: edge}}}}
  - job_name: ebbtide-fleet
    honor_labels: true
    static_configs: [{{targets: ["127.0.0.1:{http}"]}}]
"""


def kubelet():
    """A kubelet that tells of PODS; the port that it listens on."""
    pods = [
        {
            "metadata": {"uid": uid, "name": pod, "namespace": namespace},
            "spec": {"containers": [{"name": name}]},
            "status": {
                "qosClass": qos,
                "containerStatuses": [{"name": name, "containerID": f"containerd://{container}"}],
            },
        }
        for uid, pod, namespace, name, container, qos in PODS
    ]
    answer = json.dumps({"kind": "PodList", "apiVersion": "v1", "items": pods}).encode()

    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


class SmallFleet:
    """All of it, in a stage."""

    def __init__(self, stage, programs, rules):
        self.stage, self.programs = stage, programs
        self.port = {name: running.free_port() for name in ("grpc", "http", "base", "edge", "prometheus")}
        stage.write("rack.sh", RACK, 0o755)
        stage.write("on", "")
        stage.write("power", "")
        stage.write("inventory.toml", INVENTORY)
        stage.write("policy.toml", POLICY)
        settings = stage.write("fleet.toml", SETTINGS.format(folder=stage.folder, **self.port))
        stage.start("fleet", [self.program("ebbtide-fleet"), "serve", "--config", settings])
        pods = kubelet()
        for node in ("base", "edge"):
            root = stage.path(f"{node}-root")
            stage.start(
                f"{node}-machine",
                [
                    self.program("ebbtide-agent"),
                    "twin",
                    "--scenario",
                    os.path.join(MACHINES, f"{node}.toml"),
                    "--out",
                    root,
                ],
            )
            running.until(
                f"{node} is there",
                lambda root=root: os.path.exists(os.path.join(root, "sys/class/powercap"))
                and os.path.exists(os.path.join(root, "proc/stat")),
            )
            agent = stage.start(
                f"{node}-agent",
                [
                    self.program("ebbtide-agent"),
                    "run",
                    "--root",
                    root,
                    "--node-name",
                    node,
                    "--state",
                    stage.path(f"{node}-state"),
                    "--listen",
                    f"127.0.0.1:{self.port[node]}",
                    "--names",
                    "native,kepler",
                    "--processes",
                    "top:20",
                    "--fleet-workload-interval",
                    "1s",
                    "--kubelet-url",
                    f"http://127.0.0.1:{pods}",
                    "--fleet",
                    f"http://127.0.0.1:{self.port['grpc']}",
                    "--fleet-may-shut-down",
                    "--shut-down-program",
                    stage.path("rack.sh"),
                ],
            )
            if node == "edge":
                stage.write("agent.pid", str(agent.pid))
        scrape = stage.write("prometheus.yml", SCRAPE.format(rules=rules, **self.port))
        stage.start(
            "prometheus",
            [
                "prometheus",
                "--config.file",
                scrape,
                "--storage.tsdb.path",
                stage.path("tsdb"),
                "--web.listen-address",
                f"127.0.0.1:{self.port['prometheus']}",
                "--log.level",
                "warn",
            ],
        )

    def program(self, name):
        return os.path.join(self.programs, name)

    def operator(self, *arguments):
        """What `ebbtide` says."""
        command = [self.program("ebbtide"), "--fleet", f"http://127.0.0.1:{self.port['grpc']}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise RuntimeError(f"ebbtide {' '.join(arguments)}: {done.stderr}{done.stdout}")
        return done.stdout

    def metric(self, node, name):
        """Lines of a metrics page that begin so."""
        _, text = running.page(f"http://127.0.0.1:{self.port[node]}/metrics")
        return [line for line in text.splitlines() if line.startswith(name)]

    def lives(self):
        """Waits until everything that is to be seen has happened: a plan put forward, then `edge` powered off."""
        running.until("agents stream", lambda: self.metric("http", "ebbtide_fleet_connected_agents 2"))
        running.until("pods have names", lambda: self.metric("base", 'ebbtide_workload_power_watts{kind="pod"'))
        running.until(
            "there is a plan", lambda: self.metric("http", 'ebbtide_fleet_plan_actions{do="power-off"} 1'), 60
        )
        self.seen_by_prometheus("ebbtide_fleet_plan_recommended == 1")
        self.operator("power", "off", "edge")
        self.seen_by_prometheus('ebbtide_fleet_operations_ended_total{how="done"} == 1')
        self.seen_by_prometheus('ebbtide_fleet_outlet_state{state="off",node="edge"} == 1')

    def seen_by_prometheus(self, expression, patience=60):
        return running.until(f"Prometheus sees {expression}", lambda: self.ask(expression), patience)

    def ask(self, expression):
        """What an instant query finds; an error if it is none."""
        return self._ask("query", query=expression)

    def ask_range(self, expression, since):
        """What a query finds from `since` to now, second by second."""
        return self._ask("query_range", query=expression, start=since, end=time.time(), step=1)

    def _ask(self, what, **arguments):
        url = f"http://127.0.0.1:{self.port['prometheus']}/api/v1/{what}?{urllib.parse.urlencode(arguments)}"
        status, text = running.page(url, 10)
        # it isn't up yet
        if status in (0, 503):
            return []
        if status != 200:
            raise ValueError(json.loads(text).get("error", text) if text.startswith("{") else text)
        return json.loads(text)["data"]["result"]
