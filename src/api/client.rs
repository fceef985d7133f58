//! The blocking client of the control socket, for meshctl.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    call::{Call, Request},
    codec::{self, CodecError, Lines, MAX_ANSWER},
    proto::{Answer, Content, ControlError, Envelope, Response, VERSION},
};

/// Reason why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No process listens on the socket.
    #[error("meshd is not running: no process listens on {}", .0.display())]
    NotRunning(PathBuf),
    /// The system denies access to the socket.
    #[error("no permission to use {}", .0.display())]
    Permission(PathBuf),
    /// No answer in time.
    #[error("no answer from meshd in time")]
    Timeout,
    /// The connection failed.
    #[error("the connection to meshd failed: {0}")]
    Io(io::Error),
    /// The daemon closed the connection.
    #[error("meshd closed the connection")]
    Closed,
    /// The daemon's answer is invalid.
    #[error("meshd sent an invalid answer: {0}")]
    Codec(#[from] CodecError),
    /// The daemon's answer has the type of another request.
    #[error("meshd sent an answer of the wrong type")]
    Type,
    /// The daemon has another protocol version.
    #[error("meshd uses version {0} of the control protocol, meshctl uses version {VERSION}")]
    Version(u32),
    /// The daemon refused.
    #[error("{}", .0.text)]
    Refused(ControlError),
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    lines: Lines,
}

impl Client {
    /// Connects to a control socket. Each later read or write may take at most `timeout`.
    pub fn connect(socket: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(socket.into())
            }
            io::ErrorKind::PermissionDenied => ClientError::Permission(socket.into()),
            _ => ClientError::Io(error),
        })?;
        let lines = Lines::new(MAX_ANSWER);
        let client = Self { stream, lines };
        client.patience(Some(timeout))?;
        Ok(client)
    }

    /// Sets the longest time of each read or write; `None`: no limit.
    pub fn patience(&self, timeout: Option<Duration>) -> Result<(), ClientError> {
        self.stream.set_read_timeout(timeout)?;
        Ok(self.stream.set_write_timeout(timeout)?)
    }

    /// Sends a request and waits for its answer. A refusal is an error.
    pub fn ask<C: Call>(&mut self, call: C) -> Result<Answer<C::Answer>, ClientError> {
        self.send(call)?;
        self.receive()?.ok_or(ClientError::Closed)
    }

    /// Sends any request and waits for its answer. A refusal is an error.
    pub fn ask_any(&mut self, request: Request) -> Result<Answer, ClientError> {
        self.write(request)?;
        self.read()?.ok_or(ClientError::Closed)
    }

    /// Sends a request without waiting.
    pub fn send(&mut self, call: impl Call) -> Result<(), ClientError> {
        self.write(call.into())
    }

    fn write(&mut self, request: Request) -> Result<(), ClientError> {
        let line = codec::encode(&Envelope {
            v: VERSION,
            request,
        })?;
        Ok(self.stream.write_all(&line)?)
    }

    /// Ends the requests; answers still arrive.
    pub fn finish(&self) -> Result<(), ClientError> {
        Ok(self.stream.shutdown(std::net::Shutdown::Write)?)
    }

    /// Returns the next answer. After [`ClientError::Timeout`], the caller may try again. Returns `None` when the
    /// daemon closes the connection.
    pub fn receive<T: Content>(&mut self) -> Result<Option<Answer<T>>, ClientError> {
        self.read()?.map(typed).transpose()
    }

    fn read(&mut self) -> Result<Option<Answer>, ClientError> {
        let mut chunk = [0; 16 << 10];
        loop {
            if let Some(line) = self.lines.next_line()? {
                return understand(&line).map(Some);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(n) => self.lines.push(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn typed<T: Content>(answer: Answer) -> Result<Answer<T>, ClientError> {
    let Answer {
        v,
        net,
        node,
        time,
        response,
    } = answer;
    let response = T::of_response(response).ok_or(ClientError::Type)?;
    Ok(Answer {
        v,
        net,
        node,
        time,
        response,
    })
}

fn understand(line: &[u8]) -> Result<Answer, ClientError> {
    let answer: Answer = match codec::decode(line) {
        Ok(answer) => answer,
        Err(error) => {
            // An answer of another version may have another form, so its version is checked first.
            let v = codec::decode::<serde_json::Value>(line).ok();
            let v = v.and_then(|value| u32::try_from(value.get("v")?.as_u64()?).ok());
            return Err(v
                .filter(|v| *v != VERSION)
                .map_or_else(|| error.into(), ClientError::Version));
        }
    };
    match answer.response {
        Response::Error(error) => Err(ClientError::Refused(error)),
        _ if answer.v != VERSION => Err(ClientError::Version(answer.v)),
        _ => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::{call, rows::PeerRow};

    const PATIENT: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(50);

    /// Runs a daemon that reads one request and sends `reply`; returns the client's result.
    fn against(
        reply: &'static [u8],
        patience: Duration,
    ) -> Result<Answer<Vec<PeerRow>>, ClientError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let daemon = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 64];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(reply).unwrap();
            (stream, dir)
        });
        let mut client = Client::connect(&path, patience).unwrap();
        let answer = client.ask(call::Peers {});
        drop(daemon.join());
        answer
    }

    #[test]
    fn answers_refusals_and_silence_are_told_apart() {
        let answer = against(
            b"{\"v\":1,\"net\":null,\"node\":\"a\",\"time\":\"t\",\"peers\":[]}\n",
            PATIENT,
        );
        assert_eq!(answer.unwrap().response, Vec::new());
        let refused = against(
            b"{\"v\":1,\"net\":null,\"node\":\"a\",\"time\":\"t\",\"error\":{\"code\":\"busy\",\"text\":\"full\"}}\n",
            PATIENT,
        );
        assert_eq!(refused.unwrap_err().to_string(), "full");
        assert!(matches!(
            against(b"{\"v\":2,\"new\":1}\n", PATIENT),
            Err(ClientError::Version(2))
        ));
        assert!(matches!(
            against(
                b"{\"v\":1,\"net\":null,\"node\":\"a\",\"time\":\"t\",\"done\":true}\n",
                PATIENT,
            ),
            Err(ClientError::Type)
        ));
        assert!(matches!(
            against(b"hello\n", PATIENT),
            Err(ClientError::Codec(_))
        ));
        assert!(matches!(
            against(b"{\"v\":1", SHORT),
            Err(ClientError::Timeout)
        ));
    }

    #[test]
    fn a_missing_socket_is_a_daemon_that_does_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let gone = Client::connect(&path, SHORT);
        assert!(matches!(gone, Err(ClientError::NotRunning(_))));
        drop(UnixListener::bind(&path).unwrap());
        let dead = Client::connect(&path, SHORT);
        assert!(matches!(dead, Err(ClientError::NotRunning(_))), "{dead:?}");
    }
}
