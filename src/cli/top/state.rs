//! State of the display, and the effect of keys.

use clap::ValueEnum;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use meshd_proto::mesh::reports::facts::PathKind;

use crate::top::rows;

/// Longest filter, in characters.
const MAX_FILTER: usize = 64;
/// Rows that a page key scrolls.
const PAGE: usize = 10;

/// Views of `top`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum View {
    /// Traffic of each node.
    #[default]
    Peers,
    /// Request lines over links, by type.
    Meta,
    /// Dropped packets, by reason.
    Drops,
    /// Packet threads.
    Threads,
}

impl View {
    /// Views in the order of their keys.
    pub const ALL: [Self; 4] = [Self::Peers, Self::Meta, Self::Drops, Self::Threads];

    /// Returns the view's name.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Peers => "peers",
            Self::Meta => "meta",
            Self::Drops => "drops",
            Self::Threads => "threads",
        }
    }

    fn step(self, by: usize) -> Self {
        Self::ALL[(self as usize + by) % Self::ALL.len()]
    }
}

/// State of the display.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) view: View,
    /// The sort column of each view.
    pub(super) sort: [usize; View::ALL.len()],
    /// Show only nodes with this path.
    pub(super) path: Option<PathKind>,
    /// Show only rows that contain this text.
    pub(super) filter: String,
    /// True while keys edit the filter.
    pub(super) typing: bool,
    /// The first row shown.
    pub(super) first: usize,
    pub(super) quit: bool,
}

impl State {
    /// Returns the sort column.
    pub(super) fn sorted_by(&self) -> usize {
        self.sort[self.view as usize]
    }

    pub(super) fn next_sort(&mut self, by: usize) {
        let columns = rows::columns(self.view).len();
        let column = &mut self.sort[self.view as usize];
        *column = (*column + by) % columns;
    }

    /// Handles one key.
    pub(super) fn key(&mut self, key: KeyEvent) {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => self.quit = true,
            _ if control => {}
            code if self.typing => self.edit(code),
            code => self.command(code),
        }
    }

    fn edit(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if self.filter.chars().count() < MAX_FILTER => self.filter.push(c),
            _ => {}
        }
    }

    fn command(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char('q') => self.quit = true,
            KeyCode::Tab => self.turn_to(self.view.step(1)),
            KeyCode::BackTab => self.turn_to(self.view.step(View::ALL.len() - 1)),
            KeyCode::Char(c @ '1'..='4') => self.turn_to(View::ALL[c as usize - '1' as usize]),
            KeyCode::Char('s') => self.next_sort(1),
            KeyCode::Char('S') => self.next_sort(rows::columns(self.view).len() - 1),
            KeyCode::Char('p') => {
                self.path = match self.path {
                    None => Some(PathKind::Udp),
                    Some(PathKind::Udp) => Some(PathKind::Tcp),
                    Some(PathKind::Tcp) => Some(PathKind::Via),
                    Some(PathKind::Via) => Some(PathKind::Down),
                    Some(PathKind::Down) => None,
                };
            }
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Down => self.first += 1,
            KeyCode::Up => self.first = self.first.saturating_sub(1),
            KeyCode::PageDown => self.first += PAGE,
            KeyCode::PageUp => self.first = self.first.saturating_sub(PAGE),
            KeyCode::Home => self.first = 0,
            _ => {}
        }
    }

    fn turn_to(&mut self, view: View) {
        (self.view, self.first) = (view, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(keys: &str) -> State {
        let mut state = State::default();
        for c in keys.chars() {
            let code = match c {
                '\t' => KeyCode::Tab,
                '\n' => KeyCode::Enter,
                '\u{8}' => KeyCode::Backspace,
                '\u{1b}' => KeyCode::Esc,
                c => KeyCode::Char(c),
            };
            state.key(KeyEvent::new(code, KeyModifiers::NONE));
        }
        state
    }

    #[test]
    fn keys_turn_to_views_and_each_keeps_its_order() {
        assert_eq!(after("\t").view, View::Meta);
        assert_eq!(after("\t\t\t\t").view, View::Peers);
        assert_eq!(after("4").view, View::Threads);
        let state = after("ss3s1");
        assert_eq!((state.view, state.sorted_by()), (View::Peers, 2));
        assert_eq!(after("ss3s").sorted_by(), 1);
        assert_eq!(after("ss3ssss").sorted_by(), 0);
        assert_eq!(after("2S").sorted_by(), 4);
    }

    #[test]
    fn the_path_goes_round_and_the_filter_is_typed() {
        assert_eq!(after("pp").path, Some(PathKind::Tcp));
        assert_eq!(after("ppppp").path, None);
        let state = after("/qs4\u{8}p");
        assert!(state.typing && !state.quit);
        assert_eq!((state.filter.as_str(), state.view), ("qsp", View::Peers));
        assert_eq!(
            after("/db\n2"),
            State {
                view: View::Meta,
                filter: "db".into(),
                ..State::default()
            }
        );
        assert_eq!(after("/db\u{1b}"), State::default());
        assert_eq!(after("/db\n\u{1b}"), State::default());
        assert_eq!(
            after(&format!("/{}", "x".repeat(500))).filter.len(),
            MAX_FILTER
        );
    }

    #[test]
    fn q_and_control_c_end_it() {
        assert!(after("q").quit);
        let mut state = after("/");
        state.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(state.quit);
    }
}
