//! `ebbtide.v1.Enrolment`: join tokens, and certificates for them.

use std::sync::Arc;
use std::time::Duration;

use ebbtide_proto::identity::{Identity, Role};
use ebbtide_proto::v1::enrolment_server::Enrolment;
use ebbtide_proto::{NodeId, v1};
use ebbtide_runtime::clock;
use ebbtide_runtime::tasks;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::Trust;
use crate::catalogue::{Catalogue, CatalogueError};
use crate::pki::Authority;

/// A node's certificate is good for so many days.
const NODE_DAYS: u32 = 365;
/// A wrong token costs whoever shows it this long, one at a time for all.
const PENALTY: Duration = Duration::from_millis(500);

/// The service.
#[derive(Clone)]
pub struct EnrolmentService {
    catalogue: Catalogue,
    authority: Option<Arc<Authority>>,
    trust: Trust,
    guessing: Arc<Semaphore>,
}

impl EnrolmentService {
    /// Enrols nodes with certificates of `authority`, or says that it can't.
    pub fn new(catalogue: Catalogue, authority: Option<Arc<Authority>>, trust: Trust) -> Self {
        Self { catalogue, authority, trust, guessing: Arc::new(Semaphore::new(1)) }
    }

    fn authority(&self) -> Result<&Arc<Authority>, Status> {
        self.authority.as_ref().ok_or_else(|| {
            Status::failed_precondition(
                "this fleet daemon doesn't hold the key of its authority: set tls.authority, or issue certificates with ebbtide pki issue-node",
            )
        })
    }
}

fn now_ms() -> u64 {
    clock::now().wall / 1_000_000
}

fn status(error: CatalogueError) -> Status {
    let text = error.to_string();
    match error {
        CatalogueError::Token(_) => Status::permission_denied(text),
        CatalogueError::Invalid(_) => Status::invalid_argument(text),
        CatalogueError::Sqlite(_) | CatalogueError::Random => Status::unavailable(text),
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Enrolment for EnrolmentService {
    async fn join(&self, request: Request<v1::JoinRequest>) -> Answer<v1::JoinResponse> {
        let authority = Arc::clone(self.authority()?);
        let request = request.into_inner();
        if request.token.len() > 512 || request.csr_der.len() > 16 << 10 {
            return Err(Status::invalid_argument("the request is too large"));
        }
        let node = NodeId::new(&request.node).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let catalogue = self.catalogue.clone();
        let joined = tasks::blocking("join", move || {
            let now_ms = now_ms();
            let identity = Identity::Node(node.clone());
            catalogue.use_token(&request.token, &node, now_ms, || {
                authority.sign_request(&request.csr_der, &identity, NODE_DAYS, now_ms).map_err(|e| e.to_string())
            })
        });
        let joined =
            joined.await.ok_or_else(|| Status::internal("the certificate could not be made; the log says why"))?;
        match joined {
            Ok(signed) => Ok(Response::new(v1::JoinResponse {
                certificate_pem: signed.chain_pem,
                authority_pem: self.authority()?.certificate_pem().to_owned(),
                expires_ms: signed.expires_ms,
            })),
            Err(error) => {
                if matches!(error, CatalogueError::Token(_)) {
                    let _turn = self.guessing.acquire().await;
                    tokio::time::sleep(PENALTY).await;
                }
                Err(status(error))
            }
        }
    }

    async fn create_token(&self, request: Request<v1::CreateTokenRequest>) -> Answer<v1::CreateTokenResponse> {
        let caller = self.trust.allow(&request, Role::Admin)?;
        let fingerprint = self.authority()?.fingerprint();
        let request = request.into_inner();
        let made =
            self.catalogue.create_token(&request.node, request.ttl_ms, &caller.name, now_ms()).map_err(status)?;
        Ok(Response::new(v1::CreateTokenResponse {
            token: format!("{}.{fingerprint}", made.token),
            id: made.id,
            expires_ms: made.expires_ms,
        }))
    }

    async fn list_tokens(&self, request: Request<v1::ListTokensRequest>) -> Answer<v1::ListTokensResponse> {
        self.trust.allow(&request, Role::Admin)?;
        Ok(Response::new(v1::ListTokensResponse { tokens: self.catalogue.tokens(now_ms()).map_err(status)? }))
    }

    async fn revoke_token(&self, request: Request<v1::RevokeTokenRequest>) -> Answer<v1::RevokeTokenResponse> {
        let caller = self.trust.allow(&request, Role::Admin)?;
        let id = request.into_inner().id;
        if !self.catalogue.revoke(&id, &caller.name, now_ms()).map_err(status)? {
            return Err(Status::not_found(format!("there is no unused join token {id:?}")));
        }
        Ok(Response::new(v1::RevokeTokenResponse {}))
    }
}
