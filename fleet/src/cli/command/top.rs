//! `top`: the fleet, live on a terminal or once on paper.
//!
//! `seen` is what is known of the fleet, `view` what the user wants to see of it, `text` turns both into lines; all
//! three are pure. `live` talks to the fleet on a thread of its own, `screen` draws and takes keys.

mod live;
mod screen;
mod seen;
mod text;
mod view;

#[cfg(test)]
mod tests;

use std::io::IsTerminal as _;
use std::time::Duration;

use self::seen::Seen;
use self::view::View;
use super::watch;
use crate::cli::args::{Format, TopArgs};
use crate::cli::connect::Fleet;
use crate::cli::context::Target;
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{Output, print};

/// Rows that are printed once.
const ROWS: u32 = 20;

/// Shows the fleet until the user has seen enough.
pub(in crate::cli) fn live(
    args: &TopArgs,
    target: Target,
    timeout: Duration,
    output: &Output,
) -> Result<Exit, Failure> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Failure::usage("top needs a terminal").next("print it once with --once, or use ebbtide watch"));
    }
    table_only(output)?;
    // asked for once, so that a wrong one is told before the screen is taken over
    watch::request(args.interval.ms(), None, 0)?;
    let view = View::new(args, &target, output);
    screen::show(view, live::Live::start(args, target, timeout)?)
}

/// Prints what the screen would show.
pub(in crate::cli) async fn once(fleet: &Fleet, args: &TopArgs, output: &Output) -> Result<Exit, Failure> {
    table_only(output)?;
    let request = watch::request(args.interval.ms(), args.by.map(|by| by.wire()), ROWS)?;
    let mut updates = fleet.watch(request).await?;
    let update = updates.message().await.map_err(|status| fleet.refused(&status))?;
    let mut seen = Seen::default();
    if let Some(update) = update {
        seen.take(args.by.map(|by| by.wire()), update);
    }
    let view = View::new(args, &fleet.target, output);
    print(&text::paper(&seen, &view, output.look, ROWS as usize))?;
    Ok(Exit::Ok)
}

fn table_only(output: &Output) -> Result<(), Failure> {
    match output.format {
        None | Some(Format::Table | Format::Wide) => Ok(()),
        Some(_) => Err(Failure::usage("top is for people").next("programs use `ebbtide watch -o json`")),
    }
}
