//! The client of the API server.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// How long a request may take; watches end by themselves and may take longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client as `kubeconfig` says, or, without one, as the pod's service account allows.
///
/// # Errors
/// If neither is there or makes sense.
pub async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let config = match kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path);
            let read = read.with_context(|| format!("can't use the kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("the kubeconfig {} makes no sense", path.display()))?
        }
        None => Config::incluster().context("there is no service account here; name a kubeconfig")?,
    };
    with(config)
}

/// A client of a configuration.
///
/// # Errors
/// If it makes no sense.
pub fn with(mut config: Config) -> anyhow::Result<Client> {
    config.connect_timeout = Some(PATIENCE);
    config.write_timeout = Some(PATIENCE);
    // a refused eviction is an answer; whoever asked decides when to ask again
    config.default_retry = false;
    Client::try_from(config).context("can't make a client of the API server")
}
