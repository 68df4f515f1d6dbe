//! Parsers of `/proc/PID/stat`, `/proc/PID/schedstat` and `/proc/stat`. Pure; any bytes give `None`, never a panic.
//!
//! Field numbers are those of proc_pid_stat(5).

/// A task's name as the kernel keeps it: at most 15 bytes (kernel workers up to 63 in `stat`, cut here).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Comm {
    bytes: [u8; 16],
    len: u8,
}

impl Comm {
    /// The first 16 bytes of `name`.
    pub fn new(name: &[u8]) -> Self {
        let mut comm = Self::default();
        for (to, from) in comm.bytes.iter_mut().zip(name) {
            *to = *from;
            comm.len += 1;
        }
        comm
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// As text; bytes that aren't UTF-8 become `U+FFFD`.
    pub fn to_text(&self) -> String {
        String::from_utf8_lossy(self.as_bytes()).into_owned()
    }
}

impl std::fmt::Debug for Comm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.to_text())
    }
}

/// What the agent needs of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskStat {
    /// Field 2.
    pub comm: Comm,
    /// Field 3: `R`, `S`, `D`, `Z`, …
    pub state: u8,
    /// Field 4.
    pub ppid: u32,
    /// Field 9 holds `PF_KTHREAD`.
    pub kernel_thread: bool,
    /// Fields 14 + 15: user and system time in clock ticks.
    pub ticks: u64,
    /// Fields 16 + 17: the same of children that were waited for.
    pub child_ticks: u64,
    /// Field 20.
    pub threads: u32,
    /// Field 22: start in clock ticks since boot.
    pub start: u64,
    /// Field 24: resident pages.
    pub rss_pages: u64,
    /// Field 39: the CPU it last ran on.
    pub cpu: u32,
}

const PF_KTHREAD: u64 = 0x0020_0000;

/// Parses `/proc/PID/stat`. The name may hold anything, spaces and parentheses included.
pub fn parse_task(text: &[u8]) -> Option<TaskStat> {
    let open = text.iter().position(|&b| b == b'(')?;
    let close = text.iter().rposition(|&b| b == b')')?;
    let comm = Comm::new(text.get(open + 1..close)?);
    let mut fields = Fields(text.get(close + 1..)?);
    let state = *fields.next()?.first()?; // 3
    let ppid = fields.number()?; // 4
    fields.skip(4)?; // 5-8
    let flags = fields.number()?; // 9
    fields.skip(4)?; // 10-13
    let (utime, stime, cutime, cstime) = (fields.number()?, fields.number()?, fields.number()?, fields.number()?); // 14-17
    fields.skip(2)?; // 18-19
    let threads = fields.number()?; // 20
    fields.skip(1)?; // 21
    let start = fields.number()?; // 22
    fields.skip(1)?; // 23
    let rss_pages = fields.number()?; // 24
    fields.skip(14)?; // 25-38
    let cpu = fields.number()?; // 39
    Some(TaskStat {
        comm,
        state,
        ppid: u32::try_from(ppid).ok()?,
        kernel_thread: flags & PF_KTHREAD != 0,
        ticks: utime.checked_add(stime)?,
        child_ticks: cutime.checked_add(cstime)?,
        threads: u32::try_from(threads).unwrap_or(u32::MAX),
        start,
        rss_pages,
        cpu: u32::try_from(cpu).ok()?,
    })
}

/// Parses `/proc/PID/schedstat` for its first number: time on a CPU in nanoseconds.
pub fn parse_schedstat(text: &[u8]) -> Option<u64> {
    Fields(text).number()
}

/// What `/proc/stat` says of one CPU, in clock ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTicks {
    /// Number of the CPU.
    pub cpu: u32,
    /// Idle, waiting for I/O, or stolen by the hypervisor: time in which nothing here ran.
    pub not_run: u64,
    /// Hard and soft interrupts.
    pub interrupts: u64,
}

/// What the agent needs of `/proc/stat`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineStat {
    /// One row per CPU that is online.
    pub cpus: Vec<CpuTicks>,
    /// Forks since boot, threads included.
    pub forks: Option<u64>,
}

/// Parses `/proc/stat` into `out`; lines it can't make sense of are left out.
pub fn parse_machine(text: &[u8], out: &mut MachineStat) {
    out.cpus.clear();
    out.forks = None;
    for line in text.split(|&b| b == b'\n') {
        if let Some(rest) = line.strip_prefix(b"cpu") {
            if rest.first().is_some_and(u8::is_ascii_digit)
                && let Some(row) = parse_cpu(rest)
            {
                out.cpus.push(row);
            }
        } else if let Some(rest) = line.strip_prefix(b"processes ") {
            out.forks = Fields(rest).number();
        } else if line.starts_with(b"softirq") {
            break;
        }
    }
}

fn parse_cpu(rest: &[u8]) -> Option<CpuTicks> {
    let mut fields = Fields(rest);
    let cpu = u32::try_from(fields.number()?).ok()?;
    fields.skip(3)?; // user nice system
    let (idle, iowait) = (fields.number()?, fields.number()?);
    let (irq, softirq) = (fields.number()?, fields.number()?);
    let steal = fields.number().unwrap_or(0);
    Some(CpuTicks {
        cpu,
        not_run: idle.checked_add(iowait)?.checked_add(steal)?,
        interrupts: irq.checked_add(softirq)?,
    })
}

/// Words between spaces.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let start = self.0.iter().position(|b| !b.is_ascii_whitespace())?;
        let rest = self.0.get(start..)?;
        let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
        let (word, tail) = rest.split_at_checked(end)?;
        self.0 = tail;
        Some(word)
    }

    fn skip(&mut self, n: usize) -> Option<()> {
        for _ in 0..n {
            self.next()?;
        }
        Some(())
    }

    /// The next word as a number; a negative one counts as zero.
    fn number(&mut self) -> Option<u64> {
        let word = self.next()?;
        if word.first() == Some(&b'-') {
            return Some(0);
        }
        let mut n: u64 = 0;
        for &b in word {
            if !b.is_ascii_digit() {
                return None;
            }
            n = n.checked_mul(10)?.checked_add(u64::from(b - b'0'))?;
        }
        Some(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASH: &[u8] =
        b"412 (a) R (b) S 1 412 412 34816 500 4194304 2000 9000 0 3 17 5 40 8 20 0 3 0 88213 8650752 1270 \
        18446744073709551615 1 1 0 0 0 0 65536 3686404 1266761467 0 0 0 17 5 0 0 0 0 0 0 0 0 0 0 0 0 0\n";

    #[test]
    fn a_name_may_hold_parentheses() {
        let s = parse_task(BASH).unwrap();
        assert_eq!(s.comm.as_bytes(), b"a) R (b");
        assert_eq!((s.state, s.ppid, s.ticks, s.child_ticks), (b'S', 1, 22, 48));
        assert_eq!((s.threads, s.start, s.rss_pages, s.cpu), (3, 88213, 1270, 5));
        assert!(!s.kernel_thread);
        assert!(parse_task(&BASH[..120]).is_none(), "cut short");
    }

    #[test]
    fn machine_lines() {
        let mut m = MachineStat::default();
        parse_machine(
            b"cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 10 20 30 400 50 6 7 8 9 10\ncpu3 1 1 1 9 0 0 0\ncpux\ncpu4 1 1\nintr 5\nprocesses 777\nsoftirq 1\nprocesses 9\n",
            &mut m,
        );
        assert_eq!(m.forks, Some(777));
        assert_eq!(
            m.cpus,
            [CpuTicks { cpu: 0, not_run: 458, interrupts: 13 }, CpuTicks { cpu: 3, not_run: 9, interrupts: 0 }]
        );
    }

    #[test]
    fn schedstat_is_its_first_number() {
        assert_eq!(parse_schedstat(b"749013 0 3\n"), Some(749_013));
        assert_eq!(parse_schedstat(b""), None);
        assert_eq!(parse_schedstat(b"99999999999999999999999 1"), None);
    }

    #[test]
    fn the_own_stat_parses() {
        let text = std::fs::read("/proc/self/stat").unwrap();
        let s = parse_task(&text).unwrap();
        assert!(s.threads >= 1 && s.start > 0 && s.rss_pages > 0);
    }

    proptest! {
        #[test]
        fn garbage_gives_none_or_a_sane_figure(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Some(s) = parse_task(&bytes) {
                prop_assert!(s.comm.as_bytes().len() <= 16);
            }
            let mut m = MachineStat::default();
            parse_machine(&bytes, &mut m);
            prop_assert!(m.cpus.len() <= bytes.len());
            prop_assert!(parse_schedstat(&bytes).is_none() || bytes.iter().any(|b| b.is_ascii_digit() || *b == b'-'));
        }

        #[test]
        fn any_cut_of_a_good_line_is_none_or_the_same(cut in 0..BASH.len()) {
            match parse_task(&BASH[..cut]) {
                None => prop_assert!(cut < BASH.len() - 20),
                Some(s) => prop_assert_eq!(s.start, 88213),
            }
        }
    }
}
