//! Messages of the script process with descriptors, over a Unix socket (unix(7), SCM_RIGHTS).

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
};

/// Bytes of one system call.
const PART: usize = 8 << 10;

/// Splits a socket into both directions.
pub(super) fn split(socket: UnixStream) -> io::Result<(Receiver, OwnedWriteHalf)> {
    socket.set_nonblocking(true)?;
    let (read, write) = tokio::net::UnixStream::from_std(socket)?.into_split();
    let receiver = Receiver {
        read,
        text: Vec::new(),
        descriptors: VecDeque::new(),
    };
    Ok((receiver, write))
}

/// Receives lines and descriptors.
pub(super) struct Receiver {
    read: OwnedReadHalf,
    /// Received bytes without the lines that were returned.
    text: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Receiver {
    /// Returns the next message; `None` at the end, or for an invalid message.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Option<T> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let message = serde_json::from_slice(&self.text[..end]).ok();
                self.text.drain(..=end);
                return message;
            }
            if self.receive().await.ok()? == 0 {
                return None;
            }
        }
    }

    /// Returns the oldest descriptor that has come with a message.
    pub(super) fn descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }

    async fn receive(&mut self) -> io::Result<usize> {
        let mut part = [0; PART];
        let socket: &tokio::net::UnixStream = self.read.as_ref();
        let descriptors = &mut self.descriptors;
        let length = socket
            .async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let mut parts = [IoSliceMut::new(&mut part)];
                let flags = RecvFlags::CMSG_CLOEXEC;
                let message = recvmsg(socket.as_fd(), &mut parts, &mut control, flags)?;
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(fds) = message {
                        descriptors.extend(fds);
                    }
                }
                Ok(message.bytes)
            })
            .await?;
        self.text.extend_from_slice(&part[..length]);
        Ok(length)
    }
}

/// Sends a message with a descriptor.
pub(super) async fn send_with(
    write: &mut OwnedWriteHalf,
    message: &impl Serialize,
    file: OwnedFd,
) -> io::Result<()> {
    let line = super::line(message)?;
    let socket: &tokio::net::UnixStream = write.as_ref();
    let sent = socket
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let files = [file.as_fd()];
            control.push(SendAncillaryMessage::ScmRights(&files));
            let parts = [IoSlice::new(&line)];
            Ok(sendmsg(
                socket.as_fd(),
                &parts,
                &mut control,
                SendFlags::NOSIGNAL,
            )?)
        })
        .await?;
    write.write_all(&line[sent..]).await
}
