//! HTTPS on the loopback interface, with connections that can be cut.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use axum::body::{Body, to_bytes};
use axum::http::Response;
use ebbtide_runtime::tasks::{Shutdown, Tasks};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::answer::{self, Request};
use crate::cluster::{Shared, Trouble};
use crate::failure::Failure;

/// The longest body that is read.
const BODY: usize = 4 << 20;

/// The server's certificate and the authority that signed it.
#[derive(Debug)]
pub struct Certificates {
    /// The authority's certificate, as PEM.
    pub authority: String,
    server: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Certificates {
    /// Makes an authority and a certificate for the loopback address.
    ///
    /// # Errors
    /// If the library can't.
    pub fn new() -> anyhow::Result<Self> {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, "kubernetes");
        let issuer = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        let server = params.signed_by(&key, &issuer)?;
        Ok(Self { authority: issuer.pem(), server: server.der().clone(), key: key.serialize_der() })
    }

    /// What takes encrypted connections.
    ///
    /// # Errors
    /// If the certificate can't be used.
    pub fn acceptor(&self) -> anyhow::Result<TlsAcceptor> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![self.server.clone()], key)
            .context("the twin's certificate can't be used")?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// Takes connections until the stop.
///
/// # Errors
/// If the listener breaks.
pub async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut connections = Tasks::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.requested() => return Ok(()),
            Some(_) = connections.next_ended() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, _) = accepted.context("can't accept connections")?;
        if shared.unreachable.load(Ordering::Relaxed) {
            continue;
        }
        connections.spawn("api connection", connection(stream, acceptor.clone(), Arc::clone(&shared)));
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) -> anyhow::Result<()> {
    let mut breaks = shared.breaks.subscribe();
    let service = service_fn(|request| serve_one(Arc::clone(&shared), request));
    let serve = async {
        // clients come and go as they like
        let Ok(stream) = acceptor.accept(stream).await else { return };
        drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
    };
    tokio::select! {
        () = serve => {}
        _ = breaks.changed() => {}
    }
    Ok(())
}

async fn serve_one(shared: Arc<Shared>, request: hyper::Request<Incoming>) -> Result<Response<Body>, Lost> {
    let (parts, body) = request.into_parts();
    let fault = shared.fault(parts.method.as_str(), parts.uri.path());
    if let Some(Trouble::Refused(code)) = fault {
        return Ok(answer::refusal(&Failure::asked_for(code)));
    }
    let body = to_bytes(Body::new(body), BODY).await.map_err(|_| Lost)?;
    let request = Request {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or("").to_owned(),
        headers: parts.headers,
        body,
    };
    let response = answer::answer(&shared, &request);
    if fault == Some(Trouble::AnswerLost) { Err(Lost) } else { Ok(response) }
}

/// The connection broke before the answer.
#[derive(Debug)]
struct Lost;

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the answer is lost, as a test asked for")
    }
}

impl std::error::Error for Lost {}
