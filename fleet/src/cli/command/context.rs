//! `context`: which fleets there are, and which one is meant.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::args::{ContextArgs, ContextVerb, Global};
use crate::cli::context::{Address, Context, Contexts, file, target};
use crate::cli::failure::{Exit, Failure};
use crate::cli::figure::UNKNOWN;
use crate::cli::output::{Answer, Output, Sheet};
use crate::cli::table::{Cell, Column, Table, Tint};

/// Lists, shows or changes.
pub(in crate::cli) fn run(args: &ContextArgs, global: &Global, output: &Output) -> Result<Exit, Failure> {
    let path = file()?;
    let mut contexts = Contexts::read(&path)?;
    let (said, dry_run) = match &args.verb {
        ContextVerb::List => {
            let empty = contexts.contexts.is_empty();
            output.show(&Listed::of(&contexts))?;
            if empty {
                output.note("there is no context; make one: ebbtide context set NAME --fleet URL");
            }
            return Ok(Exit::Ok);
        }
        ContextVerb::Show => {
            let target = target(global)?;
            let (cert, key) = target.own.map_or((None, None), |(cert, key)| (Some(cert), Some(key)));
            let context = target.context.unwrap_or_default();
            let fleet = target.address.to_string();
            output.show(&Shown { context, fleet, ca: target.ca, cert, key, file: path })?;
            return Ok(Exit::Ok);
        }
        ContextVerb::Use { name, dry_run } => {
            let fleet = contexts.get(name)?.fleet.clone();
            contexts.current = Some(name.clone());
            (format!("{name} ({fleet}) is the current context"), *dry_run)
        }
        ContextVerb::Set { name, dry_run } => (set(&mut contexts, name, global, output)?, *dry_run),
        ContextVerb::Delete { name, dry_run } => {
            contexts.get(name)?;
            contexts.contexts.remove(name);
            if contexts.current.as_ref() == Some(name) {
                contexts.current = None;
            }
            (format!("{name} is forgotten; its certificates are where they were"), *dry_run)
        }
    };
    if dry_run {
        output.note(&format!("would write {}: {said}", path.display()));
    } else {
        contexts.write(&path)?;
        output.note(&format!("{said}; wrote {}", path.display()));
    }
    Ok(Exit::Ok)
}

/// Makes or changes one; what is not given stays.
fn set(contexts: &mut Contexts, name: &str, global: &Global, output: &Output) -> Result<String, Failure> {
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
        return Err(Failure::usage(format!("{name:?} is no name of a context")).next("use letters, digits, - _ and ."));
    }
    let new = !contexts.contexts.contains_key(name);
    let context = contexts.contexts.entry(name.to_owned()).or_default();
    match &global.fleet {
        Some(fleet) => {
            let address: Address = fleet.parse()?;
            if !address.secure && !address.is_loopback() {
                output.note(&format!("{address} is plain text: commands will ask for --insecure"));
            }
            context.fleet = address.to_string();
        }
        None if new => {
            let next = format!("ebbtide context set {name} --fleet https://fleet.example:9884 --ca ca.pem");
            return Err(Failure::usage(format!("{name} is new and needs an address")).next(next));
        }
        None => {}
    }
    for (place, given) in
        [(&mut context.ca, &global.ca), (&mut context.cert, &global.cert), (&mut context.key, &global.key)]
    {
        if let Some(path) = given {
            *place = Some(whole(path)?);
            if !path.is_file() {
                output.note(&format!("{} is not there yet", path.display()));
            }
        }
    }
    if context.cert.is_some() != context.key.is_some() {
        return Err(Failure::usage("a certificate needs its key, and a key its certificate")
            .next("give both: --cert FILE --key FILE"));
    }
    let fleet = context.fleet.clone();
    if contexts.current.is_none() {
        contexts.current = Some(name.to_owned());
        return Ok(format!("{name} is {fleet}, and the current context"));
    }
    Ok(format!("{name} is {fleet}"))
}

/// A path that means the same from any folder.
fn whole(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| Failure::new(format!("can't tell where {} is: {e}", path.display())))
}

fn shown(path: &Option<PathBuf>) -> String {
    path.as_ref().map_or_else(|| UNKNOWN.to_owned(), |path| path.display().to_string())
}

#[derive(Serialize)]
struct Listed {
    contexts: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    current: bool,
    #[serde(flatten)]
    context: Context,
}

impl Listed {
    fn of(contexts: &Contexts) -> Self {
        let row = |(name, context): (&String, &Context)| Row {
            name: name.clone(),
            current: contexts.current.as_ref() == Some(name),
            context: context.clone(),
        };
        Self { contexts: contexts.contexts.iter().map(row).collect() }
    }
}

impl Answer for Listed {
    fn table(&self, output: &Output) -> String {
        let mut table = Table::new(&[
            Column::text(" "),
            Column::text("CONTEXT"),
            Column::text("FLEET"),
            Column::text("CERTIFICATE").may_go(1),
            Column::text("AUTHORITY").wide(),
        ]);
        for row in &self.contexts {
            let tint = if row.current { Tint::Bold } else { Tint::Plain };
            table.row([
                Cell::from(if row.current { "*" } else { "" }),
                Cell::tinted(&row.name, tint),
                (&row.context.fleet).into(),
                shown(&row.context.cert).into(),
                shown(&row.context.ca).into(),
            ]);
        }
        table.render(output.look)
    }

    fn csv(&self) -> Sheet {
        let mut sheet = Sheet::new(&["name", "current", "fleet", "ca", "cert", "key"]);
        let path = |p: &Option<PathBuf>| p.as_ref().map_or_else(String::new, |p| p.display().to_string());
        for Row { name, current, context: c } in &self.contexts {
            let current = current.to_string();
            sheet.row([name.clone(), current, c.fleet.clone(), path(&c.ca), path(&c.cert), path(&c.key)]);
        }
        sheet
    }
}

/// What is in force.
#[derive(Serialize)]
struct Shown {
    context: String,
    fleet: String,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    file: PathBuf,
}

impl Shown {
    fn lines(&self) -> [(&'static str, String); 6] {
        [
            ("context", if self.context.is_empty() { UNKNOWN.to_owned() } else { self.context.clone() }),
            ("fleet", self.fleet.clone()),
            ("ca", shown(&self.ca)),
            ("cert", shown(&self.cert)),
            ("key", shown(&self.key)),
            ("file", self.file.display().to_string()),
        ]
    }
}

impl Answer for Shown {
    fn table(&self, _: &Output) -> String {
        self.lines().iter().map(|(what, text)| format!("{what:<8} {text}\n")).collect()
    }

    fn csv(&self) -> Sheet {
        let lines = self.lines();
        let mut sheet = Sheet::new(&lines.each_ref().map(|(what, _)| *what));
        sheet.row(lines.map(|(_, text)| if text == UNKNOWN { String::new() } else { text }));
        sheet
    }
}
