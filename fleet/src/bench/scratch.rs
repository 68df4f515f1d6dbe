//! Where benchmarks work.

use std::path::Path;

use serde::Serialize;

use crate::fields;

/// Runs `work` in a folder of its own that is removed afterwards, and prints what it found.
///
/// # Errors
/// Those of `work`, or if the folder can't be made.
pub(super) fn run<T: Serialize>(json: bool, work: impl FnOnce(&Path) -> anyhow::Result<T>) -> anyhow::Result<()> {
    let scratch = std::env::temp_dir().join(format!("ebbtide-bench-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let outcome = work(&scratch);
    if let Err(error) = std::fs::remove_dir_all(&scratch) {
        eprintln!("can't remove {}: {error}", scratch.display());
    }
    fields::show(&outcome?, json)
}
