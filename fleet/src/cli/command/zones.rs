//! `zones`: everything in the fleet whose energy is counted.

use ebbtide_proto::{Ratio, v1};
use serde::{Serialize, Serializer};

use crate::cli::args::ZonesArgs;
use crate::cli::connect::Fleet;
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{Answer, Output, Sheet};
use crate::cli::record::{Record, quality, zone_kind};
use crate::cli::table::{Cell, Column, Table};

struct Zones(v1::ListZonesResponse);

/// Lists them.
pub(in crate::cli) async fn run(fleet: &Fleet, args: &ZonesArgs, output: &Output) -> Result<Exit, Failure> {
    let request = v1::ListZonesRequest { node: args.node.clone() };
    let answer = fleet.ask("asking for zones", fleet.client().list_zones(request)).await?;
    let empty = answer.zones.is_empty();
    output.show(&Zones(answer))?;
    if empty {
        output.note("no zone is known; ebbtide-agent zones says what a machine has");
    }
    Ok(Exit::Ok)
}

/// `±2 %`; `–` where none is told.
pub(super) fn error(zone: &v1::Zone) -> String {
    match zone.error_ppm {
        0 => crate::cli::figure::UNKNOWN.to_owned(),
        ppm => format!("±{:.0} %", Ratio::from_ppm(ppm).fraction() * 100.0),
    }
}

/// The processor package it belongs to.
fn socket(zone: &v1::Zone) -> String {
    zone.socket_plus_one.checked_sub(1).map_or_else(String::new, |socket| socket.to_string())
}

impl Serialize for Zones {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Record(&self.0).serialize(s)
    }
}

impl Answer for Zones {
    fn table(&self, output: &Output) -> String {
        let mut table = Table::new(&[
            Column::text("NODE"),
            Column::text("ZONE"),
            Column::text("KIND"),
            Column::text("SOURCE"),
            Column::text("QUALITY"),
            Column::figure("ERROR").may_go(1),
            Column::text("COUNTS"),
            Column::figure("SOCKET").wide(),
            Column::text("ID").wide(),
        ]);
        for z in &self.0.zones {
            let zone = z.zone.clone().unwrap_or_default();
            table.row([
                Cell::from(&z.node),
                (&zone.name).into(),
                zone_kind(zone.kind).into(),
                (&zone.source).into(),
                quality(zone.quality).into(),
                error(&zone).into(),
                if zone.counts { "yes" } else { "no" }.into(),
                socket(&zone).into(),
                (&zone.id).into(),
            ]);
        }
        table.render(output.look)
    }

    fn csv(&self) -> Sheet {
        let mut sheet =
            Sheet::new(&["node", "id", "name", "kind", "socket", "source", "quality", "error_ppm", "counts"]);
        for z in &self.0.zones {
            let zone = z.zone.clone().unwrap_or_default();
            sheet.row([
                z.node.clone(),
                zone.id.clone(),
                zone.name.clone(),
                zone_kind(zone.kind),
                socket(&zone),
                zone.source.clone(),
                quality(zone.quality),
                zone.error_ppm.to_string(),
                zone.counts.to_string(),
            ]);
        }
        sheet
    }
}
