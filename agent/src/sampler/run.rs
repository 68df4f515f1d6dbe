//! The sampler's thread: one sample per interval at absolute deadlines.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Sampler;
use crate::clock;
use crate::snapshot::Published;
use crate::workload::KubeletNames;

/// Samples between two savings of what was learned.
const SAVE_EVERY_SECONDS: u64 = 300;

/// A running sampler. Dropping it stops the thread and waits for it.
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts the thread. `pods` knows the names of pods.
    pub fn start(
        mut sampler: Sampler,
        every: Duration,
        to: Published,
        pods: Option<Arc<KubeletNames>>,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let every_ns = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX).max(1_000_000);
        let run = move || {
            let mut deadline = clock::now().mono;
            let mut saved = deadline;
            let mut failing = false;
            while !flag.load(Ordering::Relaxed) {
                if let Some(kubelet) = &pods {
                    sampler.name_pods(kubelet.names());
                    // asking for an unknown one makes the kubelet be asked
                    for uid in sampler.unnamed_pods() {
                        kubelet.pod(uid);
                    }
                }
                let now = clock::now();
                if now.mono.saturating_sub(deadline) > every_ns / 2 {
                    sampler.note_late();
                }
                match sampler.step(now) {
                    Ok(snapshot) => {
                        failing = false;
                        to.store(snapshot);
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut failing, true) {
                            tracing::error!(%error, "can't read the machine's usage; trying again at each interval");
                        }
                    }
                }
                if now.mono.saturating_sub(saved) > SAVE_EVERY_SECONDS * 1_000_000_000 {
                    saved = now.mono;
                    sampler.save();
                }
                // a sample that took too long costs the samples it ran into, not the rhythm
                let after = clock::now().mono;
                deadline += every_ns;
                if after > deadline {
                    deadline += (after - deadline) / every_ns * every_ns;
                }
                sleep_until(deadline, &flag);
            }
        };
        let thread = std::thread::Builder::new().name("sampler".into()).spawn(run)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the sampler's thread panicked");
            }
        }
    }
}

/// Sleeps until `deadline` on the monotonic clock, or until unparked to stop.
fn sleep_until(deadline: u64, stop: &AtomicBool) {
    loop {
        let now = clock::now().mono;
        if now >= deadline || stop.load(Ordering::Relaxed) {
            return;
        }
        std::thread::park_timeout(Duration::from_nanos(deadline - now));
    }
}
