//! Plots of power over time as SVG: data in, text out, no clock and no I/O.
//!
//! The dashboard, the CLI and reports draw with the same code. Marks carry the values they show (`data-v`, milliwatts),
//! so that a page can tell them at the pointer. All coordinates are integers: nothing that is not a number can be drawn.
//! A moment of which nothing is known is a gap, never a zero. What may not live here: where the values come from.

mod alone;
mod axis;
mod draw;
mod figure;
#[cfg(test)]
mod tests;

use ebbtide_proto::Power;
use ebbtide_proto::series::{Component, Quality};

pub use axis::{day_and_time, span_text};
pub use draw::percent;
pub use figure::Page;

/// Colours and lines of plots, for pages and for plots that stand alone.
pub const STYLE: &str = include_str!("plot.css");

/// Equal steps of time. Values are means over a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    /// Where the first begins, in milliseconds since 1970 UTC.
    pub from_ms: u64,
    /// How long each is, in milliseconds.
    pub step_ms: u64,
    /// How many there are.
    pub count: usize,
}

/// What a colour stands for; the same in every plot and bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Processors.
    Cpu,
    /// Memory.
    Dram,
    /// Accelerators.
    Gpu,
    /// Everything else in a machine.
    Rest,
    /// What is drawn when nothing runs.
    Idle,
    /// What is not drawn because something was switched off.
    Saved,
    /// One of several things without a colour of their own, such as nodes. Repeats after [`Colour::NTH`].
    Nth(usize),
    /// All others together.
    Other,
}

/// One thing whose power is drawn.
#[derive(Clone, Debug)]
pub struct Track {
    /// By what programs know it.
    pub key: String,
    /// What people call it.
    pub name: String,
    /// Its colour.
    pub colour: Colour,
    /// How good its figures are, if that is known.
    pub quality: Option<Quality>,
    /// Where more is said of it.
    pub href: Option<String>,
    /// One value per step; what is missing or `None` is not known.
    pub values: Vec<Option<Power>>,
}

/// How tracks are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// On top of each other, the first at the bottom: the upper edge is the sum.
    Stacked,
    /// Each from zero, as a line.
    Lines,
}

/// Power over time.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Unique on a page; letters, digits, `-`.
    pub id: &'static str,
    /// What is shown, in a few words.
    pub title: String,
    /// How.
    pub form: Form,
    /// The time axis.
    pub steps: Steps,
    /// What is drawn.
    pub tracks: Vec<Track>,
}

impl Steps {
    /// Where the last step ends, in milliseconds since 1970 UTC.
    pub fn until_ms(&self) -> u64 {
        self.from_ms.saturating_add(self.length_ms())
    }

    /// From the beginning of the first step to the end of the last, at least one millisecond.
    pub fn length_ms(&self) -> u64 {
        self.step_ms.saturating_mul(self.count as u64).max(1)
    }

    /// When step `i` begins, in milliseconds since 1970 UTC.
    pub fn at_ms(&self, i: usize) -> u64 {
        self.from_ms.saturating_add(self.step_ms.saturating_mul(i as u64))
    }
}

impl Colour {
    /// How many colours [`Colour::Nth`] has.
    pub const NTH: usize = 8;

    /// The class of marks in this colour.
    pub const fn class(self) -> &'static str {
        match self {
            Self::Cpu => "c-cpu",
            Self::Dram => "c-dram",
            Self::Gpu => "c-gpu",
            Self::Rest => "c-rest",
            Self::Idle => "c-idle",
            Self::Saved => "c-saved",
            Self::Other => "c-other",
            Self::Nth(n) => match n % Self::NTH {
                0 => "c-0",
                1 => "c-1",
                2 => "c-2",
                3 => "c-3",
                4 => "c-4",
                5 => "c-5",
                6 => "c-6",
                _ => "c-7",
            },
        }
    }
}

impl From<Component> for Colour {
    fn from(component: Component) -> Self {
        match component {
            Component::Cpu => Self::Cpu,
            Component::Dram => Self::Dram,
            Component::Gpu => Self::Gpu,
            Component::Rest => Self::Rest,
        }
    }
}

impl Track {
    /// The value of a step.
    pub fn at(&self, i: usize) -> Option<Power> {
        self.values.get(i).copied().flatten()
    }

    /// Mean of the values that are known.
    pub fn mean(&self) -> Option<Power> {
        let (sum, n) = self.values.iter().flatten().fold((0u128, 0u128), |(s, n), p| (s + u128::from(p.uw()), n + 1));
        sum.checked_div(n).map(|uw| Power::from_uw(u64::try_from(uw).unwrap_or(u64::MAX)))
    }
}

impl Plot {
    /// Sum of what is known at a step; `None` if nothing is.
    pub fn sum_at(&self, i: usize) -> Option<Power> {
        self.tracks.iter().filter_map(|t| t.at(i)).reduce(Power::saturating_add)
    }

    /// Mean of [`Plot::sum_at`] where it is known.
    pub fn mean(&self) -> Option<Power> {
        let values = (0..self.steps.count).map(|i| self.sum_at(i)).collect();
        Track { values, ..Track::nameless() }.mean()
    }

    /// Whether nothing is known at any time.
    pub fn is_empty(&self) -> bool {
        (0..self.steps.count).all(|i| self.sum_at(i).is_none())
    }

    /// The largest value that is drawn, in microwatts.
    fn peak(&self) -> u128 {
        let at = |i: usize| {
            let values = self.tracks.iter().filter_map(|t| t.at(i)).map(|p| u128::from(p.uw()));
            match self.form {
                Form::Stacked => values.sum(),
                Form::Lines => values.max().unwrap_or(0),
            }
        };
        (0..self.steps.count).map(at).max().unwrap_or(0)
    }
}

impl Track {
    fn nameless() -> Self {
        Self {
            key: String::new(),
            name: String::new(),
            colour: Colour::Other,
            quality: None,
            href: None,
            values: Vec::new(),
        }
    }
}
