//! One frame on the terminal.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout},
    style::{Color, Modifier, Style},
    text::{Line, Span, Text},
    widgets::{Paragraph, Row, Table, Wrap},
};

use crate::{
    columns::{Need, SENTENCE, fit, shortened},
    top::{
        rows::{Cell, Screen},
        state::{State, View},
    },
};

/// Characters between two columns.
const GAP: u16 = 2;

/// Input of a frame.
pub(super) struct Picture<'a> {
    pub(super) state: &'a State,
    /// `None` before the first answer.
    pub(super) screen: Option<&'a Screen>,
    /// The reason why there is no new answer.
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
            .map_or("waiting for meshd's answer", |screen| &screen.head);
        frame.render_widget(Paragraph::new(parts(text, head.width.into())), head);
        frame.render_widget(Paragraph::new(self.tabs()), tabs);
        if let Some(screen) = self.screen {
            let room = usize::from(table.height.saturating_sub(1));
            let rows = self.visible_rows(screen, room);
            match self.table(screen, &rows, table.width.into()) {
                Some(fitted) => frame.render_widget(fitted, table),
                None => frame.render_widget(names_only(&rows), table),
            }
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

    /// Returns the rows that fit, as text.
    fn visible_rows(&self, screen: &Screen, room: usize) -> Vec<Vec<String>> {
        let first = self.state.first.min(screen.rows.len().saturating_sub(room));
        let rows = screen.rows.iter().skip(first).take(room);
        let clean = |cell: &Cell| cell.text().replace(char::is_control, " ");
        rows.map(|row| row.iter().map(clean).collect()).collect()
    }

    /// Returns the columns that fit; `None`: the required ones do not fit.
    fn table(
        &self,
        screen: &Screen,
        cells: &[Vec<String>],
        width: usize,
    ) -> Option<Table<'static>> {
        let columns = screen.columns.iter().enumerate();
        let needs = columns.map(|(at, (name, raw))| {
            let longest = cells.iter().map(|row| row[at].chars().count()).max();
            let heading = name.trim_start_matches('>').chars().count();
            Need {
                width: longest.unwrap_or_default().max(heading),
                rank: rank(raw),
            }
        });
        let fitting = fit(&needs.collect::<Vec<_>>(), GAP.into(), width)?;
        let widths = fitting
            .iter()
            .map(|(_, width)| Constraint::Length(u16::try_from(*width).unwrap_or(u16::MAX)));
        let names = fitting.iter().map(|(at, _)| {
            let name = screen.columns[*at].0.trim_start_matches('>');
            let style = match *at == self.state.sorted_by() {
                true => Style::new().add_modifier(Modifier::REVERSED),
                false => Style::new().add_modifier(Modifier::BOLD),
            };
            aligned(screen, *at, name.to_owned()).style(style)
        });
        let rows = cells.iter().map(|row| {
            let cells = fitting
                .iter()
                .map(|(at, width)| aligned(screen, *at, shortened(&row[*at], *width)));
            Row::new(cells.collect::<Vec<_>>())
        });
        let header = Row::new(names.collect::<Vec<_>>());
        let table = Table::new(rows.collect::<Vec<_>>(), widths.collect::<Vec<_>>());
        Some(table.header(header).column_spacing(GAP))
    }
}

/// Shows name and state of each row, wrapped, on a terminal that is narrower than a name.
fn names_only(cells: &[Vec<String>]) -> Paragraph<'static> {
    let lines = cells
        .iter()
        .map(|row| Line::from(row[..row.len().min(2)].join(" ")));
    Paragraph::new(lines.collect::<Vec<_>>()).wrap(Wrap { trim: false })
}

/// Returns the first parts of the head that fit, each whole.
fn parts(head: &str, room: usize) -> String {
    let mut text = String::new();
    for part in head.split("  ") {
        let gap = if text.is_empty() { "" } else { "  " };
        if !text.is_empty() && text.chars().count() + gap.len() + part.chars().count() > room {
            break;
        }
        text = text + gap + part;
    }
    text
}

/// Returns the rank of a column, by its name for scripts: see [`Need::rank`].
fn rank(column: &str) -> u8 {
    match column {
        "name" | "path" | "message" | "reason" | "thread" => 0,
        "rtt_seconds" | "in_per_second" | "drops_per_second" | "busy_ratio" => 1,
        "loss_ratio" => 2,
        "rx_bits_per_second" | "out_per_second" => 3,
        "tx_bits_per_second" => 4,
        "since_seconds" => 6,
        "rx_packets_per_second" => 7,
        "tx_packets_per_second" => 8,
        "pmtu_bytes" => 9,
        "tunnel" => 10,
        "note" | "threads" | "reads" => SENTENCE,
        _ => 5,
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
    use crate::top::rows::{self, Shot, tests::shot};
    use meshd_api::rows::{PeerRow, Reason};

    fn drawn(state: &State, answers: bool, trouble: Option<&str>, height: u16) -> Vec<String> {
        let shots = [shot(10.0, 100), shot(12.0, 200)];
        drawn_of(&shots, state, answers, trouble, (100, height))
    }

    fn drawn_of(
        [before, now]: &[Shot; 2],
        state: &State,
        answers: bool,
        trouble: Option<&str>,
        (width, height): (u16, u16),
    ) -> Vec<String> {
        let screen = answers.then(|| rows::screen(state, Some(before), now));
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let picture = Picture {
            state,
            screen: screen.as_ref(),
            trouble,
            color: true,
        };
        terminal.draw(|frame| picture.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let cells = buffer.content().chunks(width.into());
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
        assert_eq!(lines[0], "waiting for meshd's answer");
    }

    #[test]
    fn filter_and_path_are_shown_and_rows_are_scrolled_no_further_than_there_are() {
        let mut state = State {
            typing: true,
            filter: "01".into(),
            ..State::default()
        };
        state.path = Some(meshd_proto::mesh::reports::facts::PathKind::Udp);
        let lines = drawn(&state, true, None, 10);
        assert!(lines[1].ends_with("path udp  filter \"01\""), "{lines:#?}");
        assert_eq!(lines[9], "/01_");
        let state = State {
            first: 500,
            ..State::default()
        };
        let lines = drawn(&state, true, None, 5);
        assert!(lines[3].starts_with("old_03"), "{lines:#?}");
        // Any terminal size is accepted.
        for height in 1..5 {
            assert_eq!(drawn(&state, true, None, height).len(), usize::from(height));
        }
    }
    /// A mesh of many nodes with similar names, long round trips and large numbers.
    fn large() -> [Shot; 2] {
        [shot(10.0, 100), shot(12.0, 200)].map(|mut shot| {
            let row = shot.peers[0].clone();
            shot.peers = (0..12)
                .map(|n| PeerRow {
                    name: format!("cache_frankfurt_{n}"),
                    rtt_seconds: Some(0.2 + f64::from(n) / 1000.0),
                    pmtu_bytes: Some(1439),
                    since_seconds: Some(90_000.0 * f64::from(n + 1)),
                    cipher: Some("AES-256-GCM".into()),
                    reason: Some(Reason {
                        code: "c".into(),
                        text: format!("{n} probes unanswered by 10.132.0.{n}:655"),
                    }),
                    ..row.clone()
                })
                .collect();
            shot
        })
    }

    /// In every view, each word on the screen appears on the widest terminal too, and each name is there.
    #[test]
    fn no_name_and_no_number_is_ever_cut() {
        let shots = large();
        for view in View::ALL {
            let state = State {
                view,
                ..State::default()
            };
            let words = |width| -> Vec<String> {
                let lines = drawn_of(&shots, &state, true, None, (width, 20));
                // Lines below the tabs; the last line shows the keys.
                let lines = lines[2..19].iter();
                lines
                    .flat_map(|line| line.split_whitespace().map(str::to_owned))
                    .collect()
            };
            let whole = words(400);
            for width in 30..=120 {
                let lines = drawn_of(&shots, &state, true, None, (width, 20));
                let head = drawn_of(&shots, &state, true, None, (400, 20))[0].clone();
                assert!(head.starts_with(&lines[0]), "{width}: {lines:#?}");
                assert!(
                    head[lines[0].len()..].is_empty() || head[lines[0].len()..].starts_with("  "),
                    "{lines:#?}"
                );
                for word in words(width) {
                    assert!(
                        word == "..." || whole.contains(&word),
                        "{width}: {word:?} in {lines:#?}"
                    );
                }
                if view == View::Peers {
                    for n in 0..12 {
                        let name = format!("cache_frankfurt_{n}");
                        assert!(
                            words(width).contains(&name),
                            "{width}: {name} not in {lines:#?}"
                        );
                    }
                }
            }
        }
        // A terminal narrower than a name wraps, and nothing is lost.
        let lines = drawn_of(&shots, &State::default(), true, None, (10, 60));
        let text: String = lines[2..].concat();
        assert!(text.contains("cache_frankfurt_11"), "{lines:#?}");
    }
}
