//! The PDU of docs/extend.md works as the page says: its description is taken, its walk is answered by a real SNMP agent, and
//! the command line prints what the page shows.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_snmp::{Oid, Value};
use ebbtide_fleet::config::Config;
use ebbtide_runtime::tasks::Tasks;

use crate::commands::{Home, asked};
use crate::daemon::{Daemon, run};
use crate::pages::{self, Page};
use crate::snmp::{self, Objects};

/// `OID = TYPE: VALUE`, as `snmpwalk -On` prints it.
fn object(line: &str) -> Option<(Oid, Value)> {
    let (oid, told) = line.split_once(" = ")?;
    let (kind, text) = told.split_once(": ")?;
    let number = || text.split(['(', ')']).rev().find_map(|part| part.trim().parse::<u32>().ok());
    let value = match kind {
        "STRING" => Value::OctetString(text.trim_matches('"').as_bytes().to_vec().into()),
        "INTEGER" => Value::Integer(number()?.cast_signed()),
        "Gauge32" => Value::Gauge32(number()?),
        "Timeticks" => Value::TimeTicks(text.split(['(', ')']).nth(1)?.parse().ok()?),
        "OID" => Value::ObjectIdentifier(Oid::parse(text.trim_start_matches('.')).ok()?),
        _ => return None,
    };
    Some((Oid::parse(oid.trim_start_matches('.')).ok()?, value))
}

/// The lines printed below a command.
fn printed_below(page: &Page, command: &str) -> Vec<String> {
    let blocks = page.blocks();
    let block = blocks.iter().find(|block| block.lines.iter().any(|line| line == command));
    let lines = block.unwrap_or_else(|| panic!("the page has no {command:?}")).lines.iter();
    lines.skip_while(|line| *line != command).skip(1).take_while(|line| !line.starts_with("$ ")).cloned().collect()
}

#[test]
fn a_pdu_is_described_and_read() {
    run(async {
        let page = pages::all().into_iter().find(|page| page.name == "docs/extend.md").unwrap();
        let walk = "$ snmpwalk -v2c -c public -On pdu-rack5.example .1.3.6.1";
        let objects: Objects =
            printed_below(&page, walk).iter().map(|line| object(line).unwrap_or_else(|| panic!("{line}"))).collect();
        assert!(objects.len() > 8, "{objects:?}");
        let mut tasks = Tasks::new();
        let at = snmp::start(&mut tasks, "public", Arc::new(Arc::new(objects))).await;

        let text: String = page
            .blocks()
            .into_iter()
            .filter(|block| {
                block.language == "toml"
                    && block.lines.iter().any(|line| line.contains("rack5") || line.contains("pdu-model"))
            })
            .flat_map(|block| [block.lines.join("\n"), "\n".to_owned()])
            .collect();
        let config: Config =
            toml::from_str(&text.replace("pdu-rack5.example", &at)).unwrap_or_else(|e| panic!("{e}: {text}"));
        config.check().unwrap();
        let daemon = Daemon::encrypted(|own| {
            (own.device, own.pdu_model, own.feed) = (config.device, config.pdu_model, config.feed)
        })
        .await;
        let home = Home::new(&daemon);
        for command in ["$ ebbtide device read rack5", "$ ebbtide device list"] {
            let args: Vec<&str> = command.split(' ').skip(2).collect();
            let wanted = printed_below(&page, command);
            let mut told = Vec::new();
            for _ in 0..100 {
                let output = asked(&home, &args).await;
                told = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
                if without_moment(&told) == without_moment(&wanted) {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
            assert_eq!(without_moment(&told), without_moment(&wanted), "{command}:\n{}", told.join("\n"));
        }
        daemon.stop().await;
        snmp::stop(tasks).await;
        assert!(BTreeMap::from([object(".1.3.6.1.4 = Gauge32: 7").unwrap()]).len() == 1 && object("rubbish").is_none());
    });
}

/// Lines without what depends on when one looks (age, energy so far) and on how wide columns are.
fn without_moment(lines: &[String]) -> Vec<String> {
    let plain = |line: &String| {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        if let [.., number, unit, "ago"] = words[..]
            && (number.parse::<u32>().is_ok() && unit == "s")
        {
            words.truncate(words.len() - 3);
        }
        words.retain(|word| *word != "now");
        while let Some(unit) = words.iter().position(|word| ["J", "kJ", "Wh"].contains(word)) {
            words.drain(unit - 1..=unit);
        }
        words.join(" ")
    };
    lines.iter().map(plain).collect()
}
