//! Real containers of busybox, and nothing left of them: started by podman as it is, or by runc in the control groups
//! that Docker and the kubelet's runtimes make.
//!
//! Everything is below one temporary folder but for control groups. Where a real engine has groups of the same name on
//! this machine, ours are below a group of our own, so that its are left alone.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ebbtide_agent::clock::{self, Moment};
use ebbtide_agent::workload::cgroup::{self, CgroupIdentity, Container as Named, Pod, Qos, Runtime};

/// Longer than anything here takes, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);
const POD: &str = "6f3a2b1c-0d4e-4f5a-8b6c-7d8e9f0a1b2c";

/// Who starts containers, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// podman as it is.
    Podman,
    /// runc in the groups of Docker.
    Docker,
    /// runc in the groups of the kubelet.
    Pod(Qos),
}

impl Kind {
    /// The folder of control groups that its containers are in.
    fn parent(self) -> String {
        match self {
            Self::Podman => "/libpod_parent".to_owned(),
            Self::Docker => "/docker".to_owned(),
            Self::Pod(Qos::Guaranteed) => format!("/kubepods/pod{POD}"),
            Self::Pod(qos) => format!("/kubepods/{}/pod{POD}", qos.as_str().to_lowercase()),
        }
    }

    /// What is to be known of a container from its path.
    pub(crate) fn identity(self, id: &str) -> CgroupIdentity {
        let (runtime, pod) = match self {
            Self::Podman => (Runtime::Podman, None),
            Self::Docker => (Runtime::Docker, None),
            Self::Pod(qos) => (Runtime::Kubernetes, Some(Pod { uid: POD.to_owned(), qos: Some(qos) })),
        };
        CgroupIdentity { container: Some(Named { id: id.to_owned(), runtime }), pod, ..CgroupIdentity::default() }
    }

    /// The pod of its containers.
    pub(crate) fn pod_uid(self) -> Option<&'static str> {
        matches!(self, Self::Pod(_)).then_some(POD)
    }
}

/// A place to start containers from.
pub(crate) struct Site {
    pub(crate) kind: Kind,
    folder: tempfile::TempDir,
    /// Parent of the containers' control groups.
    parent: String,
}

impl Site {
    /// `None`, with the reason told, where no container can be started; that is a failure where
    /// `EBBTIDE_REQUIRE_CONTAINERS` is set.
    pub(crate) fn new(kind: Kind) -> Option<Self> {
        match Self::prepare(kind) {
            Ok(site) => Some(site),
            Err(why) => {
                let required = std::env::var_os("EBBTIDE_REQUIRE_CONTAINERS").is_some();
                assert!(!required, "containers are required here: {kind:?}: {why}");
                eprintln!("SKIPPED: {kind:?}: {why}");
                None
            }
        }
    }

    fn prepare(kind: Kind) -> Result<Self, String> {
        let busybox = ["/bin/busybox", "/usr/bin/busybox", "/usr/sbin/busybox"];
        let busybox = busybox.into_iter().find(|p| is_static(Path::new(p))).ok_or("no statically linked busybox")?;
        let program = if kind == Kind::Podman { "podman" } else { "runc" };
        finish(Command::new(program).arg("--version"), || {})?;
        let parent = kind.parent();
        let taken = parent.split('/').nth(1).is_some_and(|top| hierarchies().iter().any(|h| h.join(top).exists()));
        let own = if taken { format!("/ebbtide-test-{}", std::process::id()) } else { String::new() };
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let site = Self { kind, folder, parent: own + &parent };
        let root = site.folder.path().join("rootfs");
        std::fs::create_dir_all(root.join("bin")).and_then(|()| std::fs::create_dir(root.join("proc"))).unwrap();
        std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
        std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
        if kind == Kind::Podman {
            let conf = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\nnetns = \"none\"\n\
                        [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nlock_type = \"file\"\n";
            std::fs::write(site.path("containers.conf"), conf).unwrap();
            let tar = site.path("image.tar");
            finish(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg("."), || {})?;
            finish(site.engine().arg("import").arg(&tar).arg("localhost/busybox:test"), || {})?;
        }
        // whatever keeps containers from being started here
        let mut first = site.container("echo it runs")?;
        let said = first.run()?;
        drop(first);
        if said.trim() == "it runs" { Ok(site) } else { Err(format!("it said {said:?}")) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The engine's own command, with its state in our folder.
    fn engine(&self) -> Command {
        if self.kind != Kind::Podman {
            let mut command = Command::new("runc");
            command.arg("--root").arg(self.path("runc"));
            return command;
        }
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", self.path("containers.conf"));
        command.arg("--root").arg(self.path("storage")).arg("--runroot").arg(self.path("run"));
        command.arg("--tmpdir").arg(self.path("tmp")).args(["--storage-driver", "vfs"]);
        command
    }

    /// A container that is not started yet, to run a shell script.
    pub(crate) fn container(&self, script: &str) -> Result<Container<'_>, String> {
        if self.kind == Kind::Podman {
            let mut create = self.engine();
            create.args(["create", "--pull", "never"]);
            if self.parent != self.kind.parent() {
                create.args(["--cgroup-parent", &self.parent]);
            }
            create.args(["localhost/busybox:test", "/bin/sh", "-c", script]);
            let id = finish(&mut create, || {})?.trim().to_owned();
            return Ok(Container { site: self, group: format!("{}/libpod-{id}", self.parent), id });
        }
        let id = new_id();
        let group = format!("{}/{id}", self.parent);
        let namespaces = ["pid", "mount", "ipc", "uts", "network"].map(|n| serde_json::json!({ "type": n }));
        let config = serde_json::json!({
            "ociVersion": "1.0.2",
            "root": { "path": self.path("rootfs"), "readonly": true },
            "process": { "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["/bin/sh", "-c", script],
                         "env": ["PATH=/bin"], "noNewPrivileges": true },
            "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
            "linux": { "cgroupsPath": group, "namespaces": namespaces },
        });
        std::fs::create_dir(self.path(&id))
            .and_then(|()| std::fs::write(self.path(&id).join("config.json"), config.to_string()))
            .unwrap();
        Ok(Container { site: self, id, group })
    }

    /// CPU time of all containers that ever ran here, by the kernel's count, in nanoseconds.
    pub(crate) fn used(&self) -> u64 {
        counted(&self.parent).unwrap_or(0)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // what was made is there only if `prepare` got that far, and then nobody else had a folder of that name
        let Some(top) = self.parent.split('/').nth(1) else { return };
        let tops: Vec<PathBuf> = hierarchies().iter().map(|h| h.join(top)).collect();
        let gone = wait(Duration::from_secs(20), || {
            tops.iter().for_each(|top| remove_groups(top));
            tops.iter().all(|top| !top.exists())
        });
        complain(gone, &format!("{top} is still a control group in use"));
    }
}

/// A container, removed at the end.
pub(crate) struct Container<'a> {
    site: &'a Site,
    /// 64 hexadecimal digits.
    pub(crate) id: String,
    /// Its control group's path.
    group: String,
}

impl Container<'_> {
    /// Starts it in the background, and waits until it runs its shell; `meanwhile` is called over and over.
    pub(crate) fn start(&mut self, mut meanwhile: impl FnMut()) {
        let mut command = self.site.engine();
        match self.site.kind {
            Kind::Podman => command.args(["start", &self.id]),
            _ => command.args(["run", "--detach", "--bundle"]).arg(self.site.path(&self.id)).arg(&self.id),
        };
        finish(&mut command, &mut meanwhile).unwrap();
        let is_shell = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c == "sh\n");
        let runs = wait(PATIENCE, || {
            meanwhile();
            let pids = self.pids();
            !pids.is_empty() && pids.iter().all(is_shell)
        });
        assert!(runs, "{} doesn't run", self.group);
    }

    /// Runs it to its end; what it said.
    pub(crate) fn run(&mut self) -> Result<String, String> {
        let mut command = self.site.engine();
        match self.site.kind {
            Kind::Podman => command.args(["start", "--attach", &self.id]),
            _ => command.args(["run", "--bundle"]).arg(self.site.path(&self.id)).arg(&self.id),
        };
        finish(&mut command, || {})
    }

    /// Its processes, by the kernel's list.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        let mut folders: Vec<PathBuf> = hierarchies().iter().map(|h| below(h, &self.group)).collect();
        while let Some(folder) = folders.pop() {
            folders.extend(subfolders(&folder));
            let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|l| l.parse::<u32>().ok()));
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// CPU time of all that ever ran in it, by the kernel's count, in nanoseconds.
    pub(crate) fn used(&self) -> u64 {
        counted(&self.group).unwrap()
    }

    /// Whether nothing is left of its control groups.
    pub(crate) fn is_gone(&self) -> bool {
        hierarchies().iter().all(|h| !below(h, &self.group).exists())
    }

    /// What is to be known of it.
    pub(crate) fn identity(&self) -> CgroupIdentity {
        self.site.kind.identity(&self.id)
    }

    /// Whether a task's path is that of this container.
    pub(crate) fn holds(&self, path: &str) -> bool {
        cgroup::identify(path).container.is_some_and(|c| c.id == self.id)
    }

    /// Ends and removes it, and waits for that.
    pub(crate) fn remove(&mut self) {
        let mut command = self.site.engine();
        match self.site.kind {
            Kind::Podman => command.args(["rm", "--force", "--time", "0", "--ignore", &self.id]),
            _ => command.args(["delete", "--force", &self.id]),
        };
        let removed = finish(&mut command, || {});
        let gone = wait(Duration::from_secs(20), || self.is_gone());
        complain(gone, &format!("{} is still there: {removed:?}", self.group));
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Calls `done` until it says so, or until `patience` is over.
pub(crate) fn wait(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let since: Moment = clock::now();
    while !done() {
        if clock::now().since(since) > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// Fails a test that leaves something behind, unless it has failed already.
fn complain(ok: bool, what: &str) {
    match std::thread::panicking() {
        true if !ok => eprintln!("{what}"),
        true => {}
        false => assert!(ok, "{what}"),
    }
}

/// Runs a command to its end; what it said. What it starts in the background may keep its outputs.
fn finish(command: &mut Command, mut meanwhile: impl FnMut()) -> Result<String, String> {
    let (mut out, mut err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
    let mut child = command.spawn().map_err(|e| format!("{name}: {e}"))?;
    let mut status = None;
    if !wait(PATIENCE, || {
        meanwhile();
        status = child.try_wait().unwrap();
        status.is_some()
    }) {
        child.kill().and_then(|()| child.wait()).unwrap();
    }
    let text = |file: &mut std::fs::File| {
        let mut bytes = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    match status {
        Some(status) if status.success() => Ok(text(&mut out)),
        Some(status) => Err(format!("{name}: {status}: {}", text(&mut err).trim())),
        None => Err(format!("{name} doesn't end: {}", text(&mut err).trim())),
    }
}

/// Whether a program needs no loader: none is named in its program headers.
fn is_static(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF") && !bytes.windows(9).any(|w| w == b"/ld-linux"))
}

/// Where hierarchies of control groups are mounted.
fn hierarchies() -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = text.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut words = mount.split(' ').skip(3);
        let (root, at) = (words.next()?, words.next()?);
        (root == "/" && (kind.starts_with("cgroup ") || kind.starts_with("cgroup2 "))).then(|| PathBuf::from(at))
    });
    mounts.collect()
}

fn below(hierarchy: &Path, group: &str) -> PathBuf {
    hierarchy.join(group.trim_start_matches('/'))
}

/// The kernel's count of a group's CPU time in nanoseconds; that of v1 also where v2 is mounted beside it.
fn counted(group: &str) -> Option<u64> {
    let folders: Vec<PathBuf> = hierarchies().iter().map(|h| below(h, group)).collect();
    let read = |file: &str| folders.iter().find_map(|f| std::fs::read_to_string(f.join(file)).ok());
    if let Some(text) = read("cpuacct.usage") {
        return text.trim().parse().ok();
    }
    let micros: u64 = read("cpu.stat")?.lines().find_map(|l| l.strip_prefix("usage_usec "))?.parse().ok()?;
    Some(micros * 1000)
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

/// Removes groups from the innermost out, as far as they are empty.
fn remove_groups(folder: &Path) {
    subfolders(folder).iter().for_each(|f| remove_groups(f));
    // in use or gone: the caller looks
    std::fs::remove_dir(folder).unwrap_or_default();
}

/// 64 hexadecimal digits that nobody had before.
fn new_id() -> String {
    (0..4).map(|_| format!("{:016x}", RandomState::new().build_hasher().finish())).collect()
}
