//! Identities: which node, which boot of it, which zone of it, which workload on it.
//!
//! Each is validated when it is made, so that whoever holds one need not check again.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a text is not an identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing but white space.
    #[error("{what} is empty")]
    Empty {
        /// What was being read.
        what: &'static str,
    },
    /// More bytes than allowed.
    #[error("{what} has {len} bytes, the longest allowed is {max}")]
    TooLong {
        /// What was being read.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The longest length allowed.
        max: usize,
    },
    /// A control character, or one that this identity can't have.
    #[error("{what} {text:?} has a character that is not allowed: {bad:?}")]
    Character {
        /// What was being read.
        what: &'static str,
        /// The text.
        text: String,
        /// The first bad character.
        bad: char,
    },
    /// Not of the form this identity has.
    #[error("{what} {text:?} should look like {form}")]
    Form {
        /// What was being read.
        what: &'static str,
        /// The text.
        text: String,
        /// What it should look like.
        form: &'static str,
    },
}

fn checked(what: &'static str, text: &str, max: usize, ok: impl Fn(char) -> bool) -> Result<Arc<str>, IdError> {
    if text.trim().is_empty() {
        return Err(IdError::Empty { what });
    }
    if text.len() > max {
        return Err(IdError::TooLong { what, len: text.len(), max });
    }
    match text.chars().find(|&c| !ok(c)) {
        Some(bad) => Err(IdError::Character { what, text: text.to_owned(), bad }),
        None => Ok(Arc::from(text)),
    }
}

/// The name of a node in its fleet: a DNS name of at most 253 bytes, as Kubernetes names nodes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// Checks `text`; upper case becomes lower case.
    pub fn new(text: &str) -> Result<Self, IdError> {
        let lower = text.trim().to_ascii_lowercase();
        let id = checked("node name", &lower, 253, |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))?;
        Ok(Self(id))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One boot of a node: the kernel's `/proc/sys/kernel/random/boot_id`, 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BootId(u128);

impl BootId {
    /// The 128 bits.
    pub const fn as_u128(self) -> u128 {
        self.0
    }
}

impl FromStr for BootId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let t = text.trim();
        let form =
            || IdError::Form { what: "boot id", text: t.to_owned(), form: "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx" };
        let groups: Vec<usize> = t.split('-').map(str::len).collect();
        if groups != [8, 4, 4, 4, 12] || !t.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
            return Err(form());
        }
        u128::from_str_radix(&t.replace('-', ""), 16).map(Self).map_err(|_| form())
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let h = format!("{:032x}", self.0);
        write!(f, "{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
    }
}

/// A zone of a node: a stable path such as `intel-rapl/package-0/dram` that survives reboots.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ZoneId(Arc<str>);

impl ZoneId {
    /// Checks `text`: at most 200 bytes, no control characters.
    pub fn new(text: &str) -> Result<Self, IdError> {
        checked("zone", text, 200, |c| !c.is_control()).map(Self)
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What kind of thing a workload is. A joule is counted once in each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadKind {
    /// One process, by pid and start time.
    Process,
    /// One container of any runtime.
    Container,
    /// One Kubernetes pod.
    Pod,
    /// One Kubernetes namespace.
    Namespace,
    /// One systemd unit (service, scope, socket, …).
    Unit,
    /// One systemd slice.
    Slice,
    /// One virtual machine.
    Vm,
    /// One user, by uid.
    User,
    /// The kernel's own threads, interrupts, and what couldn't be named.
    System,
}

impl WorkloadKind {
    /// All kinds, in the order of the text form.
    pub const ALL: [Self; 9] = [
        Self::Process,
        Self::Container,
        Self::Pod,
        Self::Namespace,
        Self::Unit,
        Self::Slice,
        Self::Vm,
        Self::User,
        Self::System,
    ];

    /// The name in metrics, JSON and text forms.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Container => "container",
            Self::Pod => "pod",
            Self::Namespace => "namespace",
            Self::Unit => "unit",
            Self::Slice => "slice",
            Self::Vm => "vm",
            Self::User => "user",
            Self::System => "system",
        }
    }
}

impl fmt::Display for WorkloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A workload on a node: `kind/name`, the name being what the kernel or the runtime calls it.
///
/// `process/412-88213` (pid and start time in ticks since boot), `container/<id>`, `pod/<uid>`,
/// `unit/nginx.service`, `vm/<uuid>`, `user/1000`, `system/kernel`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkloadId {
    kind: WorkloadKind,
    name: Arc<str>,
}

impl WorkloadId {
    /// The longest name in bytes.
    pub const MAX_NAME: usize = 512;

    /// Checks `name`: at most [`Self::MAX_NAME`] bytes, no control characters.
    pub fn new(kind: WorkloadKind, name: &str) -> Result<Self, IdError> {
        Ok(Self { kind, name: checked("workload", name, Self::MAX_NAME, |c| !c.is_control())? })
    }

    /// A process by pid and start time in clock ticks since boot.
    pub fn process(pid: u32, start_ticks: u64) -> Self {
        Self { kind: WorkloadKind::Process, name: format!("{pid}-{start_ticks}").into() }
    }

    /// What it is.
    pub fn kind(&self) -> WorkloadKind {
        self.kind
    }

    /// Its name within its kind.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

impl FromStr for WorkloadId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let form = || IdError::Form { what: "workload", text: text.to_owned(), form: "kind/name" };
        let (kind, name) = text.split_once('/').ok_or_else(form)?;
        let kind = WorkloadKind::ALL.into_iter().find(|k| k.as_str() == kind).ok_or_else(form)?;
        Self::new(kind, name)
    }
}

macro_rules! text_form {
    ($($id:ident: $parse:expr;)*) => {$(
        impl TryFrom<String> for $id {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                $parse(&text)
            }
        }
        impl From<$id> for String {
            fn from(id: $id) -> String {
                id.to_string()
            }
        }
    )*};
}

text_form! {
    NodeId: NodeId::new;
    ZoneId: ZoneId::new;
    BootId: str::parse;
    WorkloadId: str::parse;
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for ZoneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn node_names_are_dns_names() {
        assert_eq!(NodeId::new(" Edge1.Example \n").unwrap().as_str(), "edge1.example");
        assert!(matches!(NodeId::new("  "), Err(IdError::Empty { .. })));
        assert!(matches!(NodeId::new("a b"), Err(IdError::Character { bad: ' ', .. })));
        assert!(matches!(NodeId::new(&"x".repeat(254)), Err(IdError::TooLong { max: 253, .. })));
    }

    #[test]
    fn boot_ids_are_uuids() {
        let text = "0b6e8a2c-93f5-4a63-9d5e-5a4e3f1c2b7d";
        assert_eq!(text.parse::<BootId>().unwrap().to_string(), text);
        for bad in
            ["", "0b6e8a2c", "0b6e8a2c-93f5-4a63-9d5e-5a4e3f1c2b7z", "+b6e8a2c-93f5-4a63-9d5e-5a4e3f1c2b7d", "--------"]
        {
            assert!(bad.parse::<BootId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn workload_kinds_have_distinct_names() {
        for kind in WorkloadKind::ALL {
            let id = WorkloadId::new(kind, "x/y").unwrap();
            assert_eq!(id.to_string().parse::<WorkloadId>().unwrap(), id);
        }
        assert!("pods/x".parse::<WorkloadId>().is_err());
        assert!("pod".parse::<WorkloadId>().is_err());
    }

    proptest! {
        #[test]
        fn text_forms_round_trip(bits in any::<u128>(), name in "[^\\p{Cc}]{1,80}") {
            let boot = BootId(bits);
            prop_assert_eq!(boot.to_string().parse::<BootId>().unwrap(), boot);
            if let Ok(id) = WorkloadId::new(WorkloadKind::Unit, &name) {
                prop_assert_eq!(id.to_string().parse::<WorkloadId>().unwrap(), id);
            }
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let node = NodeId::new(&text).is_ok();
            prop_assert!(!node || text.trim().len() <= 253);
            let boot = text.parse::<BootId>().is_ok();
            prop_assert!(!boot || text.trim().len() == 36);
            let zone = ZoneId::new(&text).is_ok();
            prop_assert!(!zone || text.len() <= 200);
        }
    }
}
