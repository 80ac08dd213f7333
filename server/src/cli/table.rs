//! Columns that line up, for a list that is there whole and for one that grows as it is read.

use super::human;

/// Between two columns.
const GAP: &str = "  ";

/// The widths of columns so far. They only grow, so that rows which come later line up as well as can be.
#[derive(Clone, Debug)]
pub struct Table {
    headings: Vec<&'static str>,
    widths: Vec<usize>,
    /// Where a line is cut; `None` is nowhere.
    line: Option<usize>,
}

impl Table {
    /// A table with these headings, cut at the width of the terminal if there is one.
    pub fn new(headings: &[&'static str], line: Option<usize>) -> Table {
        let widths = headings.iter().map(|heading| heading.chars().count()).collect();
        Table {
            headings: headings.to_vec(),
            widths,
            line,
        }
    }

    /// Takes the widths of a row into account.
    pub fn fit(&mut self, row: &[String]) {
        for (width, cell) in self.widths.iter_mut().zip(row) {
            *width = (*width).max(human::one_line(cell).chars().count());
        }
    }

    /// The line of headings.
    pub fn heading(&self) -> String {
        let headings: Vec<String> = self.headings.iter().map(|heading| (*heading).to_owned()).collect();
        self.line(&headings)
    }

    /// One row as a line.
    pub fn line(&self, row: &[String]) -> String {
        let mut line = String::new();
        for (index, cell) in row.iter().enumerate() {
            let cell = human::one_line(cell);
            let filler = self
                .widths
                .get(index)
                .copied()
                .unwrap_or(0)
                .saturating_sub(cell.chars().count());
            line.push_str(&cell);
            if index + 1 < row.len() {
                line.extend(std::iter::repeat_n(' ', filler));
                line.push_str(GAP);
            }
        }
        cut(line.trim_end(), self.line)
    }
}

/// A line cut to a width, with a mark where something is missing.
fn cut(line: &str, width: Option<usize>) -> String {
    match width {
        Some(width) if width > 1 && line.chars().count() > width => {
            line.chars().take(width - 1).chain(std::iter::once('…')).collect()
        }
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn columns_line_up_and_the_last_is_not_filled() {
        let mut table = Table::new(&["ID", "STATE", "NOTE"], None);
        let rows = [row(&["a-long-id", "UP", "x"]), row(&["ß", "DRAINING", ""])];
        rows.iter().for_each(|row| table.fit(row));
        assert_eq!(table.heading(), "ID         STATE     NOTE");
        assert_eq!(table.line(&rows[0]), "a-long-id  UP        x");
        assert_eq!(table.line(&rows[1]), "ß          DRAINING");
    }

    #[test]
    fn a_line_is_cut_at_the_terminals_width() {
        let mut table = Table::new(&["ID", "PAYLOAD"], Some(12));
        table.fit(&row(&["a", "{\"long\":true}"]));
        assert_eq!(table.line(&row(&["a", "{\"long\":true}"])), "a   {\"long\"…");
        assert_eq!(table.line(&row(&["a", "{}"])), "a   {}");
    }

    #[test]
    fn a_row_that_comes_later_widens_those_after_it() {
        let mut table = Table::new(&["A", "B"], None);
        assert_eq!(table.line(&row(&["1", "2"])), "1  2");
        table.fit(&row(&["111", "2"]));
        assert_eq!(table.line(&row(&["1", "2"])), "1    2");
    }
}
