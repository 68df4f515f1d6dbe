//! What the fleet tells of a machine's outlet, from the feed to the page: on a board without a sensor, and on a server
//! with RAPL. The machines are files, time is simulated.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ebbtide_agent::attribution::IdlePolicy;
use ebbtide_agent::clock::Moment;
use ebbtide_agent::config::{Processes, Settings};
use ebbtide_agent::export::negotiate::Format;
use ebbtide_agent::export::pages::Pages;
use ebbtide_agent::export::{View, kepler, own};
use ebbtide_agent::sampler::{Options, Sampler};
use ebbtide_agent::snapshot::{Published, Snapshot, ZoneState, ZoneView};
use ebbtide_agent::source::discover::{DiscoverOptions, discover};
use ebbtide_agent::source::integrate::ProbeMode;
use ebbtide_agent::source::model::ModelOverride;
use ebbtide_agent::source::wall::{Told, WallFeed};
use ebbtide_agent::source::{Quality, SourceKind};
use ebbtide_agent::twin::fakeroot::{FakeProcess, FakeRoot, FakeZone};
use ebbtide_agent::usage::procfs::ProcfsReader;
use ebbtide_proto::{Energy, NodeId, Power, Ratio};

const W: u64 = 1_000_000;

struct Machine {
    _dir: tempfile::TempDir,
    fake: FakeRoot,
    feed: WallFeed,
    sampler: Sampler,
    at: Moment,
    busy: u64,
    idle: u64,
    /// Energy at the outlet, in microjoules.
    wall: u64,
    package: Option<u64>,
}

impl Machine {
    /// One CPU, one process; with RAPL or without.
    fn new(rapl: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut fake = FakeRoot::new(dir.path());
        write(&mut fake, 0, 0, rapl.then_some(0));
        let feed = WallFeed::default();
        Self {
            sampler: sampler(&fake, &feed),
            _dir: dir,
            fake,
            feed,
            at: Moment::default().plus(Duration::from_secs(1000)),
            busy: 0,
            idle: 0,
            wall: 0,
            package: rapl.then_some(0),
        }
    }

    /// A second in which the process runs for so many percent of it, and package and outlet draw so many watts.
    fn second(&mut self, percent: u64, package: u64, wall: u64) -> Arc<Snapshot> {
        self.at = self.at.plus(Duration::from_secs(1));
        self.busy += percent;
        self.idle += 100 - percent;
        self.wall += wall * W;
        self.package = self.package.map(|uj| uj + package * W);
        write(&mut self.fake, self.busy, self.idle, self.package);
        self.sampler.step(self.at).unwrap()
    }

    /// The meter is read, and told within the same second.
    fn tell(&self, power: u64) {
        let counter = Energy::from_uj(self.wall);
        let power = Power::from_uw(power * W);
        let (error, meter) = (Ratio::from_percent(1), "pdu-1/3".to_owned());
        self.feed.tell(Told { at: self.at, counter, power, error, meter });
    }
}

fn write(fake: &mut FakeRoot, busy: u64, idle: u64, package: Option<u64>) {
    fake.put(
        "proc/stat",
        format!("cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 {busy} 0 0 {idle} 0 0 0 0 0 0\nprocesses 9\n"),
    )
    .unwrap();
    let mut process = FakeProcess::new(7, "radio");
    process.utime = busy;
    process.cgroup = "0::/system.slice/radio.service\n".into();
    fake.process(&process).unwrap();
    if let Some(energy_uj) = package {
        fake.zone(&FakeZone { energy_uj, ..FakeZone::new("intel-rapl:0", "package-0") }).unwrap();
    }
}

fn sampler(fake: &FakeRoot, feed: &WallFeed) -> Sampler {
    let host = fake.host();
    // a board that is said to draw 10 W idle and 20 W at full load
    let model = Some(ModelOverride { idle: Power::from_uw(10 * W), full: Power::from_uw(20 * W) });
    let options = DiscoverOptions { model, wall: Some(feed.clone()), ..DiscoverOptions::all(ProbeMode::Stepped) };
    let options_of_sampler = Options {
        node: NodeId::new("edge1").unwrap(),
        idle_policy: IdlePolicy::Unallocated,
        idle_floor: BTreeMap::new(),
        processes: Processes::All,
        retention: Duration::from_secs(60),
        stale_after: Duration::from_secs(10),
        full_names: false,
        idle_share: 0.3,
        state: None,
        learned: None,
    };
    let usage = Box::new(ProcfsReader::open(&host, false).unwrap());
    Sampler::new(host.clone(), usage, discover(&host, &options).sources, options_of_sampler).unwrap()
}

fn zone(snapshot: &Snapshot, source: SourceKind) -> &ZoneView {
    snapshot.zones.iter().find(|z| z.zone.source == source).unwrap()
}

fn page(machine: &Machine, snapshot: &Snapshot) -> String {
    let settings = Settings::default();
    let view = View {
        names: settings.names.clone(),
        levels: settings.levels.clone(),
        labels: settings.labels.clone(),
        processes: Processes::All,
        series_budget: 0,
        gzip: false,
        processors: kepler::processors(&machine.fake.host()),
        own: own::Own::new(None).unwrap(),
    };
    let published = Published::new(snapshot.clone());
    let pages = Pages { published, view: Arc::new(view), host: machine.fake.host() };
    String::from_utf8(pages.page(Format::Text).flat_map(|chunk| chunk.to_vec()).collect()).unwrap()
}

/// Sum over the tasks and what they were not given, in microjoules.
fn shared_out(snapshot: &Snapshot, source: SourceKind) -> u64 {
    let at = snapshot.zones.iter().position(|z| z.zone.source == source).unwrap();
    let account = &snapshot.zones[at].account;
    let tasks: Energy = snapshot.tasks.iter().map(|row| row.energy[at]).sum();
    (tasks + account.unallocated + account.residual).uj()
}

#[test]
fn a_board_without_a_sensor_gets_its_watts_from_its_outlet() {
    let mut m = Machine::new(false);
    let quality = |s: &Snapshot| zone(s, SourceKind::Model).quality();
    for _ in 0..5 {
        let s = m.second(0, 0, 4);
        assert_eq!(quality(&s), Quality::Modelled);
        assert_eq!(zone(&s, SourceKind::Outlet).state, ZoneState::Absent);
    }
    m.tell(4);
    let mut begun = m.second(0, 0, 4);
    // by turns 30 s at rest with 4 W and 30 s at work with 9 W, read each 10 s
    let mut last = begun.clone();
    for second in 1..=1200u64 {
        let (percent, watts) = if second / 30 % 2 == 0 { (0, 4) } else { (100, 9) };
        last = m.second(percent, 0, watts);
        if quality(&begun) == Quality::Modelled {
            begun = last.clone();
        }
        if second % 10 == 9 {
            m.tell(watts);
        }
    }
    let model = zone(&last, SourceKind::Model);
    assert_eq!((model.quality(), model.zone.error), (Quality::Scaled, Ratio::from_percent(1)));
    assert_eq!(last.quality(), Some(Quality::Scaled), "so it reaches whoever reads the node's");
    let floor = model.floor.unwrap();
    assert!((3.5..4.5).contains(&floor.power.watts()), "learned from the wall: {floor:?}");
    // what both say since it is followed, but for what the curve stands for: the time since the last reading
    let modelled = model.account.total;
    let since = |source| zone(&last, source).account.total.joules() - zone(&begun, source).account.total.joules();
    let (wall, of_model) = (since(SourceKind::Outlet), since(SourceKind::Model));
    assert!((of_model - wall).abs() < 25.0, "{of_model} J of {wall} J");
    assert_eq!(shared_out(&last, SourceKind::Model), modelled.uj());
    // 600 s of work at 5 W above the floor
    let at = last.zones.iter().position(|z| z.zone.source == SourceKind::Model).unwrap();
    let radio: f64 = last.tasks.iter().filter(|r| r.row.labels.comm == "radio").map(|r| r.energy[at].joules()).sum();
    assert!((2400.0..3600.0).contains(&radio), "{radio} J");
    assert_eq!(last.rest, None, "a model that follows the wall leaves no rest");

    // nothing is heard any more: a model again, from where it was
    let before = modelled;
    for _ in 0..60 {
        last = m.second(0, 0, 4);
    }
    assert_eq!(quality(&last), Quality::Modelled);
    assert_eq!(zone(&last, SourceKind::Outlet).quality(), Quality::Stale);
    let model = zone(&last, SourceKind::Model);
    assert!(model.account.total > before && model.account.gaps.iter().sum::<u64>() == 0);
}

#[test]
fn a_server_shows_what_its_zones_leave() {
    let mut m = Machine::new(true);
    let mut last = m.second(50, 60, 100);
    let text = page(&m, &last);
    // never told: it is there, and that is all
    let of_wall = |text: &str| -> Vec<String> {
        text.lines().filter(|l| l.contains("zone=\"wall\"") || l.contains("_rest_")).map(str::to_owned).collect()
    };
    let told: Vec<String> = of_wall(&text).into_iter().filter(|l| !l.starts_with('#')).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("state=\"absent\"") && told[0].contains("path=\"the fleet\""), "{told:?}");

    for second in 1..=65 {
        last = m.second(50, 60, 100);
        if second % 10 == 0 {
            m.tell(100);
        }
    }
    let rest = last.rest.unwrap();
    assert_eq!((rest.power, rest.energy.uj(), rest.quality), (Power::from_watts(40.0), 50 * 40 * W, Quality::Measured));
    let outlet = zone(&last, SourceKind::Outlet);
    assert_eq!((outlet.account.total.uj(), outlet.account.residual.uj()), (5000 * W, 5000 * W));
    assert!(outlet.floor.is_none(), "nobody knows who ran between its readings");
    assert_eq!(last.node_energy, zone(&last, SourceKind::Powercap).account.total, "counted once");
    let text = page(&m, &last);
    for series in [
        "ebbtide_node_rest_watts{quality=\"measured\"} 40\n",
        "ebbtide_node_rest_joules_total 2000\n",
        "ebbtide_node_energy_joules_total{zone=\"wall\",kind=\"wall\",source=\"outlet\"} 5000\n",
        "ebbtide_zone_error_ratio{zone=\"wall\"} 0.01\n",
    ] {
        assert!(text.contains(series), "{series}{:#?}", of_wall(&text));
    }

    // the fleet starts over: a gap, and no energy
    m.wall = 0;
    for _ in 0..10 {
        m.second(50, 60, 100);
    }
    m.tell(100);
    last = m.second(50, 60, 100);
    let outlet = zone(&last, SourceKind::Outlet);
    assert_eq!((outlet.account.total.uj(), outlet.account.gaps.iter().sum::<u64>()), (5000 * W, 1));
}
