//! What the command prints: results on stdout, notes on stderr.

use std::io::Write as _;

use serde::Serialize;

#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// Results as JSON instead of tables.
    pub json: bool,
}

impl Output {
    pub fn json<T: Serialize>(self, value: &T) {
        let text = serde_json::to_string_pretty(value).expect("results are plain data");
        self.text(&format!("{text}\n"));
    }

    /// A reader that has closed our stdout, as `head` does, wants no more.
    pub fn text(self, text: &str) {
        let _closed = std::io::stdout().write_all(text.as_bytes());
    }

    pub fn bytes(self, bytes: &[u8]) {
        let _closed = std::io::stdout().write_all(bytes);
    }

    pub fn note(self, text: &str) {
        let _closed = writeln!(std::io::stderr(), "{text}");
    }
}

/// Columns padded to their widest cell, headings in upper case.
pub fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let headings = headings.iter().map(|heading| heading.to_uppercase());
    let lines: Vec<Vec<String>> = std::iter::once(headings.collect()).chain(rows).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for line in &lines {
        let padded: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![
            vec!["iad".to_owned(), "healthy".to_owned()],
            vec!["frankfurt".to_owned(), "down".to_owned()],
        ];
        assert_eq!(
            table(&["region", "verdict"], rows),
            "REGION     VERDICT\niad        healthy\nfrankfurt  down\n"
        );
        assert_eq!(table(&["name"], []), "NAME\n");
    }
}
