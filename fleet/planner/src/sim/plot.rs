//! A plot of power over time as SVG, by hand: all nodes on, with the planner, and the bound.

use super::report::{Report, Sample};

/// Width and height of the picture, and of its margins, in pixels.
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 36.0;

/// What is drawn: its name, its colour and its watts. The colours can be told apart without seeing red and green.
type Line = (&'static str, &'static str, fn(&Sample) -> f64);
const LINES: [Line; 3] =
    [("all on", "#8a8a8a", |s| s.all_on_w), ("planner", "#0a6ebd", |s| s.watts), ("bound", "#d55e00", |s| s.bound_w)];

/// The picture.
pub fn svg(report: &Report) -> String {
    let series = &report.series;
    let end_s = series.last().map_or(1, |s| s.at_s).max(1) as f64;
    let most = series.iter().flat_map(|s| LINES.map(|l| l.2(s))).fold(1.0, f64::max);
    let step = tick(most / 4.0);
    let top = (most / step).ceil() * step;
    let x = |s: f64| LEFT + s / end_s * (WIDTH - LEFT - RIGHT);
    let y = |w: f64| HEIGHT - BOTTOM - w / top * (HEIGHT - TOP - BOTTOM);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n<text x=\"{LEFT}\" y=\"20\">{}, \
         seed {}: {:.1} % less than all on, {:.1} % above the bound</text>\n",
        escaped(&report.scenario),
        report.seed,
        report.saved_pct,
        report.above_bound_pct
    );
    let mut put = |text: String| out.push_str(&text);
    let mut watts = 0.0;
    while watts <= top + step / 2.0 {
        let at = y(watts);
        put(format!(
            "<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            if top >= 10_000.0 { format!("{:.0} kW", watts / 1e3) } else { format!("{watts:.0} W") }
        ));
        watts += step;
    }
    let hours = end_s / 3600.0;
    let every = [1.0, 2.0, 3.0, 6.0, 12.0, 24.0]
        .into_iter()
        .find(|h| hours / h <= 12.0)
        .unwrap_or(24.0 * (hours / 288.0).ceil());
    let mut hour = 0.0;
    while hour <= hours {
        put(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{hour:.0} h</text>\n",
            x(hour * 3600.0),
            HEIGHT - BOTTOM + 18.0
        ));
        hour += every;
    }
    for (i, (name, colour, of)) in LINES.into_iter().enumerate() {
        let points: Vec<String> = series.iter().map(|s| format!("{:.1} {:.1}", x(s.at_s as f64), y(of(s)))).collect();
        if !points.is_empty() {
            put(format!(
                "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\n",
                points.join("L")
            ));
        }
        let at = WIDTH - RIGHT - 80.0 * (LINES.len() - i) as f64;
        put(format!(
            "<path d=\"M{at} 16h18\" stroke=\"{colour}\" stroke-width=\"3\"/><text x=\"{}\" y=\"20\">{name}</text>\n",
            at + 22.0
        ));
    }
    out.push_str("</svg>\n");
    out
}

/// A round number of watts of about that size: 1, 2 or 5 times a power of ten.
fn tick(about: f64) -> f64 {
    let ten = 10f64.powf(about.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|m| m * ten).find(|t| *t >= about).unwrap_or(10.0 * ten)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::sim::load::load;
    use crate::sim::report::run;

    #[test]
    fn all_three_lines_are_drawn_within_the_picture() {
        let mut loaded = load("flaky").unwrap();
        loaded.scenario.duration_s = 3600;
        loaded.name = "a<b".to_owned();
        let report = run(&loaded, 1, None, |_, _| {}).unwrap();
        let text = svg(&report);
        assert!(text.starts_with("<svg") && text.contains("a&lt;b") && text.ends_with("</svg>\n"), "{text}");
        for (name, colour, _) in LINES {
            let path = text.lines().find(|l| l.contains("fill=\"none\"") && l.contains(colour)).unwrap_or(name);
            let numbers = path.split('"').nth(1).unwrap().trim_start_matches('M').replace('L', " ");
            let points: Vec<f64> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
            assert_eq!(points.len(), 2 * report.series.len(), "{name}");
            for pair in points.chunks(2) {
                assert!((LEFT..=WIDTH - RIGHT).contains(&pair[0]), "{name} {pair:?}");
                assert!((TOP - 1.0..=HEIGHT - BOTTOM).contains(&pair[1]), "{name} {pair:?}");
            }
        }
    }

    #[test]
    fn ticks_are_round() {
        for (about, is) in [(0.9, 1.0), (1.1, 2.0), (30.0, 50.0), (700.0, 1000.0)] {
            assert!((tick(about) - is).abs() < 1e-9, "{about}");
        }
    }
}
