//! One frame on the terminal.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout},
    style::{Color, Modifier, Style},
    text::{Line, Span, Text},
    widgets::{Paragraph, Row, Table},
};

use crate::cli::top::{
    rows::Screen,
    state::{State, View},
};

/// What a frame is made of.
pub(super) struct Picture<'a> {
    pub(super) state: &'a State,
    /// Nothing before the first answer.
    pub(super) screen: Option<&'a Screen>,
    /// Why there is no new answer, if so.
    pub(super) trouble: Option<&'a str>,
    pub(super) color: bool,
}

const KEYS: &str = "Tab or 1-4 view  s sort  p path  / filter  q quit";

impl Picture<'_> {
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let lines = [
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Fill(1),
            Constraint::Length(1),
        ];
        let [head, tabs, table, foot] = Layout::vertical(lines).areas(frame.area());
        let text = self
            .screen
            .map_or("waiting for an answer of meshd", |screen| &screen.head);
        frame.render_widget(Paragraph::new(text), head);
        frame.render_widget(Paragraph::new(self.tabs()), tabs);
        if let Some(screen) = self.screen {
            let room = usize::from(table.height.saturating_sub(1));
            frame.render_widget(self.table(screen, room), table);
        }
        let (text, style) = match self.trouble {
            Some(trouble) => (trouble.to_owned(), self.coloured(Color::Red)),
            None if self.state.typing => (format!("/{}_", self.state.filter), Style::new()),
            None => (KEYS.to_owned(), Style::new().add_modifier(Modifier::DIM)),
        };
        frame.render_widget(Paragraph::new(text).style(style), foot);
    }

    fn coloured(&self, color: Color) -> Style {
        match self.color {
            true => Style::new().fg(color),
            false => Style::new().add_modifier(Modifier::BOLD),
        }
    }

    /// ` 1 peers  [2 meta]  3 drops  4 threads   path udp  filter "db"`
    fn tabs(&self) -> Line<'static> {
        let mut spans = Vec::new();
        for (number, view) in (1..).zip(View::ALL) {
            let word = view.word();
            spans.push(match view == self.state.view {
                true => Span::styled(format!("[{number} {word}]"), self.coloured(Color::Cyan)),
                false => Span::raw(format!(" {number} {word} ")),
            });
        }
        if let Some(path) = self.state.path {
            spans.push(format!("  path {}", path.word()).into());
        }
        if !self.state.filter.is_empty() {
            spans.push(format!("  filter \"{}\"", self.state.filter).into());
        }
        Line::from(spans)
    }

    fn table(&self, screen: &Screen, room: usize) -> Table<'static> {
        let first = self.state.first.min(screen.rows.len().saturating_sub(room));
        let shown: Vec<Vec<String>> = screen
            .rows
            .iter()
            .skip(first)
            .take(room)
            .map(|row| {
                row.iter()
                    .map(|cell| cell.text().replace(char::is_control, " "))
                    .collect()
            })
            .collect();
        let mut widths = Vec::new();
        let mut names = Vec::new();
        for (at, (name, _)) in screen.columns.iter().enumerate() {
            let name = name.trim_start_matches('>');
            let longest = shown.iter().map(|row| row[at].chars().count()).max();
            let width = longest.unwrap_or_default().max(name.chars().count());
            widths.push(Constraint::Length(u16::try_from(width).unwrap_or(u16::MAX)));
            let style = match at == self.state.sorted_by() {
                true => Style::new().add_modifier(Modifier::REVERSED),
                false => Style::new().add_modifier(Modifier::BOLD),
            };
            names.push(aligned(screen, at, name.to_owned()).style(style));
        }
        let rows = shown.into_iter().map(|row| {
            let cells = row.into_iter().enumerate();
            Row::new(
                cells
                    .map(|(at, cell)| aligned(screen, at, cell))
                    .collect::<Vec<_>>(),
            )
        });
        Table::new(rows.collect::<Vec<_>>(), widths)
            .header(Row::new(names))
            .column_spacing(2)
    }
}

fn aligned(screen: &Screen, column: usize, text: String) -> Text<'static> {
    let right = screen.columns[column].0.starts_with('>');
    Text::from(text).alignment(if right {
        Alignment::Right
    } else {
        Alignment::Left
    })
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::cli::top::rows::{self, tests::shot};

    fn drawn(state: &State, answers: bool, trouble: Option<&str>, height: u16) -> Vec<String> {
        let (before, now) = (shot(10.0, 100), shot(12.0, 200));
        let screen = answers.then(|| rows::screen(state, Some(&before), &now));
        let mut terminal = Terminal::new(TestBackend::new(100, height)).unwrap();
        let picture = Picture {
            state,
            screen: screen.as_ref(),
            trouble,
            color: true,
        };
        terminal.draw(|frame| picture.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let cells = buffer.content().chunks(100);
        let text = |line: &[ratatui::buffer::Cell]| {
            line.iter()
                .map(|cell| cell.symbol())
                .collect::<String>()
                .trim_end()
                .to_owned()
        };
        cells.map(text).collect()
    }

    #[test]
    fn a_frame_has_head_views_rows_and_keys() {
        let lines = drawn(&State::default(), true, None, 10);
        assert!(
            lines[0]
                .starts_with("priv  web_01  up 12s  3 of 4 nodes, 2 links  rx 1.6M tx 16k bit/s"),
            "{lines:#?}"
        );
        assert_eq!(lines[1], "[1 peers] 2 meta  3 drops  4 threads");
        assert_eq!(
            lines[2..4],
            [
                "NAME     PATH  TUNNEL    RTT  MTU  RX bit/s  TX bit/s  RX pkt/s  TX pkt/s  SINCE  NOTE",
                "cache_1  tcp   native  0.4ms    -      1.2M       12k       150        50      -",
            ]
        );
        assert_eq!(lines[9], KEYS);
    }

    #[test]
    fn a_daemon_that_is_gone_is_said_in_the_frame() {
        let trouble = "meshd is not running; trying again";
        let lines = drawn(&State::default(), true, Some(trouble), 10);
        assert_eq!(lines[9], trouble);
        assert!(
            lines[4].starts_with("db_01"),
            "what was last known stays: {lines:#?}"
        );
        let lines = drawn(&State::default(), false, None, 10);
        assert_eq!(lines[0], "waiting for an answer of meshd");
    }

    #[test]
    fn filter_and_path_are_shown_and_rows_are_scrolled_no_further_than_there_are() {
        let mut state = State {
            typing: true,
            filter: "01".into(),
            ..State::default()
        };
        state.path = Some(crate::mesh::view::PathKind::Udp);
        let lines = drawn(&state, true, None, 10);
        assert!(lines[1].ends_with("path udp  filter \"01\""), "{lines:#?}");
        assert_eq!(lines[9], "/01_");
        let state = State {
            first: 500,
            ..State::default()
        };
        let lines = drawn(&state, true, None, 5);
        assert!(lines[3].starts_with("old_03"), "{lines:#?}");
        // However small the terminal is.
        for height in 1..5 {
            assert_eq!(drawn(&state, true, None, height).len(), usize::from(height));
        }
    }
}
