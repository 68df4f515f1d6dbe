//! `twin`.
use super::Exit;
use std::path::Path;
use std::time::Duration;
pub fn play(
    _scenario: &Path,
    _out: &Path,
    _seed: Option<u64>,
    _speed: f64,
    _duration: Option<Duration>,
) -> anyhow::Result<Exit> {
    Ok(Exit::Ok)
}
pub fn score(_scenario: Option<&Path>, _seed: Option<u64>, _json: bool) -> anyhow::Result<Exit> {
    Ok(Exit::Ok)
}
