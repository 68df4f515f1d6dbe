//! `top`.
use super::Exit;
use crate::config::Settings;
pub fn run(_s: Settings, _once: bool, _json: bool) -> anyhow::Result<Exit> {
    Ok(Exit::Ok)
}
