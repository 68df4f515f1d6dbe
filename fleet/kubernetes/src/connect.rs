//! The client of the API server.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// How long a request may take; watches end by themselves and may take longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client as `kubeconfig` says in `context`, or its current one; or, without a file, as the pod's service account allows.
///
/// # Errors
/// If neither is there or makes sense.
pub async fn client(kubeconfig: Option<&Path>, context: Option<&str>) -> anyhow::Result<Client> {
    let config = match kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path);
            let read = read.with_context(|| {
                format!("can't read the kubeconfig {}; is it there, and may this user read it?", path.display())
            })?;
            let contexts: Vec<&str> = read.contexts.iter().map(|c| c.name.as_str()).collect();
            let known = format!("the kubeconfig {} makes no sense; it has contexts {contexts:?}", path.display());
            let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
            Config::from_custom_kubeconfig(read, &options).await.context(known)?
        }
        None => Config::incluster().context(
            "this is no pod with a service account; set kubernetes.kubeconfig to a file that says how to reach the cluster",
        )?,
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
