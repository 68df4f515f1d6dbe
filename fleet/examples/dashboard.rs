//! Serves the dashboard of a made-up fleet whose numbers move: `cargo run -p ebbtide-fleet --example dashboard`.
//! Takes an address to listen on (127.0.0.1:9885); with a second word, `empty`, no node has ever spoken.

use std::sync::Arc;

use ebbtide_fleet::ui::{self, Dashboard};
use ebbtide_runtime::{clock, tasks::Tasks};

#[path = "../tests/made_up/mod.rs"]
mod made_up;

/// The clock of the made-up fleet: its day of energy, going on from when this began.
fn now() -> u64 {
    static BEGAN: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    let wall = clock::now().wall / 1_000_000;
    made_up::THEN + (wall - BEGAN.get_or_init(|| wall))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let address = words.next().unwrap_or_else(|| "127.0.0.1:9885".to_owned());
    let empty = words.next().is_some_and(|word| word == "empty");
    let tasks = Tasks::new();
    let queries = Arc::new(made_up::MadeUp { clock: now, empty: empty.into() });
    let plans = if empty { made_up::plans::MadeUpPlans(None) } else { made_up::plans::MadeUpPlans::new() };
    let plans = Arc::new(plans);
    let router = ui::router(Dashboard {
        queries,
        plans,
        control: Arc::new(made_up::control::MadeUpDeeds),
        orders: Arc::new(made_up::control::Desk::default()),
        version: env!("CARGO_PKG_VERSION"),
        clock: now,
        stop: tasks.shutdown(),
    });
    let listener = tokio::net::TcpListener::bind(&address).await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, router).await?;
    Ok(())
}
