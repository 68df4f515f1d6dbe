//! The daemon's commands.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::CommandFactory as _;
use ebbtide_proto::NodeId;
use ebbtide_runtime::{clock, manual};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Backup, Bench, Cli, Command, Export, Folder, MANUAL, Serve};
use crate::config::{Config, ConfigError};
use crate::serve::control::{self, Request};
use crate::store::Store;
use crate::{bench, replay, serve, simulate, store};

/// Runs a command.
///
/// # Errors
/// What made it fail; [`exit_code`] says with which code to exit.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Serve(flags) => self::serve(flags),
        Command::Verify(folder) => verify(&folder),
        Command::Backup(what) => backup(&what),
        Command::Export(what) => export(&what),
        Command::Bench { what: Bench::Ingest(what) } => bench::ingest(&what).map(|()| ExitCode::SUCCESS),
        Command::Replay(what) => replay::run(&what).map(|()| ExitCode::SUCCESS),
        Command::Sim { what } => simulate::run(&what),
        Command::Bench { what: Bench::Plan(what) } => bench::plan(&what).map(|()| ExitCode::SUCCESS),
        Command::Bench { what: Bench::Query(what) } => bench::query(&what).map(|()| ExitCode::SUCCESS),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "ebbtide-fleet", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Manual { folder } => {
            manual::write(Cli::command(), MANUAL, &folder)
                .with_context(|| format!("can't write manual pages into {}", folder.display()))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// 2 for what the operator can put right in the configuration, else 1.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(if error.downcast_ref::<ConfigError>().is_some() { 2 } else { 1 })
}

fn serve(flags: Serve) -> anyhow::Result<ExitCode> {
    let config = settings(&flags)?;
    if flags.dump_config {
        print!("{}", config.dump());
        return Ok(ExitCode::SUCCESS);
    }
    log_to_stderr(&config.log_level);
    config.check()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8)))
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stopped = async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
        };
        let encrypted = config.tls.is_some();
        let ready = |at: serve::Addresses| {
            let s = if encrypted { "s" } else { "" };
            tracing::info!("agents and operators: http{s}://{}", at.grpc);
            tracing::info!("dashboard: http{s}://{}/  metrics: http{s}://{}/metrics", at.http, at.http);
        };
        serve::run(config, ready, stopped).await
    })?;
    Ok(ExitCode::SUCCESS)
}

fn settings(flags: &Serve) -> anyhow::Result<Config> {
    let mut config = match &flags.config {
        Some(path) => Config::load(path)?,
        None => Config::default(),
    };
    if let Some(data) = &flags.data {
        config.data.clone_from(data);
    }
    config.grpc = flags.grpc.unwrap_or(config.grpc);
    config.http = flags.http.unwrap_or(config.http);
    config.insecure |= flags.insecure;
    if let Some(level) = &flags.log_level {
        config.log_level.clone_from(level);
    }
    Ok(config)
}

fn log_to_stderr(level: &str) {
    let filter = tracing_subscriber::EnvFilter::new(level);
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .with_target(false)
        .init();
}

fn verify(folder: &Folder) -> anyhow::Result<ExitCode> {
    let bar = spinner("reading the store");
    let report = store::verify(&folder.data)?;
    bar.finish_and_clear();
    if folder.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        for detail in &report.details {
            println!("{detail}");
        }
        let (files, frames, blocks) = (report.files, report.frames, report.blocks);
        let verdict = if report.is_clean() { "whole".to_owned() } else { format!("{} problems", report.problems) };
        println!("{files} files, {frames} frames, {blocks} blocks with {} values: {verdict}", report.samples);
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

fn backup(what: &Backup) -> anyhow::Result<ExitCode> {
    let to = std::path::absolute(&what.to)?;
    let bar = spinner("copying the store");
    let mut told = Vec::new();
    let outcome = on_store(&what.data, &Request::Backup(to), &mut told);
    bar.finish_and_clear();
    outcome?;
    std::io::stdout().write_all(&told)?;
    Ok(ExitCode::SUCCESS)
}

fn export(what: &Export) -> anyhow::Result<ExitCode> {
    let now_ms = clock::now().wall / 1_000_000;
    let ms = |at: jiff::Timestamp| u64::try_from(at.as_millisecond()).unwrap_or(0);
    let until_ms = what.until.map_or(now_ms, ms);
    let from_ms = what.since.map_or(until_ms.saturating_sub(86_400_000), ms);
    let node = what.node.as_deref().map(NodeId::new).transpose()?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    match on_store(&what.data, &Request::Export { from_ms, until_ms, node }, &mut out) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // who reads has had enough
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
    }
}

/// Does it here, or asks the daemon that has the store open.
fn on_store(folder: &Path, request: &Request, to: &mut dyn std::io::Write) -> anyhow::Result<()> {
    anyhow::ensure!(
        folder.join("hot.db").exists(),
        "there is no store in {}; give its folder with --data",
        folder.display()
    );
    match Store::open(folder, store::Options::default()) {
        Ok(store) => request.run(&store, to),
        Err(store::StoreError::Locked { .. }) => control::ask(folder, request, to)
            .with_context(|| format!("asking the daemon that has {} open", folder.display())),
        Err(error) => Err(error.into()),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    };
    error.chain().any(io)
}

fn spinner(text: &'static str) -> indicatif::ProgressBar {
    // draws nothing unless standard error is a terminal
    let bar = indicatif::ProgressBar::new_spinner().with_message(text);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
