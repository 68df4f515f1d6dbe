//! What operators say in the cluster: its ConfigMap pauses this daemon, or brings another policy.

use std::sync::Arc;
use std::time::Duration;

use ebbtide_executor::event::Ask;
use ebbtide_kubernetes::act::Hands;
use ebbtide_kubernetes::act::settings::Settings;
use ebbtide_runtime::tasks::Shutdown;

use super::{Acting, Untaken};
use crate::decide::Plans;

/// Time between two looks at the ConfigMap.
const LOOK: Duration = Duration::from_secs(10);
/// The API server has this long to answer.
const PATIENCE: Duration = Duration::from_secs(8);

/// Where operators say what they wish.
#[derive(Clone, Debug)]
pub struct Place {
    /// The namespace.
    pub namespace: String,
    /// The ConfigMap.
    pub name: String,
}

/// Does what the ConfigMap says, until the stop. While it can't be read, nothing new is begun.
///
/// # Errors
/// None.
pub async fn heed(hands: Hands, place: Place, acting: Acting, plans: Arc<Plans>, stop: Shutdown) -> anyhow::Result<()> {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let by = format!("ConfigMap {}/{}", place.namespace, place.name);
    let (mut paused, mut policy, mut wrong) = (None::<String>, None::<String>, String::new());
    loop {
        tokio::select! {
            () = stop.requested() => return Ok(()),
            _ = looks.tick() => {}
        }
        let (wanted, found) = match tokio::time::timeout(PATIENCE, hands.settings(&place.namespace, &place.name)).await
        {
            Ok(Ok(found)) => (found.paused.then(|| "it says so".to_owned()), Some(found)),
            // if nothing can be asked, nothing can be done either: each look at a node says so
            Ok(Err(error)) if error.is_unknown() => continue,
            Err(_) => continue,
            Ok(Err(error)) => (Some(format!("it can't be read: {:#}", anyhow::Error::from(error))), None),
        };
        if wanted.is_some() != paused.is_some() {
            let asked = match &wanted {
                Some(why) => acting.ask(&by, why, Ask::Pause).await,
                None => acting.ask(&by, "it says so no longer", Ask::Resume).await,
            };
            match asked {
                Ok(_) => paused = wanted,
                // another daemon leads, which looks at the same
                Err(Untaken::Away | Untaken::Busy) => {}
            }
        }
        if !acting.board().leads {
            // whoever leads next is told anew
            paused = None;
        }
        if let Some(Settings { policy: text, .. }) = found.filter(|found| found.policy != policy) {
            let why = plans.set_policy(text.as_deref()).err().unwrap_or_default();
            if !why.is_empty() && why != wrong {
                tracing::error!("the policy of {by} makes no sense, that of before stays: {why}");
            }
            if why.is_empty() {
                tracing::info!("plans by the policy of {}", if text.is_some() { &by } else { "this daemon" });
                policy = text;
            }
            wrong = why;
        }
    }
}
