//! What a control group's path says about the workload in it.
//!
//! The path is written by whoever made the group: systemd, a container runtime through systemd, a container
//! runtime by itself, libvirt, LXC. Each has its own spelling (`man systemd.unit`, "String Escaping for Inclusion
//! in Unit Names"; the kubelet's `cgroup_manager_linux.go`; `man cgroups` for `/proc/PID/cgroup`). This file reads
//! them all from the path alone: no daemon is asked and no file is opened.
//!
//! A path is read from the root down and the innermost thing of each kind wins, because nodes themselves may be
//! containers: a pod starts afresh, so that the node's own container is not taken for the workload's.

use serde::Serialize;

/// Who made a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// containerd: CRI plug-in, `ctr`, nerdctl.
    Containerd,
    /// CRI-O.
    Crio,
    /// Docker Engine.
    Docker,
    /// Podman.
    Podman,
    /// LXC, LXD, Incus, Proxmox containers, libvirt-lxc.
    Lxc,
    /// systemd-nspawn.
    Nspawn,
    /// Some runtime below the kubelet whose path doesn't tell which.
    Kubernetes,
    /// A container, but of nobody known.
    Unknown,
}

impl Runtime {
    /// The name in metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Crio => "crio",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Lxc => "lxc",
            Self::Nspawn => "nspawn",
            Self::Kubernetes => "kubernetes",
            Self::Unknown => "unknown",
        }
    }
}

/// The quality-of-service class of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Qos {
    /// Requests equal limits.
    Guaranteed,
    /// Some requests.
    Burstable,
    /// None.
    BestEffort,
}

impl Qos {
    /// The name that Kubernetes gives it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Container {
    /// 64 hexadecimal digits, or the name where containers have names (LXC, nspawn, `ctr`).
    pub id: String,
    /// Who made it.
    pub runtime: Runtime,
}

/// A Kubernetes pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Pod {
    /// The uid with dashes; for a static pod the 32 digits of its manifest's hash.
    pub uid: String,
    /// Its class; `None` if the part of the path that says so is out of sight (seen from inside a container).
    pub qos: Option<Qos>,
}

/// What a path tells. Everything may be absent; the root `/` tells nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct CgroupIdentity {
    /// The innermost container; below a pod, only one that is in that pod.
    pub container: Option<Container>,
    /// The innermost pod.
    pub pod: Option<Pod>,
    /// The innermost systemd service, scope, socket, mount or swap, spelled as `systemctl` shows it (with `\x2d`).
    /// In a container that runs systemd it is a unit of the container's, not of the host's. `init.scope` counts
    /// only where nothing encloses it.
    pub unit: Option<String>,
    /// The innermost slice, spelled as `systemctl` shows it.
    pub slice: Option<String>,
    /// The user whose session or user manager this is; a user of the host, never one of a container.
    pub user: Option<u32>,
    /// The innermost machine as libvirt or systemd-machined names it (unescaped), or the number of a Proxmox VM.
    pub machine: Option<String>,
}

/// What was found so far while walking down a path; nothing is copied until the end.
#[derive(Clone, Copy, Default)]
struct Scan<'a> {
    container: Option<(&'a str, Runtime)>,
    pod: Option<(&'a str, Option<Qos>)>,
    unit: Option<&'a str>,
    slice: Option<&'a str>,
    user: Option<u32>,
    machine: Option<&'a str>,
    ecs: bool,
}

/// One component of a path and the two above it (empty above the root).
#[derive(Clone, Copy)]
struct Place<'a> {
    part: &'a str,
    parent: &'a str,
    grand: &'a str,
}

impl<'a> Scan<'a> {
    fn of(path: &'a str) -> Self {
        let mut scan = Self::default();
        let (mut parent, mut grand) = ("", "");
        for part in path.split('/').filter(|p| !p.is_empty() && *p != "..") {
            scan.step(Place { part, parent, grand });
            (parent, grand) = (part, parent);
        }
        scan
    }

    fn step(&mut self, at: Place<'a>) {
        self.ecs |= at.part == "ecs";
        // runc without systemd given a path in systemd's notation: `SLICE:PREFIX:ID` is one folder's name.
        if let Some((slice, rest)) = at.part.split_once(".slice:") {
            if let Some(pod) = pod_of_slice(slice) {
                self.enter_pod(pod);
            }
            if let Some((prefix, id)) = rest.split_once(':').filter(|(_, id)| is_hex64(id)) {
                self.container = Some((id, runtime_of_prefix(prefix).unwrap_or(self.default_runtime())));
            }
            return;
        }
        if self.container.is_none() && self.machine.is_none() && self.user.is_none() {
            self.user = user_of(at.part);
        }
        if let Some(pod) = pod_of(at) {
            self.enter_pod(pod);
        } else if let Some((name, runtime)) = machine_of(at) {
            self.machine = Some(name);
            if let Some(runtime) = runtime {
                self.container = Some((name, runtime));
            }
        } else if let Some(found) = self.container_of(at) {
            self.container = Some(found);
        }
        if at.part.len() > ".slice".len() && at.part.ends_with(".slice") {
            self.slice = Some(at.part);
        } else if is_unit(at.part) && (at.part != "init.scope" || self.unit.is_none()) {
            self.unit = Some(at.part);
        }
    }

    fn enter_pod(&mut self, pod: (&'a str, Option<Qos>)) {
        self.pod = Some(pod);
        self.container = None;
    }

    fn default_runtime(&self) -> Runtime {
        if self.pod.is_some() { Runtime::Kubernetes } else { Runtime::Unknown }
    }

    fn container_of(&self, at: Place<'a>) -> Option<(&'a str, Runtime)> {
        let Place { part, parent, grand } = at;
        if is_hex64(part) {
            let runtime = match parent {
                "docker" | "moby" => Runtime::Docker,
                "libpod_parent" => Runtime::Podman,
                "default" | "k8s.io" if grand.is_empty() => Runtime::Containerd,
                _ if self.ecs => Runtime::Docker,
                _ => self.default_runtime(),
            };
            return Some((part, runtime));
        }
        let stem = part.strip_suffix(".scope").unwrap_or(part);
        if let Some((prefix, id)) = stem.rsplit_once('-') {
            // BuildKit in Docker names its steps with 25 letters and digits.
            if is_hex64(id) || (prefix == "docker" && is_buildkit(id)) {
                // The monitor of a container carries its id but is no part of it.
                return match runtime_of_prefix(prefix) {
                    Some(runtime) => Some((id, runtime)),
                    None if prefix.contains("conmon") || prefix.contains("shim") || stem == part => None,
                    None => Some((id, self.default_runtime())),
                };
            }
        }
        if let Some(name) = part.strip_prefix("lxc.payload.").filter(|n| !n.is_empty()) {
            return Some((name, Runtime::Lxc));
        }
        match parent {
            "lxc" | "lxc.payload" => Some((part, Runtime::Lxc)),
            "buildkit" if is_buildkit(part) => {
                Some((part, if grand == "docker" { Runtime::Docker } else { Runtime::Unknown }))
            }
            "default" if grand.is_empty() && !is_unit(part) => Some((part, Runtime::Containerd)),
            "garden" if !matches!(part, "good" | "bad") && !is_unit(part) => Some((part, Runtime::Unknown)),
            "good" | "bad" if grand == "garden" => Some((part, Runtime::Unknown)),
            // Fargate: the container is the task's name with a number.
            task if self.ecs => {
                let number = part.strip_prefix(task)?.strip_prefix('-')?;
                is_number(number).then_some((part, Runtime::Containerd))
            }
            _ => None,
        }
    }

    /// How much this path tells, for the choice between hierarchies.
    fn rank(&self) -> u8 {
        8 * u8::from(self.container.is_some() || self.machine.is_some())
            + 4 * u8::from(self.pod.is_some())
            + 2 * u8::from(self.unit.is_some_and(|u| u != "init.scope"))
            + u8::from(self.slice.is_some())
    }
}

/// Reads a path as [`unified_path`] returns it, or a folder's path below `/sys/fs/cgroup`.
pub fn identify(path: &str) -> CgroupIdentity {
    let scan = Scan::of(path);
    CgroupIdentity {
        container: scan.container.map(|(id, runtime)| Container { id: unescape(id), runtime }),
        // systemd's dash separates slices, so the kubelet writes the uid's dashes as underscores.
        pod: scan.pod.map(|(uid, qos)| Pod { uid: uid.replace('_', "-"), qos }),
        unit: scan.unit.map(str::to_owned),
        slice: scan.slice.map(str::to_owned),
        user: scan.user,
        machine: scan.machine.map(unescape),
    }
}

/// The most telling path in the text of `/proc/PID/cgroup`: one that names a container before one that names a
/// unit before the deepest; the unified hierarchy before `name=systemd` before controllers where they tell the same.
///
/// ` (deleted)` behind the path and `/..` before it (a process outside the reader's cgroup namespace) are dropped.
/// `None` if no line is of the form `ID:CONTROLLERS:/PATH`.
pub fn unified_path(proc_pid_cgroup: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(proc_pid_cgroup);
    let mut lines = text.split('\n').filter_map(|line| {
        let (hierarchy, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        if !is_number(hierarchy) || !path.starts_with('/') {
            return None;
        }
        let order = match controllers {
            "" => 2u8,
            "name=systemd" => 1,
            _ => 0,
        };
        Some((order, trimmed(path)))
    });
    let (mut best_order, mut best) = lines.next()?;
    let mut best_key = None;
    for (order, path) in lines {
        // On cgroup v1 a dozen lines mostly hold one and the same path.
        if path == best {
            best_order = best_order.max(order);
            continue;
        }
        let key = (Scan::of(path).rank(), depth(path));
        let known = *best_key.get_or_insert_with(|| (Scan::of(best).rank(), depth(best)));
        if (key, order) > (known, best_order) {
            (best_key, best_order, best) = (Some(key), order, path);
        }
    }
    Some(if best.is_empty() { "/".to_owned() } else { best.to_owned() })
}

fn depth(path: &str) -> usize {
    path.split('/').filter(|p| !p.is_empty()).count()
}

/// `path` without what is no part of its name; empty for the root.
fn trimmed(mut path: &str) -> &str {
    loop {
        let before = path.len();
        path = path.strip_suffix(" (deleted)").unwrap_or(path);
        path = path.strip_suffix('/').unwrap_or(path);
        path = match path.strip_prefix("/..") {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
            _ => path,
        };
        if path.len() == before {
            return path;
        }
    }
}

fn pod_of(at: Place<'_>) -> Option<(&str, Option<Qos>)> {
    if let Some(slice) = at.part.strip_suffix(".slice") {
        return pod_of_slice(slice);
    }
    let uid = at.part.strip_prefix("pod")?;
    let qos = match at.parent {
        "kubepods" => Some(Qos::Guaranteed),
        "burstable" => Some(Qos::Burstable),
        "besteffort" => Some(Qos::BestEffort),
        // The levels above may be hidden by a cgroup namespace; then the uid has to look like one.
        _ => return is_uid(uid).then_some((uid, None)),
    };
    is_loose_uid(uid).then_some((uid, qos))
}

/// `[ROOT-]kubepods[-QOS]-podUID`, a slice's name without its suffix.
fn pod_of_slice(slice: &str) -> Option<(&str, Option<Qos>)> {
    let (root, rest) = slice.rsplit_once("kubepods")?;
    if !root.is_empty() && !root.ends_with('-') {
        return None;
    }
    let (qos, rest) = if let Some(rest) = rest.strip_prefix("-burstable") {
        (Qos::Burstable, rest)
    } else if let Some(rest) = rest.strip_prefix("-besteffort") {
        (Qos::BestEffort, rest)
    } else {
        (Qos::Guaranteed, rest)
    };
    let uid = rest.strip_prefix("-pod")?;
    is_loose_uid(uid).then_some((uid, Some(qos)))
}

/// The name of a machine, and the runtime if it is a container and no VM.
fn machine_of(at: Place<'_>) -> Option<(&str, Option<Runtime>)> {
    let named = |name: &'_ str| !name.is_empty();
    if let Some(scope) = at.part.strip_prefix("machine-").and_then(|p| p.strip_suffix(".scope")).filter(|s| named(s)) {
        return Some(match of_libvirt(scope) {
            Some(("lxc", name)) => (name, Some(Runtime::Lxc)),
            Some((_, name)) => (name, None),
            // Whatever else registers with systemd-machined is nearly always nspawn.
            None => (scope, Some(Runtime::Nspawn)),
        });
    }
    let nspawn = at.part.strip_prefix("systemd-nspawn@").and_then(|p| p.strip_suffix(".service"));
    if let Some(name) = nspawn.filter(|n| named(n)) {
        return Some((name, Some(Runtime::Nspawn)));
    }
    // libvirt without systemd.
    if let Some(dir) = at.part.strip_suffix(".libvirt-qemu").filter(|d| named(d)) {
        return Some((of_libvirt(dir).map_or(dir, |(_, name)| name), None));
    }
    if let Some(dir) = at.part.strip_suffix(".libvirt-lxc").filter(|d| named(d)) {
        return Some((of_libvirt(dir).map_or(dir, |(_, name)| name), Some(Runtime::Lxc)));
    }
    if at.parent == "qemu.slice" {
        return at.part.strip_suffix(".scope").filter(|id| is_number(id)).map(|id| (id, None));
    }
    None
}

/// `DRIVER-NUMBER-NAME`, with dashes escaped or not; libvirt's `virDomainGenerateMachineName`.
fn of_libvirt(text: &str) -> Option<(&str, &str)> {
    let (driver, rest) = split_dash(text)?;
    let (number, name) = split_dash(rest)?;
    let known = matches!(driver, "qemu" | "lxc" | "xen" | "ch" | "bhyve" | "vz");
    (known && is_number(number) && !name.is_empty()).then_some((driver, name))
}

fn split_dash(text: &str) -> Option<(&str, &str)> {
    match (text.find('-'), text.find("\\x2d")) {
        (Some(plain), Some(escaped)) if plain < escaped => text.split_once('-'),
        (_, Some(_)) => text.split_once("\\x2d"),
        _ => text.split_once('-'),
    }
}

fn user_of(part: &str) -> Option<u32> {
    let uid = match part.strip_prefix("user-") {
        Some(rest) => rest.strip_suffix(".slice")?,
        None => part.strip_prefix("user@")?.strip_suffix(".service")?,
    };
    if is_number(uid) { uid.parse().ok() } else { None }
}

fn runtime_of_prefix(prefix: &str) -> Option<Runtime> {
    match prefix {
        "cri-containerd" | "containerd" | "nerdctl" => Some(Runtime::Containerd),
        "crio" => Some(Runtime::Crio),
        "docker" => Some(Runtime::Docker),
        "libpod" | "libpod-payload" => Some(Runtime::Podman),
        _ => None,
    }
}

fn is_unit(part: &str) -> bool {
    [".service", ".scope", ".socket", ".mount", ".swap"].iter().any(|s| part.len() > s.len() && part.ends_with(s))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn is_hex64(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(is_hex)
}

fn is_buildkit(text: &str) -> bool {
    text.len() == 25 && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
}

/// A UUID (with dashes or underscores) or the hash of a static pod's manifest.
fn is_uid(text: &str) -> bool {
    match text.len() {
        32 => text.bytes().all(is_hex),
        36 => text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => matches!(b, b'-' | b'_'),
            _ => is_hex(b),
        }),
        _ => false,
    }
}

/// A static pod's manifest may set any uid; where the kubelet's own folders are around it, that is believed.
fn is_loose_uid(text: &str) -> bool {
    !text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// Undoes systemd's `\xHH`; what isn't a printable ASCII character stays as it is.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\x") {
        out.push_str(before);
        let code = after.get(..2).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (code, after.get(2..)) {
            (Some(c @ b' '..=b'~'), Some(tail)) => {
                out.push(char::from(c));
                rest = tail;
            }
            _ => {
                out.push_str("\\x");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests;
