//! Meta connections as sockets: accept, connect, and one reading and one writing task each. This module handles bytes
//! only.

use std::{io, net::SocketAddr, os::fd::OwnedFd, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use socket2::{Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc, watch},
    task::AbortHandle,
    time::{sleep, timeout},
};

use meshd_dataplane::io::udp::{self, SocketOptions, canonical, open_socket};
use meshd_proto::link::{DialFault, DialId, LinkId};

use crate::Event;

/// Size of one read, in bytes.
const CHUNK: usize = 16 << 10;
/// Maximum number of chunks of one connection that wait for the driver: 64 KiB of input for each connection. Source:
/// proto/threat-model.md section 5.6.
const CHUNKS: usize = 4;
/// Longest time without progress at the other end while output waits. Source: T36 of proto/threat-model.md.
pub const STALL: Duration = Duration::from_secs(10);
/// Length of the kernel's accept queue.
const BACKLOG: i32 = 128;
/// Pause after a failed accept, when descriptors or memory are exhausted.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Opens a listening socket.
pub fn listen(addr: SocketAddr, options: &SocketOptions) -> io::Result<TcpListener> {
    let socket = open_socket(addr, Type::STREAM, options)?;
    socket.set_reuse_address(true)?;
    udp::bind(&socket, addr)?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Takes over a listening socket that was kept open over a restart.
pub fn adopt(socket: OwnedFd) -> io::Result<TcpListener> {
    let socket = Socket::from(socket);
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Accepts on `listener` while `open` is true; each connection is an [`Event::Accepted`].
pub fn accept(listener: TcpListener, mut open: watch::Receiver<bool>, events: mpsc::Sender<Event>) {
    tokio::spawn(async move {
        while open.wait_for(|open| *open).await.is_ok() {
            match listener.accept().await {
                Ok((stream, remote)) => {
                    let event = Event::Accepted(stream, canonical(remote));
                    if events.send(event).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
}

/// Connects to `to` from `bind` (same family, any port) within `limit`; [`Event::Dialled`] follows.
pub fn dial(
    id: DialId,
    to: SocketAddr,
    bind: Option<SocketAddr>,
    options: SocketOptions,
    limit: Duration,
    events: mpsc::Sender<Event>,
) -> AbortHandle {
    let task = tokio::spawn(async move {
        let connected = match timeout(limit, connect(to, bind, &options)).await {
            Ok(result) => result.map_err(|error| match error.kind() {
                io::ErrorKind::ConnectionRefused => (DialFault::Refused, error.to_string()),
                _ => (DialFault::Silent, error.to_string()),
            }),
            Err(_) => {
                let why = format!("no answer within {} s", limit.as_secs());
                Err((DialFault::Silent, why))
            }
        };
        let _ = events.send(Event::Dialled(id, connected)).await;
    });
    task.abort_handle()
}

async fn connect(
    to: SocketAddr,
    bind: Option<SocketAddr>,
    options: &SocketOptions,
) -> io::Result<TcpStream> {
    let socket = open_socket(to, Type::STREAM, options)?;
    if let Some(bind) = bind {
        socket.bind(&SocketAddr::new(bind.ip(), 0).into())?;
    }
    TcpSocket::from_std_stream(socket.into()).connect(to).await
}

/// A connection with its reading and writing tasks. Dropping it closes the socket at once.
#[derive(Debug)]
pub struct Wire {
    output: mpsc::UnboundedSender<Bytes>,
    credit: Arc<Semaphore>,
    reader: AbortHandle,
    writer: AbortHandle,
}

impl Wire {
    /// Starts the tasks: received bytes are [`Event::Read`], written bytes [`Event::Written`], the end
    /// [`Event::Closed`].
    #[must_use]
    pub fn start(link: LinkId, stream: TcpStream, events: mpsc::Sender<Event>) -> Self {
        let _ = stream.set_nodelay(true);
        let (read, write) = stream.into_split();
        // The number of messages is unbounded, because the link limits its bytes (link::MAX_QUEUE).
        let (output, queue) = mpsc::unbounded_channel();
        let credit = Arc::new(Semaphore::new(CHUNKS));
        let reader = tokio::spawn(read_all(link, read, Arc::clone(&credit), events.clone()));
        let writer = tokio::spawn(write_all(link, write, queue, events));
        Self {
            output,
            credit,
            reader: reader.abort_handle(),
            writer: writer.abort_handle(),
        }
    }

    /// Queues bytes for output.
    pub fn write(&self, bytes: Bytes) {
        let _ = self.output.send(bytes);
    }

    /// Tells the reading task that the driver has taken one [`Event::Read`].
    pub fn taken(&self) {
        self.credit.add_permits(1);
    }

    /// Stops reading, so that the kernel holds further input.
    pub fn mute(&self) {
        self.reader.abort();
    }

    /// Closes after the queued output is written, or after a stall of the other end.
    pub fn finish(mut self) {
        self.reader.abort();
        // The writing task ends when this last sender is dropped.
        let (closed, _) = mpsc::unbounded_channel();
        self.output = closed;
        self.writer = tokio::spawn(std::future::ready(())).abort_handle();
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
    }
}

async fn read_all(
    link: LinkId,
    mut read: OwnedReadHalf,
    credit: Arc<Semaphore>,
    events: mpsc::Sender<Event>,
) {
    let why = loop {
        let Ok(permit) = credit.acquire().await else {
            return;
        };
        permit.forget();
        let mut buffer = BytesMut::with_capacity(CHUNK);
        match read.read_buf(&mut buffer).await {
            Ok(0) => break "closed by the other end".to_owned(),
            Ok(_) => {
                if events
                    .send(Event::Read(link, buffer.freeze()))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Err(error) => break error.to_string(),
        }
    };
    let _ = events.send(Event::Closed(link, why)).await;
}

async fn write_all(
    link: LinkId,
    mut write: OwnedWriteHalf,
    mut queue: mpsc::UnboundedReceiver<Bytes>,
    events: mpsc::Sender<Event>,
) {
    while let Some(bytes) = queue.recv().await {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let why = match timeout(STALL, write.write(rest)).await {
                Ok(Ok(count)) => {
                    rest = &rest[count..];
                    let _ = events.send(Event::Written(link, count)).await;
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("the other end accepted no data for {} s", STALL.as_secs()),
            };
            let _ = events.send(Event::Closed(link, why)).await;
            return;
        }
    }
}
