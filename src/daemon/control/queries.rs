//! Questions between meshds about their views of a path: their JSON text, and the answers of this node.
//!
//! The mesh carries the text in native sessions. An answer holds no secret: [`PathReport`].

use std::time::Instant;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use meshd_api::report::{NodeReport, PathReport};
use meshd_diagnose::peer;
use meshd_proto::mesh::{Input, reports::query::MAX_QUERY};
use meshd_wire::NodeName;

use crate::driver::Driver;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    /// Asks for the view of this node.
    Ask { id: u64, about: String },
    /// The answer; `None` if the node is not known.
    Tell { id: u64, pair: Option<PathReport> },
}

/// Returns the text of a question.
pub(super) fn question(id: u64, about: &NodeName) -> Bytes {
    let about = about.to_string();
    encode(&Message::Ask { id, about })
}

/// Returns the text of an answer, without the report's details if the text is too long with them.
fn answer(id: u64, mut pair: Option<PathReport>) -> Bytes {
    let text = encode(&Message::Tell {
        id,
        pair: pair.clone(),
    });
    match &mut pair {
        Some(report) if text.len() > MAX_QUERY => {
            report.detail = None;
            encode(&Message::Tell { id, pair })
        }
        _ => text,
    }
}

fn encode(message: &Message) -> Bytes {
    // JSON text of these types cannot fail; an empty text is no message.
    serde_json::to_vec(message).unwrap_or_default().into()
}

impl Driver {
    /// Returns the report on a node; `None` for this node and for an unknown name.
    pub(super) fn report(&self, name: &NodeName, now: Instant) -> Option<NodeReport> {
        let details = self.mesh.details(name, now)?;
        let reason = peer::reason(&details.node);
        Some(NodeReport::new(&details, reason))
    }

    /// Handles a question or an answer of another node. A message of a newer version is ignored.
    pub(crate) fn queried(&mut self, node: NodeName, data: &[u8], now: Instant) {
        match serde_json::from_slice(data) {
            Ok(Message::Ask { id, about }) => {
                let about = NodeName::new(&about).ok();
                let pair = about.and_then(|name| Some(self.report(&name, now)?.shared()));
                let data = answer(id, pair);
                self.inbox.inputs.push(Input::Answer { node, data });
            }
            Ok(Message::Tell { id, pair }) => self.handle_path_answer(id, &node, pair),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_api::report::DialFailureRow;
    use meshd_proto::mesh::reports::facts::DialFault;

    fn text(data: &Bytes) -> String {
        String::from_utf8(data.to_vec()).unwrap()
    }

    #[test]
    fn questions_and_answers_have_the_text_that_older_versions_read() {
        let name = NodeName::new("a").unwrap();
        assert_eq!(text(&question(7, &name)), r#"{"ask":{"id":7,"about":"a"}}"#);
        assert_eq!(text(&answer(7, None)), r#"{"tell":{"id":7,"pair":null}}"#);
        let report = text(&answer(7, Some(PathReport::default())));
        let start = r#"{"tell":{"id":7,"pair":{"up":false,"path":"down","via":null,"rtt_seconds":null,"protocol":"#;
        assert!(report.starts_with(start), "{report}");
        let end =
            r#""tcp_only_there":false,"tcp_only_here":false,"indirect":false,"reason":null}}}"#;
        assert!(report.ends_with(end), "{report}");
    }

    #[test]
    fn an_answer_that_is_too_long_has_no_details() {
        let long = |length| {
            let mut report = NodeReport::default();
            report.pair.up = true;
            report.missed = Some(DialFailureRow {
                fault: DialFault::Silent,
                text: "\u{1}".repeat(length),
                seconds: 1.0,
            });
            let data = answer(1, Some(report.shared()));
            assert!(data.len() <= MAX_QUERY);
            match serde_json::from_slice(&data).unwrap() {
                Message::Tell { pair, .. } => pair.unwrap(),
                Message::Ask { .. } => panic!("a question"),
            }
        };
        assert!(long(10).detail.is_some());
        let short = long(200);
        assert!(short.up && short.detail.is_none());
    }
}
