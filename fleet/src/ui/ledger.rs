//! A node's ledger, `wall = cpu + dram + gpu + rest`, from the latest figures of its zones. Pure.

use ebbtide_proto::series::{Component, Quality, ZoneKind};
use ebbtide_proto::v1::{self, Node, ZonePower};
use maud::{Markup, html};

use super::figures::{Live, power, quality};
use crate::plot::Colour;

/// What a node draws, by component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ledger {
    /// `wall` or `psys` where something measures the machine as a whole, else `node`.
    pub name: &'static str,
    /// In microwatts: what measures the whole says, or the sum of the components.
    pub whole: Option<u64>,
    /// In microwatts, of each of [`Component::ALL`].
    pub parts: [Option<u64>; 4],
    /// The worst of all.
    pub quality: Option<Quality>,
    /// By how many microwatts the whole is less than its parts, which can't be.
    pub short: u64,
}

impl Ledger {
    /// The ledger of a node now.
    pub(super) fn of(node: &Node) -> Self {
        let counting: Vec<&ZonePower> =
            node.zones.iter().filter(|z| z.zone.as_ref().is_some_and(|zone| zone.counts)).collect();
        let mut parts = counted(&counting);
        let sum = parts.iter().flatten().copied().reduce(u64::saturating_add);
        let mut judged: Vec<Option<Quality>> = counting.iter().map(|z| zone_quality(z)).collect();
        let widest = around(node);
        let mut ledger = Self { name: "node", whole: sum, parts, quality: None, short: 0 };
        if let Some((zone, name)) = widest
            && let Some(whole) = zone.power_uw
        {
            ledger.name = name;
            ledger.whole = Some(whole);
            let known = sum.unwrap_or(0);
            ledger.short = known.saturating_sub(whole);
            if ledger.short == 0
                && let Some(rest) = parts.last_mut()
            {
                *rest = Some(rest.unwrap_or(0).saturating_add(whole - known));
            }
            judged.push(zone_quality(zone));
            ledger.parts = parts;
        }
        ledger.quality = judged.into_iter().flatten().max();
        if counting.is_empty() && widest.is_none() {
            ledger.whole = node.power_uw;
            ledger.quality = quality(node.quality);
        }
        ledger
    }

    /// The sum as a line of numbers and as a bar.
    pub(super) fn show(&self) -> Markup {
        html! {
            p.sum {
                b { (self.name) " " (Live { key: "whole", figure: power(self.whole, self.quality) }) }
                @for (i, (component, part)) in Component::ALL.into_iter().zip(self.parts).enumerate() {
                    span.term {
                        span.op { @if i == 0 { "= " } @else { "+ " } }
                        i.swatch.(Colour::from(component).class()) {} " "
                        (component.as_str()) " "
                        (Live { key: &format!("part/{}", component.as_str()), figure: power(part, None) })
                    }
                }
            }
            (bar(Component::ALL.into_iter().zip(self.parts).map(|(c, p)| (c.as_str(), Colour::from(c), p))))
            @if self.short > 0 {
                p.warning {
                    "The " (self.name) " reads " (power(Some(self.short), None))
                    " less than its parts add up to: one of the sensors is wrong, or they are read at different times."
                }
            }
        }
    }
}

/// A bar of parts that lie side by side.
pub(super) fn bar<'a>(parts: impl Iterator<Item = (&'a str, Colour, Option<u64>)>) -> Markup {
    let parts: Vec<(&str, Colour, u128)> = parts.map(|(key, colour, p)| (key, colour, p.unwrap_or(0).into())).collect();
    let whole: u128 = parts.iter().map(|part| part.2).sum();
    let beginnings = parts.iter().scan(0, |sum, part| {
        let before = *sum;
        *sum += part.2;
        Some(before)
    });
    html! {
        svg.bar width="100%" height="14" aria-hidden="true" data-bar {
            @for ((key, colour, part), before) in parts.iter().zip(beginnings) {
                rect class={ "band " (colour.class()) } data-key=(key) height="100%"
                    x=(crate::plot::percent(before, whole)) width=(crate::plot::percent(*part, whole)) {}
            }
        }
    }
}

/// Sums of zones that count, by component.
pub(super) fn counted(zones: &[&ZonePower]) -> [Option<u64>; 4] {
    Component::ALL.map(|component| {
        let of = zones.iter().filter(|z| kind(z).is_some_and(|kind| kind.component() == component));
        of.filter_map(|z| z.power_uw).reduce(u64::saturating_add)
    })
}

/// The zone that has the whole machine in it: the wall before the platform.
fn around(node: &Node) -> Option<(&ZonePower, &'static str)> {
    let find = |wanted: ZoneKind| {
        let outside = |z: &&ZonePower| {
            kind(z) == Some(wanted) && !z.stale && z.power_uw.is_some() && z.zone.as_ref().is_some_and(|z| !z.counts)
        };
        node.zones.iter().filter(outside).max_by_key(|z| z.power_uw).map(|z| (z, wanted.as_str()))
    };
    find(ZoneKind::Wall).or_else(|| find(ZoneKind::Psys))
}

pub(super) fn kind(zone: &ZonePower) -> Option<ZoneKind> {
    ZoneKind::try_from(v1::ZoneKind::try_from(zone.zone.as_ref()?.kind).ok()?).ok()
}

pub(super) fn zone_quality(zone: &ZonePower) -> Option<Quality> {
    if zone.stale { Some(Quality::Stale) } else { quality(zone.zone.as_ref()?.quality) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(kind: ZoneKind, watts: u64, counts: bool) -> ZonePower {
        let zone = v1::Zone {
            kind: v1::ZoneKind::from(kind).into(),
            quality: v1::Quality::Measured.into(),
            counts,
            ..v1::Zone::default()
        };
        ZonePower { zone: Some(zone), power_uw: Some(watts * 1_000_000), ..ZonePower::default() }
    }

    #[test]
    fn the_rest_is_what_the_wall_has_beyond_what_counts() {
        let mut node = Node {
            zones: vec![
                zone(ZoneKind::Package, 80, true),
                zone(ZoneKind::Package, 61, true),
                zone(ZoneKind::Core, 50, false),
                zone(ZoneKind::Dram, 22, true),
                zone(ZoneKind::Wall, 212, false),
                zone(ZoneKind::Psys, 190, false),
            ],
            ..Node::default()
        };
        let ledger = Ledger::of(&node);
        let w = |watts: u64| Some(watts * 1_000_000);
        assert_eq!((ledger.name, ledger.whole, ledger.short), ("wall", w(212), 0));
        assert_eq!(ledger.parts, [w(141), w(22), None, w(49)]);
        assert_eq!(ledger.quality, Some(Quality::Measured));

        node.zones.retain(|z| kind(z) != Some(ZoneKind::Psys));
        node.zones[4].power_uw = Some(100_000_000);
        let ledger = Ledger::of(&node);
        assert_eq!((ledger.whole, ledger.short), (w(100), 63_000_000));
        assert_eq!(ledger.parts[3], None, "no rest is made up");

        node.zones[4].stale = true;
        assert_eq!(Ledger::of(&node).name, "node");
        assert_eq!(Ledger::of(&Node { power_uw: Some(5), ..Node::default() }).whole, Some(5));
    }
}
