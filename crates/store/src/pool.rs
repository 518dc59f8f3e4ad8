//! The channels of one server: made when they are needed, shared, and made anew when they broke.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use lifeboat_model::config::SshOptions;
use lifeboat_wire::ssh::sftp::{Sftp, SftpError};
use lifeboat_wire::ssh::{Address, Connection, SshError, SshErrorKind, Times};
use tokio::sync::Mutex;

/// Channels on one connection: one alone is bound by the server's window of 2 MiB for each round trip.
/// OpenSSH grants ten.
const CHANNELS: usize = 4;

pub(super) struct Pool<C> {
    address: Address,
    options: SshOptions,
    times: Times,
    tickets: AtomicU64,
    state: Mutex<State<C>>,
}

/// One channel of a connection.
#[async_trait]
pub(super) trait Link: Sized {
    type Error: From<SshError>;
    /// Opens it.
    async fn open(connection: &Arc<Connection>) -> Result<Self, Self::Error>;
    /// Whether it is of no use any more.
    fn is_closed(&self) -> bool;
    /// What failed below it, where that was it.
    fn ssh_error(error: &Self::Error) -> Option<&SshError>;
}

#[async_trait]
impl Link for Sftp {
    type Error = SftpError;

    async fn open(connection: &Arc<Connection>) -> Result<Self, SftpError> {
        Self::open(connection).await
    }

    fn is_closed(&self) -> bool {
        Self::is_closed(self)
    }

    fn ssh_error(error: &SftpError) -> Option<&SshError> {
        match error {
            SftpError::Ssh(error) => Some(error),
            SftpError::Refused { .. } => None,
        }
    }
}

struct State<C> {
    connection: Option<Arc<Connection>>,
    channels: Vec<Arc<C>>,
    /// The server grants no channel more.
    full: bool,
    /// Whether there ever was a connection.
    was_there: bool,
    /// The last failure, and up to which ticket it counts.
    failed: Option<(u64, SshError)>,
}

impl<C: Link> Pool<C> {
    pub(super) fn new(address: Address, options: SshOptions, times: Times) -> Self {
        let state = State { connection: None, channels: Vec::new(), full: false, was_there: false, failed: None };
        Self { address, options, times, tickets: AtomicU64::new(0), state: Mutex::new(state) }
    }

    /// The channel with the least work. A broken one is never given out twice.
    pub(super) async fn channel(&self) -> Result<Arc<C>, C::Error> {
        let ticket = self.tickets.fetch_add(1, Ordering::SeqCst);
        let mut state = self.state.lock().await;
        // Those who waited in line while a try failed do not try again one after the other.
        if let Some((until, error)) = &state.failed
            && ticket < *until
        {
            return Err(error.clone().into());
        }
        let found = self.pick(&mut state).await;
        if let Some(error) = found.as_ref().err().and_then(C::ssh_error) {
            state.failed = Some((self.tickets.load(Ordering::SeqCst), error.clone()));
        }
        found
    }

    async fn pick(&self, state: &mut State<C>) -> Result<Arc<C>, C::Error> {
        state.channels.retain(|channel| !channel.is_closed());
        let connection = match &state.connection {
            Some(connection) if !connection.is_closed() => Arc::clone(connection),
            _ => {
                state.channels.clear();
                state.full = false;
                let opened = Connection::open(&self.address, &self.options, self.times).await;
                let opened = Arc::new(opened.map_err(|error| first_time(state.was_there, error))?);
                tracing::debug!(connection = %opened, "connected");
                state.connection = Some(Arc::clone(&opened));
                state.was_there = true;
                opened
            }
        };
        let idlest = state.channels.iter().min_by_key(|channel| Arc::strong_count(channel)).cloned();
        if let Some(idlest) = &idlest
            // Held by the list and by us alone, it is idle.
            && (Arc::strong_count(idlest) == 2 || state.full || state.channels.len() >= CHANNELS)
        {
            return Ok(Arc::clone(idlest));
        }
        match (C::open(&connection).await, idlest) {
            (Ok(channel), _) => {
                let channel = Arc::new(channel);
                state.channels.push(Arc::clone(&channel));
                Ok(channel)
            }
            (Err(error), Some(idlest)) if C::ssh_error(&error).is_some_and(|e| e.kind == SshErrorKind::Refused) => {
                tracing::debug!("the server grants no channel more");
                state.full = true;
                Ok(idlest)
            }
            (Err(error), _) => Err(error),
        }
    }
}

/// A server that never answered is more likely named wrongly than down: nobody should wait through
/// all the tries of a retry to learn it.
fn first_time(was_there: bool, error: SshError) -> SshError {
    if was_there || error.kind != SshErrorKind::Lost {
        return error;
    }
    let hint = error.hint().unwrap_or("check the host and the port, and that the server runs").to_owned();
    SshError::new(SshErrorKind::Refused, error.to_string()).hinting(hint)
}
