//! The handle that tests hold: starts the server, sets the scene, makes trouble.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use ebbtide_runtime::clock;
use ebbtide_runtime::tasks::Tasks;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::crew;
use crate::kinds::{self, Kind, NAMESPACES, NODES, PODS};
use crate::rights::{Rights, Rule};
use crate::server::{self, Certificates};
use crate::store::key;
use crate::world::World;

/// The token of the administrator.
pub const ADMIN: &str = "admin-token";

/// A fault that waits for a request to meet it.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The beginning of method and path that it waits for, such as `POST /api/v1/namespaces/x/pods`.
    pub at: String,
    /// What happens.
    pub what: Trouble,
}

/// What may go wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It is answered with this status and nothing is done.
    Refused(u16),
    /// It is done, but the connection breaks before the answer.
    AnswerLost,
}

/// What the server and the handle share.
#[derive(Debug)]
pub struct Shared {
    world: Mutex<World>,
    rights: Mutex<Rights>,
    faults: Mutex<VecDeque<Fault>>,
    automatic: AtomicBool,
    skew_ms: AtomicU64,
    requests: AtomicU64,
    /// Tells the latest version to whoever watches.
    pub news: watch::Sender<u64>,
    /// Counts how often all connections were broken.
    pub breaks: watch::Sender<u64>,
    /// Whether nobody gets through.
    pub unreachable: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // a test that panicked has failed anyway
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The world while it is changed; those who watch are told when this is dropped.
#[derive(Debug)]
pub struct Changing<'a> {
    world: MutexGuard<'a, World>,
    shared: &'a Shared,
}

impl Deref for Changing<'_> {
    type Target = World;
    fn deref(&self) -> &World {
        &self.world
    }
}

impl DerefMut for Changing<'_> {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.world
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        let before = *self.shared.news.borrow();
        if self.shared.automatic.load(Ordering::Relaxed) && self.world.store.version() != before {
            self.world.settle();
        }
        self.shared.news.send_replace(self.world.store.version());
    }
}

impl Shared {
    /// The world, to look at.
    pub fn world(&self) -> MutexGuard<'_, World> {
        locked(&self.world)
    }

    /// The world, to change.
    pub fn change(&self) -> Changing<'_> {
        let mut world = locked(&self.world);
        world.now_ms = clock::now().wall / 1_000_000 + self.skew_ms.load(Ordering::Relaxed);
        Changing { world, shared: self }
    }

    /// Who may do what.
    pub fn rights(&self) -> MutexGuard<'_, Rights> {
        locked(&self.rights)
    }

    /// The fault that waits for this request.
    pub fn fault(&self, method: &str, path: &str) -> Option<Trouble> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut faults = locked(&self.faults);
        let asked = format!("{method} {path}");
        let at = faults.iter().position(|f| asked.starts_with(&f.at))?;
        faults.remove(at).map(|f| f.what)
    }
}

/// A cluster in memory behind a real HTTPS server. Its tasks end when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    shared: Arc<Shared>,
    address: SocketAddr,
    certificates: Certificates,
    _tasks: Tasks,
}

impl Cluster {
    /// Starts one on a free port of the loopback interface. If `automatic`, controllers work after each change.
    ///
    /// # Errors
    /// If there is no port, or no certificate can be made.
    pub async fn start(automatic: bool) -> anyhow::Result<Self> {
        let certificates = Certificates::new()?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("can't listen on the loopback interface")?;
        let address = listener.local_addr()?;
        let mut rights = Rights::default();
        rights.grant(ADMIN, "kubernetes-admin", vec![Rule::all()]);
        let shared = Arc::new(Shared {
            world: Mutex::default(),
            rights: Mutex::new(rights),
            faults: Mutex::default(),
            automatic: AtomicBool::new(automatic),
            skew_ms: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            news: watch::Sender::new(0),
            breaks: watch::Sender::new(0),
            unreachable: AtomicBool::new(false),
        });
        let mut tasks = Tasks::new();
        let acceptor = certificates.acceptor()?;
        tasks.spawn("api server", server::serve(listener, acceptor, Arc::clone(&shared), tasks.shutdown()));
        let cluster = Self { shared, address, certificates, _tasks: tasks };
        for namespace in ["default", "kube-system", "kube-node-lease"] {
            cluster.create_namespace(namespace);
        }
        Ok(cluster)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate of its authority, as PEM.
    pub fn authority(&self) -> &str {
        &self.certificates.authority
    }

    /// A kubeconfig for whoever has `token`.
    pub fn kubeconfig(&self, token: &str) -> String {
        json!({"apiVersion": "v1", "kind": "Config", "current-context": "twin",
            "clusters": [{"name": "twin", "cluster": {"server": format!("https://{}", self.address),
                "certificate-authority-data": base64(self.authority().as_bytes())}}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "twin", "context": {"cluster": "twin", "user": "user", "namespace": "default"}}]})
        .to_string()
    }

    /// Lets whoever has `token` in, with these rules.
    pub fn grant(&self, token: &str, user: &str, rules: Vec<Rule>) {
        self.shared.rights().grant(token, user, rules);
    }

    /// The world, to look at or to change as one likes.
    pub fn change(&self) -> Changing<'_> {
        self.shared.change()
    }

    /// An object, if it is there.
    pub fn find(&self, kind: &Kind, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.shared.world().get(kind, namespace, name).ok()
    }

    /// All objects of a kind in a namespace, or in all.
    pub fn list(&self, kind: &Kind, namespace: &str) -> Vec<Arc<Value>> {
        self.shared.world().store.all(kind, namespace).map(|(_, o)| Arc::clone(o)).collect()
    }

    /// Makes an object as an administrator would.
    ///
    /// # Errors
    /// If the server would refuse it.
    pub fn create(&self, kind: &Kind, namespace: &str, object: Value) -> anyhow::Result<Arc<Value>> {
        self.change().create(kind, namespace, object, "kubectl-create", false).map_err(|f| anyhow::anyhow!(f.message))
    }

    /// Changes an object by a merge patch, as an administrator would.
    ///
    /// # Errors
    /// If the server would refuse it.
    pub fn patch(&self, kind: &Kind, namespace: &str, name: &str, change: &Value) -> anyhow::Result<Arc<Value>> {
        let done =
            self.change().patch(kind, (namespace, name), &crate::world::Patch::Merge, change, "kubectl-edit", false);
        done.map_err(|f| anyhow::anyhow!(f.message))
    }

    /// Deletes an object, as `kubectl delete` does.
    ///
    /// # Errors
    /// What the API says.
    pub fn delete(&self, kind: &Kind, namespace: &str, name: &str) -> anyhow::Result<()> {
        let done = self.change().delete(kind, namespace, name, &json!({}));
        done.map(drop).map_err(|f| anyhow::anyhow!(f.message))
    }

    /// Makes a namespace.
    pub fn create_namespace(&self, name: &str) {
        // one that is there already is as good
        drop(self.create(NAMESPACES, "", json!({"metadata": {"name": name}})));
    }

    /// Makes a node that is ready.
    ///
    /// # Errors
    /// If there is one of that name.
    pub fn add_node(&self, name: &str, cpus: u32, memory_gib: u32) -> anyhow::Result<()> {
        let has = json!({"cpu": cpus.to_string(), "memory": format!("{memory_gib}Gi"), "pods": "110"});
        let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ok"});
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {},
            "status": {"capacity": has, "allocatable": has, "conditions": [ready]}});
        self.create(NODES, "", node).map(drop)
    }

    /// Makes a pod of one container; `spec` may say more of it.
    ///
    /// # Errors
    /// If the server would refuse it.
    pub fn add_pod(&self, namespace: &str, name: &str, cpu: &str, labels: Value, spec: Value) -> anyhow::Result<()> {
        let mut whole = json!({"containers": [{"name": "c", "image": "x",
            "resources": {"requests": {"cpu": cpu, "memory": "128Mi"}}}]});
        crate::patch::merge(&mut whole, &spec);
        self.create(PODS, namespace, json!({"metadata": {"name": name, "labels": labels}, "spec": whole})).map(drop)
    }

    /// Lets nodes run what is bound to them, and end what is deleted.
    pub fn run_kubelets(&self) {
        self.change().crew.kubelets = true;
        self.settle();
    }

    /// Places pods by `choose`; [`crew::first_fit`] is one.
    pub fn schedule_by(
        &self,
        choose: impl Fn(&Value, &[Arc<Value>], &[Arc<Value>]) -> Option<String> + Send + 'static,
    ) {
        self.change().crew.scheduler = Some(Box::new(choose));
        self.settle();
    }

    /// Stops, or starts again, a node's kubelet; a silent one is `Unknown` at once, not after 40 s.
    pub fn silence(&self, node: &str, silent: bool) {
        let mut world = self.change();
        if silent {
            world.crew.silent.insert(node.to_owned());
        } else {
            world.crew.silent.remove(node);
            let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True",
                "reason": "KubeletReady", "message": "ok"}]}});
            world.edit(&key(NODES, "", node), |n| crate::patch::strategic(n, &ready));
        }
        world.settle();
    }

    /// Nodes that aren't silent renew their leases.
    pub fn heartbeat(&self) {
        crew::heartbeat(&mut self.change());
    }

    /// Lets the controllers do what there is to do.
    pub fn settle(&self) {
        self.change().settle();
    }

    /// Whether controllers work after each change.
    pub fn set_automatic(&self, automatic: bool) {
        self.shared.automatic.store(automatic, Ordering::Relaxed);
    }

    /// Puts the server's clock ahead of the machine's.
    pub fn set_skew(&self, ahead: Duration) {
        self.shared.skew_ms.store(u64::try_from(ahead.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Cuts all connections.
    pub fn break_connections(&self) {
        self.shared.breaks.send_modify(|n| *n += 1);
    }

    /// Lets nobody through, or everybody again.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.shared.unreachable.store(unreachable, Ordering::Relaxed);
        if unreachable {
            self.break_connections();
        }
    }

    /// Forgets history: whoever asks for an old version is told 410.
    pub fn forget_history(&self) {
        self.change().store.forget();
    }

    /// Prepares trouble for a request to come; `at` is the beginning of its method and path.
    pub fn trouble(&self, at: &str, what: Trouble) {
        locked(&self.shared.faults).push_back(Fault { at: at.to_owned(), what });
    }

    /// Requests that were made so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// The kinds of objects that it has.
    pub fn kinds(&self) -> &'static [&'static Kind] {
        kinds::ALL
    }
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let whole = three.iter().fold(0_u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for i in 0..4 {
            let digit = (whole >> (18 - 6 * i)) & 63;
            let letter = DIGITS.get(digit as usize).copied().unwrap_or(b'=');
            text.push(if i <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}
