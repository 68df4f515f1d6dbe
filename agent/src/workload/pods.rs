//! The names of a node's pods and containers, from the kubelet's list of pods (`GET /pods`, a `v1.PodList`).
//!
//! Control groups carry uids and ids; people know namespaces and names. A static pod has two uids: the hash of its
//! manifest, which names its control group, and that of its mirror in the API server; both lead to its name.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

/// Why a list of pods couldn't be read.
#[derive(Debug, thiserror::Error)]
pub enum PodsError {
    /// Longer than [`PodNames::MAX_BYTES`].
    #[error("the list of pods is longer than {} MiB", PodNames::MAX_BYTES >> 20)]
    TooLong,
    /// Not JSON, or not a list of pods.
    #[error("the answer is not a list of pods")]
    Json(#[from] serde_json::Error),
}

/// What people call a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name within that.
    pub name: String,
}

/// What people call a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContainerName {
    /// The pod it runs in.
    pub pod: Arc<PodName>,
    /// Its name within that.
    pub name: String,
}

/// One node's pods by uid and containers by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodNames {
    pods: HashMap<String, Arc<PodName>>,
    containers: HashMap<String, ContainerName>,
}

impl PodNames {
    /// The longest list that is read, in bytes: some thousand pods.
    pub const MAX_BYTES: usize = 16 << 20;

    /// Reads a `v1.PodList` in JSON. Pods without a uid or a name and containers not yet started are left out.
    ///
    /// # Errors
    /// If it is too long or no list of pods.
    pub fn parse(json: &[u8]) -> Result<Self, PodsError> {
        if json.len() > Self::MAX_BYTES {
            return Err(PodsError::TooLong);
        }
        let list: List<'_> = serde_json::from_slice(json)?;
        let mut names = Self::default();
        for item in list.items.unwrap_or_default() {
            names.add(item);
        }
        Ok(names)
    }

    /// The pod whose control group carries `uid`.
    pub fn pod(&self, uid: &str) -> Option<&Arc<PodName>> {
        self.pods.get(uid)
    }

    /// The container with `id`, without the runtime's name before it. A pod's sandbox (pause) is in no list.
    pub fn container(&self, id: &str) -> Option<&ContainerName> {
        self.containers.get(id)
    }

    /// How many uids are known; a static pod may have two.
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether no pod is known.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    fn add(&mut self, item: Item<'_>) {
        let Some(meta) = item.metadata else { return };
        let (Some(uid), Some(name)) = (text(meta.uid), text(meta.name)) else { return };
        let namespace = text(meta.namespace).unwrap_or_else(|| "default".to_owned());
        let pod = Arc::new(PodName { namespace, name });
        let annotations = meta.annotations.unwrap_or_default();
        for other in [annotations.hash, annotations.mirror].into_iter().filter_map(text) {
            self.pods.insert(other, Arc::clone(&pod));
        }
        self.pods.insert(uid, Arc::clone(&pod));
        let status = item.status.unwrap_or_default();
        for container in [status.init, status.containers, status.ephemeral].into_iter().flatten().flatten() {
            let (Some(id), Some(name)) = (container.id, text(container.name)) else { continue };
            let id = id.split_once("://").map_or(&*id, |(_, id)| id);
            if !id.is_empty() {
                self.containers.insert(id.to_owned(), ContainerName { pod: Arc::clone(&pod), name });
            }
        }
    }
}

fn text(value: Option<Cow<'_, str>>) -> Option<String> {
    value.map(Cow::into_owned).filter(|v| !v.is_empty())
}

#[derive(Deserialize)]
struct List<'a> {
    // Required but may be null: an error's body (`kind: Status`) must not pass for an empty list.
    #[serde(borrow, deserialize_with = "Option::deserialize")]
    items: Option<Vec<Item<'a>>>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    metadata: Option<Meta<'a>>,
    #[serde(borrow)]
    status: Option<Status<'a>>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow)]
    uid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    namespace: Option<Cow<'a, str>>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    annotations: Option<Annotations<'a>>,
}

#[derive(Default, Deserialize)]
struct Annotations<'a> {
    #[serde(borrow, rename = "kubernetes.io/config.hash")]
    hash: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "kubernetes.io/config.mirror")]
    mirror: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
struct Status<'a> {
    #[serde(borrow, rename = "initContainerStatuses")]
    init: Option<Vec<ContainerStatus<'a>>>,
    #[serde(borrow, rename = "containerStatuses")]
    containers: Option<Vec<ContainerStatus<'a>>>,
    #[serde(borrow, rename = "ephemeralContainerStatuses")]
    ephemeral: Option<Vec<ContainerStatus<'a>>>,
}

#[derive(Deserialize)]
struct ContainerStatus<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "containerID")]
    id: Option<Cow<'a, str>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn uids_hashes_and_container_ids_lead_to_names() {
        let list = json!({"kind": "PodList", "metadata": {}, "items": [
            {"metadata": {"uid": "u-1", "namespace": "mec", "name": "inference-7c9", "annotations": null, "labels": {"a": "b"}},
             "spec": {"containers": [{"name": "main"}]},
             "status": {"phase": "Running",
                "initContainerStatuses": [{"name": "setup", "containerID": "containerd://i1"}],
                "containerStatuses": [{"name": "main", "containerID": "cri-o://c1", "restartCount": 3},
                                      {"name": "waiting", "containerID": ""}, {"name": "absent"}],
                "ephemeralContainerStatuses": [{"name": "debug", "containerID": "e1"}]}},
            {"metadata": {"uid": "mirror-uid", "namespace": "kube-system", "name": "etcd-a",
                "annotations": {"kubernetes.io/config.hash": "0f3d", "kubernetes.io/config.mirror": "0f3d", "x": "y"}},
             "status": null},
            {"metadata": {"uid": "u-2", "name": "plain \"quoted\""}},
            {"metadata": {"name": "no uid"}},
            {"spec": {}},
        ]});
        let names = PodNames::parse(list.to_string().as_bytes()).unwrap();
        let pod = |uid: &str| names.pod(uid).map(|p| format!("{}/{}", p.namespace, p.name));
        assert_eq!(pod("u-1").as_deref(), Some("mec/inference-7c9"));
        assert_eq!(pod("0f3d").as_deref(), Some("kube-system/etcd-a"));
        assert_eq!(pod("mirror-uid"), pod("0f3d"));
        assert_eq!(pod("u-2").as_deref(), Some("default/plain \"quoted\""));
        assert_eq!(names.len(), 4);
        let container = |id: &str| names.container(id).map(|c| format!("{}/{}", c.pod.name, c.name));
        assert_eq!(container("c1").as_deref(), Some("inference-7c9/main"));
        assert_eq!(container("i1").as_deref(), Some("inference-7c9/setup"));
        assert_eq!(container("e1").as_deref(), Some("inference-7c9/debug"));
        assert_eq!(container(""), None);
        assert_eq!(names.containers.len(), 3);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for bad in
            ["", "{}", "[]", "Unauthorized", r#"{"kind":"Status","code":403}"#, r#"{"items":{}}"#, r#"{"items":[7]}"#]
        {
            assert!(matches!(PodNames::parse(bad.as_bytes()), Err(PodsError::Json(_))), "{bad}");
        }
        assert!(PodNames::parse(br#"{"items":null}"#).unwrap().is_empty());
        let long = vec![b' '; PodNames::MAX_BYTES + 1];
        assert!(matches!(PodNames::parse(&long), Err(PodsError::TooLong)));
    }

    proptest! {
        #[test]
        fn each_pod_is_found_by_its_uid(pods in proptest::collection::hash_map("\\PC{1,20}", ("\\PC{1,20}", "\\PC{1,20}"), 0..20)) {
            let items: Vec<_> = pods.iter().map(|(uid, (ns, name))| json!({"metadata": {"uid": uid, "namespace": ns, "name": name}})).collect();
            let names = PodNames::parse(json!({"items": items}).to_string().as_bytes()).unwrap();
            prop_assert_eq!(names.len(), pods.len());
            for (uid, (ns, name)) in &pods {
                let found = names.pod(uid).unwrap();
                prop_assert_eq!((&found.namespace, &found.name), (ns, name));
            }
        }

        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>(), cut in 0usize..70) {
            let good = br#"{"items":[{"metadata":{"uid":"\u00e9","name":"n"},"status":{}}]}"#;
            prop_assert!(PodNames::parse(&good[..cut.min(good.len())]).is_err() || cut >= good.len());
            prop_assert!(PodNames::parse(&bytes).is_err());
        }
    }
}
