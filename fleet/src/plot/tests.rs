//! What a plot may never do, and one plot against a file of `fixtures`; `EBBTIDE_BLESS=1` writes it anew.

use std::path::PathBuf;

use proptest::prelude::*;

use super::axis::Watts;
use super::*;

const NOON: u64 = 1_778_587_200_000;

fn watts(watts: u64) -> Option<Power> {
    Some(Power::from_uw(watts * 1_000_000))
}

fn track(key: &str, colour: Colour, values: Vec<Option<Power>>) -> Track {
    Track { key: key.to_owned(), name: key.to_owned(), colour, quality: None, href: None, values }
}

fn plot(form: Form, count: usize, tracks: Vec<Track>) -> Plot {
    let steps = Steps { from_ms: NOON, step_ms: 60_000, count };
    Plot { id: "test", title: "Power <by> \"component\"".to_owned(), form, steps, tracks }
}

/// Six steps: memory is not known at the second, nothing at the fourth.
fn gappy(form: Form) -> Plot {
    let cpu = vec![watts(100), watts(120), watts(130), None, watts(90), watts(95)];
    let dram = vec![watts(20), None, watts(22), None, watts(21), watts(20)];
    let mut plot = plot(form, 6, vec![track("cpu", Colour::Cpu, cpu), track("dram", Colour::Dram, dram)]);
    plot.tracks[1].quality = Some(Quality::Modelled);
    plot
}

#[test]
fn a_plot_that_stands_alone_looks_like_this() {
    let text = gappy(Form::Stacked).alone(640, 300).replace("><", ">\n<");
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ui/stacked.svg");
    if std::env::var_os("EBBTIDE_BLESS").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap_or_default(), text, "{}", file.display());
}

#[test]
fn gaps_are_gaps() {
    let plot = gappy(Form::Stacked);
    let gaps: Vec<(std::ops::Range<usize>, bool)> = plot.gaps().into_iter().map(|g| (g.steps, g.all)).collect();
    assert_eq!(gaps, [(1..2, false), (3..4, true)]);
    let page = plot.figure(&Page { live: true, table: String::new(), empty: maud::html! {} }).into_string();
    assert!(page.contains(r#"data-v="20000,,22000,,21000,20000""#), "{page}");
    // Two runs of cpu: its path is closed before the gap and begins anew behind it.
    assert!(page.contains("ZM4 1000"), "{page}");
    assert!(page.contains("~20.8 W"), "the mean of memory has its mark: {page}");
    assert!(
        gappy(Form::Lines)
            .figure(&Page { live: false, table: String::new(), empty: maud::html! {} })
            .into_string()
            .contains("H3M4 ")
    );
}

#[test]
fn what_is_not_told_yet_is_no_gap_but_long_silence_is() {
    let silent = |known: usize| {
        let values = (0..10).map(|i| watts(5).filter(|_| i < known)).collect();
        plot(Form::Stacked, 10, vec![track("cpu", Colour::Cpu, values)]).gaps().len()
    };
    assert_eq!((silent(10), silent(8), silent(7), silent(0)), (0, 0, 1, 1));
}

#[test]
fn axes_have_round_figures_and_times() {
    let labels = |peak: u128| Watts::up_to(peak).ticks.into_iter().map(|t| t.1).collect::<Vec<_>>().join(" ");
    assert_eq!(labels(0), "0.2 W 0.4 W 0.6 W 0.8 W 1 W");
    assert_eq!(labels(212_000_000), "50 W 100 W 150 W 200 W 250 W");
    assert_eq!(labels(1_250_000_000), "0.5 kW 1 kW 1.5 kW");
    assert_eq!(labels(7), "2 µW 4 µW 6 µW 8 µW");
    let times = |step_ms: u64, count: usize| {
        let ticks = axis::times(&Steps { from_ms: NOON + 130_000, step_ms, count }, axis::LINES);
        ticks.iter().map(|t| format!("{}{}", t.label, if t.major { "" } else { "*" })).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        times(1000, 60),
        "12:02:10* 12:02:15 12:02:20* 12:02:25* 12:02:30 12:02:35* 12:02:40* 12:02:45 12:02:50* 12:02:55* 12:03:00 12:03:05* 12:03:10*"
    );
    assert_eq!(
        times(3_600_000, 24),
        "14:00* 16:00* 18:00 20:00* 22:00* 13 May 02:00* 04:00* 06:00 08:00* 10:00* 12:00"
    );
    assert!(times(86_400_000, 400).starts_with("2026-06-04 2026-07-06* "), "years are told where there are several");
    assert_eq!(span_text(NOON, NOON + 60_000), "2026-05-12 12:00 – 12:01 UTC");
    assert_eq!(span_text(0, u64::MAX), "–");
}

proptest! {
    /// Whatever the data, everything that is drawn lies in the area and is a number, and the sum is the sum.
    #[test]
    fn any_data_makes_a_plot(
        from_ms in prop_oneof![Just(0), Just(NOON), any::<u64>()],
        step_ms in prop_oneof![Just(0), Just(1000), any::<u64>()],
        count in 0..40usize,
        tracks in prop::collection::vec(prop::collection::vec(prop::option::of(prop_oneof![0..1_000_000_000u64, any::<u64>()]), 0..45), 0..5),
        form in prop_oneof![Just(Form::Stacked), Just(Form::Lines)],
    ) {
        let tracks = tracks
            .into_iter()
            .enumerate()
            .map(|(i, values)| track(&format!("<{i}>"), Colour::Nth(i), values.into_iter().map(|v| v.map(Power::from_uw)).collect()))
            .collect();
        let plot = Plot { id: "any", title: "<title>".to_owned(), form, steps: Steps { from_ms, step_ms, count }, tracks };
        let page = plot.figure(&Page { live: true, table: "?a&b".to_owned(), empty: maud::html! { "nothing" } }).into_string();
        let alone = plot.alone(0, u32::MAX / 2);
        for text in [&page, &alone] {
            prop_assert!(!text.contains("NaN") && !text.contains("inf") && !text.contains("<title>\"") && !text.contains("<0>"), "{}", text);
            for path in text.split(" d=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
                let numbers: Vec<u128> = path.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty()).map(|n| n.parse().unwrap()).collect();
                prop_assert!(numbers.iter().all(|n| *n <= 1000), "{}", path);
            }
        }
        let axis = Watts::up_to(plot.peak());
        prop_assert!(axis.max >= plot.peak() && (1..=6).contains(&axis.ticks.len()), "{:?}", axis);
        prop_assert!(axis::times(&plot.steps, axis::LINES).len() <= 15);
        prop_assert_eq!(plot.is_empty(), plot.mean().is_none());
    }
}
