//! The screen: takes keys, draws each sample, and leaves the terminal as it was, whatever happens.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use crossterm::event::{self, Event};
use jiff::tz::TimeZone;
use ratatui::DefaultTerminal;

use super::watch::Watch;
use super::{background::Background, screen, view::Act, view::View};
use crate::clock;
use crate::command::Exit;

/// How long a signal to stop may wait.
const GLANCE: Duration = Duration::from_millis(100);

/// Shows the machine until the user has seen enough.
pub(super) fn show(mut watch: Watch, background: &Background) -> anyhow::Result<Exit> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        anyhow::bail!("top needs a terminal on stdin and stdout; use --once for a table, --json for figures");
    }
    let notes = Notes::default();
    let writer = notes.clone();
    let log =
        tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).with_target(false).finish();
    // what the sampler has to say would tear the screen up: it is said at the end
    let result = tracing::subscriber::with_default(log, || {
        let mut screen = Screen::open()?;
        run(&mut watch, background, &mut screen.0)
    });
    notes.tell();
    result
}

fn run(watch: &mut Watch, background: &Background, terminal: &mut DefaultTerminal) -> anyhow::Result<Exit> {
    let mut picture = watch.sample(background)?;
    let mut view = View::new(&picture.now, watch.every());
    view.colour = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    view.zone = TimeZone::system();
    let mut draw = true;
    while !background.stopped() {
        if draw {
            terminal.draw(|frame| screen::draw(frame, &picture, &mut view)).context("can't draw on the terminal")?;
        }
        let left = watch.left(clock::now());
        draw = if left.is_zero() {
            picture = watch.sample(background)?;
            true
        } else if event::poll(left.min(GLANCE)).context("can't read the terminal")? {
            match event::read().context("can't read the terminal")? {
                Event::Key(key) => match view.key(key) {
                    Act::Quit => break,
                    Act::Draw => true,
                    Act::Ignore => false,
                },
                Event::Resize(..) => true,
                _ => false,
            }
        } else {
            false
        };
    }
    Ok(Exit::Ok)
}

/// The alternate screen in raw mode. Dropping it, or a panic, gives the terminal back.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> anyhow::Result<Self> {
        ratatui::try_init().map(Self).context("can't take over the terminal; use --once")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Log lines that were held back, the latest ones only.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<VecDeque<u8>>>);

impl Notes {
    const MOST: usize = 8 << 10;

    fn tell(&self) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        eprint!("{}", String::from_utf8_lossy(held.make_contiguous()));
    }
}

impl io::Write for Notes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.extend(bytes);
        let over = held.len().saturating_sub(Self::MOST);
        held.drain(..over);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
