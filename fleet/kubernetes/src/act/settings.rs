//! What operators say in the cluster: a ConfigMap that pauses everything, or holds the policy.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;

use super::{Failed, Hands};

/// What the ConfigMap says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Nothing new is begun.
    pub paused: bool,
    /// The policy as TOML, if it is there: key `policy.toml`.
    pub policy: Option<String>,
    /// Its version, to see whether it changed; empty if there is no ConfigMap.
    pub version: String,
}

impl Hands {
    /// Reads the ConfigMap; without one nothing is paused. Whoever can't read it had better begin nothing new.
    ///
    /// # Errors
    /// If the server refuses or doesn't answer.
    pub async fn settings(&self, namespace: &str, name: &str) -> Result<Settings, Failed> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let failed = |e| Failed::api(format!("read the ConfigMap {namespace}/{name}"), e);
        let Some(map) = maps.get_opt(name).await.map_err(failed)? else { return Ok(Settings::default()) };
        let data = map.data.unwrap_or_default();
        // any word but a clear no is a yes: a typo must not set machines in motion
        let paused = data.get("paused").is_some_and(|v| !matches!(v.trim(), "false" | "no" | "0" | ""));
        let version = map.metadata.resource_version.unwrap_or_default();
        Ok(Settings { paused, policy: data.get("policy.toml").cloned(), version })
    }
}
