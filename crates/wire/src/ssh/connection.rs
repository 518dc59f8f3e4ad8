use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lifeboat_model::config::SshOptions;
use russh::client::{self, DisconnectReason, Handle, Msg};
use russh::keys::PublicKeyOrCertificate;
use russh::{Channel, ChannelMsg, Disconnect, Preferred, cipher, compression};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::known_hosts::KnownHosts;
use super::login::Login;
use super::watched::Watched;
use super::{Address, SshError, SshErrorKind};

/// How much may be on its way to us in one channel.
const WINDOW_BYTES: u32 = 16 << 20;

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// To connect, to check the server, and to log in, together.
    pub connect: Duration,
    /// For which nothing at all may come or go on a connection; a sound one is never that still, since
    /// keep-alive messages go out four times as often.
    pub idle: Duration,
    /// For the answer to one request.
    pub answer: Duration,
}

impl Default for Times {
    /// 30 seconds to connect, 60 without a byte, 5 minutes for an answer.
    fn default() -> Self {
        Self { connect: Duration::from_secs(30), idle: Duration::from_mins(1), answer: Duration::from_mins(5) }
    }
}

/// A connection to a server that was checked and let us in.
pub struct Connection {
    handle: Handle<Guard>,
    ended: Arc<Mutex<Option<String>>>,
    over: watch::Receiver<()>,
    times: Times,
    shown: String,
}

/// Judges the server's key, and remembers why a connection ended.
pub(super) struct Guard {
    known: KnownHosts,
    verdict: Arc<Mutex<Option<SshError>>>,
    ended: Arc<Mutex<Option<String>>>,
    /// Dropped with the session, however it ends.
    _over: watch::Sender<()>,
}

impl client::Handler for Guard {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let verdict = match key {
            PublicKeyOrCertificate::PublicKey { key, .. } => self.known.check(key).err(),
            PublicKeyOrCertificate::Certificate(_) => {
                Some(SshError::new(SshErrorKind::HostKey, "the server shows a certificate, which nobody asked for"))
            }
        };
        let good = verdict.is_none();
        *lock(&self.verdict) = verdict;
        Ok(good)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<russh::Error>) -> Result<(), russh::Error> {
        let why = match &reason {
            DisconnectReason::ReceivedDisconnect(info) => format!("the server hung up: {}", info.message),
            DisconnectReason::Error(error) => error.to_string(),
        };
        lock(&self.ended).get_or_insert(why);
        match reason {
            DisconnectReason::ReceivedDisconnect(_) => Ok(()),
            DisconnectReason::Error(error) => Err(error),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// Connects, checks the server, and logs in.
    ///
    /// # Errors
    /// [`SshError`] of every kind.
    pub async fn open(address: &Address, options: &SshOptions, times: Times) -> Result<Self, SshError> {
        let login = Login::find(address, options)?;
        let shown = format!("{}@{}:{}", login.user, login.host, login.port);
        let connecting = Self::connect(&login, times, shown.clone());
        tokio::time::timeout(times.connect, connecting).await.unwrap_or_else(|_| {
            Err(unreachable(format!("{shown} did not answer within {} seconds", times.connect.as_secs())))
        })
    }

    async fn connect(login: &Login, times: Times, shown: String) -> Result<Self, SshError> {
        let socket = TcpStream::connect((login.host.as_str(), login.port)).await;
        let socket = socket.map_err(|error| unreachable(format!("{shown} cannot be reached: {error}")))?;
        socket.set_nodelay(true).map_err(|error| unreachable(error.to_string()))?;
        let config = client::Config {
            window_size: WINDOW_BYTES,
            keepalive_interval: Some(times.idle / 4),
            // The watched stream ends a connection that stands still.
            keepalive_max: 0,
            preferred: Preferred {
                key: login.known.algorithms().into(),
                // Where the processor does AES this is the fastest by far.
                cipher: vec![cipher::AES_256_GCM, cipher::CHACHA20_POLY1305, cipher::AES_256_CTR, cipher::AES_128_CTR]
                    .into(),
                compression: vec![compression::NONE].into(),
                ..Preferred::default()
            },
            ..client::Config::default()
        };
        let (verdict, ended) = (Arc::default(), Arc::default());
        let (sender, over) = watch::channel(());
        let known = login.known.clone();
        let guard = Guard { known, verdict: Arc::clone(&verdict), ended: Arc::clone(&ended), _over: sender };
        let stream = Watched::new(socket, times.idle);
        let mut handle = match client::connect_stream(Arc::new(config), stream, guard).await {
            Ok(handle) => handle,
            Err(error) => return Err(lock(&verdict).take().unwrap_or_else(|| no_session(&shown, &error))),
        };
        login.log_in(&mut handle).await?;
        Ok(Self { handle, ended, over, times, shown })
    }

    /// Whether nothing can go over it any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.handle.is_closed()
    }

    /// Waits until nothing can go over it any more.
    pub async fn over(&self) {
        self.over.clone().changed().await.ok();
    }

    /// How long things may take on it.
    #[must_use]
    pub const fn times(&self) -> Times {
        self.times
    }

    /// The error of something that was under way when the connection broke.
    #[must_use]
    pub fn lost(&self) -> SshError {
        let why = lock(&self.ended).clone().unwrap_or_else(|| "it was closed".to_owned());
        SshError::new(SshErrorKind::Lost, format!("the connection to {} broke: {why}", self.shown))
    }

    /// Opens a channel to a subsystem such as `sftp`.
    ///
    /// # Errors
    /// [`SshErrorKind::Refused`] where the server does not have it, [`SshErrorKind::Lost`].
    pub async fn subsystem(&self, name: &str) -> Result<Channel<Msg>, SshError> {
        let channel = self.channel().await?;
        let asked = channel.request_subsystem(true, name).await;
        self.granted(channel, asked, &format!("the subsystem {name}")).await
    }

    /// Opens a channel to a program; behind a forced command the server runs that one instead.
    ///
    /// # Errors
    /// As [`Connection::subsystem`].
    pub async fn exec(&self, command: &str) -> Result<Channel<Msg>, SshError> {
        let channel = self.channel().await?;
        let asked = channel.exec(true, command).await;
        self.granted(channel, asked, &format!("the command {command}")).await
    }

    async fn channel(&self) -> Result<Channel<Msg>, SshError> {
        match self.in_time(self.handle.channel_open_session()).await? {
            Ok(channel) => Ok(channel),
            Err(russh::Error::ChannelOpenFailure(why)) => {
                let what = format!("{} opens no further channel: {why:?}", self.shown);
                Err(SshError::new(SshErrorKind::Refused, what))
            }
            Err(_) => Err(self.lost()),
        }
    }

    async fn granted(
        &self,
        mut channel: Channel<Msg>,
        asked: Result<(), russh::Error>,
        what: &str,
    ) -> Result<Channel<Msg>, SshError> {
        asked.map_err(|_| self.lost())?;
        loop {
            match self.in_time(channel.wait()).await? {
                Some(ChannelMsg::Success) => return Ok(channel),
                Some(ChannelMsg::Failure | ChannelMsg::Close | ChannelMsg::Eof) => {
                    let what = format!("{} does not grant {what}", self.shown);
                    return Err(SshError::new(SshErrorKind::Refused, what));
                }
                Some(_) => {}
                None => return Err(self.lost()),
            }
        }
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, SshError> {
        tokio::time::timeout(self.times.idle, work).await.map_err(|_| {
            let what = format!("{} did not answer within {} seconds", self.shown, self.times.idle.as_secs());
            SshError::new(SshErrorKind::Lost, what)
        })
    }

    /// Takes leave.
    pub async fn close(&self) {
        self.handle.disconnect(Disconnect::ByApplication, "", "").await.ok();
    }
}

fn unreachable(what: String) -> SshError {
    SshError::new(SshErrorKind::Lost, what).hinting("check the host and the port, and that the server runs")
}

fn no_session(shown: &str, error: &russh::Error) -> SshError {
    match error {
        russh::Error::NoCommonAlgo { kind, theirs, .. } => {
            let what =
                format!("{shown} and lifeboat have no {kind:?} algorithm in common; it has {}", theirs.join(", "));
            SshError::new(SshErrorKind::Refused, what)
                .hinting("`ssh-keygen -A` on the server makes the host keys that it lacks, an ed25519 one among them")
        }
        error => unreachable(format!("{shown} did not come to a session: {error}")),
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({})", self.shown)
    }
}
