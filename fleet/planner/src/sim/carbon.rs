//! What the power of sites emitted, from hourly grid intensity, and what shifting it could have saved at most.
//!
//! The upper bounds know the future and no limits: all of an hour's power at the cleanest site, all of a day's power in
//! its cleanest hour, or both. What a site can take in, what must run at once and what moving costs only make it less.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::scenario::Carbon;

/// Hours of a day.
const DAY_H: usize = 24;

/// Grams of CO2 per kilowatt-hour, by site and hour.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Intensity(BTreeMap<String, Vec<f64>>);

/// Why intensities can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CarbonError {
    /// A line that isn't an hour and a figure for each site.
    #[error(
        "line {line} of the table of grid intensity is {text:?}: an hour and {sites} figures from 0 to 3000 are expected"
    )]
    Line {
        /// Counted from one.
        line: usize,
        /// What stands there.
        text: String,
        /// Sites named in the first line.
        sites: usize,
    },
    /// The hour to begin with isn't there.
    #[error("carbon.from = {0}: no line of the table begins with that hour")]
    From(String),
    /// A site without figures.
    #[error("site {0} has no grid intensity: give it in [carbon.hourly], or as a column of carbon.file")]
    Site(String),
}

impl Intensity {
    /// The figures of a scenario; `table` is the text of its file, if it names one.
    ///
    /// # Errors
    /// [`CarbonError`] if the table or the figures can't be used.
    pub fn of(carbon: &Carbon, table: Option<&str>) -> Result<Self, CarbonError> {
        let mut sites = carbon.hourly.clone();
        if let Some(text) = table {
            sites.extend(read(text, carbon.from.as_deref())?);
        }
        let sane = |v: &f64| (0.0..=3000.0).contains(v);
        match sites.iter().find(|(_, hours)| hours.is_empty() || !hours.iter().all(sane)) {
            Some((site, _)) => Err(CarbonError::Site(site.clone())),
            None => Ok(Self(sites)),
        }
    }

    fn at(&self, site: &str, hour: usize) -> Option<f64> {
        let hours = self.0.get(site)?;
        hours.get(hour % hours.len()).copied()
    }
}

fn read(text: &str, from: Option<&str>) -> Result<BTreeMap<String, Vec<f64>>, CarbonError> {
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let names: Vec<String> =
        lines.next().map(|(_, l)| l.split(',').skip(1).map(|s| s.trim().to_owned()).collect()).unwrap_or_default();
    let mut columns = vec![Vec::new(); names.len()];
    let mut begun = from.is_none();
    for (i, line) in lines {
        let mut fields = line.split(',');
        begun = begun || fields.next() == from;
        if !begun {
            continue;
        }
        let figures: Vec<f64> = line.split(',').skip(1).map_while(|f| f.trim().parse().ok()).collect();
        if figures.len() != names.len() || figures.iter().any(|v| !(0.0..=3000.0).contains(v)) {
            return Err(CarbonError::Line { line: i + 1, text: line.to_owned(), sites: names.len() });
        }
        columns.iter_mut().zip(figures).for_each(|(column, v)| column.push(v));
    }
    match from {
        Some(from) if !begun => Err(CarbonError::From(from.to_owned())),
        _ => Ok(names.into_iter().zip(columns).collect()),
    }
}

/// One site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Its name.
    pub site: String,
    /// Kilowatt-hours.
    pub energy_kwh: f64,
    /// Kilograms of CO2.
    pub co2_kg: f64,
    /// Kilograms of CO2 with all nodes on.
    pub all_on_co2_kg: f64,
    /// Mean grid intensity in grams per kilowatt-hour.
    pub mean_g_per_kwh: f64,
}

/// What all sites emitted, and upper bounds of what shifting could have saved, in kilograms of CO2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Footprint {
    /// By site.
    pub sites: Vec<Site>,
    /// All of them.
    pub co2_kg: f64,
    /// Saved if each hour's power had been drawn at the cleanest site.
    pub shift_space_kg: f64,
    /// Saved if each day's power had been drawn in the cleanest hour of that day, where it was.
    pub shift_time_kg: f64,
    /// Saved if each day's power had been drawn at the cleanest site and hour of that day.
    pub shift_both_kg: f64,
}

/// What hourly kilowatt-hours of sites emitted.
///
/// # Errors
/// [`CarbonError::Site`] if a site has no figures.
pub fn footprint(
    intensity: &Intensity,
    energy: &BTreeMap<String, Vec<f64>>,
    all_on: &BTreeMap<String, Vec<f64>>,
) -> Result<Footprint, CarbonError> {
    if let Some(site) = energy.keys().find(|s| intensity.at(s, 0).is_none()) {
        return Err(CarbonError::Site(site.clone()));
    }
    let grams = |site: &str, hours: &[f64]| -> f64 {
        hours.iter().enumerate().map(|(h, kwh)| kwh * intensity.at(site, h).unwrap_or(0.0)).sum()
    };
    let hours = energy.values().map(Vec::len).max().unwrap_or(0);
    let least = |h: usize| energy.keys().filter_map(|s| intensity.at(s, h)).fold(f64::INFINITY, f64::min);
    let at = |site: &str, h: usize| energy.get(site).and_then(|e| e.get(h)).copied().unwrap_or(0.0);
    let (mut space, mut time, mut both) = (0.0, 0.0, 0.0);
    for from in (0..hours).step_by(DAY_H) {
        let day = from..(from + DAY_H).min(hours);
        let cleanest = day.clone().map(least).fold(f64::INFINITY, f64::min);
        for site in energy.keys() {
            let here = day.clone().filter_map(|h| intensity.at(site, h)).fold(f64::INFINITY, f64::min);
            let kwh: f64 = day.clone().map(|h| at(site, h)).sum();
            time += kwh * here;
            both += kwh * cleanest;
            space += day.clone().map(|h| at(site, h) * least(h)).sum::<f64>();
        }
    }
    let total: f64 = energy.iter().map(|(s, e)| grams(s, e)).sum();
    let sites = energy
        .iter()
        .map(|(site, e)| Site {
            site: site.clone(),
            energy_kwh: e.iter().sum(),
            co2_kg: grams(site, e) / 1000.0,
            all_on_co2_kg: all_on.get(site).map_or(0.0, |e| grams(site, e)) / 1000.0,
            mean_g_per_kwh: (0..e.len()).filter_map(|h| intensity.at(site, h)).sum::<f64>() / e.len().max(1) as f64,
        })
        .collect();
    Ok(Footprint {
        sites,
        co2_kg: total / 1000.0,
        shift_space_kg: (total - space) / 1000.0,
        shift_time_kg: (total - time) / 1000.0,
        shift_both_kg: (total - both) / 1000.0,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const TABLE: &str = "hour,A,B\n0,100,300\n1,200,100\n2,50,400\n";

    fn energy(a: &[f64], b: &[f64]) -> BTreeMap<String, Vec<f64>> {
        [("A".to_owned(), a.to_vec()), ("B".to_owned(), b.to_vec())].into()
    }

    #[test]
    fn grams_are_energy_times_intensity_and_shifting_goes_to_the_cleanest() {
        let intensity = Intensity::of(&Carbon::default(), Some(TABLE)).unwrap();
        let f = footprint(&intensity, &energy(&[1.0, 1.0], &[2.0, 0.0]), &energy(&[2.0, 2.0], &[2.0, 2.0])).unwrap();
        assert!((f.sites[0].co2_kg - 0.3).abs() < 1e-12 && (f.sites[1].co2_kg - 0.6).abs() < 1e-12, "{f:?}");
        assert!((f.sites[1].all_on_co2_kg - 0.8).abs() < 1e-12, "{f:?}");
        // space: hour 0 all at A (3 kWh · 100), hour 1 all at B (1 · 100); time: A at 100 (2 kWh), B at 100 (2 kWh)
        assert!((f.shift_space_kg - 0.5).abs() < 1e-12 && (f.shift_time_kg - 0.5).abs() < 1e-12, "{f:?}");
        assert!((f.shift_both_kg - 0.5).abs() < 1e-12, "{f:?}");
    }

    #[test]
    fn a_table_begins_where_it_is_told_to_and_names_the_line_that_is_wrong() {
        let from = |from: &str| Carbon { from: Some(from.to_owned()), ..Carbon::default() };
        let intensity = Intensity::of(&from("1"), Some(TABLE)).unwrap();
        assert_eq!((intensity.at("A", 0), intensity.at("A", 2)), (Some(200.0), Some(200.0)));
        assert_eq!(Intensity::of(&from("9"), Some(TABLE)), Err(CarbonError::From("9".to_owned())));
        let said = Intensity::of(&Carbon::default(), Some("h,A\n0,1\n1,x\n")).unwrap_err().to_string();
        assert!(said.starts_with("line 3 of the table of grid intensity is \"1,x\""), "{said}");
        let intensity = Intensity::of(&Carbon::default(), Some("h,A\n0,1\n")).unwrap();
        assert_eq!(
            footprint(&intensity, &energy(&[1.0], &[1.0]), &BTreeMap::new()),
            Err(CarbonError::Site("B".to_owned()))
        );
    }
}
