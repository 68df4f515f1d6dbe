//! The connection to a fleet daemon: TCP, TLS where the address says so, gRPC on top.

use std::future::Future;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use ebbtide_proto::v1;
use ebbtide_proto::v1::control_client::ControlClient;
use ebbtide_proto::v1::devices_client::DevicesClient;
use ebbtide_proto::v1::enrolment_client::EnrolmentClient;
use ebbtide_proto::v1::fleet_client::FleetClient;
use ebbtide_proto::v1::planner_client::PlannerClient;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};

use super::context::{Address, Target};
use super::failure::{self, Exit, Failure};
use super::progress::patiently;
use super::wire::{Broken, Notes, Stream};
use crate::pki::tls::{self, Alpn, Credentials};
use crate::pki::{Certificate, files};

/// The largest answer that is taken: ten thousand nodes with all their zones are about 20 MB.
const MAX_ANSWER: usize = 64 << 20;

/// A connection to a fleet daemon.
pub(super) struct Fleet {
    client: FleetClient<Channel>,
    control: ControlClient<Channel>,
    devices: DevicesClient<Channel>,
    planner: PlannerClient<Channel>,
    enrolment: EnrolmentClient<Channel>,
    /// Whom this is.
    pub target: Target,
    /// What the fleet showed, and how it speaks, if over TLS.
    pub secured: Option<Secured>,
    pub(super) timeout: Duration,
    notes: Notes,
}

/// What is known of a TLS connection.
#[derive(Clone, Debug)]
pub(super) struct Secured {
    /// The fleet's certificate.
    pub certificate: Certificate,
    /// `TLS 1.3`.
    pub version: &'static str,
}

impl Fleet {
    /// Connects; nothing takes longer than `timeout`.
    pub(super) async fn open(target: Target, timeout: Duration) -> Result<Self, Failure> {
        let late = || {
            Failure::new(format!("{} doesn't answer", target.address))
                .next("is the address right, and does a firewall let it through? --timeout 2m waits longer")
        };
        let connected = tokio::time::timeout(timeout, connect(&target)).await.map_err(|_| late())?;
        let (wire, secured) = connected?;
        let notes = Notes::default();
        let channel = tokio::time::timeout(timeout, speak(&target.address, notes.clone(), wire)).await;
        let channel = channel.map_err(|_| late())??;
        let client = FleetClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let devices = DevicesClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let control = ControlClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let planner = PlannerClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let enrolment = EnrolmentClient::new(channel).max_decoding_message_size(MAX_ANSWER);
        Ok(Self { client, control, devices, planner, enrolment, target, secured, timeout, notes })
    }

    /// The service of questions.
    pub(super) fn client(&self) -> FleetClient<Channel> {
        self.client.clone()
    }

    /// The service of power hardware.
    pub(super) fn devices(&self) -> DevicesClient<Channel> {
        self.devices.clone()
    }

    /// The service of orders.
    pub(super) fn control(&self) -> ControlClient<Channel> {
        self.control.clone()
    }

    /// The service of plans.
    pub(super) fn planner(&self) -> PlannerClient<Channel> {
        self.planner.clone()
    }

    /// The service of join tokens.
    pub(super) fn enrolment(&self) -> EnrolmentClient<Channel> {
        self.enrolment.clone()
    }

    /// Waits for an answer; `what` says for what.
    pub(super) async fn ask<T>(
        &self,
        what: &str,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        self.answer(what, answer).await.map_err(|status| self.refused(&status))
    }

    /// As [`Fleet::ask`], for who wants to look at what was refused.
    pub(super) async fn answer<T>(
        &self,
        what: &str,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Status> {
        let waiting = tokio::time::timeout(self.timeout, answer);
        match patiently(what, waiting).await {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("no answer")),
        }
    }

    /// What the fleet refused, or what broke the connection to it.
    pub(super) fn refused(&self, status: &Status) -> Failure {
        let address = self.target.address.to_string();
        // what the fleet itself answered has no source here
        let local = std::error::Error::source(status).is_some();
        match self.notes.why().filter(|why| local || *why == Broken::NoFleet) {
            Some(why) => failure::broken(&address, &why).because(status),
            None => failure::refused(&address, status),
        }
    }

    /// Begins to follow the fleet.
    pub(super) async fn watch(&self, request: v1::WatchRequest) -> Result<Streaming<v1::WatchResponse>, Failure> {
        let mut client = self.client();
        self.ask("asking for updates", client.watch(request)).await
    }
}

async fn connect(target: &Target) -> Result<(Box<dyn Stream>, Option<Secured>), Failure> {
    let address = &target.address;
    let tls = if address.secure { Some(connector(target)?) } else { None };
    let tcp = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(|e| unreachable(address, &e))?;
    // questions are small and should not wait for company
    tcp.set_nodelay(true).map_err(|e| unreachable(address, &e))?;
    let Some(tls) = tls else { return Ok((Box::new(tcp), None)) };
    let name = ServerName::try_from(address.host.clone())
        .map_err(|_| Failure::usage(format!("{:?} is no name of a server", address.host)))?;
    let stream = tls.connect(name, tcp).await.map_err(|e| distrusted(target, &e))?;
    let session = stream.get_ref().1;
    let shown = session.peer_certificates().and_then(|chain| chain.first());
    let certificate = shown.map(|der| Certificate::read(der)).transpose()?;
    let certificate = certificate.ok_or_else(|| Failure::new(format!("{address} showed no certificate")))?;
    let version = match session.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
        _ => "TLS 1.2",
    };
    Ok((Box::new(stream), Some(Secured { certificate, version })))
}

fn connector(target: &Target) -> Result<TlsConnector, Failure> {
    let Some(ca) = &target.ca else {
        return Err(Failure::usage(format!("nothing says which authority {} is to be believed by", target.address))
            .next("give its ca.pem with --ca FILE, or keep it: ebbtide context set NAME --fleet URL --ca FILE"));
    };
    let authorities = tls::certificates(&ca.display().to_string(), &files::read(ca)?)?;
    let own = target.own.as_ref().map(|(cert, key)| Credentials::read(cert, key)).transpose()?;
    let config = tls::client_config(&authorities, own, Alpn::Http2)?;
    Ok(TlsConnector::from(std::sync::Arc::new(config)))
}

/// gRPC over a connection that is there; it isn't made anew when it breaks.
async fn speak(address: &Address, notes: Notes, wire: Box<dyn Stream>) -> Result<Channel, Failure> {
    let broken = |e: &(dyn std::error::Error + 'static)| {
        Failure::new(format!("can't speak gRPC with {address}"))
            .next("see what is wrong with `ebbtide doctor`")
            .because(e)
    };
    // the scheme here is only what requests say of themselves
    let url = format!("{}://{}", if address.secure { "https" } else { "http" }, address.authority());
    let endpoint = Endpoint::from_shared(url)
        .and_then(|e| e.user_agent(concat!("ebbtide/", env!("CARGO_PKG_VERSION"))))
        .map_err(|e| broken(&e))?
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    let once = Mutex::new(Some(notes.over(wire)));
    let connector = tower::service_fn(move |_| {
        let wire = once.lock().map_or(None, |mut place| place.take());
        let closed = || io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was closed");
        std::future::ready(wire.map(TokioIo::new).ok_or_else(closed))
    });
    endpoint.connect_with_connector(connector).await.map_err(|e| broken(&e))
}

fn unreachable(address: &Address, error: &io::Error) -> Failure {
    let next = if address.is_loopback() {
        "start one with `ebbtide-fleet serve`, or name another: --fleet https://HOST:9884 (ebbtide context --help)"
    } else {
        "is the address right, does the daemon run, does a firewall let it through?"
    };
    Failure::new(format!("can't reach a fleet at {address}: {}", plain(error))).next(next).because(error)
}

/// An error of the system without its number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

/// Why there is no TLS.
fn distrusted(target: &Target, error: &io::Error) -> Failure {
    use rustls::{AlertDescription, CertificateError, Error};
    let address = &target.address;
    let tls = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    let ca = target.ca.as_ref().map_or_else(String::new, |ca| ca.display().to_string());
    let failure = match tls {
        Some(Error::InvalidCertificate(why)) => match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                Failure::new(format!("{address} showed a certificate that is not from the authority in {ca}"))
                    .next("is it the right fleet? If its authority is new, get its ca.pem and give it with --ca")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Failure::new(format!(
                "{address} showed a certificate that has ended"
            ))
            .next("make it a new one: ebbtide pki issue-fleet --name HOST --force (is this machine's clock right?)"),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Failure::new(format!("{address} showed a certificate that is not good yet"))
                    .next("is this machine's clock right?")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Failure::new(format!("{address} showed a certificate that is not for {:?}", address.host))
                    .next("use a name that is in it, or make another: ebbtide pki issue-fleet --name HOST --force")
            }
            why => Failure::new(format!("{address} showed a certificate that can't be believed: {why:?}")),
        },
        Some(Error::AlertReceived(alert)) => {
            let failure = Failure::new(format!("{address} refused the connection ({alert:?})"));
            match alert {
                AlertDescription::NoApplicationProtocol => {
                    failure.next("is it the gRPC address (port 9884), not the dashboard's?")
                }
                AlertDescription::CertificateRequired | AlertDescription::UnknownCA => {
                    failure.next("show a certificate of its authority: --cert FILE --key FILE").exit(Exit::NotPermitted)
                }
                _ => failure,
            }
        }
        Some(Error::InvalidMessage(_)) => Failure::new(format!("{address} doesn't speak TLS"))
            .next("if it speaks plain text and is on this machine, use http://"),
        _ => Failure::new(format!("{address} broke off while TLS was agreed on: {}", plain(error)))
            .next("if it speaks plain text and is on this machine, use http://"),
    };
    failure.because(error)
}
