//! Energy from sensors that only tell power: trapezoids between readings, summed as integers.
//!
//! A sensor that tells watts is a [`PowerProbe`]; [`Integrated`] makes a [`Source`] of it by reading
//! it several times between two samples on a thread of its own. Stated error: the sensor's own, plus
//! what may have happened between two readings.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ebbtide_proto::Power;

use super::{ReadError, Reading, Source, Zone};
use crate::clock::{self, Moment};
use crate::trapezoid::Trapezoid;

/// A sensor, or several read together, that tells power.
pub trait PowerProbe: Send + 'static {
    /// The zones in the order in which [`PowerProbe::read`] reports them. Does not change.
    fn zones(&self) -> &[Zone];

    /// Reads every zone once and pushes one result per zone, in order.
    fn read(&mut self, out: &mut Vec<Result<Power, ReadError>>);
}

/// A [`PowerProbe`] as a [`Source`] of energy.
pub struct Integrated<P: PowerProbe> {
    zones: Vec<Zone>,
    shared: Arc<Mutex<State<P>>>,
    reader: Option<Reader>,
}

struct State<P> {
    probe: P,
    sums: Vec<Trapezoid>,
    /// When each zone was last read well, and why the last try failed if it did.
    last: Vec<(Option<Moment>, Option<ReadError>)>,
    readings: Vec<Result<Power, ReadError>>,
}

struct Reader {
    thread: JoinHandle<()>,
}

impl<P: PowerProbe> State<P> {
    fn step(&mut self, now: Moment) {
        self.readings.clear();
        self.probe.read(&mut self.readings);
        for ((sum, last), reading) in self.sums.iter_mut().zip(&mut self.last).zip(self.readings.drain(..)) {
            match reading {
                Ok(power) => {
                    sum.push(now, power);
                    *last = (Some(now), None);
                }
                Err(e) => {
                    sum.interrupt();
                    last.1 = Some(e);
                }
            }
        }
    }
}

impl<P: PowerProbe> Integrated<P> {
    /// Reads `probe` once per sample. For twins and tests, whose time is simulated.
    pub fn stepped(probe: P) -> Self {
        let zones = probe.zones().to_vec();
        let n = zones.len();
        let last = (0..n).map(|_| (None, None)).collect();
        let state = State { probe, sums: vec![Trapezoid::default(); n], last, readings: Vec::with_capacity(n) };
        Self { zones, shared: Arc::new(Mutex::new(state)), reader: None }
    }

    /// Reads `probe` every `every` on a thread of its own, which ends with this value.
    pub fn threaded(probe: P, every: Duration) -> Self {
        let mut it = Self::stepped(probe);
        let weak = Arc::downgrade(&it.shared);
        let run = move || {
            while let Some(state) = weak.upgrade() {
                state.lock().unwrap_or_else(PoisonError::into_inner).step(clock::now());
                drop(state);
                std::thread::sleep(every);
            }
        };
        // without a thread the probe is still read once per sample
        it.reader =
            std::thread::Builder::new().name("power-reader".into()).spawn(run).ok().map(|thread| Reader { thread });
        it
    }
}

impl<P: PowerProbe> Source for Integrated<P> {
    fn zones(&self) -> &[Zone] {
        &self.zones
    }

    fn read(&mut self, now: Moment, out: &mut Vec<Result<Reading, ReadError>>) {
        let mut state = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if self.reader.as_ref().is_none_or(|r| r.thread.is_finished()) {
            state.step(now);
        }
        let State { sums, last, .. } = &mut *state;
        for ((sum, last), zone) in sums.iter().zip(last).zip(&self.zones) {
            out.push(match (last.0, last.1.take()) {
                (_, Some(e)) => Err(e),
                (Some(at), None) => Ok(Reading { at, counter: sum.total() }),
                (None, None) => Err(ReadError::Absent { path: zone.path.clone(), why: "not read yet".into() }),
            });
        }
    }
}

/// How sensors of power are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeMode {
    /// Once per sample, for simulated time.
    Stepped,
    /// On a thread of its own, each time after this long.
    Threaded(Duration),
}

impl ProbeMode {
    /// `probe` as a source of energy.
    pub fn integrate<P: PowerProbe>(self, probe: P) -> Box<dyn Source> {
        match self {
            Self::Stepped => Box::new(Integrated::stepped(probe)),
            Self::Threaded(every) => Box::new(Integrated::threaded(probe, every)),
        }
    }
}
