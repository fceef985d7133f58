//! Tables, and the units that people read.

pub(super) use meshd_diagnose::units::{age, round_trip};
use std::io::{self, Write};

use comfy_table::{CellAlignment, presets};

use crate::{
    columns::{Need, SENTENCE, fit, wrapped},
    escape::paint,
};

/// Rows under column names. Tabs and newlines are removed from cells, because their text comes from daemons and files.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    names: Vec<&'static str>,
    right: Vec<bool>,
    /// Rank of each column, as in [`Need::rank`]. If empty, all columns are shown at any width.
    ranks: Vec<u8>,
    rows: Vec<Vec<String>>,
}

/// Characters between two columns.
const GAP: usize = 2;
/// Indent of a sentence on its own line.
const INDENT: usize = 4;

impl Table {
    /// Makes a table with these columns; a name that begins with `>` marks a right-aligned one.
    pub(super) fn new(names: &[&'static str]) -> Self {
        let right = names.iter().map(|name| name.starts_with('>')).collect();
        let names = names
            .iter()
            .map(|name| name.trim_start_matches('>'))
            .collect();
        Self {
            names,
            right,
            ..Self::default()
        }
    }

    /// Sets the order in which columns are dropped on a narrow terminal.
    pub(super) fn ranked(self, ranks: &[u8]) -> Self {
        let ranks = ranks.to_vec();
        Self { ranks, ..self }
    }

    /// Formats as [`Self::text`] in `room` characters. Columns are dropped by rank, and sentences get their own lines.
    /// Columns of rank 0 stay whole, and the terminal wraps them.
    pub(super) fn text_within(
        &self,
        out: &mut dyn Write,
        (header, color): (bool, bool),
        room: usize,
    ) -> io::Result<()> {
        let width = |at: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(at));
            let longest = cells.map(|cell| cell.chars().count()).max();
            let name = if header {
                self.names[at].chars().count()
            } else {
                0
            };
            longest.unwrap_or_default().max(name)
        };
        let needs: Vec<Need> = self
            .ranks
            .iter()
            .enumerate()
            .map(|(at, rank)| Need {
                width: width(at),
                rank: *rank,
            })
            .collect();
        let whole: usize = needs.iter().map(|need| need.width + GAP).sum();
        if needs.is_empty() || whole.saturating_sub(GAP) <= room {
            return self.text(out, header, color);
        }
        let (sentences, others): (Vec<usize>, Vec<usize>) =
            (0..needs.len()).partition(|at| needs[*at].rank == SENTENCE);
        let of_others: Vec<Need> = others.iter().map(|at| needs[*at]).collect();
        let fitting: Vec<usize> = match fit(&of_others, GAP, room) {
            Some(fitting) => fitting.into_iter().map(|(at, _)| others[at]).collect(),
            None => (0..needs.len()).filter(|at| needs[*at].rank == 0).collect(),
        };
        let narrow = self.only(&fitting);
        let mut lines = Vec::new();
        narrow.text(&mut lines, header, color)?;
        let text = String::from_utf8_lossy(&lines);
        let heading = usize::from(header);
        for (number, line) in text.lines().enumerate() {
            writeln!(out, "{line}")?;
            let Some(row) = number.checked_sub(heading).and_then(|at| self.rows.get(at)) else {
                continue;
            };
            for sentence in sentences.iter().map(|at| &row[*at]) {
                if !sentence.is_empty() {
                    let blanks = " ".repeat(INDENT);
                    for line in wrapped(&format!("{blanks}{sentence}"), room, INDENT) {
                        writeln!(out, "{line}")?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Keeps only these columns.
    fn only(&self, fitting: &[usize]) -> Self {
        let of = |row: &Vec<String>| fitting.iter().map(|at| row[*at].clone()).collect();
        Self {
            names: fitting.iter().map(|at| self.names[*at]).collect(),
            right: fitting.iter().map(|at| self.right[*at]).collect(),
            ranks: Vec::new(),
            rows: self.rows.iter().map(of).collect(),
        }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let clean = |cell: String| cell.replace(|c: char| c.is_control(), " ");
        self.rows.push(cells.into_iter().map(clean).collect());
    }

    /// Writes aligned text. A nameless first column holds symbols, which get colours.
    pub(super) fn text(&self, out: &mut dyn Write, header: bool, color: bool) -> io::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        if header && self.names.iter().any(|name| !name.is_empty()) {
            table.set_header(self.names.clone());
        }
        table.add_rows(self.rows.clone());
        for (index, right) in self.right.iter().enumerate() {
            let Some(column) = table.column_mut(index) else {
                continue;
            };
            column.set_padding((u16::from(index > 0), 1));
            if *right {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for line in table.lines() {
            let line = line.trim_end();
            match line
                .chars()
                .next()
                .and_then(|symbol| Some((symbol, colour_of(symbol)?)))
            {
                Some((symbol, colour)) if color => {
                    let rest = &line[symbol.len_utf8()..];
                    writeln!(out, "{}{rest}", paint(colour, &symbol.to_string()))?;
                }
                _ => writeln!(out, "{line}")?,
            }
        }
        Ok(())
    }

    /// Writes tab-separated values.
    pub(super) fn tsv(&self, out: &mut dyn Write, header: bool) -> io::Result<()> {
        if header {
            writeln!(out, "{}", self.names.join("\t"))?;
        }
        self.rows
            .iter()
            .try_for_each(|row| writeln!(out, "{}", row.join("\t")))
    }
}

/// Returns the symbols of `peers`: up by UDP, by TCP, by a relay, down.
pub(super) fn symbols(utf8: bool) -> [char; 4] {
    if utf8 {
        ['●', '◐', '◑', '○']
    } else {
        ['*', '~', '>', '.']
    }
}

fn colour_of(symbol: char) -> Option<u8> {
    let all = [symbols(true), symbols(false)];
    let place = all
        .iter()
        .find_map(|set| set.iter().position(|s| *s == symbol))?;
    [32, 33, 36, 31].get(place).copied()
}

/// Formats bytes with at most three digits: `12k`, `4.1M`, `1.2G`; powers of 1000.
pub(super) fn bytes(n: u64) -> String {
    scaled(n, &["", "k", "M", "G", "T", "P", "E"])
}

fn scaled(n: u64, units: &[&str]) -> String {
    let (mut value, mut unit) = (n as f64, 0);
    // 999.5 would round to 1000 of the unit below.
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 9.95);
    format!("{value:.digits$}{}", units[unit])
}

/// Returns the text of a value, or `-`.
pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

/// Returns the text of a value, or an empty text, for scripts.
pub(super) fn or_empty<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::escape::safe;

    #[test]
    fn units_have_at_most_three_digits() {
        for (n, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1.0k"),
            (9_949, "9.9k"),
            (9_950, "10k"),
            (12_345, "12k"),
            (999_499, "999k"),
            (999_500, "1.0M"),
            (4_299_161, "4.3M"),
            (1_200_000_000, "1.2G"),
            (u64::MAX, "18E"),
        ] {
            assert_eq!(bytes(n), text, "{n}");
        }
        for (s, text) in [
            (0.00042, "0.4ms"),
            (0.0124, "12ms"),
            (1.25, "1.2s"),
            (0.9996, "1.0s"),
        ] {
            assert_eq!(round_trip(s), text);
        }
        for (s, text) in [
            (40.9, "40s"),
            (200.0, "3m"),
            (7200.0, "2h"),
            (7260.0, "2h 1m"),
            (1_051_200.0, "12d 4h"),
            (-1.0, "0s"),
        ] {
            assert_eq!(age(s, false), text);
        }
        assert_eq!(age(1_051_200.0, true), "12d");
    }

    #[test]
    fn columns_are_aligned_and_lines_end_without_blanks() {
        let mut table = Table::new(&["", "NAME", ">RX", "NOTE"]);
        table.row(["●", "a", "1.2G", ""].map(String::from));
        table.row(["○", "long_name", "7", "gone\tfor\never"].map(String::from));
        let mut out = Vec::new();
        table.text(&mut out, true, false).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.trim_end() == *line), "{text}");
        let place = |line: &str, part: &str| line[..line.find(part).unwrap()].chars().count();
        assert_eq!(place(lines[0], "NAME"), place(lines[1], "a"));
        assert_eq!(place(lines[1], "1.2G") + 4, place(lines[2], "7 ") + 1);
        assert!(lines[2].ends_with("gone for ever"));

        let mut coloured = Vec::new();
        table.text(&mut coloured, false, true).unwrap();
        let coloured = safe(&String::from_utf8(coloured).unwrap());
        assert!(coloured.starts_with("\x1b[32m●\x1b[0m "));
        let mut tsv = Vec::new();
        table.tsv(&mut tsv, true).unwrap();
        assert_eq!(
            String::from_utf8(tsv).unwrap().lines().nth(1),
            Some("●\ta\t1.2G\t")
        );
    }
}
