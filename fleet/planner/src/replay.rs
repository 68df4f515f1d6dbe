//! A decision with everything it was made from, so that it can be made again, bit for bit.

use serde::{Deserialize, Serialize};

use crate::digest::digest;
use crate::plan::action::Plan;
use crate::plan::{Refusal, plan};
use crate::policy::Policy;
use crate::state::{FleetState, Time};

/// A decision and its inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// What was known.
    pub state: FleetState,
    /// What was wanted.
    pub policy: Policy,
    /// When.
    pub now: Time,
    /// What was decided.
    pub plan: Plan,
}

/// Why a decision can't be made again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The planner refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The stored inputs aren't those the plan was made from.
    #[error("the stored inputs have digest {found}, the plan was made from {wanted}")]
    Inputs {
        /// Digest of what is stored.
        found: String,
        /// Digest that the plan names.
        wanted: String,
    },
    /// The same inputs led to another plan: another version of the planner made it.
    #[error("the same inputs lead to another plan now: {actions} actions instead of {were}")]
    Differs {
        /// Actions of the plan made now.
        actions: usize,
        /// Actions of the stored plan.
        were: usize,
    },
}

impl Decision {
    /// Decides, and keeps what was decided from.
    ///
    /// # Errors
    /// As [`plan`].
    pub fn make(state: FleetState, policy: Policy, now: Time) -> Result<Self, Refusal> {
        let plan = plan(&state, &policy, now)?;
        Ok(Self::of(state, policy, now, plan))
    }

    /// A plan that was just made, with what it was made from.
    pub fn of(state: FleetState, policy: Policy, now: Time, mut plan: Plan) -> Self {
        plan.inputs = digest(&state, &policy, now);
        Self { state, policy, now, plan }
    }

    /// Decides again and compares every bit.
    ///
    /// # Errors
    /// [`ReplayError::Inputs`] if what is stored was altered, [`ReplayError::Differs`] if the planner decides otherwise.
    pub fn replay(&self) -> Result<(), ReplayError> {
        let found = digest(&self.state, &self.policy, self.now);
        if found != self.plan.inputs {
            return Err(ReplayError::Inputs { found, wanted: self.plan.inputs.clone() });
        }
        let mut again = plan(&self.state, &self.policy, self.now)?;
        again.inputs.clone_from(&self.plan.inputs);
        if again == self.plan {
            return Ok(());
        }
        Err(ReplayError::Differs { actions: again.actions.len(), were: self.plan.actions.len() })
    }
}
