//! What is shown of a known machine, against files in `tests/fixtures/top`; `EBBTIDE_BLESS=1` writes them anew.

use std::path::PathBuf;
use std::time::Duration;

use ebbtide_proto::{Energy, Power, WorkloadKind};
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::picture::{Figures, Picture};
use super::rows::{Table, rows};
use super::view::{Level, Sort, View};
use super::{fixture, plain, screen};
use crate::attribution::IdlePolicy;
use crate::snapshot::{NodeInfo, ZoneState};
use crate::source::Quality;

fn look(picture: &Picture) -> View {
    View::new(&picture.now, Duration::from_secs(1))
}

fn drawn(picture: &Picture, view: &mut View, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen::draw(frame, picture, view)).unwrap();
    let buffer = terminal.backend().buffer();
    let lines = buffer.content().chunks(usize::from(width));
    lines.map(|l| format!("{}\n", l.iter().map(|c| c.symbol()).collect::<String>().trim_end())).collect()
}

fn check(name: &str, found: &str) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/top").join(name);
    if std::env::var_os("EBBTIDE_BLESS").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, found).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap();
    assert!(found == expected, "{name} should be\n{expected}\nbut is\n{found}");
}

#[test]
fn the_first_screen() {
    let picture = fixture::picture(fixture::machine());
    check("pods-80x24.txt", &drawn(&picture, &mut look(&picture), 80, 24));
}

#[test]
fn processes_with_one_that_ended() {
    let picture = fixture::picture(fixture::machine());
    let mut view = View { level: Level::Processes, ..look(&picture) };
    check("processes-80x24.txt", &drawn(&picture, &mut view, 80, 24));
}

#[test]
fn a_tree_in_a_wide_terminal() {
    let picture = fixture::picture(fixture::machine());
    let mut view = View { level: Level::Tree, sort: Sort::Joules, ..look(&picture) };
    check("tree-120x24.txt", &drawn(&picture, &mut view, 120, 24));
}

#[test]
fn a_machine_with_nothing_to_measure() {
    let picture = fixture::picture(fixture::nothing());
    let screen = drawn(&picture, &mut look(&picture), 80, 12);
    assert!(!screen.contains("0.0 ") && !screen.contains("0 W"), "unknown is not nothing:\n{screen}");
    check("nothing-80x12.txt", &screen);
}

#[test]
fn the_legend_lies_on_top() {
    let picture = fixture::picture(fixture::machine());
    let mut view = View { legend: true, ..look(&picture) };
    check("legend-80x24.txt", &drawn(&picture, &mut view, 80, 24));
}

#[test]
fn once_on_paper() {
    let picture = fixture::picture(fixture::machine());
    check("once-80.txt", &plain::table(&picture, &look(&picture), 80));
    let mut many = fixture::machine();
    for i in 0..40 {
        let row = many.tasks.get(0).map(|r| (r.row.clone(), r.energy.len())).unwrap();
        many.tasks.push(row.0, &vec![Energy::from_uj(i); row.1], &[Energy::ZERO; 3], &vec![Energy::from_uj(i); row.1]);
    }
    let picture = fixture::picture(many);
    let view = View { level: Level::Processes, ..look(&picture) };
    let text = plain::table(&picture, &view, 80);
    assert!(text.contains("26 more") && text.lines().all(|l| l.chars().count() <= 80), "{text}");
}

#[test]
fn modelled_and_stale_figures_are_marked() {
    let mut modelled = fixture::machine();
    for z in &mut modelled.zones {
        std::sync::Arc::make_mut(&mut z.zone).quality = Quality::Modelled;
    }
    let picture = fixture::picture(modelled);
    let screen = drawn(&picture, &mut look(&picture), 80, 24);
    assert!(screen.contains("node ~44.0 W") && screen.contains("~17.6 W") && screen.contains("modelled"), "{screen}");

    let mut stale = fixture::machine();
    stale.zones[0].state = ZoneState::Stale;
    let picture = fixture::picture(stale);
    let screen = drawn(&picture, &mut look(&picture), 80, 24);
    assert!(screen.contains("node ?44.0 W") && screen.contains("?1.60 W"), "{screen}");
}

#[test]
fn a_narrow_terminal_still_tells_who_and_how_much() {
    let picture = fixture::picture(fixture::machine());
    for width in [20, 40, 59] {
        let screen = drawn(&picture, &mut look(&picture), width, 24);
        let row = screen.lines().find(|l| l.starts_with("ran/du-0")).unwrap();
        assert!(row.contains("17.6 W"), "{width}: {row}");
    }
}

/// Names are cut only where the width leaves no choice, and no line is wider than asked for.
#[test]
fn columns_fill_the_width() {
    use super::text::{Column, columns};
    for width in 15..300u16 {
        let all = columns(width);
        let sum: u16 = all.iter().map(|c| c.1 + 1).sum();
        assert_eq!(sum - 1, width);
        assert!(all.iter().any(|c| c.0 == Column::Watts) && all[0].0 == Column::Name);
    }
}

#[test]
fn control_characters_of_names_do_not_reach_the_terminal() {
    let picture = fixture::picture(fixture::nothing());
    let text = plain::table(&picture, &look(&picture), 80);
    assert!(text.contains("busy·[31m") && !text.contains('\u{1b}'));
}

#[test]
fn a_filter_keeps_the_sum() {
    let picture = fixture::picture(fixture::machine());
    let view = View { level: Level::Processes, filter: "PG_".to_owned(), ..look(&picture) };
    let table = rows(&picture, &view);
    assert_eq!((table.items.len(), table.hidden), (1, 5));
    assert_eq!(sum(&table).energy, picture.node.energy);
    let tree = View { level: Level::Tree, filter: "low-phy".to_owned(), ..view };
    let names: Vec<_> = rows(&picture, &tree).items.into_iter().map(|r| (r.depth, r.name)).collect();
    let path = [(0, "pod ran/du-0"), (1, "container du"), (2, "2101 du-low-phy")];
    assert_eq!(names, path.map(|(d, n)| (d, n.to_owned())));
}

#[test]
fn idle_shares_are_shown_where_idle_energy_is_shared_out() {
    let mut now = fixture::machine();
    let node = NodeInfo { idle_policy: IdlePolicy::ByUsage, ..(*now.node).clone() };
    now.node = std::sync::Arc::new(node);
    let before = super::before::Before::of(&now);
    for idle in &mut now.tasks.idle {
        *idle = Energy::from_uj(500_000);
    }
    for z in &mut now.zones {
        z.account.total += Energy::from_uj(z.power.unwrap().uw());
    }
    let picture = Picture::new(&before, std::sync::Arc::new(now));
    // half a joule from each of two zones in one second; never more than what was added as a whole
    assert_eq!(picture.tasks[0].idle_power, Power::from_watts(1.0));
    assert_eq!(picture.tasks[1].idle_power, Power::from_watts(0.6));
    assert_eq!(picture.tasks[0].idle, Some(Energy::from_uj(1_000_000)));
}

fn sum(table: &Table) -> Figures {
    let top = table.items.iter().filter(|r| r.depth == 0);
    top.chain(&table.rest).fold(Figures::default(), |sum, r| sum.with(&r.figures))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is looked at, lines add up to the node: energy exactly, power to the rounding.
    #[test]
    fn lines_add_up_to_the_node(
        level in prop::sample::select(vec![
            Level::Processes, Level::Tree, Level::Groups(WorkloadKind::Pod), Level::Groups(WorkloadKind::Container),
            Level::Groups(WorkloadKind::Unit), Level::Groups(WorkloadKind::User), Level::Groups(WorkloadKind::Vm),
        ]),
        expired in prop::collection::btree_set(0..6usize, 0..6),
        reverse: bool,
    ) {
        let mut now = fixture::machine();
        let all = now.tasks.clone();
        now.tasks = crate::snapshot::Rows::new(3);
        // only rows of the ended may be missing: those of the last interval are there
        for (i, r) in all.iter().enumerate().filter(|(i, r)| !(r.row.ended && expired.contains(i))) {
            prop_assert!(i < all.rows.len());
            now.tasks.push(r.row.clone(), r.energy, r.idle, r.last);
        }
        let picture = fixture::picture(now);
        let table = rows(&picture, &View { level, reverse, ..look(&picture) });
        let found = sum(&table);
        prop_assert_eq!(found.energy, picture.node.energy);
        let (found, node) = (found.power.unwrap().uw(), picture.node.power.unwrap().uw());
        prop_assert!(found <= node && node - found <= 100, "{} {}", found, node);
    }

    /// No size of terminal and no keys panic.
    #[test]
    fn any_keys_in_any_terminal(keys in "[pcouvsUtWJCNr/?a-z \\x1b]{0,12}", width in 1..140u16, height in 1..50u16) {
        use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
        let picture = fixture::picture(fixture::machine());
        let mut view = look(&picture);
        for c in keys.chars() {
            let code = if c == '\x1b' { KeyCode::Esc } else { KeyCode::Char(c) };
            view.key(KeyEvent::new(code, KeyModifiers::NONE));
        }
        view.key(KeyEvent::new(KeyCode::End, KeyModifiers::NONE));
        let screen = drawn(&picture, &mut view, width, height);
        prop_assert_eq!(screen.lines().count(), usize::from(height));
        prop_assert!(view.offset < 20, "the end is in sight");
    }
}
