//! `drumline config`: every setting, what it is, and who says so.

use std::io::Write;

use clap::Args;

use super::Failure;
use super::connection::Format;
use super::human;
use super::table::Table;
use crate::config::{self, ALL, Flags, Line, Reading, Surroundings};

/// What `drumline config` can be told.
#[derive(Args, Debug)]
pub struct ConfigArgs {
    #[command(flatten)]
    flags: Flags<ALL>,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// Shows the settings.
///
/// # Errors
/// When one of them is wrong.
pub fn run(args: &ConfigArgs) -> Result<(), Failure> {
    let reading = read(&args.flags)?;
    for warning in &reading.warnings {
        let _told = writeln!(std::io::stderr(), "warning: {}", human::one_line(warning));
    }
    let mut out = std::io::stdout().lock();
    match args.output {
        Format::Json => {
            for line in &reading.lines {
                writeln!(out, "{}", json(line))?;
            }
        }
        Format::Table => {
            let mut table = Table::new(&["SETTING", "VALUE", "SOURCE", "NOTES"], None);
            let rows: Vec<Vec<String>> = reading.lines.iter().map(cells).collect();
            rows.iter().for_each(|row| table.fit(row));
            writeln!(out, "{}", table.heading())?;
            for row in &rows {
                writeln!(out, "{}", table.line(row))?;
            }
        }
    }
    Ok(out.flush()?)
}

/// Reads the settings of this process.
///
/// # Errors
/// With all that is wrong.
pub fn read<const WHOLE: bool>(flags: &Flags<WHOLE>) -> Result<Reading, Failure> {
    Ok(config::read(flags, &Surroundings::of_this_process())?)
}

fn cells(line: &Line) -> Vec<String> {
    vec![
        line.name.to_owned(),
        human::or_dash(&line.value),
        line.source.clone(),
        line.notes.join("; "),
    ]
}

fn json(line: &Line) -> serde_json::Value {
    let value = (!line.value.is_empty()).then_some(&line.value);
    serde_json::json!({ "name": line.name, "value": value, "source": line.source, "notes": line.notes })
}
