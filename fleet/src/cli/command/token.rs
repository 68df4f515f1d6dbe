//! `token`: join tokens, by which nodes get their certificates.

use ebbtide_proto::{NodeId, v1};
use serde::{Serialize, Serializer};

use crate::cli::args::{TokenArgs, TokenVerb};
use crate::cli::connect::Fleet;
use crate::cli::failure::{Exit, Failure};
use crate::cli::figure::{UNKNOWN, ago, moment, span};
use crate::cli::output::{Answer, Output, Sheet};
use crate::cli::record::Record;
use crate::cli::table::{Cell, Column, Table};
use crate::cli::when::Length;

/// The longest that a token may be good for.
const LONGEST_MS: u64 = 30 * 86_400_000;

/// Makes, lists or revokes.
pub(in crate::cli) async fn run(fleet: &Fleet, args: &TokenArgs, output: &Output) -> Result<Exit, Failure> {
    match &args.verb {
        TokenVerb::Create { node, ttl, dry_run } => create(fleet, node, *ttl, *dry_run, output).await,
        TokenVerb::List => {
            let answer =
                fleet.ask("asking for tokens", fleet.enrolment().list_tokens(v1::ListTokensRequest::default())).await?;
            let empty = answer.tokens.is_empty();
            output.show(&Listed(answer))?;
            if empty {
                output.note("there is no token; make one: ebbtide token create --node NAME");
            }
            Ok(Exit::Ok)
        }
        TokenVerb::Revoke { id, dry_run: true } => {
            output.note(&format!("would revoke token {id} at {}", fleet.target.address));
            Ok(Exit::Ok)
        }
        TokenVerb::Revoke { id, dry_run: false } => {
            let request = v1::RevokeTokenRequest { id: id.clone() };
            fleet.ask("revoking the token", fleet.enrolment().revoke_token(request)).await?;
            output.note(&format!("token {id} is revoked; nodes that joined with it stay"));
            Ok(Exit::Ok)
        }
    }
}

async fn create(fleet: &Fleet, node: &str, ttl: Length, dry_run: bool, output: &Output) -> Result<Exit, Failure> {
    let node = match node {
        "" => String::new(),
        node => NodeId::new(node).map_err(|e| Failure::usage(e.to_string()))?.to_string(),
    };
    if ttl.ms() > LONGEST_MS {
        return Err(Failure::usage("a token is good for 30 days at most").next("for example: --ttl 24h"));
    }
    if dry_run {
        let whom = if node.is_empty() { "any node" } else { &node };
        output.note(&format!(
            "would make a token for {whom} at {}, good for {}",
            fleet.target.address,
            span(ttl.get())
        ));
        return Ok(Exit::Ok);
    }
    let request = v1::CreateTokenRequest { node: node.clone(), ttl_ms: ttl.ms() };
    let answer = fleet.ask("making a token", fleet.enrolment().create_token(request)).await?;
    let id = answer.id.clone();
    let address = &fleet.target.address;
    output.show(&Made { join: join(&answer.token, &address.to_string(), &node), answer })?;
    output.note(&format!(
        "token {id} for {}, good once within {}; take it back: ebbtide token revoke {id}",
        if node.is_empty() { "any new node" } else { &node },
        span(ttl.get())
    ));
    if address.is_loopback() {
        output.note(&format!(
            "on another machine, put a name of this one that is in the fleet's certificate in place of {}",
            address.host
        ));
    }
    Ok(Exit::Ok)
}

/// What is to be typed on the node.
fn join(token: &str, address: &str, node: &str) -> String {
    // what the fleet says goes into somebody's shell
    let token: String = token.chars().filter(|c| c.is_ascii_alphanumeric() || "._-=+/:".contains(*c)).collect();
    // its host may have another name
    let name = if node.is_empty() { String::new() } else { format!(" --node-name {node}") };
    format!("ebbtide-agent join --fleet {address}{name} --token {token}")
}

struct Made {
    join: String,
    answer: v1::CreateTokenResponse,
}

impl Serialize for Made {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Record(&self.answer).serialize(s)
    }
}

impl Answer for Made {
    /// Ready to be run on the node.
    fn table(&self, _: &Output) -> String {
        format!("{}\n", self.join)
    }

    fn csv(&self) -> Sheet {
        let mut sheet = Sheet::new(&["id", "token", "expires_ms"]);
        sheet.row([self.answer.id.clone(), self.answer.token.clone(), self.answer.expires_ms.to_string()]);
        sheet
    }
}

struct Listed(v1::ListTokensResponse);

impl Serialize for Listed {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Record(&self.0).serialize(s)
    }
}

impl Answer for Listed {
    fn table(&self, output: &Output) -> String {
        let mut table = Table::new(&[
            Column::text("TOKEN"),
            Column::text("FOR"),
            Column::text("STATE"),
            Column::text("MADE BY").may_go(1),
            Column::text("ENDS").wide(),
        ]);
        for token in &self.0.tokens {
            let state = match (&token.used_by, token.expires_ms) {
                (node, _) if !node.is_empty() => format!("used by {node} {}", ago(token.used_ms, output.now_ms)),
                (_, ends) if ends <= output.now_ms => format!("ended {}", ago(ends, output.now_ms)),
                (_, ends) => format!("ends {}", ago(ends, output.now_ms)),
            };
            table.row([
                Cell::from(&token.id),
                if token.node.is_empty() { "any new node" } else { &token.node }.into(),
                state.into(),
                if token.created_by.is_empty() { UNKNOWN } else { &token.created_by }.into(),
                moment(token.expires_ms, &output.zone, true).into(),
            ]);
        }
        table.render(output.look)
    }

    fn csv(&self) -> Sheet {
        let mut sheet = Sheet::new(&["id", "node", "expires_ms", "created_by", "used_by", "used_ms"]);
        for token in &self.0.tokens {
            sheet.row([
                token.id.clone(),
                token.node.clone(),
                token.expires_ms.to_string(),
                token.created_by.clone(),
                token.used_by.clone(),
                token.used_ms.to_string(),
            ]);
        }
        sheet
    }
}
