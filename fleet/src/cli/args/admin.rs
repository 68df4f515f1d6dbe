//! Arguments of what is done to the fleet rather than asked of it: tokens, contexts, certificates.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::when::Length;

/// Join tokens.
#[derive(Args, Debug)]
#[command(disable_help_subcommand = true)]
pub(in crate::cli) struct TokenArgs {
    #[command(subcommand)]
    pub verb: TokenVerb,
}

#[derive(Subcommand, Debug)]
pub(in crate::cli) enum TokenVerb {
    /// Make a token and print the command that uses it. Needs the role admin
    #[command(after_help = "\
Examples:
  ebbtide token create --node edge1
  ebbtide token create --ttl 24h
  ebbtide token create --node edge1 -o json | jq -r .token

A token is good for one node, once. Whoever has it can join under that name
until it ends: treat it as a password.")]
    Create {
        /// The only node that may use it; without: any name, also that of a node that is there
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        node: String,
        /// How long it is good for, at most 30d
        #[arg(long, value_name = "DURATION", default_value = "1h")]
        ttl: Length,
        /// Only say what would be made
        #[arg(long)]
        dry_run: bool,
    },
    /// List tokens, without their secrets. Needs the role admin
    List,
    /// Make a token useless. Nodes that joined with it stay. Needs the role admin
    Revoke {
        /// Its id, as `token list` shows it
        id: String,
        /// Only say what would be revoked
        #[arg(long)]
        dry_run: bool,
    },
}

/// Contexts.
#[derive(Args, Debug)]
#[command(disable_help_subcommand = true)]
#[command(after_help = "\
Examples:
  ebbtide context set prod --fleet https://fleet.example:9884 --ca ca.pem \\
      --cert alice.pem --key alice-key.pem
  ebbtide context use prod
  ebbtide context list

The file is $EBBTIDE_CONFIG, or else $XDG_CONFIG_HOME/ebbtide/config.toml
(~/.config/ebbtide/config.toml):
  current = \"prod\"
  [contexts.prod]
  fleet = \"https://fleet.example:9884\"
  ca = \"ca.pem\"             # relative to the file's folder
  cert = \"alice.pem\"
  key = \"alice-key.pem\"
These commands write it anew: comments in it are lost.")]
pub(in crate::cli) struct ContextArgs {
    #[command(subcommand)]
    pub verb: ContextVerb,
}

#[derive(Subcommand, Debug)]
pub(in crate::cli) enum ContextVerb {
    /// List contexts; the current one is marked
    List,
    /// Make a context the current one
    Use {
        /// Its name
        name: String,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Make or change a context, with --fleet, --ca, --cert, --key. The first one becomes the current one
    Set {
        /// Its name
        name: String,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Forget a context. Its certificates stay where they are
    Delete {
        /// Its name
        name: String,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Show what is in force: whom commands would ask, and as whom
    Show,
}

/// Certificates.
#[derive(Args, Debug)]
#[command(disable_help_subcommand = true)]
#[command(after_help = "\
Examples:
  ebbtide pki init                                  an authority of your own
  ebbtide pki issue-fleet --name fleet.example      for ebbtide-fleet serve
  ebbtide pki issue-operator alice --role viewer    for people and programs
  ebbtide pki issue-node edge1                      for an agent
  ebbtide pki show                                  what there is, until when

`ebbtide token create` is the easier way for agents. Who somebody is stands in
the certificate as a URI (ebbtide://node/edge1), signed by the authority. Keep
ca-key.pem as you would the fleet itself: who has it can be anybody.")]
pub(in crate::cli) struct PkiArgs {
    #[command(subcommand)]
    pub verb: PkiVerb,
}

/// Where certificates are kept.
#[derive(Args, Debug)]
pub(in crate::cli) struct Folder {
    /// Folder of the authority [default: $XDG_CONFIG_HOME/ebbtide/pki, for root /etc/ebbtide/pki]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// How a certificate is made.
#[derive(Args, Debug)]
pub(in crate::cli) struct Issue {
    #[command(flatten)]
    pub folder: Folder,
    /// Folder that certificate and key are written to [default: that of the authority]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Replace files that are there
    #[arg(long)]
    pub force: bool,
    /// Only say what would be written
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Subcommand, Debug)]
pub(in crate::cli) enum PkiVerb {
    /// Make an authority: ca.pem, and ca-key.pem that nobody else can read. Good for ten years
    Init {
        #[command(flatten)]
        folder: Folder,
        /// Replace an authority that is there: all its certificates become worthless
        #[arg(long)]
        force: bool,
        /// Only say what would be written
        #[arg(long)]
        dry_run: bool,
    },
    /// Make the fleet daemon's certificate: fleet.pem, fleet-key.pem
    IssueFleet {
        /// DNS names or addresses by which agents and people reach it
        #[arg(long, value_name = "HOST", required = true, num_args = 1..)]
        name: Vec<String>,
        /// How many days it is good for
        #[arg(long, value_name = "NUMBER", default_value_t = crate::pki::days::FLEET)]
        days: u32,
        #[command(flatten)]
        issue: Issue,
    },
    /// Make a node's certificate: NODE.pem, NODE-key.pem
    IssueNode {
        /// Name of the node, as its agent tells it
        name: String,
        /// How many days it is good for
        #[arg(long, value_name = "NUMBER", default_value_t = crate::pki::days::NODE)]
        days: u32,
        #[command(flatten)]
        issue: Issue,
    },
    /// Make the certificate of a person or program: NAME.pem, NAME-key.pem
    IssueOperator {
        /// Who it is
        name: String,
        /// What they may do: viewer (look), operator (also act on nodes), admin (also enrol nodes)
        #[arg(long, value_name = "ROLE", value_parser = ["viewer", "operator", "admin"])]
        role: String,
        /// How many days it is good for
        #[arg(long, value_name = "NUMBER", default_value_t = crate::pki::days::OPERATOR)]
        days: u32,
        #[command(flatten)]
        issue: Issue,
    },
    /// Tell what certificates say and when they end
    Show {
        /// A certificate in PEM form; without: all in the authority's folder
        file: Option<PathBuf>,
        #[command(flatten)]
        folder: Folder,
    },
}
