//! Queue of reload requests: one runs at a time, and none is lost.
//!
//! Files may change after a reload has read them. So a request during a reload, or during the start, causes one more
//! reload that begins later. Equal requests share it. Source: config/tinc.md section 4.5.

use std::collections::VecDeque;

use meshd_api::proto::Response;

use crate::{Reply, reload::Purpose};

/// Waiting requests. Memory: a client of the control socket waits for one answer, and signals share one request.
#[derive(Debug, Default)]
pub(crate) struct Reloads {
    /// The running reload, and its clients.
    running: Option<(Purpose, Vec<Reply>)>,
    wanted: VecDeque<(Purpose, Vec<Reply>)>,
}

impl Reloads {
    /// Adds a request; a signal has no client.
    pub(crate) fn ask(&mut self, purpose: Purpose, client: Option<Reply>) {
        let same = self.wanted.iter_mut().find(|(other, _)| *other == purpose);
        match same {
            Some((_, clients)) => clients.extend(client),
            None => self
                .wanted
                .push_back((purpose, client.into_iter().collect())),
        }
    }

    /// Begins the next reload; `None` while one runs.
    pub(crate) fn begin(&mut self) -> Option<Purpose> {
        if self.running.is_some() {
            return None;
        }
        self.running = self.wanted.pop_front();
        self.running.as_ref().map(|(purpose, _)| *purpose)
    }

    /// Ends the running reload and answers its clients. Returns true if there were any.
    pub(crate) fn end(&mut self, response: &Response) -> bool {
        let (_, clients) = self.running.take().unwrap_or((Purpose::Plan, Vec::new()));
        let any = !clients.is_empty();
        for client in clients {
            let _ = client.send(response.clone());
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    const RELOAD: Purpose = Purpose::Reload {
        yes: false,
        confirm: None,
    };

    #[test]
    fn what_is_asked_for_during_a_reload_follows_it_once() {
        let mut reloads = Reloads::default();
        assert_eq!(reloads.begin(), None);
        reloads.ask(RELOAD, None);
        assert_eq!(reloads.begin(), Some(RELOAD));
        let (client, mut answer) = oneshot::channel();
        for _ in 0..1000 {
            reloads.ask(RELOAD, None);
        }
        reloads.ask(RELOAD, Some(client));
        reloads.ask(Purpose::Plan, None);
        assert_eq!(reloads.begin(), None, "one at a time");
        assert!(!reloads.end(&Response::Done(false)));
        assert!(answer.try_recv().is_err(), "that one read older files");
        assert_eq!(reloads.begin(), Some(RELOAD));
        assert!(reloads.end(&Response::Done(true)));
        assert_eq!(answer.try_recv(), Ok(Response::Done(true)));
        assert_eq!(reloads.begin(), Some(Purpose::Plan));
        reloads.end(&Response::Done(true));
        assert_eq!(reloads.begin(), None);
    }
}
