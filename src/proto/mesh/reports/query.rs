//! Questions to another meshd about its view of a path, and their answers, for `meshctl why`.
//!
//! Question and answer are packets of the native session that travel as lines (REQ_KEY 35), like
//! its confirmation (REQ_KEY 34). A relay can neither read nor forge them. tincds forward them
//! unread, and an older meshd does not answer them. A node gets one answer a second. The driver
//! encodes and decodes the content.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use meshd_wire::{KeyRequest, NodeName};

use crate::{
    mesh::{Mesh, Output, limits::Bucket, topology::node::Nodes},
    route::NodeIdx,
    tunnel::{self, RxKey, TYPE_QUERY},
};

/// Longest question or answer in bytes, so that every tincd forwards its line.
pub const MAX_QUERY: usize = 1_400;
/// Longest time that a question waits for a session.
const FORGET: Duration = Duration::from_secs(60);
/// Most questions that wait; more are dropped.
const MAX_WAITING: usize = 64;
/// Answers that a node gets at once; then one a second.
const BURST: usize = 5;

/// Questions of this node that wait for a native session.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Questions {
    waiting: Vec<Question>,
}

#[derive(Debug)]
struct Question {
    node: NodeIdx,
    data: Bytes,
    at: Instant,
}

impl Questions {
    pub(in crate::mesh) fn forget(&mut self, now: Instant) {
        let young = |one: &Question| now.saturating_duration_since(one.at) < FORGET;
        self.waiting.retain(young);
    }
}

impl Mesh {
    /// Sends a question now, or when there is a native session with the node.
    pub(in crate::mesh) fn ask_node(&mut self, name: &NodeName, data: Bytes, now: Instant) {
        let idx = self.nodes.find(name).filter(|idx| *idx != Nodes::ME);
        let Some(node) = idx.filter(|_| self.reports.questions.waiting.len() < MAX_WAITING) else {
            return;
        };
        let at = now;
        self.reports
            .questions
            .waiting
            .push(Question { node, data, at });
        self.ensure_session(node, now);
        self.send_questions(node);
    }

    /// Sends the questions that wait for a session with the node, if there is a session.
    pub(in crate::mesh) fn send_questions(&mut self, idx: NodeIdx) {
        if !self.sessions[idx].native.is_established() {
            return;
        }
        let waiting = &mut self.reports.questions.waiting;
        let ready: Vec<Question> = waiting.extract_if(.., |one| one.node == idx).collect();
        for question in ready {
            self.send_query(idx, &question.data);
        }
    }

    /// Sends an answer, unless the node had too many lately.
    pub(in crate::mesh) fn answer_node(&mut self, name: &NodeName, data: &[u8], now: Instant) {
        let Some(idx) = self.nodes.find(name).filter(|idx| *idx != Nodes::ME) else {
            return;
        };
        let budget = &mut self.reports.of[idx].answers;
        let budget = budget.get_or_insert_with(|| Bucket::new(BURST, now));
        if budget.take(1, BURST, now) {
            self.send_query(idx, data);
        }
    }

    fn send_query(&mut self, to: NodeIdx, data: &[u8]) {
        let Some(tx) = self.sessions[to].native.tx() else {
            return;
        };
        if data.len() <= MAX_QUERY
            && let Some(seq) = tx.claim(1)
        {
            let sealed = tx.sealed(seq, TYPE_QUERY, data);
            self.send_req_key(to, KeyRequest::NativeQuery(sealed));
        }
    }

    /// Handles a sealed question or answer, received as a line.
    pub(in crate::mesh) fn handle_query(&mut self, from: NodeIdx, mut sealed: Vec<u8>) {
        let keys: Vec<Arc<RxKey>> = self.sessions[from].native.rx().collect();
        let Ok(opened) = tunnel::open(&keys, &mut sealed) else {
            return;
        };
        let data = opened.data(sealed.len());
        if opened.kind != TYPE_QUERY || data.len() > MAX_QUERY {
            return;
        }
        self.cx.emit(Output::Query {
            node: self.nodes[from].name().clone(),
            data: Bytes::from(sealed).slice(data),
        });
    }
}

#[cfg(test)]
mod tests;
