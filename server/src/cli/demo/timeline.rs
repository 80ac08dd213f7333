//! The live timeline: what happens, as the log says it, one line each.
//!
//! Each line is the time since the demo began, who, and what. Where there are many chunks only the first ones have lines of their own,
//! and then every tenth part of the work; whatever goes wrong is always shown. Lines are coloured on a terminal only. Whoever
//! reads may leave early: that ends nothing.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::fact::Fact;
use super::work;
use crate::cli::human;

/// So many chunks are shown one by one.
const SHOWN_CHUNKS: i64 = 16;
/// After so long without a line, progress is worth one.
const SILENCE: Duration = Duration::from_secs(2);
/// Room for who does something.
const WHO: usize = 9;
/// Room for what is done.
const VERB: usize = 10;

/// A colour of the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Nothing special.
    Plain,
    /// In the background.
    Dim,
    /// To be seen.
    Bold,
    /// Went wrong.
    Red,
    /// Went well.
    Green,
    /// Taken over.
    Yellow,
    /// Who it is.
    Agent(u8),
}

impl Colour {
    fn code(self) -> String {
        match self {
            Colour::Plain => "0".to_owned(),
            Colour::Dim => "2".to_owned(),
            Colour::Bold => "1".to_owned(),
            Colour::Red => "1;31".to_owned(),
            Colour::Green => "32".to_owned(),
            Colour::Yellow => "33".to_owned(),
            Colour::Agent(number) => ["36", "35", "34", "96"][usize::from(number) % 4].to_owned(),
        }
    }

    /// The colour of an agent of the demo.
    pub fn of(who: &str) -> Colour {
        match who.strip_prefix("agent-").and_then(|number| number.parse().ok()) {
            Some(number) => Colour::Agent(number),
            None => Colour::Bold,
        }
    }
}

/// Where lines are written to.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    to_stderr: bool,
    coloured: bool,
}

impl Screen {
    /// Standard error where standard output is for programs, else standard output.
    pub fn new(to_stderr: bool) -> Screen {
        let terminal = match to_stderr {
            true => std::io::stderr().is_terminal(),
            false => std::io::stdout().is_terminal(),
        };
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let able = std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Screen {
            to_stderr,
            coloured: terminal && wanted && able,
        }
    }

    /// Writes a line.
    pub fn line(&self, text: &str) {
        // Who has read enough may go: the demo ends by itself.
        let _written = match self.to_stderr {
            true => writeln!(std::io::stderr(), "{text}"),
            false => writeln!(std::io::stdout(), "{text}"),
        };
    }

    /// A text in a colour, if there are any.
    pub fn paint(&self, colour: Colour, text: &str) -> String {
        match self.coloured && colour != Colour::Plain {
            true => format!("\u{1b}[{}m{text}\u{1b}[0m", colour.code()),
            false => text.to_owned(),
        }
    }
}

/// One line before it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    colour: Colour,
    mark: char,
    who: String,
    verb: String,
    what: String,
}

/// The timeline.
#[derive(Debug)]
pub struct Timeline {
    screen: Screen,
    began: Instant,
    /// When the last line was written.
    last: Cell<Instant>,
    chunks: usize,
    done: usize,
}

impl Timeline {
    /// A timeline that begins now.
    pub fn new(screen: Screen) -> Timeline {
        let began = Instant::now();
        Timeline {
            screen,
            began,
            last: Cell::new(began),
            chunks: 0,
            done: 0,
        }
    }

    /// Where it is written to.
    pub fn screen(&self) -> Screen {
        self.screen
    }

    /// When it began.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// How many chunks there are to come.
    pub fn expect_chunks(&mut self, chunks: usize) {
        self.chunks = chunks;
    }

    /// Something that the demo does itself.
    pub fn note(&self, who: &str, verb: &str, what: &str) {
        self.write(&entry(Colour::Plain, '●', who, verb, what));
    }

    /// A process was killed.
    pub fn killed(&self, agent: &str, pid: u32, fact: &Fact) {
        let what = format!("process {pid}, at work on {}", fact.task());
        self.write(&entry(Colour::Red, '✗', agent, "SIGKILL", &what));
    }

    /// The work of a dead agent is in other hands.
    pub fn recovered(&self, fact: &Fact, took: Duration) {
        let what = format!("{} {} after the SIGKILL", fact.task(), seconds(took));
        self.write(&entry(Colour::Green, '✓', &fact.agent, "took over", &what));
    }

    /// Something went wrong.
    pub fn trouble(&self, who: &str, verb: &str, what: &str) {
        self.write(&entry(Colour::Red, '✗', who, verb, what));
    }

    /// An event of the log.
    pub fn event(&mut self, fact: &Fact) {
        if let Some(entry) = self.entry_of(fact) {
            self.write(&entry);
        }
    }

    fn entry_of(&mut self, fact: &Fact) -> Option<Entry> {
        let agent = fact.agent.as_str();
        let task = || format!("{} (attempt {})", fact.task(), fact.number("attempt"));
        Some(match fact.event_type.as_str() {
            "agent.registered" => entry(Colour::Plain, '●', agent, "registered", &capabilities(fact)),
            "agent.expired" => entry(
                Colour::Red,
                '✗',
                agent,
                "expired",
                "its session is over: what it had goes to others",
            ),
            "workflow.started" => entry(Colour::Plain, '◆', "workflow", "started", fact.text("workflow_name")),
            "workflow.checkpoint" => self.step_ended(fact),
            "workflow.completed" => entry(Colour::Green, '✓', "workflow", "completed", ""),
            "workflow.failed" | "workflow.cancelled" => {
                let verb = fact.event_type.trim_start_matches("workflow.");
                entry(Colour::Red, '✗', "workflow", verb, fact.text("cause"))
            }
            "task.accepted" if self.shows(fact) => entry(Colour::Plain, '●', agent, "accepted", &task()),
            "task.progressed" if self.last.get().elapsed() >= SILENCE => {
                let what = format!("{}: {}", fact.task(), fact.text("progress_message"));
                entry(Colour::Dim, '…', agent, "works on", &what)
            }
            "task.completed" => return self.completed(fact),
            "task.reassigned" => {
                let (number, kind) = (fact.number("attempt"), fact.text("error_kind"));
                let what = format!("{} (attempt {number}, {kind})", fact.task());
                entry(Colour::Yellow, '↻', agent, "lost", &what)
            }
            "task.failed" | "task.timed_out" | "task.rejected" | "task.cancelled" => {
                let what = format!("{}: {} {}", task(), fact.text("error_kind"), fact.text("error_message"));
                let verb = fact.event_type.trim_start_matches("task.");
                entry(Colour::Red, '✗', agent, verb, what.trim_end_matches([' ', ':']))
            }
            "resource.locked" => {
                let what = format!("{} (fencing token {})", fact.subject, fact.number("fencing_token"));
                entry(Colour::Plain, '●', agent, "locked", &what)
            }
            "resource.unlocked" | "resource.expired" => entry(Colour::Dim, '○', agent, "unlocked", &fact.subject),
            "state.changed" => {
                let what = format!("{} version {}", fact.subject, fact.number("version"));
                entry(Colour::Plain, '●', agent, "wrote", &what)
            }
            work::CHECKPOINT => entry(Colour::Plain, '●', agent, "published", work::CHECKPOINT),
            _ => return None,
        })
    }

    fn completed(&mut self, fact: &Fact) -> Option<Entry> {
        let what = fact.task();
        if fact.capability() == work::CHUNK {
            let tenth = |done: usize| done * 10 / self.chunks.max(1);
            let turned = tenth(self.done + 1) > tenth(self.done);
            self.done += 1;
            if !self.shows(fact) {
                let what = format!("{} of {} chunks", self.done, self.chunks);
                return turned.then(|| entry(Colour::Plain, '…', "workflow", "reviewed", &what));
            }
        }
        Some(entry(Colour::Plain, '✓', &fact.agent, "completed", &what))
    }

    fn step_ended(&self, fact: &Fact) -> Entry {
        let (all, good) = (fact.number("item_count"), fact.number("completed_count"));
        let state = fact.text("state").to_lowercase();
        let colour = match state.as_str() {
            "failed" => Colour::Red,
            _ => Colour::Dim,
        };
        let count = match all {
            1 => String::new(),
            _ => format!(", {good} of {all} tasks"),
        };
        let what = format!("step {} {state}{count}", fact.text("step_id"));
        entry(colour, '◆', "workflow", "checkpoint", &what)
    }

    /// Whether a task has lines of its own.
    fn shows(&self, fact: &Fact) -> bool {
        let place = fact.text("item_key").parse().unwrap_or(0);
        fact.capability() != work::CHUNK || place < SHOWN_CHUNKS || fact.number("attempt") > 1
    }

    fn write(&self, entry: &Entry) {
        self.last.set(Instant::now());
        self.screen.line(&self.line(entry, self.began.elapsed()));
    }

    fn line(&self, entry: &Entry, at: Duration) -> String {
        let paint = |colour, text: &str| self.screen.paint(colour, text);
        // What is filled up is filled before it is painted: codes have no width.
        let who = format!("{:<WHO$}", human::one_line(&entry.who));
        let verb = format!("{:<VERB$}", human::one_line(&entry.verb));
        let mark = match entry.colour {
            Colour::Plain => Colour::of(&entry.who),
            colour => colour,
        };
        let line = format!(
            "{}  {} {} {} {}",
            paint(Colour::Dim, &format!("{:>8}", format!("+{:.3}s", at.as_secs_f64()))),
            paint(mark, &entry.mark.to_string()),
            paint(Colour::of(&entry.who), &who),
            paint(entry.colour, &verb),
            paint(entry.colour, &human::one_line(&entry.what)),
        );
        line.trim_end().to_owned()
    }
}

fn entry(colour: Colour, mark: char, who: &str, verb: &str, what: &str) -> Entry {
    Entry {
        colour,
        mark,
        who: who.to_owned(),
        verb: verb.to_owned(),
        what: what.to_owned(),
    }
}

/// A length of time for people.
pub fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn capabilities(fact: &Fact) -> String {
    let names = fact.data["capabilities"].as_array().into_iter().flatten();
    let names: Vec<&str> = names.filter_map(|name| name.as_str()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::fact::tests::task_fact;
    use super::*;

    fn timeline(coloured: bool) -> Timeline {
        Timeline::new(Screen {
            to_stderr: true,
            coloured,
        })
    }

    fn line(timeline: &mut Timeline, fact: &Fact) -> Option<String> {
        let entry = timeline.entry_of(fact)?;
        Some(timeline.line(&entry, Duration::from_millis(1_234)))
    }

    #[test]
    fn a_line_says_when_who_and_what() {
        let fact = task_fact("task.accepted", "t", work::CHUNK, "agent-2", 1);
        assert_eq!(
            line(&mut timeline(false), &fact).as_deref(),
            Some(" +1.234s  ● agent-2   accepted   review.chunk #3 (attempt 1)")
        );
        assert!(line(&mut timeline(true), &fact).expect("a line").contains("\u{1b}["));
    }

    #[test]
    fn of_many_chunks_the_later_ones_are_counted() {
        let mut timeline = timeline(false);
        timeline.expect_chunks(100);
        let mut fact = task_fact("task.completed", "t", work::CHUNK, "agent-2", 1);
        fact.data["item_key"] = "50".into();
        let lines: Vec<String> = (0..20).filter_map(|_| line(&mut timeline, &fact)).collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[1].ends_with("20 of 100 chunks"), "{lines:?}");
        fact.data["attempt"] = 2.into();
        assert!(
            line(&mut timeline, &fact).is_some(),
            "what was taken over is always shown"
        );
    }

    #[test]
    fn hostile_names_cannot_steer_the_terminal() {
        let fact = Fact {
            event_type: "workflow.failed".into(),
            data: serde_json::json!({ "cause": "\u{1b}[2J" }),
            ..Fact::default()
        };
        assert!(!line(&mut timeline(false), &fact).expect("a line").contains('\u{1b}'));
    }
}
