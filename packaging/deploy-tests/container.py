"""A pod's container, started by runc with the rights that its manifest gives it and no others.

The seccomp profile is podman's, with what containerd's allows beyond it: bpf(2) with CAP_BPF, perf_event_open(2) with
CAP_PERFMON. The network is this machine's, so that probes can be asked.
"""

import json
import os
import platform
import re
import shutil
import subprocess

PROFILE = "/usr/share/containers/seccomp.json"  # of podman's package
BEYOND = {"CAP_BPF": ["bpf"], "CAP_PERFMON": ["perf_event_open"]}

# names of this machine's architecture in the profile
ARCHITECTURE = {"x86_64": {"amd64"}, "aarch64": {"arm64"}}.get(platform.machine(), {platform.machine()})


class Unavailable(Exception):
    """No container can be made here."""


def seccomp(capabilities):
    """The profile as runc wants it, for a container with these capabilities."""
    with open(PROFILE, encoding="utf-8") as file:
        profile = json.load(file)
    allowed = {call for capability in capabilities for call in BEYOND.get(capability, [])}
    rules = [{"names": sorted(allowed), "action": "SCMP_ACT_ALLOW"}] if allowed else []
    for rule in profile["syscalls"]:
        includes, excludes = rule.get("includes", {}), rule.get("excludes", {})
        elsewhere = includes.get("arches") and not ARCHITECTURE & set(includes["arches"])
        lacks = set(includes.get("caps", [])) - set(capabilities)
        names = [name for name in rule["names"] if name not in allowed]
        if names and not (elsewhere or lacks or set(excludes.get("caps", [])) & set(capabilities)):
            rules.append(
                {"names": names, **{key: rule[key] for key in ("action", "args", "errnoRet") if rule.get(key)}}
            )
    return {"defaultAction": profile["defaultAction"], "defaultErrnoRet": 1, "syscalls": rules}


def bind(source, destination, read_only):
    return {
        "destination": destination,
        "type": "none",
        "source": source,
        "options": ["rbind", "ro" if read_only else "rw"],
    }


def start(stage, name, program, pod, volumes, environment):
    """Starts the pod's one container under this name. `volumes` tells where each of its volumes is on this machine."""
    for needed in ("runc", PROFILE):
        if not shutil.which(needed) and not os.path.exists(needed):
            raise Unavailable(f"{needed} is missing: apt-get install runc podman")
    container = pod["containers"][0]
    context = {**pod["securityContext"], **container["securityContext"]}
    root, place = stage.path(name, "rootfs"), f"/usr/bin/{os.path.basename(program)}"
    # what the program is linked to; the image has none of it, being static
    libraries = re.findall(r"(/\S+)", subprocess.run(["ldd", program], capture_output=True, text=True).stdout)
    for file, inside in ((program, place), *((library, library) for library in libraries)):
        os.makedirs(os.path.dirname(root + inside), exist_ok=True)
        shutil.copy(os.path.realpath(file), root + inside)
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        bind("/sys", "/sys", True),
    ]
    for mount in container["volumeMounts"]:
        mounts.append(bind(volumes[mount["name"]], mount["mountPath"], mount.get("readOnly")))
    for mount in mounts:
        path = root + mount["destination"]
        if os.path.isfile(mount["source"]):
            stage.write(os.path.relpath(path, stage.folder), "")
        else:
            os.makedirs(path, exist_ok=True)
    capabilities = [f"CAP_{capability}" for capability in context["capabilities"].get("add", [])]
    namespaces = ["mount", "ipc", "uts", *([] if pod.get("hostPID") else ["pid"])]
    groups = [context["fsGroup"]] if "fsGroup" in context else []
    config = {
        "ociVersion": "1.0.2",
        "root": {"path": root, "readonly": context["readOnlyRootFilesystem"]},
        "process": {
            "user": {"uid": context["runAsUser"], "gid": context["runAsGroup"], "additionalGids": groups},
            "cwd": "/",
            "args": [place, *container["args"]],
            "env": [f"{key}={value}" for key, value in environment.items()],
            "noNewPrivileges": not context["allowPrivilegeEscalation"],
            # as runtimes do it: none inheritable, none ambient
            "capabilities": {kind: capabilities for kind in ("bounding", "effective", "permitted")},
        },
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": kind} for kind in namespaces],
            "seccomp": seccomp(capabilities),
            # as runtimes hide them from what isn't mounted below /host
            "maskedPaths": ["/proc/kcore", "/sys/firmware", "/sys/devices/virtual/powercap"],
            "readonlyPaths": ["/proc/sys", "/proc/bus"],
        },
    }
    stage.write(f"{name}/config.json", json.dumps(config))
    command = [
        "runc",
        "--root",
        stage.path("runc"),
        "run",
        "--bundle",
        stage.path(name),
        f"ebbtide-{name}-{os.getpid()}",
    ]
    stage.start(name, command)


def said(stage, name):
    """What a container said. Raises if it is runc that spoke, since no container could be made."""
    with open(stage.path(f"{name}.log"), encoding="utf-8", errors="replace") as log:
        text = log.read()
    if "runc run failed" in text:
        raise Unavailable(f"no container can be made here: {text.strip().splitlines()[-1]}")
    return text
