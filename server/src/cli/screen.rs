//! Where answers are shown: lists, single messages and streams, as tables or as JSON lines.
//!
//! Standard output may be a pipe whose reader leaves early; that ends the command quietly. Everything is flushed as it is said, so
//! that a reader of a stream sees each message when it comes.

use std::io::{IsTerminal, Write};
use std::time::SystemTime;

use drumline::v1::Payload;
use futures::{Stream, StreamExt};
use prost::Message;

use super::connection::Format;
use super::table::Table;
use super::{Failure, details, human, json};

/// A message that can be shown in the rows of a table.
pub trait Shown: Message {
    /// Its name in the contract.
    const NAME: &'static str;
    /// The headings.
    const HEADINGS: &'static [&'static str];

    /// The cells of its row.
    fn cells(&self, now: SystemTime) -> Vec<String>;
}

/// Where answers are shown.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    format: Format,
    width: Option<usize>,
}

impl Screen {
    /// Standard output, in this format.
    pub fn new(format: Format) -> Screen {
        let stdout = std::io::stdout();
        let size = stdout
            .is_terminal()
            .then(|| rustix::termios::tcgetwinsize(&stdout).ok())
            .flatten();
        Screen {
            format,
            width: size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0),
        }
    }

    /// Whether people read it.
    pub fn is_table(&self) -> bool {
        self.format == Format::Table
    }

    /// One line, as it is.
    pub fn say(&self, line: &str) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{line}")?;
        Ok(stdout.flush()?)
    }

    /// One message in full.
    pub fn one(&self, message: &impl Message, name: &str) -> Result<(), Failure> {
        if !self.is_table() {
            return self.say(&json::line(message, name)?);
        }
        let fields = details::fields(&json::dynamic(message, name)?, SystemTime::now())?;
        let mut table = Table::new(&["", ""], None);
        let rows: Vec<Vec<String>> = fields.into_iter().map(|(name, text)| vec![name, text]).collect();
        rows.iter().for_each(|row| table.fit(row));
        rows.iter().try_for_each(|row| self.say(&table.line(row)))
    }

    /// The content of a payload alone, as it is, for other programs.
    pub fn raw(&self, payload: Option<&Payload>) -> Result<(), Failure> {
        let bytes = drumline::payload::to_bytes(payload.unwrap_or(&Payload::default()))?;
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&bytes)?;
        // Text ends with a line's end; bytes are left as they are.
        if std::str::from_utf8(&bytes).is_ok_and(|text| !text.ends_with('\n')) {
            writeln!(stdout)?;
        }
        Ok(stdout.flush()?)
    }

    /// A list, up to a limit (0 is all); what is left out is said on standard error.
    pub async fn list<T, S>(&self, items: S, limit: usize) -> Result<(), Failure>
    where
        T: Shown,
        S: Stream<Item = drumline::Result<T>>,
    {
        let mut items = std::pin::pin!(items);
        let (now, mut table) = (SystemTime::now(), Table::new(T::HEADINGS, self.width));
        let (mut rows, mut count) = (Vec::new(), 0);
        let mut more = false;
        while let Some(item) = items.next().await {
            let item = item?;
            if limit > 0 && count == limit {
                more = true;
                break;
            }
            count += 1;
            if self.is_table() {
                let row = item.cells(now);
                table.fit(&row);
                rows.push(row);
            } else {
                self.say(&json::line(&item, T::NAME)?)?;
            }
        }
        if self.is_table() {
            self.say(&table.heading())?;
            rows.iter().try_for_each(|row| self.say(&table.line(row)))?;
        }
        if more {
            note(&format!("there are more than these {limit}: --limit 0 shows all"));
        }
        Ok(())
    }

    /// The beginning of a list that is shown as it comes.
    pub fn live<T: Shown>(&self) -> Live {
        Live {
            screen: *self,
            table: Table::new(T::HEADINGS, self.width),
            begun: false,
        }
    }
}

/// A list that is shown as it comes.
#[derive(Debug)]
pub struct Live {
    screen: Screen,
    table: Table,
    begun: bool,
}

impl Live {
    /// Shows one more.
    pub fn show<T: Shown>(&mut self, item: &T) -> Result<(), Failure> {
        if !self.screen.is_table() {
            return self.screen.say(&json::line(item, T::NAME)?);
        }
        let row = item.cells(SystemTime::now());
        self.table.fit(&row);
        if !self.begun {
            self.begun = true;
            self.screen.say(&self.table.heading())?;
        }
        self.screen.say(&self.table.line(&row))
    }
}

/// Something that people should know, where it does not get among the answers.
pub fn note(text: &str) {
    // Where standard error is gone there is nobody to tell.
    let _told = writeln!(std::io::stderr(), "{}", human::one_line(text));
}
