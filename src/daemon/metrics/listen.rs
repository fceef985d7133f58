//! Serves metrics: HTTP on a separate socket.

use std::{convert::Infallible, path::Path, path::PathBuf, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header::CONTENT_TYPE,
    server::conn::http1, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use meshd_api::{call, proto};
use meshd_config::MetricsListen;

use crate::{Event, control::open_socket};

/// Maximum number of connections.
const MAX_CLIENTS: usize = 8;
/// Longest life of a connection.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest time for a request's head.
const HEAD: Duration = Duration::from_secs(5);
/// Content type of the text format for Prometheus.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The listening socket.
pub(crate) enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Returns the path of the socket of MetricsListen, if it has one; `socket` is the control socket.
pub(crate) fn path(wanted: &MetricsListen, socket: &Path) -> Option<PathBuf> {
    match wanted {
        MetricsListen::Beside => Some(meshd_api::metrics_path(socket)),
        MetricsListen::Unix(path) => Some(path.clone()),
        MetricsListen::Nowhere | MetricsListen::Tcp(_) => None,
    }
}

/// Opens the socket of MetricsListen; `socket` is the control socket. On an error the daemon runs without metrics.
pub(crate) fn bind(wanted: &MetricsListen, socket: &Path) -> Option<Listener> {
    let unix = |path: PathBuf| Ok(Listener::Unix(open_socket(&path)?, path));
    let tcp = |addr| {
        let listener = std::net::TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        anyhow::Ok(Listener::Tcp(TcpListener::from_std(listener)?))
    };
    let listener = match wanted {
        MetricsListen::Nowhere => return None,
        MetricsListen::Beside => unix(meshd_api::metrics_path(socket)),
        MetricsListen::Unix(path) => unix(path.clone()),
        MetricsListen::Tcp(addr) => {
            if !addr.ip().is_loopback() {
                tracing::warn!(%addr, "MetricsListen: every host that reaches this address can read names and traffic of all nodes");
            }
            tcp(addr)
        }
    };
    let listener = listener.map_err(|error| {
        tracing::warn!(
            "cannot serve metrics at MetricsListen: {error:#}; `meshctl metrics` shows them"
        );
    });
    listener.ok()
}

/// Serves requests while the runtime lives.
pub(crate) fn serve(listener: Listener, events: mpsc::Sender<Event>) {
    tokio::spawn(async move {
        let places = std::sync::Arc::new(Semaphore::new(MAX_CLIENTS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let events = events.clone();
            let accepted = match &listener {
                Listener::Unix(listener, _) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(async move { (client(stream, events).await, drop(place)) })
                }),
                Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(async move { (client(stream, events).await, drop(place)) })
                }),
            };
            if accepted.is_err() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    });
}

async fn client(stream: impl AsyncRead + AsyncWrite + Unpin, events: mpsc::Sender<Event>) {
    let answer = service_fn(|request| answer(request, events.clone()));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), answer);
    let _ = timeout(PATIENCE, served).await;
}

async fn answer(
    request: Request<Incoming>,
    events: mpsc::Sender<Event>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let response = |status: StatusCode, text: String| {
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        let format = hyper::header::HeaderValue::from_static(FORMAT);
        response.headers_mut().insert(CONTENT_TYPE, format);
        Ok(response)
    };
    if request.method() != Method::GET || request.uri().path() != "/metrics" {
        return response(
            StatusCode::NOT_FOUND,
            "this server answers only GET /metrics\n".into(),
        );
    }
    let (reply, metrics) = oneshot::channel();
    let asked = Event::Control(call::Metrics {}.into(), reply);
    match (events.send(asked).await, metrics.await) {
        (Ok(()), Ok(proto::Response::Metrics(text))) => response(StatusCode::OK, text),
        _ => response(
            StatusCode::SERVICE_UNAVAILABLE,
            "the daemon is stopping\n".into(),
        ),
    }
}
