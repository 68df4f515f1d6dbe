//! What goes on beside the screen: signals that ask for the end, and the names of pods.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, Thread};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::sampler::Sampler;
use crate::tasks::Tasks;
use crate::workload::{Kubelet, KubeletNames};

/// The thread that all this runs on. Dropping it ends it.
pub(super) struct Background {
    stop: Arc<AtomicBool>,
    names: Option<Arc<KubeletNames>>,
    cancel: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// From here on SIGTERM, SIGINT and SIGHUP no longer end the process: they end the wait of this thread.
    pub(super) fn start(kubelet: Option<Kubelet>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        let [mut term, mut int, mut hup] = {
            let [a, b, c] = kinds.map(signal);
            [a?, b?, c?]
        };
        drop(inside);
        let stop = Arc::new(AtomicBool::new(false));
        let names = kubelet.is_some().then(|| Arc::new(KubeletNames::default()));
        let (cancel, cancelled) = oneshot::channel();
        let (flag, sampling, known): (_, Thread, _) = (Arc::clone(&stop), std::thread::current(), names.clone());
        let work = async move {
            let mut tasks = Tasks::new();
            if let (Some(kubelet), Some(names)) = (kubelet, known) {
                let stop = tasks.shutdown().receiver();
                tasks.spawn("kubelet", async move {
                    names.refresh_loop(kubelet, stop).await;
                    Ok(())
                });
            }
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
                _ = hup.recv() => {}
                _ = cancelled => {}
            }
            flag.store(true, Ordering::Relaxed);
            sampling.unpark();
            // a request on its way to the kubelet may be cut off
            drop(tasks.finish(std::time::Duration::from_millis(100)).await);
        };
        let thread = std::thread::Builder::new().name("signals".into()).spawn(move || runtime.block_on(work));
        let thread = thread.context("can't start a thread")?;
        Ok(Self { stop, names, cancel: Some(cancel), thread: Some(thread) })
    }

    /// Whether it is time to leave.
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Tells `sampler` the names that are known, and asks for those that are not.
    pub(super) fn name_pods(&self, sampler: &mut Sampler) {
        if let Some(kubelet) = &self.names {
            sampler.name_pods(kubelet.names());
            for uid in sampler.unnamed_pods() {
                // asking for an unknown one makes the kubelet be asked
                drop(kubelet.pod(uid));
            }
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // dropping the sender is the message
        self.cancel = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread for signals panicked");
        }
    }
}
