//! What is shown of a known fleet, against files in `tests/golden/cli/top`; `EBBTIDE_BLESS=1` writes them anew.

use std::path::PathBuf;
use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ebbtide_proto::v1;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::screen;
use super::seen::Seen;
use super::view::{Act, Sort, View};
use crate::cli::args::Kind;

fn view() -> View {
    View {
        by: None,
        sort: Sort::Watts,
        reverse: false,
        filter: String::new(),
        typing: false,
        legend: false,
        offset: 0,
        page: 1,
        colour: false,
        zone: TimeZone::UTC,
        address: "fleet.example:9884".into(),
        every: Duration::from_secs(1),
    }
}

fn update() -> v1::WatchResponse {
    use v1::{NodeState as S, Quality as Q};
    let node = |name: &str, state: S, quality: Q, uw: Option<u64>, trouble: &str| v1::Node {
        name: name.into(),
        state: state.into(),
        quality: quality.into(),
        power_uw: uw,
        idle_uw: uw.map(|uw| uw / 3),
        cpu_milli: uw.map(|uw| uw / 30_000),
        today_uj: uw.unwrap_or(0) * 50_000,
        last_ms: 1_795_356_000_000,
        trouble: trouble.into(),
        ..Default::default()
    };
    let workload = |name: &str, node: &str, uw: u64| v1::WorkloadPower {
        id: format!("pod/{name}"),
        name: name.into(),
        node: node.into(),
        power_uw: Some(uw),
        quality: Q::Measured.into(),
        nodes: 2,
        ..Default::default()
    };
    v1::WatchResponse {
        now_ms: 1_795_356_131_000,
        totals: Some(v1::Totals {
            power_uw: Some(251_000_000),
            idle_uw: Some(83_000_000),
            today_uj: 12_550_000_000_000,
            nodes: 4,
            live: 2,
            stale: 1,
            troubled: 1,
            workloads: 418,
            quality: Q::Modelled.into(),
            components: vec![
                v1::ComponentPower { component: "cpu".into(), power_uw: 190_000_000 },
                v1::ComponentPower { component: "dram".into(), power_uw: 22_000_000 },
            ],
        }),
        nodes: vec![
            node("edge1", S::Live, Q::Measured, Some(212_400_000), ""),
            node("ru2", S::Live, Q::Modelled, Some(6_310_000), ""),
            node("edge3", S::Stale, Q::Stale, Some(38_200_000), ""),
            v1::Node {
                last_ms: 0,
                ..node("gpu-rack-17", S::Refused, Q::Unspecified, None, "its clock is 1 year ahead")
            },
        ],
        removed: vec![],
        workloads: vec![workload("ran/du-0", "edge1", 38_200_000), workload("mec/app", "", 21_900_000)],
    }
}

fn fleet(by: Option<Kind>) -> Seen {
    let mut seen = Seen::default();
    for uw in [0, 60, 120, 200] {
        let totals = v1::Totals { power_uw: Some(uw * 1_000_000), ..Default::default() };
        seen.take(None, v1::WatchResponse { totals: Some(totals), ..Default::default() });
    }
    seen.take(by.map(Kind::wire), update());
    seen
}

fn drawn(seen: &Seen, view: &mut View, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen::draw(frame, seen, view)).unwrap();
    let buffer = terminal.backend().buffer();
    let lines = buffer.content().chunks(usize::from(width));
    lines.map(|l| format!("{}\n", l.iter().map(|c| c.symbol()).collect::<String>().trim_end())).collect()
}

fn check(name: &str, found: &str) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cli/top").join(name);
    if std::env::var_os("EBBTIDE_BLESS").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, found).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(found == expected, "{name} should be\n{expected}\nbut is\n{found}");
}

fn press(view: &mut View, keys: &str) -> Act {
    keys.chars().fold(Act::Ignore, |_, c| {
        let code = match c {
            '⏎' => KeyCode::Enter,
            '⎋' => KeyCode::Esc,
            c => KeyCode::Char(c),
        };
        view.key(KeyEvent::new(code, KeyModifiers::NONE))
    })
}

#[test]
fn nodes_pods_the_legend_and_a_lost_fleet() {
    check("nodes-80x16.txt", &drawn(&fleet(None), &mut view(), 80, 16));
    check("nodes-120x12.txt", &drawn(&fleet(None), &mut view(), 120, 12));
    check("nodes-40x10.txt", &drawn(&fleet(None), &mut view(), 40, 10));
    let mut pods = View { by: Some(Kind::Pod), ..view() };
    check("pods-80x12.txt", &drawn(&fleet(Some(Kind::Pod)), &mut pods, 80, 12));
    let mut legend = View { legend: true, ..view() };
    check("legend-80x24.txt", &drawn(&fleet(None), &mut legend, 80, 24));
    let mut lost = fleet(None);
    lost.lost = Some("the connection to https://fleet.example:9884 broke – trying again".into());
    check("lost-80x12.txt", &drawn(&lost, &mut view(), 80, 12));
    check("waiting-80x8.txt", &drawn(&Seen::default(), &mut view(), 80, 8));
}

#[test]
fn figures_of_a_lost_fleet_are_stale_and_come_back() {
    let mut seen = fleet(None);
    seen.lost = Some("gone".into());
    let text = drawn(&seen, &mut view(), 80, 16);
    assert!(text.contains("?212 W") && text.contains("gone"), "{text}");
    seen.begin();
    seen.take(None, v1::WatchResponse { nodes: update().nodes[..1].to_vec(), ..update() });
    let text = drawn(&seen, &mut view(), 80, 16);
    assert!(text.contains(" 212 W") && !text.contains("ru2"), "{text}");
}

#[test]
fn rows_of_another_kind_are_not_shown_as_this_one() {
    let mut other = View { by: Some(Kind::Unit), ..view() };
    let text = drawn(&fleet(Some(Kind::Pod)), &mut other, 80, 12);
    assert!(text.contains("UNIT") && !text.contains("ran/du-0"), "{text}");
}

#[test]
fn small_letters_look_capitals_sort_and_a_filter_takes_all() {
    let (seen, mut v) = (fleet(None), view());
    let first = |v: &mut View| drawn(&seen, v, 80, 16).lines().nth(4).unwrap().split(' ').next().unwrap().to_owned();
    assert_eq!(first(&mut v), "edge1");
    press(&mut v, "N");
    assert_eq!((v.sort, first(&mut v).as_str()), (Sort::Name, "edge1"));
    press(&mut v, "N");
    assert_eq!(first(&mut v), "ru2");
    press(&mut v, "W");
    press(&mut v, "/RU");
    assert!(v.typing && v.filter == "RU" && first(&mut v) == "ru2");
    press(&mut v, "⏎o");
    assert_eq!((v.by, v.typing), (Some(Kind::Pod), false));
    press(&mut v, "n⎋");
    assert_eq!((v.by, v.filter.as_str()), (None, ""));
    assert_eq!((press(&mut v, "x"), press(&mut v, "q")), (Act::Ignore, Act::Quit));
    let quit = v.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
    assert_eq!(quit, Act::Quit);
}

proptest! {
    #[test]
    fn no_keys_and_no_size_break_the_screen(keys in "[nasocuvUWICNr/?kjgG a]{0,12}", width in 1u16..140, height in 1u16..30) {
        let mut v = view();
        for seen in [Seen::default(), fleet(Some(Kind::App))] {
            press(&mut v, &keys);
            let text = drawn(&seen, &mut v, width, height);
            prop_assert_eq!(text.lines().count(), usize::from(height));
        }
    }
}
