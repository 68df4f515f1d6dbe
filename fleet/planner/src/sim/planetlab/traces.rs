//! PlanetLab's CPU traces: one file per VM, one whole per cent per line, a line every 300 s for a day.

use std::path::{Path, PathBuf};

/// Samples of a day that a file holds.
pub const SAMPLES: usize = 288;

/// Seconds between two samples.
pub const INTERVAL_S: f64 = 300.0;

/// The four types of VM of the published experiments, by blocks of equal size: MIPS and megabytes.
pub const VM_TYPES: [(f64, f64); 4] = [(2500.0, 870.0), (2000.0, 1740.0), (1000.0, 1740.0), (500.0, 613.0)];

/// Why traces can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The folder or a file in it can't be read.
    #[error("can't read {path}: {source}")]
    Io {
        /// What was being read.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A line that is not a whole number of per cent from 0 to 100.
    #[error("{path}, line {line}: {text:?} is not a whole number from 0 to 100")]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
        /// What stands there.
        text: String,
    },
    /// Fewer lines than a day has samples.
    #[error("{path} has {lines} lines, a day has {SAMPLES}")]
    Short {
        /// The file.
        path: PathBuf,
        /// How many there are.
        lines: usize,
    },
    /// A folder without files.
    #[error("{path} has no traces: one file per VM is expected")]
    Empty {
        /// The folder.
        path: PathBuf,
    },
}

/// What one VM asks for.
#[derive(Clone, Debug)]
pub struct Trace {
    /// MIPS at 100 %.
    pub mips: f64,
    /// Memory in megabytes.
    pub memory_mb: f64,
    /// Utilisation at each sample, 0 to 1; the last is there twice, as CloudSim loads it.
    pub points: Vec<f64>,
}

impl Trace {
    /// Utilisation at `t` seconds, linear between samples. The order of the operations is CloudSim's: its figures
    /// are to be met to the last digit.
    pub fn at(&self, t: f64) -> f64 {
        let last = self.points.len().saturating_sub(1);
        let (below, above) = (whole(t / INTERVAL_S).min(last), whole((t / INTERVAL_S).ceil()).min(last));
        let (a, b) = (self.points[below], self.points[above]);
        if above == below {
            return a;
        }
        a + (b - a) / ((above - below) as f64 * INTERVAL_S) * (t - below as f64 * INTERVAL_S)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "an index of a trace: small and not negative")]
fn whole(v: f64) -> usize {
    v.max(0.0) as usize
}

/// Reads all files of `folder` in byte-wise order of their names and gives them their type by that order.
pub fn read(folder: &Path) -> Result<Vec<Trace>, TraceError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| TraceError::Io { path, source }
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io(folder))? {
        let entry = entry.map_err(io(folder))?;
        if entry.file_type().map_err(io(&entry.path()))?.is_file() {
            files.push(entry.path());
        }
    }
    if files.is_empty() {
        return Err(TraceError::Empty { path: folder.to_owned() });
    }
    files.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
    let mut points = Vec::with_capacity(files.len());
    for path in &files {
        points.push(parse(path, &std::fs::read_to_string(path).map_err(io(path))?)?);
    }
    Ok(typed(points))
}

fn parse(path: &Path, text: &str) -> Result<Vec<f64>, TraceError> {
    let mut points = Vec::with_capacity(SAMPLES + 1);
    for (number, line) in text.lines().take(SAMPLES).enumerate() {
        match line.trim().parse::<u8>() {
            Ok(percent @ 0..=100) => points.push(f64::from(percent) / 100.0),
            _ => return Err(TraceError::Line { path: path.to_owned(), line: number + 1, text: line.to_owned() }),
        }
    }
    match points.last() {
        Some(&last) if points.len() == SAMPLES => points.push(last),
        _ => return Err(TraceError::Short { path: path.to_owned(), lines: points.len() }),
    }
    Ok(points)
}

/// Gives traces the types of the published experiments: four blocks of equal size.
pub fn typed(points: Vec<Vec<f64>>) -> Vec<Trace> {
    let block = points.len().div_ceil(VM_TYPES.len()).max(1);
    points
        .into_iter()
        .enumerate()
        .map(|(i, points)| {
            let (mips, memory_mb) = VM_TYPES[(i / block).min(VM_TYPES.len() - 1)];
            Trace { mips, memory_mb, points }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_line_that_is_no_percentage_names_its_place() {
        let text = "5\n".repeat(10) + "x\n";
        let error = parse(Path::new("a/b"), &text).unwrap_err().to_string();
        assert_eq!(error, "a/b, line 11: \"x\" is not a whole number from 0 to 100");
        assert!(matches!(parse(Path::new("a"), "1\n"), Err(TraceError::Short { lines: 1, .. })));
    }

    #[test]
    fn utilisation_is_linear_between_samples_and_stays_at_the_end() {
        let mut points = vec![0.0; SAMPLES + 1];
        points[1] = 0.3;
        let trace = &typed(vec![points])[0];
        assert!((trace.at(150.0) - 0.15).abs() < 1e-12);
        assert!((trace.at(300.0) - 0.3).abs() < 1e-12);
        assert!(trace.at(1e9).abs() < 1e-12);
    }

    #[test]
    fn types_come_in_four_blocks() {
        let traces = typed(vec![vec![0.0; 2]; 10]);
        let mips: Vec<f64> = traces.iter().map(|t| t.mips).collect();
        assert_eq!(mips, [2500.0, 2500.0, 2500.0, 2000.0, 2000.0, 2000.0, 1000.0, 1000.0, 1000.0, 500.0]);
    }
}
