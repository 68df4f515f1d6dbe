//! A real SNMP agent on loopback, whose objects a test provides.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::time::Duration;

use async_snmp::agent::Agent;
use async_snmp::handler::{
    BoxFuture, GetNextResult, GetResult, HandlerResult, MibHandler, PreparedSet, RequestContext, SetCommitError,
    SetCommitResult, SetTestError, SetTestResult, SetUndoResult,
};
use async_snmp::{AuthProtocol, AuthoritativeEngine, Oid, PrivProtocol, Value, VarBind};
use ebbtide_runtime::tasks::Tasks;

/// What a device has.
pub(crate) type Objects = BTreeMap<Oid, Value>;

/// A device: all its objects as they are now, and what setting one does.
pub(crate) trait Device: Send + Sync + 'static {
    fn objects(&self) -> Arc<Objects>;

    /// Whether the object may be set to that, and was.
    fn set(&self, _oid: &Oid, _value: i32) -> bool {
        false
    }
}

/// Objects that never change.
impl Device for Arc<Objects> {
    fn objects(&self) -> Arc<Objects> {
        self.clone()
    }
}

struct Handler(Arc<dyn Device>);

struct Setting {
    device: Arc<dyn Device>,
    value: i32,
}

/// The user of SNMPv3 that every device has, with the passwords for signing and hiding.
pub(crate) const USER: (&str, &str, &str) = ("ebbtide", "sign-1234567", "hide-1234567");

/// Starts a device that listens to this community, and to [`USER`] with SHA-256 and AES-128, and returns its address.
pub(crate) async fn start(tasks: &mut Tasks, community: &str, device: Arc<dyn Device>) -> String {
    // Five octets at least, the first bit set (RFC 3411, SnmpEngineID).
    let identity = AuthoritativeEngine::install(b"\x80\x00\x00\x00\x04rack".to_vec(), |_| Ok::<(), Infallible>(()));
    let agent = Agent::builder()
        .bind("127.0.0.1:0")
        .community(community.as_bytes().to_vec())
        .usm_user(USER.0.as_bytes().to_vec(), |user| {
            user.auth_priv(AuthProtocol::Sha256, USER.1, PrivProtocol::Aes128, USER.2)
        })
        .unwrap_or_else(|e| panic!("no user: {e}"))
        .authoritative_engine(identity.unwrap_or_else(|e| panic!("no engine: {e}")))
        .without_builtin_handlers()
        .handler(Oid::from_slice(&[1, 3]), Arc::new(Handler(device)))
        .allow_all_access()
        .build();
    let agent = agent.await.unwrap_or_else(|e| panic!("no agent: {e}"));
    let address = agent.local_addr().to_string();
    let shutdown = tasks.shutdown();
    tasks.spawn("agent", async move {
        tokio::select! {
            ran = agent.run() => ran?,
            () = shutdown.requested() => agent.cancel(),
        }
        Ok(())
    });
    address
}

/// Ends all devices.
pub(crate) async fn stop(tasks: Tasks) {
    tasks.finish(Duration::from_secs(10)).await;
}

impl MibHandler for Handler {
    fn get<'a>(&'a self, _: &'a RequestContext, oid: &'a Oid) -> BoxFuture<'a, HandlerResult<GetResult>> {
        Box::pin(
            async move { Ok(self.0.objects().get(oid).cloned().map_or(GetResult::NoSuchInstance, GetResult::Value)) },
        )
    }

    fn get_next<'a>(&'a self, _: &'a RequestContext, oid: &'a Oid) -> BoxFuture<'a, HandlerResult<GetNextResult>> {
        Box::pin(async move {
            let objects = self.0.objects();
            let next = objects.range((Excluded(oid), Unbounded)).next();
            let found = |(oid, value): (&Oid, &Value)| GetNextResult::Value(VarBind::new(oid.clone(), value.clone()));
            Ok(next.map_or(GetNextResult::EndOfMibView, found))
        })
    }

    fn test_set<'a>(&'a self, _: &'a RequestContext, _: &'a Oid, value: &'a Value) -> BoxFuture<'a, SetTestResult> {
        Box::pin(async move {
            let Value::Integer(value) = value else { return Err(SetTestError::WrongType) };
            Ok(Box::new(Setting { device: self.0.clone(), value: *value }) as Box<dyn PreparedSet>)
        })
    }
}

impl PreparedSet for Setting {
    fn commit<'a>(&'a mut self, _: &'a RequestContext, oid: &'a Oid, _: &'a Value) -> BoxFuture<'a, SetCommitResult> {
        Box::pin(async move { if self.device.set(oid, self.value) { Ok(()) } else { Err(SetCommitError::Failed) } })
    }

    fn undo<'a>(&'a mut self, _: &'a RequestContext, _: &'a Oid, _: &'a Value) -> BoxFuture<'a, SetUndoResult> {
        Box::pin(async { Ok(()) })
    }
}
