//! A line between a client and a server that breaks on demand.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFault {
    /// After so many bytes of both directions it ends as if both sides had hung up.
    Cut(u64),
    /// After so many bytes it is reset.
    Reset(u64),
    /// After so many bytes nothing goes either way any more, and nobody is told.
    Stall(u64),
    /// After so many bytes the client's words are lost for good, while it is told that they arrived.
    Swallow(u64),
}

impl LineFault {
    const fn bytes(self) -> u64 {
        match self {
            Self::Cut(bytes) | Self::Reset(bytes) | Self::Stall(bytes) | Self::Swallow(bytes) => bytes,
        }
    }
}

/// A running proxy on 127.0.0.1.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    next: Arc<Mutex<Option<LineFault>>>,
    bytes: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Leads to this port of 127.0.0.1.
    ///
    /// # Panics
    /// Where no port is free.
    pub async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let next: Arc<Mutex<Option<LineFault>>> = Arc::default();
        let (bytes, connections) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let (faults, count, total) = (Arc::clone(&next), Arc::clone(&connections), Arc::clone(&bytes));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let fault = faults.lock().unwrap_or_else(PoisonError::into_inner).take();
                tokio::spawn(carry(client, SocketAddr::from(([127, 0, 0, 1], to)), fault, Arc::clone(&total)));
            }
        });
        Self { port, next, bytes, connections, task }
    }

    /// Where it listens.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Has the next connection, and only that one, fail.
    pub fn fail_next(&self, fault: LineFault) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    }

    /// Bytes that went over it so far, both ways.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Connections that were made so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(client: TcpStream, to: SocketAddr, fault: Option<LineFault>, total: Arc<AtomicU64>) {
    let Ok(server) = TcpStream::connect(to).await else { return };
    let own = AtomicU64::new(0);
    let (mut client, mut server) = (client, server);
    let (mut from_client, mut from_server) = (vec![0; 8 << 10], vec![0; 8 << 10]);
    loop {
        let (read, up) = tokio::select! {
            read = client.read(&mut from_client) => (read, true),
            read = server.read(&mut from_server) => (read, false),
        };
        let Ok(read @ 1..) = read else { return };
        let so_far = own.fetch_add(read as u64, Ordering::SeqCst) + read as u64;
        match fault.filter(|fault| so_far > fault.bytes()) {
            Some(LineFault::Cut(_)) => return,
            Some(LineFault::Reset(_)) => {
                client.set_zero_linger().ok();
                return;
            }
            Some(LineFault::Stall(_)) => {
                // Longer than any test waits.
                tokio::time::sleep(Duration::from_mins(10)).await;
                return;
            }
            Some(LineFault::Swallow(_)) if up => continue,
            _ => {}
        }
        total.fetch_add(read as u64, Ordering::SeqCst);
        let written = if up {
            server.write_all(&from_client[..read]).await
        } else {
            client.write_all(&from_server[..read]).await
        };
        if written.is_err() {
            return;
        }
    }
}
