//! What may be said about plans.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Which plan to show.
#[derive(Args, Debug)]
pub(in crate::cli) struct PlanArgs {
    /// Only nodes of this pool, and what is done with them
    #[arg(long, value_name = "POOL", default_value = "", hide_default_value = true)]
    pub pool: String,
    /// An older plan, by its number
    #[arg(long, value_name = "ID", conflicts_with = "list")]
    pub id: Option<u64>,
    /// List the plans that are kept instead, the newest first
    #[arg(long)]
    pub list: bool,
    /// Plans to list at most
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    pub limit: u32,
}

/// What to explain.
#[derive(Args, Debug)]
#[command(disable_help_subcommand = true)]
pub(in crate::cli) struct ExplainArgs {
    #[command(subcommand)]
    pub subject: Subject,
    /// As an older plan saw it, by its number
    #[arg(long, value_name = "PLAN", global = true)]
    pub plan: Option<u64>,
}

#[derive(Subcommand, Debug)]
pub(in crate::cli) enum Subject {
    /// Why a node goes on or off, or stays as it is
    #[command(after_help = "\
Examples:
  ebbtide explain node edge1
  ebbtide explain node edge1 --plan 17 -o json | jq .reason")]
    Node {
        /// The node
        name: String,
    },
    /// Why a workload moves, waits, or stays where it is
    #[command(after_help = "\
Examples:
  ebbtide explain workload shop/web-0
  ebbtide explain workload pod/0b2f1c9e-7a43-4a0e-9f5d-1f1e1b0c2d3e")]
    Workload {
        /// The workload: its id, or a part of it that no other has
        name: String,
    },
    /// What a plan saves and costs, and in which steps
    #[command(after_help = "\
Examples:
  ebbtide explain plan
  ebbtide explain plan 17")]
    Plan {
        /// Its number; the one that stands if left out
        id: Option<u64>,
    },
    /// Why a step of a plan is taken, and what it waits for
    #[command(after_help = "\
Examples:
  ebbtide explain action 3
  ebbtide explain action 3 --plan 17")]
    Action {
        /// Its number in the plan
        id: u32,
    },
}

/// What to think through.
#[derive(Args, Debug)]
pub(in crate::cli) struct WhatIfArgs {
    /// Without this node; what runs there needs another place. May be said several times
    #[arg(long, value_name = "NODE")]
    pub remove_node: Vec<String>,
    /// With the nodes of this inventory file ([[node]] tables), on and empty. May be said several times
    #[arg(long, value_name = "FILE")]
    pub add_node: Vec<PathBuf>,
    /// Under the policy of this file
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// If a kilowatt-hour cost so many euro
    #[arg(long, value_name = "EURO")]
    pub price: Option<f64>,
    /// If a kilowatt-hour emitted so many grams of CO2
    #[arg(long, value_name = "GRAMS")]
    pub carbon: Option<f64>,
}

/// What to do again.
#[derive(Args, Debug)]
#[command(disable_help_subcommand = true)]
pub(in crate::cli) struct ReplayArgs {
    #[command(subcommand)]
    pub verb: ReplayVerb,
}

#[derive(Subcommand, Debug)]
pub(in crate::cli) enum ReplayVerb {
    /// Make a plan again from what it was made from, and compare every bit
    #[command(after_help = "\
Examples:
  ebbtide replay decision 17
  ebbtide replay decision 17 -o json | jq .same

Exit codes: 0 the same plan came out, 1 another one did.")]
    Decision {
        /// The plan's number
        id: u64,
    },
}
