//! Zones whose energy is weighed by hardware events: which ones are priced together.

use crate::attribution::ZoneInterval;
use crate::attribution::mix::{Class, Drawn, Mix};
use crate::attribution::weights::Loads;
use crate::source::{Quality, Zone, ZoneKind};

use super::prior_share;
use super::track::Track;

/// Zones that are priced together.
pub(super) struct Priced {
    mix: Mix,
    /// Their places among the tracks.
    zones: Vec<usize>,
}

/// Groups the zones of a machine: those of each kind, one per package; what covers the machine, each on its own.
pub(super) fn group(tracks: &[Track], idle_share: f64) -> Vec<Priced> {
    let mut out: Vec<(Class, Option<&Zone>, Vec<usize>)> = Vec::new();
    for (i, track) in tracks.iter().enumerate() {
        let zone = track.zone.as_ref();
        let Some(class) = class(zone) else { continue };
        let joins = |(c, first, _): &&mut (Class, Option<&Zone>, Vec<usize>)| {
            *c == class && class != Class::Machine && first.is_some_and(|f| f.socket.is_some() && zone.socket.is_some())
        };
        match out.iter_mut().find(joins) {
            Some((_, _, zones)) => zones.push(i),
            None => out.push((class, Some(zone), vec![i])),
        }
    }
    let priced = out.into_iter().filter_map(|(class, first, zones)| {
        let share = prior_share(first?, idle_share);
        Some(Priced { mix: Mix::new(class, share, zones.len()), zones })
    });
    priced.collect()
}

/// `None` if its power isn't measured, or is nobody's.
fn class(zone: &Zone) -> Option<Class> {
    if zone.quality == Quality::Modelled {
        return None;
    }
    match zone.kind {
        ZoneKind::Package => Some(Class::Package),
        ZoneKind::Core => Some(Class::Core),
        ZoneKind::Uncore => Some(Class::Uncore),
        ZoneKind::Dram => Some(Class::Memory),
        ZoneKind::Psys | ZoneKind::Board | ZoneKind::Wall => Some(Class::Machine),
        ZoneKind::Gpu | ZoneKind::Other => None,
    }
}

impl Priced {
    /// Learns from an interval and prices it. Nothing changes where nobody was counted.
    pub(super) fn step(&mut self, tracks: &mut [Track], loads: &Loads, intervals: &mut [ZoneInterval]) {
        let drawn = |&i: &usize| {
            let interval = intervals.get(i)?;
            let length = tracks.get(i)?.interval_length()?;
            Some((length, Drawn { energy: interval.energy, terms: loads.total(interval.basis.socket()?)? }))
        };
        if let Some(all) = self.zones.iter().map(drawn).collect::<Option<Vec<_>>>()
            && let Some((length, _)) = all.first()
        {
            let all_drawn: Vec<Drawn> = all.iter().map(|(_, d)| *d).collect();
            self.mix.observe(*length, &all_drawn);
        }
        let prices = self.mix.prices();
        if prices.is_none() || loads.total(None).is_none() {
            return;
        }
        for (n, &i) in self.zones.iter().enumerate() {
            if let (Some(track), Some(interval)) = (tracks.get_mut(i), intervals.get_mut(i)) {
                interval.prices = prices;
                track.count(self.mix.floor(n), interval);
            }
        }
    }
}
