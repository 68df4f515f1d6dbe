//! `ebbtide.v1.Devices`: power hardware, read and switched.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ebbtide_devices::{Feed, Latest, Limits, OutletId, Switch, Verdict};
use ebbtide_proto::identity::Role;
use ebbtide_proto::v1::devices_server::Devices;
use ebbtide_proto::{NodeId, v1};
use ebbtide_runtime::clock;
use ebbtide_runtime::tasks::Shutdown;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::Trust;
use crate::catalogue::Catalogue;
use crate::live::Live;
use crate::power::history::History;
use crate::power::{Rack, kind_of, scan, suggest, wake};

/// Commands to devices, and tests, at a time.
const AT_A_TIME: usize = 8;
/// The longest that a command may be waited for.
const LONGEST: Duration = Duration::from_secs(3600);

/// The service.
#[derive(Clone)]
pub struct DevicesService {
    rack: Arc<Rack>,
    live: Arc<Live>,
    history: Arc<Mutex<History>>,
    catalogue: Catalogue,
    trust: Trust,
    acting: Arc<Semaphore>,
    tests: mpsc::Sender<wake::Order>,
    stop: Shutdown,
}

impl DevicesService {
    /// Reads and switches the devices of `rack`; `tests` takes orders for tests of waking.
    pub fn new(
        rack: Arc<Rack>,
        live: Arc<Live>,
        history: Arc<Mutex<History>>,
        catalogue: Catalogue,
        trust: Trust,
        tests: mpsc::Sender<wake::Order>,
        stop: Shutdown,
    ) -> Self {
        Self { rack, live, history, catalogue, trust, acting: Arc::new(Semaphore::new(AT_A_TIME)), tests, stop }
    }

    fn audit(&self, who: &str, what: &str) -> Result<(), Status> {
        let noted = self.catalogue.audit(clock::now().wall / 1_000_000, who, what);
        noted.map_err(|error| Status::unavailable(format!("nothing was done, for it can't be noted: {error}")))
    }
}

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Devices for DevicesService {
    async fn list_devices(&self, request: Request<v1::ListDevicesRequest>) -> Answer<v1::ListDevicesResponse> {
        self.trust.allow(&request, Role::Viewer)?;
        let wanted = request.into_inner().name;
        let devices = if wanted.is_empty() {
            self.rack.devices().map(|device| shown(&self.rack, device)).collect()
        } else {
            vec![shown(&self.rack, self.rack.device(&wanted).map_err(not_found)?)]
        };
        Ok(Response::new(v1::ListDevicesResponse { devices, now_ms: clock::now().wall / 1_000_000 }))
    }

    type WatchDeviceStream = Streamed<v1::Device>;

    async fn watch_device(&self, request: Request<v1::WatchDeviceRequest>) -> Answer<Self::WatchDeviceStream> {
        self.trust.allow(&request, Role::Viewer)?;
        let device = self.rack.device(&request.into_inner().name).map_err(not_found)?.clone();
        let (rack, stop) = (Arc::clone(&self.rack), self.stop.clone());
        let news = tokio_stream::wrappers::WatchStream::new(device.watch());
        let shown = news.map_while(move |_| (!stop.is_requested()).then(|| Ok(shown(&rack, &device))));
        Ok(Response::new(Box::pin(shown)))
    }

    async fn switch_outlet(&self, request: Request<v1::SwitchOutletRequest>) -> Answer<v1::SwitchOutletResponse> {
        let caller = self.trust.allow(&request, Role::Operator)?;
        let request = request.into_inner();
        let to = match request.to() {
            v1::Switch::On => Switch::On,
            v1::Switch::Off => Switch::Off,
            v1::Switch::SoftOff => Switch::SoftOff,
            v1::Switch::Cycle => Switch::Cycle,
            v1::Switch::Unspecified => return Err(Status::invalid_argument("it doesn't say what to switch it to")),
        };
        let device = self.rack.device(&request.device).map_err(not_found)?;
        let outlet = OutletId::new(&request.outlet);
        if let Some(report) = &device.latest().report
            && !report.outlets.is_empty()
            && !report.outlets.iter().any(|known| known.id == outlet)
        {
            let known: Vec<&str> = report.outlets.iter().take(50).map(|known| known.id.as_str()).collect();
            let text = format!("{} has no outlet {outlet}; it has {}", request.device, known.join(", "));
            return Err(Status::not_found(text));
        }
        let node = self.rack.node_of(&request.device, &outlet).and_then(|node| NodeId::new(node).ok());
        let streams = node.as_ref().and_then(|node| self.live.heard(node)).is_some_and(|(connected, _)| connected);
        if let (Some(node), true, Switch::Off | Switch::Cycle, false) = (&node, streams, to, request.force) {
            let text = format!(
                "{}/{outlet} feeds {node}, whose agent streams: shut it down first, or force it",
                request.device
            );
            return Err(Status::failed_precondition(text));
        }
        let _turn = self.acting.try_acquire().map_err(|_| busy())?;
        self.audit(&caller.name, &format!("switches {}/{outlet} {}", request.device, to.as_str()))?;
        let limits = Limits { deadline: within(request.deadline_ms, Duration::from_secs(60)), ..Limits::default() };
        // an agent that never spoke proves nothing
        let watched = node.filter(|_| streams || to == Switch::On);
        let agent = || wake::agent_of(&self.live, watched.as_ref()?);
        let outcome = device.switch(&outlet, to, limits, agent).await;
        let answer = v1::SwitchOutletResponse {
            verdict: verdict(&outcome.verdict).to_owned(),
            text: wake::spoken(&outcome.verdict),
            success: outcome.is_success(),
            by_state: outcome.signals.state,
            by_watts: outcome.signals.outlet_watts,
            by_agent: outcome.signals.agent,
            commands: outcome.commands,
            took_ms: u32::try_from(outcome.took.as_millis()).unwrap_or(u32::MAX),
        };
        self.audit(&caller.name, &format!("switched {}/{outlet} {}: {}", request.device, to.as_str(), answer.verdict))?;
        Ok(Response::new(answer))
    }

    async fn scan_host(&self, request: Request<v1::ScanHostRequest>) -> Answer<v1::ScanHostResponse> {
        let caller = self.trust.allow(&request, Role::Operator)?;
        let request = request.into_inner();
        let host = request.host.trim();
        let usable = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        if host.is_empty() || host.len() > 253 || !host.chars().all(usable) {
            return Err(Status::invalid_argument(format!("{host:?} is neither a name nor an address")));
        }
        let _turn = self.acting.try_acquire().map_err(|_| busy())?;
        self.audit(&caller.name, &format!("scans {host}"))?;
        let found = scan::scan(host).await;
        Ok(Response::new(v1::ScanHostResponse { found }))
    }

    async fn suggest_feeds(&self, request: Request<v1::SuggestFeedsRequest>) -> Answer<v1::SuggestFeedsResponse> {
        self.trust.allow(&request, Role::Viewer)?;
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let suggestions = suggest::suggest(&history).into_iter().map(|it| v1::Suggestion {
            configured: self.rack.node_of(&it.place.device, &it.place.outlet).unwrap_or_default().to_owned(),
            why: format!(
                "changes go together with r = {:.2}; {:+.0} W beyond the node's own sensors",
                it.r, it.above_w
            ),
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 1")]
            confidence_milli: (it.confidence * 1000.0) as u32,
            node: it.node,
            device: it.place.device,
            outlet: it.place.outlet.to_string(),
        });
        let suggestions = suggestions.collect();
        Ok(Response::new(v1::SuggestFeedsResponse { suggestions, seen_ms: history.seen_ms() }))
    }

    type TestWakeStream = Streamed<v1::WakeStep>;

    async fn test_wake(&self, request: Request<v1::TestWakeRequest>) -> Answer<Self::TestWakeStream> {
        let caller = self.trust.allow(&request, Role::Operator)?;
        let request = request.into_inner();
        let node = NodeId::new(&request.node).map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.audit(&caller.name, &format!("tests whether {node} can be woken"))?;
        let deadline = within(request.deadline_ms, Duration::from_secs(600));
        let (tell, steps) = mpsc::channel(64);
        let order = wake::Order { node, deadline, by: caller.name, tell };
        self.tests.try_send(order).map_err(|_| {
            Status::resource_exhausted("a test of waking runs, and there is one at a time; try again when it is done")
        })?;
        Ok(Response::new(Box::pin(ReceiverStream::new(steps).map(Ok))))
    }

    async fn list_wakes(&self, request: Request<v1::ListWakesRequest>) -> Answer<v1::ListWakesResponse> {
        self.trust.allow(&request, Role::Viewer)?;
        let wakes = self.catalogue.wakes().map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(v1::ListWakesResponse { wakes }))
    }
}

fn within(ms: u32, usual: Duration) -> Duration {
    if ms == 0 { usual } else { Duration::from_millis(ms.into()).clamp(Duration::from_secs(1), LONGEST) }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn not_found(error: anyhow::Error) -> Status {
    Status::not_found(format!("{error:#}"))
}

fn busy() -> Status {
    Status::resource_exhausted("too many commands to devices run; try again when they are done")
}

const fn verdict(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Already => "already",
        Verdict::Confirmed => "confirmed",
        Verdict::Contradicted { .. } => "contradicted",
        Verdict::Unconfirmed { .. } => "unconfirmed",
        Verdict::Failed { .. } => "failed",
    }
}

/// A device with what it told last.
fn shown(rack: &Rack, device: &ebbtide_devices::Device) -> v1::Device {
    let latest = device.latest();
    let identity = latest.identity.as_deref().cloned().unwrap_or_default();
    let mut shown = v1::Device {
        name: device.name().to_owned(),
        kind: kind_of(device.config()).to_owned(),
        vendor: identity.vendor.unwrap_or_default(),
        model: identity.model.unwrap_or_default(),
        serial: identity.serial.unwrap_or_default(),
        firmware: identity.firmware.unwrap_or_default(),
        read_ms: latest.read_at.map_or(0, |at| at.wall / 1_000_000),
        trouble: latest.error.as_deref().unwrap_or_default().to_owned(),
        polls: latest.polls,
        errors: latest.errors,
        ..v1::Device::default()
    };
    let Some(report) = &latest.report else { return shown };
    shown.total = Some(feed(&report.total, latest.total));
    shown.phases = report
        .phases
        .iter()
        .map(|(name, phase)| v1::Phase { name: name.clone(), feed: Some(feed(phase, None)) })
        .collect();
    shown.outlets = report.outlets.iter().map(|outlet| outlet_shown(rack, device.name(), outlet, &latest)).collect();
    shown.missing.clone_from(&report.missing);
    shown
}

fn outlet_shown(rack: &Rack, device: &str, outlet: &ebbtide_devices::Outlet, latest: &Latest) -> v1::Outlet {
    v1::Outlet {
        id: outlet.id.to_string(),
        name: outlet.name.clone().unwrap_or_default(),
        state: v1::PowerState::from(outlet.state).into(),
        switchable: outlet.switchable,
        feed: Some(feed(&outlet.feed, latest.outlets.get(&outlet.id).copied())),
        node: rack.node_of(device, &outlet.id).unwrap_or_default().to_owned(),
    }
}

fn feed(feed: &Feed, metered: Option<ebbtide_devices::energy::Metered>) -> v1::Feed {
    v1::Feed {
        power_uw: feed.power.as_ref().map(|power| power.value.uw()),
        power_error_ppm: feed.power.as_ref().map_or(0, |power| power.error.ppm()),
        power_ms: feed.power.as_ref().map_or(0, |power| power.at.wall / 1_000_000),
        energy_uj: metered.map(|metered| metered.energy.uj()),
        energy_error_ppm: metered.map_or(0, |metered| metered.error.ppm()),
        energy_gaps: metered.map_or(0, |metered| metered.gaps),
        current_ma: feed.current_ma.as_ref().map(|current| current.value),
        voltage_mv: feed.voltage_mv.as_ref().map(|voltage| voltage.value),
        source: feed.power.as_ref().map(|power| power.source.to_string()).unwrap_or_default(),
    }
}
