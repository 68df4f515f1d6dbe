//! `pki`: makes and shows certificates.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ebbtide_proto::NodeId;
use ebbtide_proto::identity::{Identity, Role};
use serde::Serialize;

use crate::cli::args::{Folder, Issue, PkiArgs, PkiVerb};
use crate::cli::context::pki_folder;
use crate::cli::failure::{Exit, Failure};
use crate::cli::figure::{moment, rfc3339, span};
use crate::cli::output::{Answer, Output, Sheet};
use crate::cli::table::{Cell, Column, Table, Tint};
use crate::pki::files::{self, NewFile, PUBLIC, SECRET};
use crate::pki::{Authority, Certificate};

/// Does what is asked for.
pub(in crate::cli) fn run(args: &PkiArgs, output: &Output) -> Result<Exit, Failure> {
    match &args.verb {
        PkiVerb::Init { folder, force, dry_run } => init(folder, *force, *dry_run, output),
        PkiVerb::IssueFleet { name, days, issue } => {
            let authority = dir(&issue.folder)?;
            let next = |cert: &Path, key: &Path| {
                vec![
                    "next: in the file of `ebbtide-fleet serve --config FILE`:".to_owned(),
                    "  [tls]".to_owned(),
                    format!("  cert = {:?}", cert.display().to_string()),
                    format!("  key = {:?}", key.display().to_string()),
                    format!("  client-ca = {:?}", Authority::paths(&authority).0.display().to_string()),
                    format!("  authority = {:?}  # to enrol nodes by join tokens", authority.display().to_string()),
                ]
            };
            issue_one(&Identity::Fleet, "fleet", name, *days, issue, next, output)
        }
        PkiVerb::IssueNode { name, days, issue } => {
            let node = node_name(name)?;
            let next = |cert: &Path, key: &Path| {
                vec![format!("next: copy {}, {} and ca.pem to {name} for its agent", cert.display(), key.display())]
            };
            issue_one(&Identity::Node(node.clone()), node.as_str(), &[], *days, issue, next, output)
        }
        PkiVerb::IssueOperator { name, role, days, issue } => {
            let who = node_name(name)?;
            let role: Role = role.parse().map_err(|e: ebbtide_proto::IdError| Failure::usage(e.to_string()))?;
            let identity = Identity::Operator { role, name: who.clone() };
            let next = |cert: &Path, key: &Path| {
                vec![format!(
                    "next, as {name}: ebbtide context set NAME --fleet https://HOST:9884 --ca ca.pem --cert {} --key {}",
                    cert.display(),
                    key.display()
                )]
            };
            issue_one(&identity, who.as_str(), &[], *days, issue, next, output)
        }
        PkiVerb::Show { file, folder } => show(file.as_deref(), folder, output),
    }
}

/// The authority's folder, as it means the same from any other.
fn dir(folder: &Folder) -> Result<PathBuf, Failure> {
    let dir = folder.dir.clone().map_or_else(pki_folder, Ok)?;
    std::path::absolute(&dir).map_err(|e| Failure::new(format!("can't tell where {} is: {e}", dir.display())))
}

fn node_name(name: &str) -> Result<NodeId, Failure> {
    let id = NodeId::new(name).map_err(|e| Failure::usage(e.to_string()))?;
    // it becomes the name of a file
    match id.as_str().starts_with('.') {
        true => Err(Failure::usage(format!("{name:?} begins with a point"))),
        false => Ok(id),
    }
}

fn init(folder: &Folder, force: bool, dry_run: bool, output: &Output) -> Result<Exit, Failure> {
    let dir = dir(folder)?;
    let (certificate, key) = Authority::paths(&dir);
    if dry_run {
        if !force {
            files::absent([key.as_path(), certificate.as_path()])?;
        }
        output.note(&format!("would write {} and {}", certificate.display(), key.display()));
        return Ok(Exit::Ok);
    }
    let authority = Authority::init(&dir, force, output.now_ms)?;
    output.show(&Shown { certificates: vec![row(&certificate, authority.certificate_der(), output)?] })?;
    output.note(&format!("wrote {}: give it to whoever is to believe the fleet", certificate.display()));
    output.note(&format!("wrote {}: keep it secret, and a copy of it somewhere safe", key.display()));
    output.note("next: ebbtide pki issue-fleet --name HOST, ebbtide pki issue-operator NAME --role admin");
    Ok(Exit::Ok)
}

fn issue_one(
    identity: &Identity,
    stem: &str,
    names: &[String],
    days: u32,
    issue: &Issue,
    next: impl Fn(&Path, &Path) -> Vec<String>,
    output: &Output,
) -> Result<Exit, Failure> {
    let dir = dir(&issue.folder)?;
    let authority = Authority::load(&dir).map_err(|e| {
        let failure = Failure::from(e);
        let missing = !Authority::paths(&dir).0.exists() && failure.exit == Exit::Failed;
        if missing {
            failure.next(format!("make an authority first: ebbtide pki init --dir {}", dir.display()))
        } else {
            failure
        }
    })?;
    let out = issue.out.clone().unwrap_or(dir);
    let (cert, key) = (out.join(format!("{stem}.pem")), out.join(format!("{stem}-key.pem")));
    // whoever is called ca, or x-key besides x, would overwrite what has another meaning
    if ["ca", "ca-key"].contains(&stem) || stem.ends_with("-key") {
        return Err(Failure::usage(format!("{stem:?} can't be the name: its file has another meaning")));
    }
    if !issue.force {
        files::absent([cert.as_path(), key.as_path()])?;
    }
    let issued = authority.issue(identity, names, days, output.now_ms)?;
    if issue.dry_run {
        output.note(&format!("would write {} and {} for {identity}", cert.display(), key.display()));
        return Ok(Exit::Ok);
    }
    // the chain, so that who joins with a token can see the authority
    let written = [
        NewFile { path: &key, text: &issued.key_pem, mode: SECRET },
        NewFile { path: &cert, text: &issued.chain_pem, mode: PUBLIC },
    ];
    files::write(&written, issue.force)?;
    output.show(&Shown { certificates: vec![read(&cert, output)?] })?;
    output.note(&format!("wrote {} and {} (keep it secret)", cert.display(), key.display()));
    next(&cert, &key).iter().for_each(|line| output.note(line));
    Ok(Exit::Ok)
}

fn show(file: Option<&Path>, folder: &Folder, output: &Output) -> Result<Exit, Failure> {
    if let Some(file) = file {
        output.show(&Shown { certificates: vec![read(file, output)?] })?;
        return Ok(Exit::Ok);
    }
    let dir = dir(folder)?;
    let failed = |e: std::io::Error| {
        let exit = if e.kind() == std::io::ErrorKind::PermissionDenied { Exit::NotPermitted } else { Exit::Failed };
        Failure::new(format!("can't read {}: {e}", dir.display()))
            .exit(exit)
            .next("make an authority: ebbtide pki init")
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.ends_with(".pem") && !name.ends_with("-key.pem") {
            found.push(path);
        }
    }
    found.sort();
    let certificates: Result<Vec<_>, _> = found.iter().map(|path| read(path, output)).collect();
    output.show(&Shown { certificates: certificates? })?;
    if found.is_empty() {
        output.note(&format!("{} holds no certificate; make an authority: ebbtide pki init", dir.display()));
    }
    Ok(Exit::Ok)
}

fn read(path: &Path, output: &Output) -> Result<Row, Failure> {
    let certificate = Certificate::read_pem(&path.display().to_string(), &files::read(path)?)?;
    Ok(row_of(path, certificate, output))
}

fn row(path: &Path, der: &[u8], output: &Output) -> Result<Row, Failure> {
    Ok(row_of(path, Certificate::read(der)?, output))
}

fn row_of(path: &Path, certificate: Certificate, output: &Output) -> Row {
    let mut uses = Vec::new();
    uses.extend(certificate.is_authority.then_some("authority"));
    uses.extend(certificate.for_clients.then_some("client"));
    uses.extend(certificate.for_servers.then_some("server"));
    Row {
        file: path.display().to_string(),
        identity: certificate.identity.as_ref().map(ToString::to_string),
        subject: certificate.subject,
        issuer: certificate.issuer,
        uses,
        names: certificate.names,
        begins_ms: certificate.begins_ms,
        expires_ms: certificate.expires_ms,
        left_ms: certificate.expires_ms.saturating_sub(output.now_ms),
        serial: certificate.serial,
        sha256: certificate.fingerprint,
    }
}

#[derive(Serialize)]
struct Shown {
    certificates: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    file: String,
    identity: Option<String>,
    subject: String,
    issuer: String,
    uses: Vec<&'static str>,
    names: Vec<String>,
    begins_ms: u64,
    expires_ms: u64,
    /// Until it ends; 0: it has ended.
    left_ms: u64,
    serial: String,
    sha256: String,
}

impl Row {
    /// `in 89 d`, and how urgent that is.
    fn ends(&self) -> (String, Tint) {
        const MONTH_MS: u64 = 30 * 86_400_000;
        match self.left_ms {
            0 => ("ended".to_owned(), Tint::Bad),
            left => {
                let tint = if left < MONTH_MS { Tint::Doubtful } else { Tint::Good };
                (format!("in {}", span(Duration::from_millis(left))), tint)
            }
        }
    }

    fn details(&self, output: &Output) -> String {
        let (ends, tint) = self.ends();
        let ends = tint.paint(&ends, output.look.colour);
        let who = self.identity.as_deref().unwrap_or(&self.subject);
        let mut lines = vec![
            ("file", self.file.clone()),
            ("whose", who.to_owned()),
            ("for", self.uses.join(", ")),
            ("signed by", self.issuer.clone()),
            ("begins", moment(self.begins_ms, &output.zone, false)),
            ("ends", format!("{} ({ends})", moment(self.expires_ms, &output.zone, false))),
            ("serial", self.serial.clone()),
            ("sha-256", self.sha256.clone()),
        ];
        if !self.names.is_empty() {
            lines.insert(3, ("names", self.names.join(", ")));
        }
        lines.iter().map(|(what, text)| format!("{what:<10} {text}\n")).collect()
    }
}

impl Answer for Shown {
    /// One in full, several in a list.
    fn table(&self, output: &Output) -> String {
        if let [one] = self.certificates.as_slice() {
            return one.details(output);
        }
        let mut table = Table::new(&[
            Column::text("FILE"),
            Column::text("WHOSE"),
            Column::text("FOR").may_go(1),
            Column::figure("ENDS"),
            Column::text("NAMES").wide(),
            Column::text("SHA-256").wide(),
        ]);
        for row in &self.certificates {
            let (ends, tint) = row.ends();
            let file =
                Path::new(&row.file).file_name().map_or_else(|| row.file.clone().into(), |n| n.to_string_lossy());
            table.row([
                Cell::from(file),
                row.identity.as_ref().unwrap_or(&row.subject).into(),
                row.uses.join(", ").into(),
                Cell::tinted(ends, tint),
                row.names.join(", ").into(),
                (&row.sha256).into(),
            ]);
        }
        table.render(output.look)
    }

    fn csv(&self) -> Sheet {
        let mut sheet = Sheet::new(&[
            "file", "identity", "subject", "issuer", "uses", "names", "begins", "expires", "serial", "sha256",
        ]);
        for row in &self.certificates {
            sheet.row([
                row.file.clone(),
                row.identity.clone().unwrap_or_default(),
                row.subject.clone(),
                row.issuer.clone(),
                row.uses.join(";"),
                row.names.join(";"),
                rfc3339(row.begins_ms),
                rfc3339(row.expires_ms),
                row.serial.clone(),
                row.sha256.clone(),
            ]);
        }
        sheet
    }
}
