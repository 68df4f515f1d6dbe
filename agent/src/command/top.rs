//! `top`: watts per workload, live on a terminal, once on paper, or as JSON.
//!
//! `watch` takes samples in this process; `picture` turns two of them into figures, `rows` into a table; `screen`,
//! `plain` and `json` show it; `view` is what the user wants to see. Only `watch`, `terminal` and `background`
//! touch the world.

mod background;
pub mod before;
pub mod json;
pub mod picture;
pub mod plain;
pub mod rows;
pub mod screen;
mod terminal;
pub mod text;
pub mod view;
mod watch;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal as _, Write};

use self::background::Background;
use self::view::View;
use self::watch::{Watch, is_whole};
use super::{Exit, print};
use crate::config::Settings;

/// Shows who draws how much: on the terminal, or as a table (`once`), or as JSON, one line per sample.
pub fn run(settings: Settings, once: bool, json: bool) -> anyhow::Result<Exit> {
    // uids of pods are better than nothing
    let kubelet = settings.kubelet.as_ref().and_then(|k| match super::run::kubelet(k) {
        Ok(kubelet) => Some(kubelet),
        Err(error) => {
            tracing::warn!("{error:#}");
            None
        }
    });
    let watch = Watch::start(&settings, !once && !json)?;
    let background = Background::start(kubelet)?;
    match (once, json) {
        (true, _) => print_once(watch, &background, json),
        (false, true) => print_lines(watch, &background),
        (false, false) => terminal::show(watch, &background),
    }
}

fn print_once(mut watch: Watch, background: &Background, json: bool) -> anyhow::Result<Exit> {
    while let Some(picture) = watch.next(background)? {
        if !is_whole(&picture) {
            continue;
        }
        if json {
            return print(&format!("{}\n", json::document(&picture)));
        }
        let view = View::new(&picture.now, watch.every());
        return print(&plain::table(&picture, &view, width()));
    }
    // stopped before there was anything to tell
    Ok(Exit::Failed)
}

/// Columns of the terminal; 80 where there is none.
fn width() -> u16 {
    let terminal = io::stdout().is_terminal().then(|| crossterm::terminal::size().ok()).flatten();
    terminal.map_or(80, |(columns, _)| columns.max(40))
}

fn print_lines(mut watch: Watch, background: &Background) -> anyhow::Result<Exit> {
    let mut out = io::stdout().lock();
    while let Some(picture) = watch.next(background)? {
        if picture.now.seq < 2 {
            continue;
        }
        match writeln!(out, "{}", json::document(&picture)).and_then(|()| out.flush()) {
            Ok(()) => {}
            // nobody reads on
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => break,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(Exit::Ok)
}
