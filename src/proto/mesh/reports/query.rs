//! Questions to another meshd about its view of a path, and their answers, for `meshctl why`.
//!
//! Question and answer are packets of the native session that travel as lines (REQ_KEY 35), like
//! its confirmation (REQ_KEY 34). A relay can neither read nor forge them. tincds forward them
//! unread, and an older meshd does not answer them. A node gets one answer a second. An answer
//! holds no secret: [`PathReport`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use meshd_wire::{NodeName, base64};

use crate::{
    mesh::{Mesh, Output, limits::Bucket, reports::path_report::PathReport, topology::node::Nodes},
    route::NodeIdx,
    tunnel::{self, RxKey, TYPE_QUERY},
};

/// REQ_KEY extension: a sealed question or answer.
pub(in crate::mesh) const EXT_QUERY: i32 = 35;

/// Longest question or answer in bytes, so that every tincd forwards its line.
const MAX: usize = 1_400;
/// Longest time that a question waits for its answer.
const FORGET: Duration = Duration::from_secs(60);
/// Most questions in progress; more are dropped.
const MAX_WAITING: usize = 64;
/// Answers that a node gets at once; then one a second.
const BURST: usize = 5;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    /// Asks for the view of this node.
    Ask { id: u64, about: String },
    /// The answer; `None` if the node is not known.
    Tell { id: u64, pair: Option<PathReport> },
}

/// Questions of this node.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Questions {
    waiting: Vec<Question>,
    /// Number of questions so far.
    count: u64,
}

#[derive(Debug)]
struct Question {
    id: u64,
    node: NodeIdx,
    about: NodeName,
    token: u64,
    at: Instant,
    sent: bool,
}

impl Questions {
    pub(in crate::mesh) fn forget(&mut self, now: Instant) {
        let young = |one: &Question| now.saturating_duration_since(one.at) < FORGET;
        self.waiting.retain(young);
    }
}

impl Mesh {
    /// Asks now, or when there is a native session with the node.
    pub(in crate::mesh) fn ask_node(
        &mut self,
        name: &NodeName,
        about: NodeName,
        token: u64,
        now: Instant,
    ) {
        let idx = self.nodes.find(name).filter(|idx| *idx != Nodes::ME);
        let Some(idx) = idx.filter(|_| self.questions.waiting.len() < MAX_WAITING) else {
            return;
        };
        self.questions.count += 1;
        self.questions.waiting.push(Question {
            id: self.questions.count,
            node: idx,
            about,
            token,
            at: now,
            sent: false,
        });
        self.ensure_session(idx, now);
        self.send_questions(idx);
    }

    /// Sends the questions that wait for a session with the node, if there is a session.
    pub(in crate::mesh) fn send_questions(&mut self, idx: NodeIdx) {
        if !self.nodes[idx].keys.native.is_established() {
            return;
        }
        let unsent = |one: &&mut Question| one.node == idx && !one.sent;
        let mut messages = Vec::new();
        for one in self.questions.waiting.iter_mut().filter(unsent) {
            one.sent = true;
            messages.push(Message::Ask {
                id: one.id,
                about: one.about.to_string(),
            });
        }
        for message in messages {
            self.send_message(idx, &message);
        }
    }

    /// Sends a message. Returns false if it is too long.
    fn send_message(&mut self, to: NodeIdx, message: &Message) -> bool {
        let text = serde_json::to_vec(message).ok();
        let Some(text) = text.filter(|text| text.len() <= MAX) else {
            return false;
        };
        let Some(tx) = self.nodes[to].keys.native.tx() else {
            return true;
        };
        if let Some(seq) = tx.claim(1) {
            let sealed = tx.sealed(seq, TYPE_QUERY, &text);
            self.send_req_key(to, EXT_QUERY, base64::encode(&sealed));
        }
        true
    }

    /// Handles a sealed question or answer, received as a line.
    pub(in crate::mesh) fn handle_query(
        &mut self,
        from: NodeIdx,
        mut sealed: Vec<u8>,
        now: Instant,
    ) {
        let keys: Vec<Arc<RxKey>> = self.nodes[from].keys.native.rx().collect();
        let Ok(opened) = tunnel::open(&keys, &mut sealed) else {
            return;
        };
        let data = opened.data(sealed.len());
        if opened.kind != TYPE_QUERY || data.len() > MAX {
            return;
        }
        match serde_json::from_slice(&sealed[data]) {
            Ok(Message::Ask { id, about }) => self.answer_question(from, id, &about, now),
            Ok(Message::Tell { id, pair }) => self.answered_question(from, id, pair),
            // A message of a newer version.
            Err(_) => {}
        }
    }

    fn answer_question(&mut self, from: NodeIdx, id: u64, about: &str, now: Instant) {
        let budget = &mut self.nodes[from].questions;
        let budget = budget.get_or_insert_with(|| Bucket::new(BURST, now));
        if !budget.take(1, BURST, now) {
            return;
        }
        let about = NodeName::new(about).ok();
        let mut pair = about.and_then(|name| Some(self.sight(&name, now)?.told()));
        if !self.send_message(
            from,
            &Message::Tell {
                id,
                pair: pair.clone(),
            },
        ) {
            // The answer is too long with its details.
            if let Some(pair) = &mut pair {
                pair.detail = None;
            }
            self.send_message(from, &Message::Tell { id, pair });
        }
    }

    fn answered_question(&mut self, from: NodeIdx, id: u64, pair: Option<PathReport>) {
        let waiting = &mut self.questions.waiting;
        let ours = |one: &Question| one.id == id && one.node == from && one.sent;
        if let Some(at) = waiting.iter().position(ours) {
            let Question { token, .. } = waiting.swap_remove(at);
            self.outputs.push_back(Output::Told { token, pair });
        }
    }
}

#[cfg(test)]
mod tests;
