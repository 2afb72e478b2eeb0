//! Tables for people: a header, columns that are aligned, and nothing that a terminal would take for a command.
//!
//! Columns are as wide as what is in the first rows, within bounds; a longer text later is cut, and ends in `…`. The last
//! column is never cut.

/// What a directory or a client says may hold anything, and a terminal believes it.
pub(super) fn on_one_line(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Columns with their names and widths, in characters.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    widths: [usize; N],
}

impl<const N: usize> Table<N> {
    /// One for such rows, no column wider than `widest`; and its header.
    pub(super) fn new(names: [&str; N], rows: &[[String; N]], widest: usize) -> (Self, String) {
        let mut widths = names.map(|name| name.chars().count());
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count().min(widest));
            }
        }
        let table = Self { widths };
        let header = table.line(&names.map(str::to_owned));
        (table, header)
    }

    /// A row, and the end of its line.
    pub(super) fn line(&self, row: &[String; N]) -> String {
        let mut line = String::new();
        for (column, (width, cell)) in self.widths.iter().zip(row).enumerate() {
            if column.saturating_add(1) == N {
                line.push_str(cell);
                break;
            }
            let length = cell.chars().count();
            if length > *width {
                line.extend(cell.chars().take(width.saturating_sub(1)));
                line.push('…');
            } else {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width.saturating_sub(length)));
            }
            line.push_str("  ");
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_bounded() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        let rows = [row(["ann", "imap", "1"]), row(["bobby brown", "pop3", "2"])];
        let (table, header) = Table::new(["NAME", "PROTOCOL", "ID"], &rows, 8);
        assert_eq!(header, "NAME      PROTOCOL  ID\n");
        assert_eq!(table.line(&rows[0]), "ann       imap      1\n");
        assert_eq!(table.line(&rows[1]), "bobby b…  pop3      2\n");
        let long = row(["Zoë", "", "as long as it is"]);
        assert_eq!(table.line(&long), "Zoë                 as long as it is\n");
    }

    #[test]
    fn a_terminal_is_told_nothing() {
        assert_eq!(
            on_one_line("a\u{1b}[2Jb\nc\u{9b}ä"),
            "a\\u{1b}[2Jb\\nc\\u{9b}ä"
        );
    }
}
