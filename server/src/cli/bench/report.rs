//! What a bench has found, for people and for programs.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::load::{Outcome, Plan};
use super::tally::{Checked, Tally};
use crate::cli::Failure;
use crate::cli::human::one_line;
use crate::cli::screen::Screen;
use crate::cli::table::Table;

/// What a bench has found.
#[derive(Debug)]
pub struct Report {
    workload: String,
    /// What was measured; the first is what the workload is about.
    parts: Vec<Part>,
    /// Other figures and facts.
    facts: Vec<(&'static str, Value)>,
    checked: String,
    problems: Vec<String>,
}

/// One measurement.
#[derive(Debug)]
pub struct Part {
    name: String,
    callers: usize,
    rate: Option<f64>,
    measured: Duration,
    counted: Tally,
}

impl Part {
    /// What was counted in a run; what the workload counted instead, if it did.
    pub fn new(name: impl Into<String>, plan: &Plan, outcome: Outcome) -> (Part, Checked) {
        let Outcome {
            mut counted,
            measured,
            mut checked,
        } = outcome;
        if let Some((ops, latencies)) = checked.instead.take() {
            counted.ops = ops;
            counted.latencies = latencies;
        }
        if counted.ops == 0 {
            let why = counted.example.clone();
            let why = why.unwrap_or_else(|| "nothing ended within the measurement".into());
            checked.problems.push(format!("nothing was done: {why}"));
        }
        let part = Part {
            name: name.into(),
            callers: plan.callers,
            rate: plan.rate,
            measured,
            counted,
        };
        (part, checked)
    }

    #[allow(clippy::cast_precision_loss)] // For people.
    fn a_second(&self, count: u64) -> f64 {
        let rate = count as f64 / self.measured.as_secs_f64();
        (rate * 10.0).round() / 10.0
    }

    fn object(&self) -> Map<String, Value> {
        let latencies = &self.counted.latencies;
        let figures = [
            ("callers", json!(self.callers)),
            ("rate", json!(self.rate)),
            ("duration_s", json!(self.measured.as_secs_f64())),
            ("calls", json!(self.counted.calls)),
            ("ops", json!(self.counted.ops)),
            ("calls_per_s", json!(self.a_second(self.counted.calls))),
            ("ops_per_s", json!(self.a_second(self.counted.ops))),
            ("p50_us", json!(latencies.quantile(0.5))),
            ("p95_us", json!(latencies.quantile(0.95))),
            ("p99_us", json!(latencies.quantile(0.99))),
            ("p999_us", json!(latencies.quantile(0.999))),
            ("max_us", json!(latencies.longest())),
            ("errors", json!(self.counted.error_count())),
            ("error_kinds", json!(self.counted.errors)),
        ];
        figures
            .map(|(name, figure)| (name.to_owned(), figure))
            .into_iter()
            .collect()
    }

    fn cells(&self) -> Vec<String> {
        let (counted, latencies) = (&self.counted, &self.counted.latencies);
        let millis = |us: u64| format!("{}.{:03}", us / 1_000, us % 1_000);
        vec![
            self.name.clone(),
            self.callers.to_string(),
            self.rate.map_or("closed".into(), |rate| format!("{rate}/s")),
            format!("{:.1}", self.a_second(counted.calls)),
            format!("{:.1}", self.a_second(counted.ops)),
            millis(latencies.quantile(0.5)),
            millis(latencies.quantile(0.95)),
            millis(latencies.quantile(0.99)),
            millis(latencies.quantile(0.999)),
            millis(latencies.longest()),
            counted.error_count().to_string(),
        ]
    }
}

const HEADINGS: [&str; 11] = [
    "WORKLOAD", "CALLERS", "LOOP", "CALLS/S", "OPS/S", "P50 MS", "P95", "P99", "P99.9", "MAX", "ERRORS",
];

impl Report {
    /// A report on a workload that is one measurement.
    pub fn of_one(part: Part, checked: Checked) -> Report {
        Report::of_many(part.name.clone(), vec![(part, checked)])
    }

    /// A report on a workload of several measurements, the first of which it is about.
    pub fn of_many(workload: String, measured: Vec<(Part, Checked)>) -> Report {
        let mut report = Report {
            workload,
            parts: Vec::new(),
            facts: Vec::new(),
            checked: String::new(),
            problems: Vec::new(),
        };
        for (part, checked) in measured {
            report.parts.push(part);
            report.problems.extend(checked.problems);
            report
                .facts
                .extend(checked.figures.into_iter().map(|(name, figure)| (name, json!(figure))));
            if report.checked.is_empty() {
                report.checked = checked.checked;
            }
        }
        report
    }

    /// Something more to know.
    pub fn fact(&mut self, name: &'static str, fact: impl Into<Value>) {
        self.facts.push((name, fact.into()));
    }

    /// Whether what was counted is right, and there was something to count.
    pub fn is_right(&self) -> bool {
        self.problems.is_empty()
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
        let mut object = self.parts.first().map(Part::object).unwrap_or_default();
        let mut add = |name: &str, value: Value| object.insert(name.to_owned(), value);
        add("workload", json!(self.workload));
        add("checked", json!(self.checked));
        add("problems", json!(self.problems));
        for (name, fact) in &self.facts {
            add(name, fact.clone());
        }
        if self.parts.len() > 1 {
            let parts = self.parts.iter().map(|part| (part.name.clone(), part.object().into()));
            add("parts", Value::Object(parts.collect()));
        }
        Value::Object(object)
    }

    fn show_table(&self, screen: &Screen) -> Result<(), Failure> {
        let rows: Vec<Vec<String>> = self.parts.iter().map(Part::cells).collect();
        let mut table = Table::new(&HEADINGS, None);
        rows.iter().for_each(|row| table.fit(row));
        screen.say(&table.heading())?;
        rows.iter().try_for_each(|row| screen.say(&table.line(row)))?;
        for counted in self.parts.iter().map(|part| &part.counted) {
            for (kind, count) in &counted.errors {
                screen.say(&format!("  {count} × {kind}"))?;
            }
            if let Some(example) = &counted.example {
                screen.say(&format!("  such as: {}", one_line(example)))?;
            }
        }
        for (name, fact) in &self.facts {
            let fact = fact.as_str().map_or_else(|| fact.to_string(), str::to_owned);
            screen.say(&format!("  {}: {}", name.replace('_', " "), one_line(&fact)))?;
        }
        if self.is_right() {
            return screen.say(&format!("  checked: {}", self.checked));
        }
        self.problems
            .iter()
            .try_for_each(|problem| screen.say(&format!("  WRONG: {problem}")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::Length;
    use super::*;

    fn part(name: &str, ops: u64, problems: Vec<String>) -> (Part, Checked) {
        let plan = Plan {
            callers: 2,
            length: Length::Operations(ops),
            rate: None,
        };
        let mut counted = Tally::new();
        (counted.calls, counted.ops) = (2 * ops, ops);
        counted.latencies.record(Duration::from_micros(700));
        let outcome = Outcome {
            counted,
            measured: Duration::from_secs(2),
            checked: Checked::new("all is well", problems),
        };
        Part::new(name, &plan, outcome)
    }

    #[test]
    fn the_object_has_the_figures_that_are_promised() {
        let measured = vec![part("lock", 100, Vec::new()), part("unlock", 3, Vec::new())];
        let object = Report::of_many("locks".into(), measured).object();
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
            assert!(object["parts"]["unlock"][name].is_number(), "{name}");
        }
        assert_eq!(object["calls_per_s"], json!(100.0));
        assert_eq!(object["ops_per_s"], json!(50.0));
        assert_eq!(object["p50_us"], json!(700));
        assert_eq!(object["problems"], json!([]));
        assert_eq!(object["parts"]["unlock"]["ops_per_s"], json!(1.5));
    }

    #[test]
    fn a_run_that_did_nothing_or_counted_wrong_is_not_right() {
        let is_right = |ops, problems| {
            let (part, checked) = part("lock", ops, problems);
            Report::of_one(part, checked).is_right()
        };
        assert!(is_right(1, Vec::new()));
        assert!(!is_right(0, Vec::new()));
        assert!(!is_right(1, vec!["lost".into()]));
    }
}
