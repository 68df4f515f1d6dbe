//! Who leads: one daemon at a time acts, by a Lease.
//!
//! A lease counts as lost when nobody renewed it for its duration by *our* clock, so that the clocks of others don't
//! matter. Its `leaseTransitions` is the generation: it grows with each change of leader, and what an older generation
//! wants is refused. Whoever leads stops to act well before others may take over.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};

use super::{Failed, code};

/// What a candidate knows at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It leads.
    Leads {
        /// Under this generation.
        generation: u64,
        /// Until this moment of the monotonic clock in milliseconds, unless it renews.
        until_ms: u64,
    },
    /// Somebody else does, or nobody can tell.
    Follows,
}

impl Standing {
    /// The generation under which one may act at `mono_ms`.
    pub fn may_act(self, mono_ms: u64) -> Option<u64> {
        match self {
            Self::Leads { generation, until_ms } if mono_ms < until_ms => Some(generation),
            _ => None,
        }
    }
}

/// What to do with the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Take { generation: i32 },
    Renew { generation: i32 },
    Wait,
}

/// A candidate for leadership.
pub struct Candidate {
    leases: Api<Lease>,
    name: String,
    identity: String,
    duration_s: u32,
    /// The version of the lease that was seen last, and when.
    seen: Option<(String, u64)>,
    leads: Option<u64>,
}

impl std::fmt::Debug for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Candidate")
            .field("identity", &self.identity)
            .field("leads", &self.leads)
            .finish_non_exhaustive()
    }
}

fn step(spec: &LeaseSpec, me: &str, leads: Option<u64>, unchanged_ms: u64) -> Step {
    let generation = spec.lease_transitions.unwrap_or(0);
    let holder = spec.holder_identity.as_deref().unwrap_or("");
    if holder == me && leads.is_some() && leads == u64::try_from(generation).ok() {
        return Step::Renew { generation };
    }
    let lasts_ms = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0) * 1000;
    // one of our name that we don't know of is from before a restart; its commands may still be under way
    if holder.is_empty() || holder == me || unchanged_ms > lasts_ms {
        return Step::Take { generation: generation.saturating_add(1) };
    }
    Step::Wait
}

impl Candidate {
    /// A candidate with an identity that no other process has, now or later.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, duration_s: u32) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            duration_s: duration_s.max(3),
            seen: None,
            leads: None,
        }
    }

    /// Takes or renews the lease if that is possible. To be called every few seconds, a fifth of the duration or so.
    /// `mono_ms` and `wall_ms` are now.
    ///
    /// # Errors
    /// If the server refuses or doesn't answer; the standing of before holds until its moment.
    pub async fn round(&mut self, mono_ms: u64, wall_ms: u64) -> Result<Standing, Failed> {
        let failed = |name: &str, e| Failed::api(format!("use the lease {name}"), e);
        let found = self.leases.get_opt(&self.name).await.map_err(|e| failed(&self.name, e))?;
        let (mut lease, next) = match found {
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                (Lease { metadata, spec: Some(LeaseSpec::default()) }, Step::Take { generation: 1 })
            }
            Some(lease) => {
                let version = lease.metadata.resource_version.clone().unwrap_or_default();
                let since = match &self.seen {
                    Some((seen, since)) if *seen == version => *since,
                    _ => mono_ms,
                };
                self.seen = Some((version, since));
                let spec = lease.spec.clone().unwrap_or_default();
                let next = step(&spec, &self.identity, self.leads, mono_ms.saturating_sub(since));
                (lease, next)
            }
        };
        let (generation, taken) = match next {
            Step::Wait => {
                self.leads = None;
                return Ok(Standing::Follows);
            }
            Step::Take { generation } => (generation, true),
            Step::Renew { generation } => (generation, false),
        };
        let is_new = lease.metadata.resource_version.is_none();
        let now = MicroTime(Timestamp::from_millisecond(i64::try_from(wall_ms).unwrap_or(0)).unwrap_or_default());
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = Some(i32::try_from(self.duration_s).unwrap_or(15));
        spec.lease_transitions = Some(generation);
        spec.renew_time = Some(now.clone());
        if taken {
            spec.acquire_time = Some(now);
        }
        let written = if is_new {
            self.leases.create(&PostParams::default(), &lease).await
        } else {
            self.leases.replace(&self.name, &PostParams::default(), &lease).await
        };
        match written {
            Ok(lease) => {
                let version = lease.metadata.resource_version.unwrap_or_default();
                self.seen = Some((version, mono_ms));
                let generation = u64::try_from(generation).unwrap_or(0);
                self.leads = Some(generation);
                // counted from before the request, and with a third to spare
                let until_ms = mono_ms + u64::from(self.duration_s) * 2000 / 3;
                Ok(Standing::Leads { generation, until_ms })
            }
            // another was faster
            Err(error) if code(&error) == Some(409) => {
                self.leads = None;
                self.seen = None;
                Ok(Standing::Follows)
            }
            Err(error) => Err(failed(&self.name, error)),
        }
    }

    /// Gives the lease up, so that another needn't wait for it to run out.
    ///
    /// # Errors
    /// If the server refuses; it runs out by itself then.
    pub async fn release(&mut self) -> Result<(), Failed> {
        let Some(generation) = self.leads.take() else { return Ok(()) };
        let failed = |e| Failed::api("give up the lease".to_owned(), e);
        let Some(mut lease) = self.leases.get_opt(&self.name).await.map_err(failed)? else { return Ok(()) };
        let spec = lease.spec.get_or_insert_default();
        let ours = spec.holder_identity.as_deref() == Some(&self.identity)
            && spec.lease_transitions.and_then(|n| u64::try_from(n).ok()) == Some(generation);
        if !ours {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        self.leases.replace(&self.name, &PostParams::default(), &lease).await.map(drop).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_only_when_it_ran_out_by_our_clock() {
        let spec = LeaseSpec {
            holder_identity: Some("b".to_owned()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(4),
            ..LeaseSpec::default()
        };
        assert_eq!(step(&spec, "a", None, 15_000), Step::Wait);
        assert_eq!(step(&spec, "a", None, 15_001), Step::Take { generation: 5 });
        assert_eq!(step(&spec, "b", Some(4), 0), Step::Renew { generation: 4 });
        // a restart under the same name, or one that was overtaken, begins anew
        assert_eq!(step(&spec, "b", None, 0), Step::Take { generation: 5 });
        assert_eq!(step(&spec, "b", Some(3), 0), Step::Take { generation: 5 });
        let leads = Standing::Leads { generation: 5, until_ms: 100 };
        assert_eq!((leads.may_act(99), leads.may_act(100), Standing::Follows.may_act(0)), (Some(5), None, None));
    }
}
