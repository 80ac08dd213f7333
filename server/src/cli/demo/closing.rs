//! The end of the demo for people: who did what, what was found, how long recovery took, and what to try next.

use std::time::Instant;

use super::chaos::Chaos;
use super::outcome::{Outcome, Worker};
use super::review::{CheckKind, Severity};
use super::timeline::{Colour, Screen, seconds};
use super::work;
use crate::cli::human;

/// So many findings are shown.
const SHOWN_FINDINGS: usize = 8;
/// A line is cut after so many characters.
const WIDTH: usize = 120;

/// Shows the outcome.
pub fn show(screen: Screen, outcome: &Outcome, chaos: &Chaos, began: Instant, agents: &[String]) {
    let heading = |text: &str| {
        screen.line("");
        screen.line(&screen.paint(Colour::Bold, text));
    };
    heading("Who did what");
    show_workers(screen, outcome, chaos, began, agents);

    let summary = &outcome.summary;
    heading("What was found");
    screen.line(&format!(
        "  {} files looked at, {} lines, {} findings",
        summary.files_reviewed, summary.lines.total, summary.findings_total
    ));
    if summary.findings_total > 0 {
        show_counts(screen, outcome);
    }
    if !summary.findings.is_empty() {
        show_findings(screen, outcome);
    }

    heading("What became of it");
    if let Some(kill) = chaos.kills().last() {
        let text = match (outcome.recovery, chaos.recovered_tasks()) {
            (Some(recovery), tasks) => format!(
                "{} was killed with SIGKILL; {} {} in other hands after {}",
                kill.agent,
                counted(tasks as u64, "task"),
                if tasks == 1 { "was" } else { "were" },
                screen.paint(Colour::Green, &seconds(recovery))
            ),
            (None, _) => format!("{} was killed with SIGKILL and nobody took over", kill.agent),
        };
        screen.line(&format!("  recovery  {text}"));
    }
    let state = match outcome.problems.is_empty() {
        true => screen.paint(Colour::Green, &outcome.state),
        false => screen.paint(Colour::Red, &outcome.state),
    };
    screen.line(&format!(
        "  workflow  {state}: {} tasks, {} events, {}",
        outcome.tasks_completed,
        outcome.events,
        seconds(began.elapsed())
    ));
    if !outcome.report.is_empty() {
        screen.line(&format!("  report    {}", human::one_line(&outcome.report)));
    }
    show_next(screen);
}

fn show_workers(screen: Screen, outcome: &Outcome, chaos: &Chaos, began: Instant, agents: &[String]) {
    let cell = |text: &str| format!("{text:>9}");
    let steps = work::STEPS.map(|(_, capability)| capability.trim_start_matches("review."));
    let headings: String = steps
        .iter()
        .copied()
        .chain(["files", "findings", "lost"])
        .map(cell)
        .collect();
    screen.line(&screen.paint(Colour::Dim, &format!("  {:<9}{headings}", "agent")));
    let nothing = Worker::default();
    for agent in agents {
        let worker = outcome.workers.get(agent).unwrap_or(&nothing);
        let numbers = worker
            .tasks
            .iter()
            .chain([&worker.files, &worker.findings, &worker.lost]);
        let cells: String = numbers
            .map(|number| {
                if *number == 0 {
                    cell("·")
                } else {
                    cell(&number.to_string())
                }
            })
            .collect();
        let killed = chaos.kills().iter().find(|kill| &kill.agent == agent);
        let fate = killed.map_or(String::new(), |kill| {
            let at = kill.at.saturating_duration_since(began);
            screen.paint(Colour::Red, &format!("   killed at +{:.3}s", at.as_secs_f64()))
        });
        let name = screen.paint(Colour::of(agent), &format!("{agent:<9}"));
        screen.line(&format!("  {name}{cells}{fate}"));
    }
}

fn show_counts(screen: Screen, outcome: &Outcome) {
    let summary = &outcome.summary;
    let severities: Vec<String> = Severity::ALL
        .iter()
        .zip(summary.by_severity)
        .map(|(severity, count)| {
            let colour = if count > 0 {
                severity_colour(*severity)
            } else {
                Colour::Dim
            };
            screen.paint(colour, &format!("{count} {}", severity.name()))
        })
        .collect();
    let kinds: Vec<String> = CheckKind::ALL
        .iter()
        .map(|kind| {
            let of_kind = |check: &&String| CheckKind::of(check) == Some(*kind);
            let checks = summary.by_check.iter().filter(|(check, _)| of_kind(check));
            let count: u64 = checks.map(|(_, count)| *count).sum();
            format!("{count} {}", kind.name())
        })
        .collect();
    screen.line(&format!("  by severity  {}", severities.join(", ")));
    screen.line(&format!("  by kind      {}", kinds.join(", ")));
}

fn show_findings(screen: Screen, outcome: &Outcome) {
    let summary = &outcome.summary;
    for finding in summary.findings.iter().take(SHOWN_FINDINGS) {
        let place = match finding.line {
            0 => finding.path.clone(),
            line => format!("{}:{line}", finding.path),
        };
        let text = human::one_line(&format!("{place}  {}", finding.message));
        let severity = format!("{:<6}", finding.severity.name());
        screen.line(&format!(
            "  {} {}",
            screen.paint(severity_colour(finding.severity), &severity),
            cut(&text, WIDTH)
        ));
    }
    let (listed, shown) = (summary.findings.len(), summary.findings.len().min(SHOWN_FINDINGS));
    let more = summary.findings_total.saturating_sub(shown as u64);
    if more > 0 {
        let more = format!("  and {more} more; the report lists the gravest {listed}");
        screen.line(&screen.paint(Colour::Dim, &more));
    }
}

/// What to type against a server of one's own.
fn show_next(screen: Screen) {
    screen.line("");
    screen.line(&screen.paint(Colour::Bold, "What to try next, each in a terminal of its own"));
    for line in [
        "drumline serve",
        "drumline events tail '**'",
        "drumline agent exec --capability shout -- tr a-z A-Z",
        "drumline tasks delegate shout --input '\"hello\"' --wait",
    ] {
        screen.line(&format!("  {line}"));
    }
}

fn severity_colour(severity: Severity) -> Colour {
    match severity {
        Severity::High => Colour::Red,
        Severity::Medium => Colour::Yellow,
        Severity::Low => Colour::Plain,
        Severity::Info => Colour::Dim,
    }
}

/// `1 task`, `2 tasks`.
pub fn counted(count: u64, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

fn cut(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        assert_eq!(
            [0, 1, 2].map(|count| counted(count, "task")),
            ["0 tasks", "1 task", "2 tasks"]
        );
        assert_eq!(cut("äbc", 2), "äb…");
    }
}
