//! What the server's processes use, where they are on this machine.

use std::time::Instant;

use serde_json::{Value, json};

use crate::cli::Failure;

/// The server's processes.
#[derive(Debug)]
pub(super) struct Processes {
    pids: Vec<u32>,
}

/// What they use together.
#[derive(Debug)]
pub(super) struct Seen {
    at: Instant,
    pub(super) resident_kib: u64,
    cpu_seconds: f64,
}

impl Processes {
    pub(super) fn new(pids: &[u32]) -> Processes {
        Processes { pids: pids.to_vec() }
    }

    /// Looks at them; nothing if none was named.
    pub(super) fn look(&self) -> Result<Option<Seen>, Failure> {
        if self.pids.is_empty() {
            return Ok(None);
        }
        let mut seen = Seen {
            at: Instant::now(),
            resident_kib: 0,
            cpu_seconds: 0.0,
        };
        for pid in &self.pids {
            let (resident_kib, cpu_seconds) = of_process(*pid)
                .ok_or_else(|| Failure::message(format!("process {pid} cannot be looked at in /proc")))?;
            seen.resident_kib += resident_kib;
            seen.cpu_seconds += cpu_seconds;
        }
        Ok(Some(seen))
    }
}

#[allow(clippy::cast_precision_loss)] // For people.
fn of_process(pid: u32) -> Option<(u64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may have spaces; the times are the 14th and 15th field.
    let mut times = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = times.next()?.parse::<u64>().ok()? + times.next()?.parse::<u64>().ok()?;
    let resident_kib = resident.trim().trim_end_matches(" kB").parse().ok()?;
    Some((
        resident_kib,
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
    ))
}

impl Seen {
    /// What so many agents have cost since.
    #[allow(clippy::cast_precision_loss)] // For people.
    pub(super) fn since(&self, before: &Seen, agents: usize) -> Vec<(&'static str, Value)> {
        let tenth = |value: f64| json!((value * 10.0).round() / 10.0);
        let more = self.resident_kib.saturating_sub(before.resident_kib);
        let (seconds, cpu) = (
            (self.at - before.at).as_secs_f64(),
            self.cpu_seconds - before.cpu_seconds,
        );
        vec![
            ("server_kib_an_agent", tenth(more as f64 / agents as f64)),
            ("server_resident_kib", json!(self.resident_kib)),
            ("server_cpu_percent", tenth(100.0 * cpu / seconds)),
        ]
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let seen = Processes::new(&[std::process::id()]).look().expect("it is there");
        let seen = seen.expect("one was named");
        assert!(seen.resident_kib > 100 && seen.cpu_seconds >= 0.0, "{seen:?}");
        assert!(Processes::new(&[u32::MAX]).look().is_err());
        assert!(Processes::new(&[]).look().expect("nobody").is_none());
    }
}
