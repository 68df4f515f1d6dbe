//! The published policies that everything is compared with: first fit without migration, and consolidation by
//! threshold (THR) or local regression (LR), moving what is moved fastest (MMT) to where power grows least (PABFD).

use super::world::{HOST_TYPES, Move, World};

/// How a host is found to be overloaded.
#[derive(Clone, Copy, Debug)]
pub enum Overload {
    /// Load above a fixed share.
    Threshold(f64),
    /// Load that a line through the last ten samples reaches at the next, times a safety factor, is 1 or more; by
    /// threshold 0.7 before there are ten.
    Regression(f64),
}

/// Samples that regression looks at.
const WINDOW: usize = 10;
/// Threshold as long as there are fewer.
const FALLBACK: f64 = 0.7;

/// First fit: the first host that has room.
pub fn place_first_fit(world: &mut World) {
    for vm in 0..world.vms.len() {
        if let Some(host) = (0..world.hosts.len()).find(|&h| world.can_start(vm, h)) {
            world.start(vm, host);
        }
    }
}

/// The state of one optimisation: placements as they would be.
struct Trial<'a> {
    world: &'a World,
    on: Vec<Vec<usize>>,
    given: Vec<f64>,
    overload: Overload,
    asked: Vec<f64>,
}

impl<'a> Trial<'a> {
    fn new(world: &'a World, overload: Overload, asked: Vec<f64>) -> Self {
        let on: Vec<Vec<usize>> = world.hosts.iter().map(|h| h.vms.clone()).collect();
        let mut trial = Self { world, given: vec![0.0; on.len()], on, overload, asked };
        for host in 0..trial.on.len() {
            trial.settle(host);
        }
        trial
    }

    fn settle(&mut self, host: usize) {
        let kind = self.world.hosts[host].kind;
        let vms = self.on[host].iter().map(|&v| (v, self.asked[v]));
        self.given[host] = self.world.share_among(kind, vms, &[]).iter().sum();
    }

    fn overloaded(&self, host: usize, extra: Option<usize>, counts: impl Fn(usize) -> f64) -> bool {
        let mips = self.world.hosts[host].mips();
        let vms = || self.on[host].iter().copied().chain(extra);
        let by = |limit: f64| vms().map(&counts).sum::<f64>() / mips > limit;
        match self.overload {
            Overload::Threshold(limit) => by(limit),
            Overload::Regression(safety) => {
                let mut recent = [0.0; WINDOW];
                let mut length = 0;
                for v in vms() {
                    let vm = &self.world.vms[v];
                    let latest = vm.history.iter().rev().take(30);
                    for (back, u) in latest.enumerate() {
                        let part = u * vm.trace.mips / mips;
                        if part != 0.0 {
                            length = length.max(back + 1);
                        }
                        if back < WINDOW {
                            recent[WINDOW - 1 - back] += part;
                        }
                    }
                }
                if length < WINDOW {
                    return by(FALLBACK);
                }
                let (intercept, slope) = line(&recent);
                // a migration takes less than one interval: the line is read one step ahead
                safety * (intercept + slope * (WINDOW as f64 + 1.0)) >= 1.0
            }
        }
    }

    /// The host where power grows least among those not left out.
    fn find(&self, vm: usize, left_out: &[bool], starting: bool) -> Option<usize> {
        let want = self.asked[vm];
        let mut best: Option<(f64, usize)> = None;
        for (host, h) in self.world.hosts.iter().enumerate() {
            let kind = &HOST_TYPES[h.kind];
            // shares were rounded down where a host is overloaded: nothing is free there
            let full: f64 = self.on[host].iter().map(|&v| self.asked[v].min(kind.core_mips)).sum();
            let free = if full > h.mips() { 0.0 } else { h.mips() - full };
            if left_out[host] || kind.core_mips < want || free < want || (starting && !self.world.can_start(vm, host)) {
                continue;
            }
            // at the start, those already placed are not yet known to ask for anything
            let counts = |v: usize| if starting && v != vm { 0.0 } else { self.asked[v] };
            if self.given[host] != 0.0 && self.overloaded(host, Some(vm), counts) {
                continue;
            }
            let after = self.world.watts(h.kind, (self.given[host] + want) / h.mips());
            let grows = after - self.world.watts(h.kind, h.load());
            if best.is_none_or(|(least, _)| grows < least) {
                best = Some((grows, host));
            }
        }
        best.map(|(_, host)| host)
    }

    fn put(&mut self, vm: usize, host: usize) {
        self.on[host].push(vm);
        self.settle(host);
    }

    fn take(&mut self, vm: usize, host: usize) {
        self.on[host].retain(|&v| v != vm);
        self.settle(host);
    }

    /// Largest consumers first.
    fn sort(&self, vms: &mut [usize]) {
        vms.sort_by(|&a, &b| self.asked[b].total_cmp(&self.asked[a]));
    }
}

/// Intercept and slope of the least-squares line through `y` at 1, 2, …
fn line(y: &[f64]) -> (f64, f64) {
    let n = y.len() as f64;
    let mx = (n + 1.0) / 2.0;
    let my = y.iter().sum::<f64>() / n;
    let (mut xy, mut xx) = (0.0, 0.0);
    for (i, v) in y.iter().enumerate() {
        let dx = i as f64 + 1.0 - mx;
        xy += dx * (v - my);
        xx += dx * dx;
    }
    let slope = xy / xx;
    (my - slope * mx, slope)
}

/// Places all VMs by power-aware best fit, as the migrating policies do at the start.
pub fn place_best_fit(world: &mut World, overload: Overload) {
    // local regression has no history yet
    let overload = match overload {
        Overload::Regression(_) => Overload::Threshold(FALLBACK),
        threshold @ Overload::Threshold(_) => threshold,
    };
    let nowhere = vec![false; world.hosts.len()];
    for vm in 0..world.vms.len() {
        let asked = world.vms.iter().map(|v| v.trace.mips).collect();
        let trial = Trial::new(world, overload, asked);
        if let Some(host) = trial.find(vm, &nowhere, true) {
            world.start(vm, host);
        }
    }
}

/// One optimisation: relieves overloaded hosts, then empties the least loaded ones.
pub fn optimise(world: &World, overload: Overload) -> Vec<Move> {
    let asked: Vec<f64> = world.vms.iter().map(|v| v.asked).collect();
    let mut trial = Trial::new(world, overload, asked);
    let count = trial.on.len();
    let asks = |asked: &[f64], v: usize| asked[v];
    let over: Vec<bool> = (0..count).map(|h| trial.overloaded(h, None, |v| asks(&trial.asked, v))).collect();

    let mut leaving = Vec::new();
    for host in (0..count).filter(|&h| over[h]) {
        loop {
            let by_memory =
                |&a: &usize, &b: &usize| world.vms[a].trace.memory_mb.total_cmp(&world.vms[b].trace.memory_mb);
            let Some(vm) = trial.on[host].iter().copied().min_by(by_memory) else { break };
            leaving.push(vm);
            trial.take(vm, host);
            if !trial.overloaded(host, None, |v| trial.asked[v]) {
                break;
            }
        }
    }
    let mut moves = Vec::new();
    trial.sort(&mut leaving);
    for vm in leaving {
        if let Some(host) = trial.find(vm, &over, false) {
            trial.put(vm, host);
            moves.push((vm, host));
        }
    }

    let off: Vec<bool> = world.hosts.iter().map(|h| h.load() == 0.0).collect();
    let mut not_emptied: Vec<bool> = (0..count).map(|h| over[h] || off[h]).collect();
    let mut no_target = not_emptied.clone();
    loop {
        let mut least: Option<(f64, usize)> = None;
        for host in (0..count).filter(|&h| !not_emptied[h] && !trial.on[h].is_empty()) {
            let load = world.hosts[host].load();
            if load > 0.0 && load < least.map_or(1.0, |(l, _)| l) {
                least = Some((load, host));
            }
        }
        let Some((_, host)) = least else { break };
        not_emptied[host] = true;
        no_target[host] = true;
        let mut leaving = trial.on[host].clone();
        trial.sort(&mut leaving);
        let mut placed: Vec<Move> = Vec::new();
        let mut fits = true;
        for vm in leaving {
            match trial.find(vm, &no_target, false) {
                Some(to) => {
                    trial.put(vm, to);
                    placed.push((vm, to));
                }
                None => {
                    fits = false;
                    break;
                }
            }
        }
        if fits {
            for &(_, to) in &placed {
                not_emptied[to] = true;
            }
            moves.extend(placed);
        } else {
            for (vm, to) in placed {
                trial.take(vm, to);
            }
        }
    }
    moves
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_line_goes_through_points_that_lie_on_one() {
        let (intercept, slope) = line(&[3.0, 5.0, 7.0, 9.0]);
        assert!((intercept - 1.0).abs() < 1e-12 && (slope - 2.0).abs() < 1e-12);
    }
}
