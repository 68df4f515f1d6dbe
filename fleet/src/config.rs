//! What the operator may set: one file of TOML, the most common also as flags.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ebbtide_devices::snmp::model::PduModel;
use ebbtide_devices::{DeviceConfig, Devices};
use ebbtide_proto::NodeId;
use ebbtide_proto::identity::Role;
use serde::{Deserialize, Serialize};

use crate::act::ActConfig;
use crate::act::window::Windows;
use crate::decide::Mode;
use crate::power::{FeedConfig, Place};
use crate::{store, toml_text};

/// The file. All keys are optional; those that are left out have the values of `--dump-config`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Where agents and operators connect by gRPC.
    pub grpc: SocketAddr,
    /// Where dashboard and metrics are.
    pub http: SocketAddr,
    /// Folder of the store. Only one daemon can use it at a time.
    pub data: PathBuf,
    /// Certificates. Without them connections are not encrypted, which is refused beyond this machine.
    pub tls: Option<TlsFiles>,
    /// Serve unencrypted beyond this machine, too: whoever can connect can read everything, and speak as any node.
    pub insecure: bool,
    /// Role of whoever connects unencrypted: "viewer", "operator" or "admin".
    pub plain_role: Role,
    /// Role of whoever connects encrypted but shows no certificate, such as a browser. None if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anonymous_role: Option<Role>,
    /// What agents may cost.
    pub limits: LimitsConfig,
    /// How long measurements are kept.
    pub retention: Retention,
    /// Where measurements are sent on to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remote_write: Vec<RemoteWrite>,
    /// PDUs, BMCs and meters; [devices.md](devices.md) has the keys of each kind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device: Vec<DeviceConfig>,
    /// PDUs that are not known by themselves.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pdu_model: Vec<PduModel>,
    /// Which outlets and BMC belong to which node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub feed: Vec<FeedConfig>,
    /// How the fleet plans which nodes it needs.
    pub plan: PlanConfig,
    /// What is done about plans, and how.
    pub act: ActConfig,
    /// The Kubernetes cluster that is followed and acted on; [kubernetes.md](kubernetes.md). None if the table is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesConfig>,
    /// What is logged: error, warn, info, debug, trace, or directives such as "info,ebbtide_fleet=debug".
    pub log_level: String,
}

/// Certificates of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TlsFiles {
    /// Its certificate with those above it, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The authority of agents and operators, PEM.
    pub client_ca: PathBuf,
    /// Folder with the authority's key (ca.pem, ca-key.pem), made by `ebbtide pki init`. With it the daemon can enrol
    /// nodes that show a join token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<PathBuf>,
}

/// What agents may cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LimitsConfig {
    /// Nodes.
    pub nodes: usize,
    /// Series per node.
    pub series: usize,
    /// Largest message of an agent, in bytes.
    pub message_bytes: usize,
    /// How far a node's clock may be off, in seconds.
    pub clock_skew_s: u64,
    /// Time that agents collect before they send, in milliseconds; 0: 2 s, with many agents up to 10 s.
    pub frame_ms: u32,
    /// A node of which nothing was heard for so long is silent, in seconds.
    pub stale_after_s: u64,
}

/// How long measurements are kept, by how fine they are. In days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Retention {
    /// As they came.
    pub raw_days: u32,
    /// In steps of 10 s.
    pub ten_seconds_days: u32,
    /// In steps of 1 min.
    pub minute_days: u32,
    /// In steps of 1 h.
    pub hour_days: u32,
}

/// How the fleet plans which nodes it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PlanConfig {
    /// What is done with plans: "observe" makes them for whoever looks, "recommend" puts them forward in log and metrics.
    pub mode: Mode,
    /// File that says which nodes are managed and what workloads need; [plans.md](plans.md) has its keys. Without it no
    /// node is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inventory: Option<PathBuf>,
    /// File with the policy; [plans.md](plans.md) has its keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PathBuf>,
    /// Time between two plans, in seconds.
    pub every_s: u64,
    /// After the start, nodes of the inventory are waited for this long before anything is planned, in seconds.
    pub settle_s: u64,
}

impl Default for PlanConfig {
    fn default() -> Self {
        Self { mode: Mode::Observe, inventory: None, policy: None, every_s: 30, settle_s: 60 }
    }
}

/// A Kubernetes cluster. Its nodes are called as their agents and their `[[feed]]`s are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct KubernetesConfig {
    /// File that says how to reach the cluster. Left out: as the service account of the pod that this daemon is in allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of that file; its current one if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Namespace of lease and ConfigMap.
    pub namespace: String,
    /// Lease by which one daemon at a time acts.
    pub lease: String,
    /// Time after which another daemon may take a lease that isn't renewed, in seconds.
    pub lease_s: u32,
    /// ConfigMap by which operators pause this daemon, or give it a policy.
    pub config_map: String,
    /// Whether the scheduler may ask at `/extender/filter` and `/extender/prioritize`.
    pub extender: bool,
    /// Whether nodes get annotations of what they draw and what is done with them.
    pub annotate: bool,
    /// How objects of the cluster are understood; [kubernetes.md](kubernetes.md) has the keys.
    pub rules: ebbtide_kubernetes::convert::Rules,
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            context: None,
            namespace: "ebbtide".to_owned(),
            lease: "ebbtide-fleet".to_owned(),
            lease_s: 15,
            config_map: "ebbtide-fleet".to_owned(),
            extender: true,
            annotate: true,
            rules: ebbtide_kubernetes::convert::Rules::default(),
        }
    }
}

/// A receiver of Prometheus' remote write 1.0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RemoteWrite {
    /// Such as `http://127.0.0.1:9090/api/v1/write`.
    pub url: String,
    /// File with a token for `Authorization: Bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer_token_file: Option<PathBuf>,
    /// Authority of an `https` receiver, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Time between two samples that are sent, in seconds.
    #[serde(default = "fifteen")]
    pub interval_s: u64,
}

fn fifteen() -> u64 {
    15
}

impl Default for Config {
    fn default() -> Self {
        Self {
            grpc: (Ipv4Addr::LOCALHOST, 9884).into(),
            http: (Ipv4Addr::LOCALHOST, 9885).into(),
            data: "/var/lib/ebbtide-fleet".into(),
            tls: None,
            insecure: false,
            plain_role: Role::Viewer,
            anonymous_role: None,
            limits: LimitsConfig::default(),
            retention: Retention::default(),
            remote_write: Vec::new(),
            device: Vec::new(),
            pdu_model: Vec::new(),
            feed: Vec::new(),
            plan: PlanConfig::default(),
            act: ActConfig::default(),
            kubernetes: None,
            log_level: "info".to_owned(),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            nodes: 20_000,
            series: 20_000,
            message_bytes: 1 << 20,
            clock_skew_s: 300,
            frame_ms: 0,
            stale_after_s: 30,
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self { raw_days: 2, ten_seconds_days: 14, minute_days: 90, hour_days: 5 * 366 }
    }
}

impl From<Retention> for store::Retention {
    fn from(days: Retention) -> Self {
        let ms = |days: u32| u64::from(days) * 86_400_000;
        Self {
            raw_ms: ms(days.raw_days),
            tens_ms: ms(days.ten_seconds_days),
            minutes_ms: ms(days.minute_days),
            hours_ms: ms(days.hour_days),
        }
    }
}

/// Why the daemon can't run with these settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("configuration {}: {text}\n(ebbtide-fleet serve --dump-config shows all keys)", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        text: String,
    },
    /// Settings that don't make sense.
    #[error("{key} {why}; {fix}")]
    Conflict {
        /// The key to look at first.
        key: &'static str,
        /// What is wrong.
        why: String,
        /// What to do.
        fix: &'static str,
    },
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// If it can't be read, or has a key or value that isn't known. Texts that may be secret are not repeated.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml_text::read(&text).map_err(|text| ConfigError::Parse { path: path.to_owned(), text })
    }

    /// The devices, with the PDU models that they may be.
    ///
    /// # Errors
    /// If two have the same name, or a model makes no sense.
    pub fn devices(&self) -> Result<Devices, String> {
        Devices::new(self.device.clone(), self.pdu_model.clone())
    }

    /// All keys with their values.
    pub fn dump(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_default()
    }

    /// Checks that the settings go together.
    ///
    /// # Errors
    /// [`ConfigError::Conflict`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let beyond = [("grpc", self.grpc), ("http", self.http)].into_iter().find(|(_, at)| !at.ip().is_loopback());
        if let (Some((key, at)), None, false) = (beyond, &self.tls, self.insecure) {
            return Err(ConfigError::Conflict {
                key,
                why: format!("listens on {at} without encryption"),
                fix: "set [tls] (ebbtide pki init and issue-fleet make the files), or say --insecure",
            });
        }
        if self.grpc == self.http && self.grpc.port() != 0 {
            let fix = "give each a port of its own";
            return Err(ConfigError::Conflict { key: "http", why: "is the same address as grpc".into(), fix });
        }
        if self.limits.message_bytes < 16 << 10 {
            let (why, fix) = ("is too small for a frame".into(), "use 16384 or more");
            return Err(ConfigError::Conflict { key: "limits.message-bytes", why, fix });
        }
        if self.limits.frame_ms != 0 && !(250..=60_000).contains(&self.limits.frame_ms) {
            let (why, fix) = ("is not between 250 and 60000".into(), "use 0 to leave it to the daemon");
            return Err(ConfigError::Conflict { key: "limits.frame-ms", why, fix });
        }
        let r = &self.retention;
        let order = [r.raw_days, r.ten_seconds_days, r.minute_days, r.hour_days];
        if order.contains(&0) || !order.is_sorted() {
            let (why, fix) = ("has finer steps kept longer than coarser ones, or 0 days".into(), "let the days rise");
            return Err(ConfigError::Conflict { key: "retention", why, fix });
        }
        self.devices().map_err(|why| ConfigError::Conflict { key: "device", why, fix: "see docs/devices.md" })?;
        let mut fed = BTreeSet::new();
        for feed in &self.feed {
            if let Err(error) = NodeId::new(&feed.node) {
                let (why, fix) =
                    (format!("names a node that can't be: {error}"), "use the name that `ebbtide nodes` shows");
                return Err(ConfigError::Conflict { key: "feed", why, fix });
            }
            let known = |place: &Place| self.device.iter().any(|device| device.name == place.device);
            if let Some(place) = feed.places().find(|place| !known(place)) {
                let (why, fix) = (
                    format!("of {} names {place}, and there is no device {:?}", feed.node, place.device),
                    "add a [[device]] of that name",
                );
                return Err(ConfigError::Conflict { key: "feed", why, fix });
            }
            let mut own: BTreeSet<String> = feed.outlets.iter().map(Place::to_string).collect();
            own.extend(feed.bmc.clone());
            own.insert(format!("node {}", feed.node));
            if let Some(twice) = own.intersection(&fed).next() {
                let (why, fix) = (format!("has {twice} twice"), "let each outlet feed one node");
                return Err(ConfigError::Conflict { key: "feed", why, fix });
            }
            fed.extend(own);
        }
        if !(1..=3600).contains(&self.plan.every_s) {
            let (why, fix) = ("is not between 1 and 3600".into(), "30 is usual");
            return Err(ConfigError::Conflict { key: "plan.every-s", why, fix });
        }
        Windows::new(&self.act.window).map_err(|why| {
            let fix = "see docs/acting.md";
            ConfigError::Conflict { key: "act.window", why, fix }
        })?;
        for (n, hook) in self.act.hook.iter().enumerate() {
            hook.check().map_err(|why| {
                let (why, fix) = (format!("number {} {why}", n + 1), "see docs/acting.md");
                ConfigError::Conflict { key: "act.hook", why, fix }
            })?;
        }
        if let Some(kubernetes) = &self.kubernetes {
            if !(5..=300).contains(&kubernetes.lease_s) {
                let (why, fix) = ("is not between 5 and 300".into(), "15 is usual");
                return Err(ConfigError::Conflict { key: "kubernetes.lease-s", why, fix });
            }
            let names = [&kubernetes.namespace, &kubernetes.lease, &kubernetes.config_map];
            if names.iter().any(|name| name.is_empty()) {
                let (why, fix) =
                    ("has an empty namespace, lease or config-map".into(), "leave it out for the usual name");
                return Err(ConfigError::Conflict { key: "kubernetes", why, fix });
            }
            if kubernetes.context.is_some() && kubernetes.kubeconfig.is_none() {
                let (why, fix) = ("has a context and no kubeconfig".into(), "name the file that has the context");
                return Err(ConfigError::Conflict { key: "kubernetes", why, fix });
            }
        }
        for remote in &self.remote_write {
            if !(remote.url.starts_with("http://") || remote.url.starts_with("https://")) {
                let (why, fix) = ("has a url that is neither http:// nor https://".into(), "write the whole address");
                return Err(ConfigError::Conflict { key: "remote-write", why, fix });
            }
            if remote.interval_s == 0 || remote.interval_s > 3600 {
                let (why, fix) = ("has an interval-s that is not between 1 and 3600".into(), "15 is usual");
                return Err(ConfigError::Conflict { key: "remote-write", why, fix });
            }
        }
        Ok(())
    }

    /// How long a silent node counts as live.
    pub fn stale_after(&self) -> Duration {
        Duration::from_secs(self.limits.stale_after_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dumped_can_be_read() {
        let config = Config {
            tls: Some(TlsFiles {
                cert: "a".into(),
                key: "b".into(),
                client_ca: "c".into(),
                authority: Some("d".into()),
            }),
            remote_write: vec![RemoteWrite {
                url: "http://127.0.0.1:9090/api/v1/write".into(),
                bearer_token_file: None,
                ca: None,
                interval_s: 15,
            }],
            ..Config::default()
        };
        assert_eq!(toml::from_str::<Config>(&config.dump()).unwrap(), config);
        assert!(config.check().is_ok() && Config::default().check().is_ok());
    }

    #[test]
    fn settings_that_would_harm_are_refused() {
        type Spoil = fn(&mut Config);
        let cases: [(&str, Spoil); 10] = [
            ("grpc listens on 0.0.0.0:9884 without encryption", |c| c.grpc = "0.0.0.0:9884".parse().unwrap()),
            ("http listens on", |c| c.http = "[::]:1".parse().unwrap()),
            ("http is the same address", |c| c.http = c.grpc),
            ("message-bytes", |c| c.limits.message_bytes = 1),
            ("frame-ms", |c| c.limits.frame_ms = 1),
            ("retention", |c| c.retention.raw_days = 100),
            ("plan.every-s", |c| c.plan.every_s = 0),
            ("act.window number 1 has cron \"nightly\"", |c| {
                let window = "acts = 'only'\ncron = 'nightly'\nlasts = '8h'\ntime-zone = 'UTC'";
                c.act.window.push(toml::from_str(window).unwrap());
            }),
            ("kubernetes.lease-s", |c| {
                c.kubernetes = Some(KubernetesConfig { lease_s: 1, ..KubernetesConfig::default() });
            }),
            ("a context and no kubeconfig", |c| {
                c.kubernetes = Some(KubernetesConfig { context: Some("x".into()), ..KubernetesConfig::default() });
            }),
        ];
        for (says, spoil) in cases {
            let mut config = Config::default();
            spoil(&mut config);
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
        let open = Config { grpc: "0.0.0.0:9884".parse().unwrap(), insecure: true, ..Config::default() };
        assert!(open.check().is_ok());
    }

    #[test]
    fn a_wrong_file_is_told_by_line_without_its_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fleet.toml");
        std::fs::write(&path, "insecure = false\nplain-rol = \"viewer\"\n").unwrap();
        let error = Config::load(&path).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("plain-rol") && error.contains("plain-role"), "{error}");
        assert!(Config::load(&dir.path().join("none")).unwrap_err().to_string().contains("can't read"));
    }
}
