//! The control socket: checks the rights of a caller, and passes requests to the driver and answers back.
//!
//! Sources: proto/design.md section 2.5 (d), T40 of proto/threat-model.md.

pub(crate) mod handlers;
mod queries;
mod why;

use std::{
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    time::timeout,
};

use meshd_api::{
    call::{self, Request, Rights},
    codec::{self, Lines},
    proto::{Answer, ControlError, Envelope, ErrorCode, MAX_LINE, Response, VERSION},
};
use meshd_dataplane::{
    fastpath::tap::{Filter, Tap},
    io::sockopt,
};
use meshd_os::clock;

use crate::{Event, capture, log::Log, startup::open};

/// Maximum number of clients. Source: T40 of proto/threat-model.md.
const MAX_CLIENTS: usize = 32;
/// Places reserved for callers with all rights, so that callers with read access cannot exclude them.
const KEPT_PLACES: usize = 4;
/// Longest time of a client without a request, or without reading, so that idle clients do not hold places.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the rights of a caller with these ids on a socket of group `group`, for a daemon of user `daemon`.
#[must_use]
pub fn rights(uid: u32, groups: &[u32], daemon: u32, group: u32) -> Rights {
    if uid == 0 || uid == daemon {
        Rights::All
    } else if groups.contains(&group) {
        Rights::Look
    } else {
        Rights::None
    }
}

/// Opens the control socket. A running daemon on it is an error; the socket of a dead daemon is replaced.
pub fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        bail!(
            "another meshd is already running: it answers on {}; stop it first",
            path.display()
        );
    }
    open_socket(path).context("cannot open the control socket")
}

/// Opens a socket for root and our group. It replaces a socket without a listener.
pub(super) fn open_socket(path: &Path) -> anyhow::Result<UnixListener> {
    open::make_run_dir(path)?;
    let _ = std::fs::remove_file(path);
    let place = || format!("cannot open the socket {}", path.display());
    // The socket is made without permissions and then opened, so that other users can connect at no time.
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(umask);
    let listener = listener.with_context(place)?;
    open::give_to_group(path);
    let mode = std::fs::Permissions::from_mode(0o660);
    std::fs::set_permissions(path, mode).with_context(place)?;
    Ok(listener)
}

/// The sender in every answer.
#[derive(Debug, Clone)]
pub struct Sender {
    /// The net name.
    pub net: Option<String>,
    /// Our node name.
    pub node: String,
}

/// Serves clients while the runtime lives; requests become [`Event::Control`].
pub fn serve(
    listener: UnixListener,
    path: &Path,
    sender: Sender,
    log: Log,
    events: mpsc::Sender<Event>,
) {
    let group = path.metadata().map_or(0, |metadata| metadata.gid());
    let daemon = rustix::process::geteuid().as_raw();
    let places = Places::default();
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            };
            let mut client = Client {
                rights: rights_of(&stream, daemon, group),
                stream,
                sender: sender.clone(),
                log: log.clone(),
                events: events.clone(),
            };
            // A rejected client holds no place.
            let place = places.take(client.rights);
            tokio::spawn(async move {
                let Some(_place) = place else {
                    let text = "too many clients are connected".to_owned();
                    let _ = client.answer(error(ErrorCode::Busy, text)).await;
                    return;
                };
                let _ = client.serve().await;
            });
        }
    });
}

/// Places of clients; at most [`MAX_CLIENTS`] are taken.
#[derive(Default)]
struct Places(Arc<AtomicUsize>);

/// One place, held while the value lives.
struct Place(Arc<AtomicUsize>);

impl Places {
    /// Takes a place for a client with these rights, if one is free. Only one task calls it.
    fn take(&self, rights: Rights) -> Option<Place> {
        let most = match rights {
            Rights::All => MAX_CLIENTS,
            Rights::Look | Rights::None => MAX_CLIENTS - KEPT_PLACES,
        };
        if self.0.load(Ordering::Relaxed) >= most {
            return None;
        }
        self.0.fetch_add(1, Ordering::Relaxed);
        Some(Place(Arc::clone(&self.0)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns the rights of a client from the kernel's peer credentials.
fn rights_of(stream: &UnixStream, daemon: u32, group: u32) -> Rights {
    let Ok(peer) = stream.peer_cred() else {
        return Rights::None;
    };
    let mut groups = vec![peer.gid()];
    groups.extend(sockopt::peer_groups(stream).unwrap_or_default());
    rights(peer.uid(), &groups, daemon, group)
}

struct Client {
    stream: UnixStream,
    rights: Rights,
    sender: Sender,
    log: Log,
    events: mpsc::Sender<Event>,
}

/// The version of a line; other content is ignored.
#[derive(Deserialize)]
struct Versioned {
    v: u32,
}

impl Client {
    async fn serve(&mut self) -> io::Result<()> {
        let mut lines = Lines::new(MAX_LINE);
        let mut chunk = vec![0; 4096];
        loop {
            let line = match lines.next_line() {
                Ok(Some(line)) => line,
                Ok(None) => {
                    let count = timeout(PATIENCE, self.stream.read(&mut chunk)).await??;
                    if count == 0 {
                        return Ok(());
                    }
                    lines.push(&chunk[..count]);
                    continue;
                }
                Err(too_long) => {
                    let text = too_long.to_string();
                    return self.answer(error(ErrorCode::Malformed, text)).await;
                }
            };
            let response = match understand(&line, self.rights) {
                Ok(Request::Log(log)) => return self.follow(log).await,
                Ok(Request::Capture(call)) => match capture::filter(&call) {
                    Ok(filter) => return self.capture(filter).await,
                    Err(refused) => refused,
                },
                Ok(Request::Why(call)) => self.why(call).await.unwrap_or_else(|refused| refused),
                Ok(request) => self.ask(request).await,
                Err(refused) => refused,
            };
            self.answer(response).await?;
        }
    }

    async fn ask(&self, request: Request) -> Response {
        let (reply, response) = oneshot::channel();
        let sent = self.events.send(Event::Control(request, reply)).await;
        match (sent, response.await) {
            (Ok(()), Ok(response)) => response,
            _ => error(ErrorCode::Busy, "the daemon is stopping".into()),
        }
    }

    async fn follow(&mut self, call: call::Log) -> io::Result<()> {
        let age = Duration::from_secs(call.since_seconds);
        let (lines, mut follower) = self.log.follow(age, call.level);
        for line in lines {
            self.answer(Response::Log(line)).await?;
        }
        if call.past {
            return Ok(());
        }
        let mut byte = [0];
        loop {
            tokio::select! {
                line = follower.next() => match line {
                    Some(line) => self.answer(Response::Log(line)).await?,
                    None => return Ok(()),
                },
                // Any input of the client, or its end, stops the stream.
                _ = self.stream.read(&mut byte) => return Ok(()),
            }
        }
    }

    /// Streams packets until the client closes its half of the connection, leaves, or does not read for long.
    async fn capture(&mut self, filter: Filter) -> io::Result<()> {
        let (tap, mut packets) = Tap::open(filter);
        let tap = Arc::new(tap);
        let (reply, response) = oneshot::channel();
        let sent = self.events.send(Event::Capture(Arc::clone(&tap), reply));
        let response = match (sent.await, response.await) {
            (Ok(()), Ok(response)) => response,
            _ => error(ErrorCode::Busy, "the daemon is stopping".into()),
        };
        let begun = matches!(response, Response::Capturing(_));
        self.answer(response).await?;
        if !begun {
            return Ok(());
        }
        let (mut some, mut byte) = (Vec::new(), [0]);
        let mut ends = capture::Ends::default();
        loop {
            let over = tokio::select! {
                _ = packets.recv_many(&mut some, capture::AT_ONCE) => false,
                _ = self.stream.read(&mut byte) => true,
            };
            let rows = some.drain(..).map(|seen| ends.row(seen)).collect();
            let captured = capture::captured(rows, &tap);
            self.answer(Response::Captured(captured)).await?;
            if over {
                return Ok(());
            }
            // The control plane has priority over captured packets.
            tokio::task::yield_now().await;
        }
    }

    async fn answer(&mut self, response: Response) -> io::Result<()> {
        let answer = Answer {
            v: VERSION,
            net: self.sender.net.clone(),
            node: self.sender.node.clone(),
            time: clock::rfc3339(clock::wall()),
            response,
        };
        let line = codec::encode(&answer).map_err(io::Error::other)?;
        timeout(PATIENCE, self.stream.write_all(&line)).await?
    }
}

/// Decodes a request, and checks the rights of its sender.
fn understand(line: &[u8], rights: Rights) -> Result<Request, Response> {
    let malformed = |e: codec::CodecError| error(ErrorCode::Malformed, e.to_string());
    let Versioned { v } = codec::decode(line).map_err(malformed)?;
    if v != VERSION {
        let text = format!("this daemon uses version {VERSION} of the control protocol, not {v}");
        return Err(error(ErrorCode::Version, text));
    }
    let Envelope { request, .. } = codec::decode(line).map_err(malformed)?;
    if rights < request.rights() {
        let text = "only root may do that".to_owned();
        return Err(error(ErrorCode::Permission, text));
    }
    Ok(request)
}

/// Makes an error answer.
#[must_use]
pub fn error(code: ErrorCode, text: String) -> Response {
    Response::Error(ControlError { code, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_daemons_user_do_all_the_group_looks_others_nothing() {
        assert_eq!(rights(0, &[], 998, 997), Rights::All);
        assert_eq!(rights(998, &[998], 998, 997), Rights::All);
        assert_eq!(rights(1000, &[1000, 997], 998, 997), Rights::Look);
        assert_eq!(rights(65534, &[65534], 998, 997), Rights::None);
    }

    #[test]
    fn who_may_only_look_leaves_places_for_root() {
        let places = Places::default();
        let take = |rights, count: usize| -> Vec<Place> {
            std::iter::from_fn(|| places.take(rights))
                .take(count)
                .collect()
        };
        let looking = take(Rights::Look, 1000);
        assert_eq!(looking.len(), MAX_CLIENTS - KEPT_PLACES);
        assert_eq!(take(Rights::None, 1).len(), 0);
        let all = take(Rights::All, 1000);
        assert_eq!(all.len(), KEPT_PLACES);
        drop(looking);
        assert_eq!(take(Rights::All, 1000).len(), MAX_CLIENTS - KEPT_PLACES);
        drop(all);
        assert_eq!(take(Rights::Look, 1000).len(), MAX_CLIENTS - KEPT_PLACES);
    }

    fn code(line: &str, rights: Rights) -> Option<ErrorCode> {
        match understand(line.as_bytes(), rights) {
            Ok(_) => None,
            Err(Response::Error(error)) => Some(error.code),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn requests_are_refused_by_version_form_and_rights() {
        assert_eq!(code(r#"{"v":1,"cmd":"peers"}"#, Rights::Look), None);
        assert_eq!(code(r#"{"v":1,"cmd":"stop"}"#, Rights::All), None);
        let permission = Some(ErrorCode::Permission);
        for cmd in [
            "stop", "reload", "confirm", "undo", "retry", "log", "capture",
        ] {
            let line = format!(r#"{{"v":1,"cmd":"{cmd}","level":null,"kinds":["meta"],"snap":1}}"#);
            assert_eq!(code(&line, Rights::Look), permission, "{cmd}");
        }
        assert_eq!(code(r#"{"v":1,"cmd":"peers"}"#, Rights::None), permission);
        assert_eq!(
            code(r#"{"v":2,"cmd":"new"}"#, Rights::All),
            Some(ErrorCode::Version)
        );
        for line in ["", "x", "{}", r#"{"v":1,"cmd":"format"}"#] {
            assert_eq!(
                code(line, Rights::All),
                Some(ErrorCode::Malformed),
                "{line}"
            );
        }
    }

    #[tokio::test]
    async fn a_socket_that_answers_is_never_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/a.sock");
        let first = bind(&path).unwrap();
        let mode = path.metadata().unwrap().mode() & 0o777;
        let dir_mode = path.parent().unwrap().metadata().unwrap().mode() & 0o777;
        assert_eq!((mode, dir_mode), (0o660, 0o750));
        let error = bind(&path).unwrap_err().to_string();
        assert!(error.contains("already running"), "{error}");
        drop(first);
        bind(&path).unwrap();
    }
}
