//! Who ran. A [`UsageReader`] tells at each sample how much CPU time every task used since the last one.
//!
//! `table` holds the tasks, `procfs` reads them from `/proc`, `stat` parses its texts, `cpu` tells how busy
//! each CPU was. Nothing here knows of energy.

pub mod cpu;
pub mod procfs;
pub mod stat;
pub mod table;

use std::io;

use crate::clock::Moment;
use table::{Delta, TaskTable};

/// Reads who ran.
pub trait UsageReader: Send {
    /// Brings `table` up to date and pushes one [`Delta`] per task that ran since the last sample.
    ///
    /// The first sample only takes stock: what ran before is nobody's. `forks` is the kernel's count of forks
    /// since boot, if it is known; as long as it stands still there is no new task to look for.
    fn sample(
        &mut self,
        now: Moment,
        forks: Option<u64>,
        table: &mut TaskTable,
        out: &mut Vec<Delta>,
    ) -> io::Result<()>;
}
