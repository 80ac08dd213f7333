//! What a bench has found, for people and for programs.

use serde_json::{Value, json};

use super::load::Plan;
use super::tally::{Checked, Tally};
use crate::cli::Failure;
use crate::cli::screen::Screen;
use crate::cli::table::Table;

/// What a bench has found.
#[derive(Debug)]
pub struct Report {
    workload: String,
    plan: Plan,
    connections: usize,
    counted: Tally,
    checked: Checked,
}

impl Report {
    /// Puts together what was counted, and what the workload makes of it.
    pub fn new(workload: String, plan: Plan, connections: usize, mut counted: Tally, mut checked: Checked) -> Report {
        if let Some((ops, latencies)) = checked.instead.take() {
            counted.ops = ops;
            counted.latencies = latencies;
        }
        Report {
            workload,
            plan,
            connections,
            counted,
            checked,
        }
    }

    /// Whether what was counted is right, and there was something to count.
    pub fn is_right(&self) -> bool {
        self.problems().is_empty()
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = self.checked.problems.clone();
        if self.counted.ops == 0 {
            let why = self
                .counted
                .example
                .clone()
                .unwrap_or_else(|| "nothing ended within the measurement".into());
            problems.push(format!("nothing was done: {why}"));
        }
        problems
    }

    #[allow(clippy::cast_precision_loss)] // For people.
    fn a_second(&self, count: u64) -> f64 {
        let rate = count as f64 / self.plan.duration.as_secs_f64();
        (rate * 10.0).round() / 10.0
    }

    /// Shows it: a table, or one object as the last line.
    pub fn show(&self, screen: &Screen) -> Result<(), Failure> {
        if screen.is_table() {
            self.show_table(screen)
        } else {
            screen.say(&self.object().to_string())
        }
    }

    fn object(&self) -> Value {
        let latencies = &self.counted.latencies;
        let mut object = json!({
            "workload": self.workload,
            "callers": self.plan.callers,
            "connections": self.connections,
            "rate": self.plan.rate,
            "duration_s": self.plan.duration.as_secs_f64(),
            "calls": self.counted.calls,
            "ops": self.counted.ops,
            "calls_per_s": self.a_second(self.counted.calls),
            "ops_per_s": self.a_second(self.counted.ops),
            "p50_us": latencies.quantile(0.5),
            "p95_us": latencies.quantile(0.95),
            "p99_us": latencies.quantile(0.99),
            "p999_us": latencies.quantile(0.999),
            "max_us": latencies.longest(),
            "errors": self.counted.error_count(),
            "error_kinds": self.counted.errors,
            "checked": self.checked.checked,
            "problems": self.problems(),
        });
        for (name, figure) in &self.checked.figures {
            object[*name] = json!(figure);
        }
        object
    }

    fn show_table(&self, screen: &Screen) -> Result<(), Failure> {
        let (counted, latencies) = (&self.counted, &self.counted.latencies);
        let millis = |us: u64| format!("{}.{:03}", us / 1_000, us % 1_000);
        let row = vec![
            self.workload.clone(),
            self.plan.callers.to_string(),
            self.plan.rate.map_or("closed".into(), |rate| format!("{rate}/s")),
            format!("{:.1}", self.a_second(counted.calls)),
            format!("{:.1}", self.a_second(counted.ops)),
            millis(latencies.quantile(0.5)),
            millis(latencies.quantile(0.95)),
            millis(latencies.quantile(0.99)),
            millis(latencies.quantile(0.999)),
            millis(latencies.longest()),
            counted.error_count().to_string(),
        ];
        let headings = [
            "WORKLOAD", "CALLERS", "LOOP", "CALLS/S", "OPS/S", "P50 MS", "P95", "P99", "P99.9", "MAX", "ERRORS",
        ];
        let mut table = Table::new(&headings, None);
        table.fit(&row);
        screen.say(&table.heading())?;
        screen.say(&table.line(&row))?;
        for (kind, count) in &counted.errors {
            screen.say(&format!("  {count} × {kind}"))?;
        }
        if let Some(example) = &counted.example {
            screen.say(&format!("  such as: {}", crate::cli::human::one_line(example)))?;
        }
        for (name, figure) in &self.checked.figures {
            screen.say(&format!("  {}: {figure}", name.replace('_', " ")))?;
        }
        let problems = self.problems();
        if problems.is_empty() {
            return screen.say(&format!("  checked: {}", self.checked.checked));
        }
        problems
            .iter()
            .try_for_each(|problem| screen.say(&format!("  WRONG: {problem}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn report(ops: u64, problems: Vec<String>) -> Report {
        let plan = Plan {
            callers: 2,
            warm_up: Duration::ZERO,
            duration: Duration::from_secs(2),
            rate: None,
        };
        let mut counted = Tally::new();
        (counted.calls, counted.ops) = (2 * ops, ops);
        counted.latencies.record(Duration::from_micros(700));
        Report::new("lock".into(), plan, 1, counted, Checked::new("all is well", problems))
    }

    #[test]
    fn the_object_has_the_figures_that_are_promised() {
        let object = report(100, Vec::new()).object();
        for name in [
            "calls_per_s",
            "ops_per_s",
            "p50_us",
            "p95_us",
            "p99_us",
            "p999_us",
            "errors",
        ] {
            assert!(object[name].is_number(), "{name}");
        }
        assert_eq!(object["calls_per_s"], json!(100.0));
        assert_eq!(object["ops_per_s"], json!(50.0));
        assert_eq!(object["p50_us"], json!(700));
    }

    #[test]
    fn a_run_that_did_nothing_or_counted_wrong_is_not_right() {
        assert!(report(1, Vec::new()).is_right());
        assert!(!report(0, Vec::new()).is_right());
        assert!(!report(1, vec!["lost".into()]).is_right());
    }
}
