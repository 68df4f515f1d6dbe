//! Joins a Kubernetes cluster: follows it, campaigns for its lease, and lets the scheduler ask.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use ebbtide_kubernetes::act::Hands;
use ebbtide_kubernetes::act::lease::{Candidate, Standing};
use ebbtide_kubernetes::extender::{self, Views};
use ebbtide_kubernetes::watch::Followed;
use ebbtide_kubernetes::{connect, convert};
use ebbtide_runtime::clock;
use ebbtide_runtime::tasks::Tasks;
use tokio::sync::{oneshot, watch};

use crate::act::cluster::Cluster;
use crate::act::lead::{self, Lead};
use crate::act::{Acting, extend, notes, wishes};
use crate::config::KubernetesConfig;
use crate::decide::{self, Plans};

/// A cluster that was joined.
pub(super) struct Joined {
    pub(super) followed: Followed,
    pub(super) lead: Lead,
    pub(super) cluster: Cluster,
    /// What the scheduler asks.
    pub(super) extender: Option<Router>,
    /// To be dropped when nothing is done any more: then the lease is given up.
    pub(super) ended: oneshot::Sender<()>,
    hands: Hands,
    views: Option<Views>,
}

impl Joined {
    /// Begins to follow the cluster and to campaign. `journal` is the name of this daemon's journal.
    ///
    /// # Errors
    /// If it isn't known how to reach the cluster.
    pub(super) async fn new(config: &KubernetesConfig, journal: String, tasks: &mut Tasks) -> anyhow::Result<Self> {
        let client = connect::client(config.kubeconfig.as_deref(), config.context.as_deref())
            .await
            .context("[kubernetes] can't be used")?;
        // no process of the past or the future has the same: names of pods come again, and so do those of hosts
        let identity = format!("{}_{journal}_{:x}", host(), clock::now().wall / 1_000_000);
        let followed = Followed::start(&client, rules(config), tasks);
        let hands = Hands::new(client.clone(), &identity);
        let duration = Duration::from_secs(u64::from(config.lease_s));
        let candidate = Candidate::new(client, &config.namespace, &config.lease, &identity, config.lease_s);
        let (tell, standing) = watch::channel(Standing::Follows);
        let (ended, done) = oneshot::channel();
        tasks.spawn("lease", lead::campaign(candidate, duration, tell, done, tasks.shutdown()));
        let lead = Lead::Lease(standing);
        let cluster = Cluster::new(followed.clone(), hands.clone(), lead.clone(), journal);
        let views = config.extender.then(Views::default);
        let extender = views.clone().map(|views| extender::router(views, rules(config)));
        tracing::info!(identity, lease = %format!("{}/{}", config.namespace, config.lease), "joins a Kubernetes cluster");
        Ok(Self { followed, lead, cluster, extender, ended, hands, views })
    }

    /// Starts what speaks with plans and with whoever acts.
    pub(super) fn start(
        &self,
        config: &KubernetesConfig,
        plans: &Arc<Plans>,
        every: Duration,
        acting: &Acting,
        tasks: &mut Tasks,
    ) {
        let (stop, followed) = (tasks.shutdown(), self.followed.clone());
        tasks.spawn("hear the cluster", decide::hear(Arc::clone(plans), followed.clone(), stop.clone()));
        let place = wishes::Place { namespace: config.namespace.clone(), name: config.config_map.clone() };
        let heed = wishes::heed(self.hands.clone(), place, acting.clone(), Arc::clone(plans), stop.clone());
        tasks.spawn("wishes of the cluster", heed);
        if let Some(views) = self.views.clone() {
            let tell = extend::tell(views, followed.clone(), acting.clone(), Arc::clone(plans), every, stop.clone());
            tasks.spawn("views for the scheduler", tell);
        }
        if config.annotate {
            let (hands, lead) = (self.hands.clone(), self.lead.clone());
            tasks.spawn("notes on nodes", notes::write(hands, followed, lead, acting.clone(), Arc::clone(plans), stop));
        }
    }
}

fn rules(config: &KubernetesConfig) -> convert::Rules {
    config.rules.clone()
}

/// What this machine, or the pod, is called.
fn host() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "ebbtide-fleet".to_owned() } else { name }
}
