//! Reads what operators write, and says in which line it is wrong.

use serde::de::DeserializeOwned;

/// What a text of TOML says.
///
/// # Errors
/// What is wrong, with its line. Values, which may be secret, are not repeated.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    toml::from_str(text).map_err(|e| {
        let line = e.span().map(|span| text.get(..span.start).unwrap_or("").split('\n').count());
        let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        format!("{place}{}", e.message())
    })
}
