//! gRPC: telemetry for agents, questions for operators, enrolment of nodes, power hardware, plans, and acting on
//! them. Who may call what is decided here.

mod control;
mod devices;
mod enrolment;
mod fleet;
mod planner;
mod telemetry;

pub use control::ControlService;
pub use devices::DevicesService;
pub use enrolment::EnrolmentService;
pub use fleet::FleetService;
pub use planner::PlannerService;
pub use telemetry::{Ingest, TelemetryService};

use ebbtide_proto::identity::{Identity, Role};
use tonic::{Request, Status};

use crate::ingest::Peer;
use crate::query::QueryError;

/// Who calls, and with which role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// For the audit trail.
    pub name: String,
    /// What they may do.
    pub role: Role,
}

/// What those may do who can't be asked for a certificate.
#[derive(Clone, Copy, Debug)]
pub struct Trust {
    /// Over an unencrypted connection.
    pub plain: Option<Role>,
    /// Over an encrypted one without a certificate.
    pub anonymous: Option<Role>,
}

impl Trust {
    /// The role of whoever is at the other end.
    pub fn caller(&self, peer: &Peer) -> Result<Caller, String> {
        let (name, role) = match &peer.identity {
            Some(Identity::Operator { role, name }) => (name.to_string(), Some(*role)),
            Some(Identity::Fleet) => ("fleet".to_owned(), Some(Role::Viewer)),
            Some(Identity::Node(node)) => {
                return Err(format!("the certificate is that of node {node}: it may stream, nothing else"));
            }
            None if peer.encrypted => ("anonymous".to_owned(), self.anonymous),
            None => ("local".to_owned(), self.plain),
        };
        let role =
            role.ok_or("no certificate was shown; get one with ebbtide pki issue-operator NAME --role viewer")?;
        Ok(Caller { name, role })
    }

    /// Lets the call through if its caller has at least `role`.
    fn allow<T>(&self, request: &Request<T>, role: Role) -> Result<Caller, Status> {
        let caller = self.caller(&peer(request)).map_err(Status::unauthenticated)?;
        match caller.role.is_too_little(&caller.name, role) {
            Some(why) => Err(Status::permission_denied(why)),
            None => Ok(caller),
        }
    }
}

/// Who is at the other end of the connection that a call came over.
fn peer<T>(request: &Request<T>) -> Peer {
    request.extensions().get::<Peer>().cloned().unwrap_or(Peer { encrypted: true, ..Peer::default() })
}

fn status(error: QueryError) -> Status {
    let text = error.to_string();
    match error {
        QueryError::NotFound { .. } | QueryError::Missing(_) => Status::not_found(text),
        QueryError::NotYet(_) => Status::failed_precondition(text),
        QueryError::Invalid(_) => Status::invalid_argument(text),
        QueryError::TooMuch(_) => Status::resource_exhausted(text),
        QueryError::Store(_) => Status::unavailable(text),
    }
}
