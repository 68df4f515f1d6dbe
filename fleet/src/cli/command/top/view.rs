//! What of the fleet is looked at, and how keys change that. Pure.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use jiff::tz::TimeZone;

use crate::cli::args::{Kind, TopArgs};
use crate::cli::context::Target;
use crate::cli::output::Output;

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// Most watts first.
    Watts,
    /// Most idle watts first.
    Idle,
    /// Most busy CPUs first.
    Cpu,
    /// By name.
    Name,
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Nothing.
    Ignore,
    /// Draw again.
    Draw,
    /// Leave.
    Quit,
}

/// How the fleet is looked at.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// Workloads of this kind; `None`: nodes.
    pub by: Option<Kind>,
    pub sort: Sort,
    /// The order turned round.
    pub reverse: bool,
    /// Only rows with this text in name or place, in either case.
    pub filter: String,
    /// Keys go to the filter.
    pub typing: bool,
    /// The legend lies over the table.
    pub legend: bool,
    /// Rows scrolled away at the top.
    pub offset: usize,
    /// Rows that fit on the screen, as drawn last.
    pub page: usize,
    /// Colours may be used.
    pub colour: bool,
    /// Whose clock is shown.
    pub zone: TimeZone,
    /// Whom this shows.
    pub address: String,
    /// Time between two updates.
    pub every: Duration,
}

impl View {
    /// As the arguments have it, most watts first.
    pub(super) fn new(args: &TopArgs, target: &Target, output: &Output) -> Self {
        Self {
            by: args.by,
            sort: Sort::Watts,
            reverse: false,
            filter: String::new(),
            typing: false,
            legend: false,
            offset: 0,
            page: 1,
            colour: output.look.colour,
            zone: output.zone.clone(),
            address: target.address.authority(),
            every: args.interval.get(),
        }
    }

    /// Whether a row with these texts is wanted.
    pub(super) fn wants(&self, texts: &[&str]) -> bool {
        let filter = self.filter.to_lowercase();
        filter.is_empty() || texts.iter().any(|t| t.to_lowercase().contains(&filter))
    }

    /// Takes a key.
    pub(super) fn key(&mut self, key: KeyEvent) -> Act {
        if key.kind == KeyEventKind::Release {
            return Act::Ignore;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Act::Quit,
                KeyCode::Char('l') => Act::Draw,
                _ => Act::Ignore,
            };
        }
        if self.typing { self.filter_key(key.code) } else { self.plain_key(key.code) }
    }

    fn filter_key(&mut self, code: KeyCode) -> Act {
        /// Longer than any name.
        const MOST: usize = 64;
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => (self.typing, self.filter) = (false, String::new()),
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if !c.is_control() && self.filter.chars().count() < MOST => self.filter.push(c),
            _ => return Act::Ignore,
        }
        self.offset = 0;
        Act::Draw
    }

    fn plain_key(&mut self, code: KeyCode) -> Act {
        let page = self.page.max(1);
        match code {
            KeyCode::Char('q') => return Act::Quit,
            KeyCode::Char('?') => self.legend = !self.legend,
            KeyCode::Esc if self.legend => self.legend = false,
            KeyCode::Esc => (self.filter, self.offset) = (String::new(), 0),
            KeyCode::Char('/') => (self.typing, self.legend) = (true, false),
            KeyCode::Char('n') => self.look_at(None),
            KeyCode::Char('a') => self.look_at(Some(Kind::App)),
            KeyCode::Char('s') => self.look_at(Some(Kind::Namespace)),
            KeyCode::Char('o') => self.look_at(Some(Kind::Pod)),
            KeyCode::Char('c') => self.look_at(Some(Kind::Container)),
            KeyCode::Char('u') => self.look_at(Some(Kind::Unit)),
            KeyCode::Char('v') => self.look_at(Some(Kind::Vm)),
            KeyCode::Char('U') => self.look_at(Some(Kind::User)),
            KeyCode::Char('W') => self.sort_by(Sort::Watts),
            KeyCode::Char('I') => self.sort_by(Sort::Idle),
            KeyCode::Char('C') => self.sort_by(Sort::Cpu),
            KeyCode::Char('N') => self.sort_by(Sort::Name),
            KeyCode::Char('r' | 'R') => self.reverse = !self.reverse,
            KeyCode::Up | KeyCode::Char('k') => self.offset = self.offset.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.offset = self.offset.saturating_add(1),
            KeyCode::PageUp => self.offset = self.offset.saturating_sub(page),
            KeyCode::PageDown | KeyCode::Char(' ') => self.offset = self.offset.saturating_add(page),
            KeyCode::Home | KeyCode::Char('g') => self.offset = 0,
            KeyCode::End | KeyCode::Char('G') => self.offset = usize::MAX,
            _ => return Act::Ignore,
        }
        Act::Draw
    }

    fn look_at(&mut self, by: Option<Kind>) {
        (self.by, self.offset, self.legend) = (by, 0, false);
    }

    /// The key of the order that is in force turns it round.
    fn sort_by(&mut self, sort: Sort) {
        self.reverse = self.sort == sort && !self.reverse;
        (self.sort, self.offset) = (sort, 0);
    }
}
