//! The compiled-in figures: published load curves, thermal design powers and thread counts of processors.
//!
//! Four sorted text tables, one record a line, fields separated by `|`, searched in place:
//!
//! | file | what | source |
//! |---|---|---|
//! | `curves.txt` | full power and shape per processor model | SPECpower_ssj2008 results, www.spec.org |
//! | `families.txt` | the same per generation of processors | SPECpower_ssj2008 results, www.spec.org |
//! | `tdp.txt` | thermal design power per model | CodeCarbon (MIT licence) |
//! | `threads.txt` | threads per chip of server models | makers' specifications |
//!
//! `tools/power-curves.py` makes the first three. Their figures are medians made for estimating, at the
//! wall of lightly equipped servers; they are not SPEC metrics and not to be compared with any.

use ebbtide_proto::Power;

use super::curve::{POINTS, Shape};

const CURVES: &str = include_str!("curves.txt");
const FAMILIES: &str = include_str!("families.txt");
const TDP: &str = include_str!("tdp.txt");
const THREADS: &str = include_str!("threads.txt");

/// What published results say of one processor model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// How many results there are.
    pub results: u32,
    /// Power of a machine at full load, per chip.
    pub full: Power,
    /// Threads per chip.
    pub threads: u32,
    /// Power against load.
    pub shape: Shape,
}

/// What published results say of a generation of processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Power of a machine at full load per thermal design power of its chips, per mille.
    pub full_per_tdp: u32,
    /// Power of an idle machine, per thread.
    pub idle: Power,
    /// Power of a machine at full load, per thread.
    pub full: Power,
    /// Power against load.
    pub shape: Shape,
}

/// Published results of the processor `model`, in the form of [`super::cpu::normalise`].
pub fn measured(model: &str) -> Option<Measured> {
    let mut fields = search(CURVES, model)?.split('|');
    Some(Measured {
        results: fields.next()?.parse().ok()?,
        full: Power::from_watts(fields.next()?.parse().ok()?)?,
        threads: fields.next()?.parse().ok()?,
        shape: shape(fields.next()?)?,
    })
}

/// Figures of the generation `key`, as they are called in `families.txt`.
pub fn family(key: &str) -> Option<Family> {
    let mut fields = search(FAMILIES, key)?.split('|').skip(1);
    let full_per_tdp = fields.next()?.parse().ok()?;
    let mut milliwatts = || Some(Power::from_uw(fields.next()?.parse::<u64>().ok()?.checked_mul(1000)?));
    let (idle, full) = (milliwatts()?, milliwatts()?);
    Some(Family { full_per_tdp, idle, full, shape: shape(fields.next()?)? })
}

/// Thermal design power of the processor `model`.
pub fn tdp(model: &str) -> Option<Power> {
    Power::from_watts(search(TDP, model)?.parse().ok()?)
}

/// Threads per chip of the processor `model`.
pub fn threads(model: &str) -> Option<u32> {
    match measured(model) {
        Some(m) => Some(m.threads),
        None => search(THREADS, model)?.parse().ok(),
    }
}

fn shape(field: &str) -> Option<Shape> {
    let mut shares = [0; POINTS];
    let mut given = field.split(' ');
    for s in &mut shares {
        *s = given.next()?.parse().ok()?;
    }
    Shape::new(shares)
}

/// Binary search of `table` for the line whose first field is `key`; returns the rest of that line.
/// The lines of the header start with `#`, which sorts before every key.
fn search<'t>(table: &'t str, key: &str) -> Option<&'t str> {
    let mut rest = table;
    while !rest.is_empty() {
        let middle = rest.as_bytes().get(..rest.len() / 2)?;
        let start = middle.iter().rposition(|&b| b == b'\n').map_or(0, |n| n + 1);
        let (before, from) = rest.split_at_checked(start)?;
        let (line, after) = from.split_once('\n').unwrap_or((from, ""));
        let (found, fields) = line.split_once('|').unwrap_or((line, ""));
        match key.cmp(found) {
            std::cmp::Ordering::Equal => return Some(fields),
            std::cmp::Ordering::Less => rest = before,
            std::cmp::Ordering::Greater => rest = after,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::model::cpu;

    fn keys(table: &'static str) -> impl Iterator<Item = &'static str> {
        table.lines().filter(|l| !l.starts_with('#')).map(|l| l.split_once('|').unwrap().0)
    }

    #[test]
    fn tables_are_sorted_small_and_every_record_is_found() {
        for (table, least) in [(CURVES, 100), (FAMILIES, 15), (TDP, 3000), (THREADS, 200)] {
            let all: Vec<_> = keys(table).collect();
            assert!(all.len() >= least, "{}", all.len());
            assert!(all.windows(2).all(|w| w[0] < w[1]), "sorted, each key once");
            assert!(table.ends_with('\n') && table.is_ascii());
        }
        assert!(CURVES.len() + FAMILIES.len() + TDP.len() + THREADS.len() < 120 << 10);
        for k in keys(CURVES) {
            let m = measured(k).unwrap_or_else(|| panic!("{k}"));
            let per_thread = m.full.watts() / f64::from(m.threads);
            assert!((1.0..100.0).contains(&per_thread) && m.results > 0, "{k}: {per_thread} W per thread");
        }
        for k in keys(FAMILIES) {
            let f = family(k).unwrap_or_else(|| panic!("{k}"));
            assert!(f.idle < f.full && (500..2500).contains(&f.full_per_tdp), "{k}");
        }
        assert!(keys(TDP).all(|k| tdp(k).is_some_and(|p| (1.0..=1000.0).contains(&p.watts()))));
        assert!(keys(THREADS).all(|k| threads(k).is_some_and(|n| (1..=512).contains(&n))));
    }

    #[test]
    fn keys_are_in_the_form_in_which_models_are_looked_up() {
        for k in keys(CURVES).chain(keys(TDP)).chain(keys(THREADS)) {
            assert_eq!(cpu::normalise(k), k);
        }
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        for k in ["", "#", "|", "xeon", "zzz", "xeon gold 6240x", "\u{10ffff}", "# Sorted by key. key "] {
            assert_eq!((measured(k), tdp(k), threads(k)), (None, None, None), "{k:?}");
        }
        assert_eq!(search("", "a"), None);
        assert_eq!(search("a|1\nb|2", "b"), Some("2"));
        assert_eq!(search("a|1\nb|2", "a"), Some("1"));
    }

    /// The medians over the hardware of 2018 and later, as they were worked out by other means.
    #[test]
    fn the_general_shapes_are_the_known_medians() {
        let shares = |key| {
            let c = family(key).unwrap().shape.curve(Power::from_uw(100));
            c.points().map(Power::uw)
        };
        assert_eq!(shares("generic"), [21, 33, 38, 43, 48, 53, 61, 67, 78, 89, 100]);
        assert_eq!(shares("intel"), [17, 30, 35, 40, 45, 50, 56, 65, 75, 88, 100]);
        assert_eq!(shares("amd"), [24, 45, 51, 57, 62, 67, 72, 78, 86, 92, 100]);
    }
}
