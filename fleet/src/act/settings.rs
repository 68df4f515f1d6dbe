//! What the operator may say about acting.

use std::collections::BTreeMap;

use ebbtide_executor::settings::{Mode, Settings};
use serde::{Deserialize, Serialize};

use super::hooks::HookConfig;
use super::window::WindowConfig;

/// What is done about plans.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ActConfig {
    /// What pools may do by themselves, by their names: "observe", "recommend" (what an operator approves) or "auto". A pool
    /// that isn't named is only observed; `ebbtide pool set-mode` overrules this.
    pub pools: BTreeMap<String, Mode>,
    /// Limits and patience; [acting.md](acting.md) has the keys.
    pub limits: Settings,
    /// When plans are acted upon, or aren't; [acting.md](acting.md) has the keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub window: Vec<WindowConfig>,
    /// Commands that empty plain hosts; [acting.md](acting.md) has the keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hook: Vec<HookConfig>,
}
