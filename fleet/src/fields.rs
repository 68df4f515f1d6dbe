//! How what a benchmark or a simulation found is printed.

use serde::Serialize;

/// Prints fields: as a line of JSON, or each on a line.
///
/// # Errors
/// If it can't be written as JSON.
pub fn show(result: &impl Serialize, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(result)?);
        return Ok(());
    }
    let fields = serde_json::to_value(result)?;
    for (name, value) in fields.as_object().into_iter().flatten() {
        println!("{name:>24}  {value}");
    }
    Ok(())
}
