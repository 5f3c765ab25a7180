//! The style of all tables that people read in a terminal.

use comfy_table::{CellAlignment, presets};

pub use comfy_table::Table;

/// Returns an empty table without borders; the columns with these numbers hold figures, which are
/// aligned to the right. Without a header the table has none.
pub fn borderless_table<H: Into<String>>(
    header: impl IntoIterator<Item = H>,
    figures: impl IntoIterator<Item = usize>,
) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let header: Vec<String> = header.into_iter().map(Into::into).collect();
    if !header.is_empty() {
        table.set_header(header);
    }
    for index in figures {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_to_the_right_and_words_to_the_left() {
        let mut table = borderless_table(["policy", "total"], [1]);
        table.add_row(["plain", "1s"]);
        let lines: Vec<String> = table.lines().map(|line| line.trim().to_owned()).collect();
        assert_eq!(lines, ["policy  total", "plain      1s"]);
    }
}
