//! What of the machine is looked at, and how keys change that. Pure.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ebbtide_proto::WorkloadKind;
use jiff::tz::TimeZone;

use crate::snapshot::Snapshot;

/// What the rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// One row per process.
    Processes,
    /// One row per workload of a kind.
    Groups(WorkloadKind),
    /// Pods, containers, slices, units, VMs and processes inside each other.
    Tree,
}

impl Level {
    /// What a row is called.
    pub fn title(self) -> &'static str {
        match self {
            Self::Processes => "PROCESS",
            Self::Tree => "WORKLOAD",
            Self::Groups(WorkloadKind::Container) => "CONTAINER",
            Self::Groups(WorkloadKind::Pod) => "POD",
            Self::Groups(WorkloadKind::Unit) => "UNIT",
            Self::Groups(WorkloadKind::Vm) => "VM",
            Self::Groups(WorkloadKind::Slice) => "SLICE",
            Self::Groups(WorkloadKind::User) => "USER",
            Self::Groups(kind) => kind.as_str(),
        }
    }

    /// The first level of these that the machine has something of: pods, containers, units, processes.
    pub fn best(snapshot: &Snapshot) -> Self {
        let kinds = [WorkloadKind::Pod, WorkloadKind::Container, WorkloadKind::Unit];
        let has = |k: &WorkloadKind| snapshot.groups.rows.iter().any(|g| g.id.kind() == *k && !g.ended);
        kinds.into_iter().find(has).map_or(Self::Processes, Self::Groups)
    }
}

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Most watts first.
    Watts,
    /// Most joules first.
    Joules,
    /// Most CPU time in the last interval first.
    Cpu,
    /// By name.
    Name,
}

/// What a key asks for beyond another look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    Ignore,
    /// Draw again.
    Draw,
    /// Leave.
    Quit,
}

/// How the machine is looked at.
#[derive(Clone, Debug)]
pub struct View {
    /// What the rows are.
    pub level: Level,
    /// Their order.
    pub sort: Sort,
    /// The order turned round.
    pub reverse: bool,
    /// Only rows with this text in name or description, in either case.
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
    /// Time between two samples.
    pub every: Duration,
}

impl View {
    /// The level that fits the machine, most watts first.
    pub fn new(snapshot: &Snapshot, every: Duration) -> Self {
        Self {
            level: Level::best(snapshot),
            sort: Sort::Watts,
            reverse: false,
            filter: String::new(),
            typing: false,
            legend: false,
            offset: 0,
            page: 1,
            colour: false,
            zone: TimeZone::UTC,
            every,
        }
    }

    /// Whether a row with these texts is wanted.
    pub fn wants(&self, texts: &[&str]) -> bool {
        let filter = self.filter.to_lowercase();
        filter.is_empty() || texts.iter().any(|t| t.to_lowercase().contains(&filter))
    }

    /// Takes a key.
    pub fn key(&mut self, key: KeyEvent) -> Act {
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
            KeyCode::Char('p') => self.look_at(Level::Processes),
            KeyCode::Char('c') => self.look_at(Level::Groups(WorkloadKind::Container)),
            KeyCode::Char('o') => self.look_at(Level::Groups(WorkloadKind::Pod)),
            KeyCode::Char('u') => self.look_at(Level::Groups(WorkloadKind::Unit)),
            KeyCode::Char('v') => self.look_at(Level::Groups(WorkloadKind::Vm)),
            KeyCode::Char('s') => self.look_at(Level::Groups(WorkloadKind::Slice)),
            KeyCode::Char('U') => self.look_at(Level::Groups(WorkloadKind::User)),
            KeyCode::Char('t') => self.look_at(Level::Tree),
            KeyCode::Char('W') => self.sort_by(Sort::Watts),
            KeyCode::Char('J') => self.sort_by(Sort::Joules),
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

    fn look_at(&mut self, level: Level) {
        (self.level, self.offset, self.legend) = (level, 0, false);
    }

    /// The key of the order that is in force turns it round.
    fn sort_by(&mut self, sort: Sort) {
        self.reverse = self.sort == sort && !self.reverse;
        (self.sort, self.offset) = (sort, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::top::fixture;

    fn press(view: &mut View, keys: &str) -> Act {
        keys.chars().fold(Act::Ignore, |_, c| {
            let code = match c {
                '⏎' => KeyCode::Enter,
                '⎋' => KeyCode::Esc,
                '⌫' => KeyCode::Backspace,
                c => KeyCode::Char(c),
            };
            view.key(KeyEvent::new(code, KeyModifiers::NONE))
        })
    }

    fn view() -> View {
        View::new(&fixture::machine(), Duration::from_secs(1))
    }

    #[test]
    fn the_first_look_is_at_what_the_machine_has() {
        assert_eq!(view().level, Level::Groups(WorkloadKind::Pod));
        let mut without = fixture::machine();
        without.groups.rows.retain(|g| !matches!(g.id.kind(), WorkloadKind::Pod | WorkloadKind::Container));
        assert_eq!(View::new(&without, Duration::ZERO).level, Level::Groups(WorkloadKind::Unit));
        assert_eq!(View::new(&fixture::nothing(), Duration::ZERO).level, Level::Processes);
    }

    #[test]
    fn small_letters_look_capitals_sort() {
        let mut v = view();
        assert_eq!(press(&mut v, "c"), Act::Draw);
        assert_eq!((v.level, v.sort), (Level::Groups(WorkloadKind::Container), Sort::Watts));
        press(&mut v, "C");
        assert_eq!((v.level, v.sort, v.reverse), (Level::Groups(WorkloadKind::Container), Sort::Cpu, false));
        press(&mut v, "C");
        assert_eq!((v.sort, v.reverse), (Sort::Cpu, true));
        press(&mut v, "Jt");
        assert_eq!((v.level, v.sort, v.reverse), (Level::Tree, Sort::Joules, false));
        assert_eq!(press(&mut v, "x"), Act::Ignore);
        assert_eq!(press(&mut v, "q"), Act::Quit);
    }

    #[test]
    fn a_filter_takes_every_letter_and_esc_clears_it() {
        let mut v = view();
        press(&mut v, "/qux⌫");
        assert_eq!((v.filter.as_str(), v.typing), ("qu", true));
        press(&mut v, "⏎");
        assert!(!v.typing && v.wants(&["QUiet"]) && !v.wants(&["loud", "x"]));
        press(&mut v, "⎋");
        assert!(v.filter.is_empty() && v.wants(&["loud"]));
        let quit = v.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert_eq!(quit, Act::Quit);
    }

    #[test]
    fn scrolling_stays_above_zero_and_a_new_look_starts_at_the_top() {
        let mut v = view();
        v.page = 10;
        press(&mut v, "k");
        assert_eq!(v.offset, 0);
        press(&mut v, "  jj");
        assert_eq!(v.offset, 22);
        press(&mut v, "p");
        assert_eq!(v.offset, 0);
    }
}
